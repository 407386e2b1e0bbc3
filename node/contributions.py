"""What each site contributed, as the ledger tells it: claims, weights, agreed scores, and what is settled of them.

For people, not for payments: nobody audits the data, and every measure here can be gamed by somebody who sets out to.
`GAMED` says how, and goes wherever the numbers go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.contribution.shares import settle
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, member_names, weights
from swarm.ledger.scores import Judged, Standing, standings
from swarm.machine import NodeId

GAMED = (
    "Indicative; not audited. Sample counts are claims. A site that enters as two is given more than one"
    " (replication), one that overstates its samples weighs more and is credited for it (overvaluation), a copy shares"
    " what either of the two would get alone, and data unlike the scorers' own are undervalued."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One site, over the rounds that are committed. Shares are in millionths, scores in millionths of the metric.

    `samples` is the sum of what it claimed in the rounds it is in, `weight` its mean share of those rounds' means;
    `size_ppm` its share of all samples. `score`, None where there is none, is the sum of its agreed scores with its
    `error`, over `scored` rounds; `gaps` are rounds with its work and no agreed score. `share_ppm` is what is settled,
    by the charter's method. `judged` and `evaluations` are the cost of its own scores of others: rounds and models.
    """

    node: NodeId
    name: str
    rounds: int
    samples: int
    weight: float
    size_ppm: int
    score: int | None
    error: float
    scored: int
    gaps: tuple[int, ...]
    share_ppm: int | None
    judged: int
    evaluations: int


def accounts(audit: Audit) -> list[Account]:
    """Return every site that ever was a member, in the order in which they came."""
    names = member_names(audit.epochs)
    done = [view for view in audit.rounds.values() if view.commit is not None and view.closed is not None]
    samples, taken = dict.fromkeys(names, 0), {node: list[float]() for node in names}
    for view in done:
        shares = weights(view)
        for placed in view.closed.terms if view.closed is not None else ():
            samples[placed.author] += placed.body.samples
            taken[placed.author].append(shares[placed.author])
    by_size = settle([samples[node] for node in names]) or (0,) * len(names)
    policy = audit.state.signed.charter.contribution
    stands = standings({number: judged for number, judged in audit.scores.rounds.items() if judged.committed})
    found = []
    for place, (node, name) in enumerate(names.items()):
        own: Standing | None = stands.get(node)
        said = [judged.scores[node] for judged in audit.scores.rounds.values() if node in judged.scores]
        share = own.share_ppm if own is not None else None
        found.append(
            Account(
                node=node,
                name=name,
                rounds=len(taken[node]),
                samples=samples[node],
                weight=sum(taken[node]) / len(taken[node]) if taken[node] else 0.0,
                size_ppm=by_size[place],
                score=own.score if own is not None and own.rounds else None,
                error=own.error if own is not None else 0.0,
                scored=own.rounds if own is not None else 0,
                gaps=own.gaps if own is not None else (),
                share_ppm=by_size[place] if policy is not None and not policy.judged else share,
                judged=len(said),
                evaluations=sum(score.evaluations for score in said),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """One contribution to one round: what each scorer says of it, and what follows; None for a gap.

    What its own author says of it is in `said`, and does not count.
    """

    author: NodeId
    samples: int
    said: tuple[tuple[NodeId, int, int], ...]  # scorer, score, standard error
    score: int | None
    spread: int
    scorers: int


def verdicts(judged: Judged) -> list[Verdicts]:
    """Return a round's contributions in the order of its close."""
    agreed = judged.agreed()
    found = []
    for index, author, body, _ in judged.closing.terms:
        one = agreed[author]
        said = tuple(
            (scorer, value, error)
            for scorer, score in judged.scores.items()
            for named, value, error in score.scores
            if named == index
        )
        found.append(
            Verdicts(
                author=author,
                samples=body.samples,
                said=said,
                score=None if one is None else one.score,
                spread=0 if one is None else one.spread,
                scorers=0 if one is None else one.scorers,
            )
        )
    return found


def policy_words(audit: Audit) -> str:
    """Return by what measure shares are told, in a sentence."""
    policy = audit.state.signed.charter.contribution
    if policy is None:
        return "the charter asks for no scores: shares of samples are all there is to tell"
    if not policy.judged:
        return "shares follow from samples, as sites claim them"
    measure = "Shapley values" if policy.method == "shapley" else "leave-one-out"
    better = "less" if policy.lower else "more"
    return (
        f"{measure} by {policy.metric}, of which {better} is better; at most {policy.percent} % of a round's training"
        " time goes into judging it"
    )


def in_metric(millionths: float) -> float:
    """Return a score in the metric's unit."""
    return millionths / e.METRIC_SCALE


def csv_of(found: Sequence[Account]) -> str:
    """Return accounts as CSV with a heading; empty cells where there is nothing to tell."""
    heads = "site,rounds,samples,mean_weight,size_share,score,error,scored_rounds,gaps,share,judged_rounds,evaluations"
    lines = [heads]
    for one in found:
        cells = (
            one.name,
            one.rounds,
            one.samples,
            f"{one.weight:.6f}",
            f"{one.size_ppm / 1e6:.6f}",
            "" if one.score is None else f"{in_metric(one.score):.6f}",
            "" if one.score is None else f"{in_metric(one.error):.6f}",
            one.scored,
            " ".join(map(str, one.gaps)),
            "" if one.share_ppm is None else f"{one.share_ppm / 1e6:.6f}",
            one.judged,
            one.evaluations,
        )
        lines.append(",".join(map(str, cells)))
    return "\n".join(lines) + "\n"
