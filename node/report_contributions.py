"""The report's section on what sites' work was worth: where the charter asks for it, and never without its faults."""

from __future__ import annotations

from node.contributions import GAMED, Account, accounts, in_metric, policy_words
from node.report_tables import Told, row_of, table_of
from node.svg import Html, h, join
from swarm.ledger.participation import ranges


def contributions_section(told: Told) -> Html:
    """Return each site's agreed score, with its error, and the share that is settled."""
    found = accounts(told.audit)
    words = policy_words(told.audit)
    policy = told.charter.contribution
    heads: tuple[str, ...] = ("Site", "Samples, all rounds", "Share of samples")
    rows = [row_of(*_claims(one)) for one in found]
    if policy is not None and policy.judged:
        heads += (
            f"Worth, in {policy.metric}",
            "Rounds scored",
            "Rounds without a score",
            "Share",
            "Models it judged",
        )
        rows = [row_of(*_claims(one), *_scores(one)) for one in found]
    about = (
        "A score is the median of what the other members find, each on its own held-out data, so one member that lies "
        "moves it no further than to the next honest value. Shares are of what is above zero, over all rounds."
    )
    judged = policy is not None and policy.judged
    return join(
        h("p", f"{words[:1].upper()}{words[1:]}."),
        h("p", about) if judged else Html(),
        table_of("What each site's work was worth", heads, rows),
        h("p", GAMED),
    )


def _claims(one: Account) -> tuple[str, ...]:
    return one.name, f"{one.samples:,}", f"{one.size_ppm / 1e6:.1%}"


def _scores(one: Account) -> tuple[str, ...]:
    score = "none" if one.score is None else f"{in_metric(one.score):+.4f} ± {in_metric(one.error):.4f}"
    share = "none" if one.share_ppm is None else f"{one.share_ppm / 1e6:.1%}"
    return score, str(one.scored), ranges(one.gaps) or "none", share, f"{one.evaluations:,}"
