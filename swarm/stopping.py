"""When a run has learnt what it can: early stopping, agreed by all members from what they tell of each round's model.

Every site says in the ledger how a round's model does on its own held-out data (an `evaluation`). A charter may end the
run by that: when a metric has not become better for so many rounds, the run is over, at the same round for everybody,
since all read the same entries in the same order. Everything here is in whole numbers, millionths of the metric.

*What is compared.* Not means. A mean weighted by held-out samples, which is how people are shown scores, belongs to
whoever claims the most samples; and a mean over those who happened to tell something moves when another site does. So
each site is compared with itself: its *gain* is its score of this round less its *reference*, its score of the best
round so far (or, if it told none of that, the first that it told since). A round is an improvement if the median of the
gains is more than the charter's least difference. One liar of three or more moves a median no further than to the next
honest value, so it can neither end the run nor keep it going by itself; with f the number of liars that n members bear,
a round with fewer than 2f + 1 gains shows nothing: it is no improvement, and it uses up no patience.

*When a round counts.* Words on a round are taken in from its commit on. It is *settled* with the word of the last of
the members, a word being also that a site keeps its score back, or else by the commit of the next round but one: a slow
site evaluates after it has trained for the next round, and that one may be committed before its word is in. Rounds are
settled in their order. A site that tells nothing delays the end by two rounds at most, and cannot prevent it.

The rule of patience is as in Prechelt, "Early stopping - but when?", 1998, with a least difference as most libraries
have it. Once it has stopped nothing changes any more, unless the members vote for another number of rounds: that is
their word against the charter's, and the count begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from swarm.contribution.agreement import median
from swarm.errors import UsageError
from swarm.ledger.block import faults
from swarm.ledger.entry import SETTLED_AFTER
from swarm.machine import NodeId

_FORM = re.compile(r"([^:]+):(higher|lower):([1-9][0-9]{0,5})(?::((?:0|[1-9][0-9]{0,5})(?:\.[0-9]{0,5}[1-9])?))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a charter stops the run: `index` is the metric's in its list, of which less is better if it is `lower`.

    `patience` is in rounds, from 1; `least` is the difference in millionths that an improvement has to exceed, from 0.
    """

    index: int
    metric: str
    lower: bool
    patience: int
    least: int

    def gain(self, score: int, before: int) -> int:
        """Return by how much a score is better than another one, in millionths."""
        return before - score if self.lower else score - before

    @property
    def words(self) -> str:
        """Say what the option does."""
        by = f" by more than {self.least / 1e6:g}" if self.least else ""
        better = "lower" if self.lower else "higher"
        rounds = "a round" if self.patience == 1 else f"{self.patience} rounds"
        return f"after {rounds} in which {self.metric} has not become {better}{by} at the median site"


def parse(text: str, metrics: Sequence[str]) -> Policy:
    """Read the charter's option: metric, sense and patience, perhaps a least difference: "auc:higher:5:0.001".

    Raises:
        UsageError: It is not so, or the metric is none of the charter's.
    """
    found = _FORM.fullmatch(text)
    if found is None or found[4] == "0":
        raise UsageError(
            f"couldn't read stop = {text[:80]!r}",
            hint="write a metric, higher or lower, for how many rounds it may be no better, and perhaps by how much it"
            " has to be better, above 0 in at most six decimals: accuracy:higher:5 or loss:lower:10:0.001",
        )
    metric, sense, patience, least = found.groups()
    if metric not in metrics:
        known = ", ".join(metrics) or "there are none"
        raise UsageError(
            f"couldn't stop by {metric[:60]!r}: it is none of the charter's metrics ({known})",
            hint="name one that the task's evaluate() returns, and list it with --metrics",
        )
    whole, _, decimals = (least or "0").partition(".")
    units = int(whole) * 1_000_000 + int(decimals.ljust(6, "0"))
    return Policy(
        index=metrics.index(metric), metric=metric, lower=sense == "lower", patience=int(patience), least=units
    )


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """A committed round on which words are taken in; of gossip, where each site has its own model, it names none.

    `words` has by member what it says of the round: its score in millionths, or nothing if it keeps that back.
    """

    round: int
    model: bytes
    model_bytes: int
    words: Mapping[NodeId, tuple[int, ...]] = {}

    @property
    def scores(self) -> dict[NodeId, int]:
        """The scores of those that tell one."""
        return {node: word[0] for node, word in self.words.items() if word}


class Best(msgspec.Struct, frozen=True, array_like=True):
    """The best round so far, and its model as in `Heard`."""

    round: int
    model: bytes
    model_bytes: int


class Watch(msgspec.Struct, frozen=True, array_like=True):
    """How the run does. A part of the ledger's state, where the charter asks for it.

    `references` are scores in millionths that members are compared with; `idle` counts the rounds since the best one
    that were no improvement; `heard` are the rounds that are not settled, ascending; `last` is the round that the run
    ends with once it has been stopped, until then 0.
    """

    best: Best | None = None
    references: Mapping[NodeId, int] = {}
    idle: int = 0
    heard: tuple[Heard, ...] = ()
    last: int = 0

    def without(self, gone: Collection[NodeId]) -> Watch:
        """Return the watch after some have left: what they said counts no more."""
        heard = tuple(
            replace(one, words={node: word for node, word in one.words.items() if node not in gone})
            for one in self.heard
        )
        references = {node: score for node, score in self.references.items() if node not in gone}
        return replace(self, references=references, heard=heard)

    def resumed(self) -> Watch:
        """Return the watch after the members have voted for another number of rounds."""
        return replace(self, idle=0, last=0)


def committed(watch: Watch, round_: int, model: bytes, model_bytes: int) -> Watch:
    """Return the watch after the commit of a round, before anything is settled by it."""
    return watch if watch.last else replace(watch, heard=(*watch.heard, Heard(round_, model, model_bytes)))


def told(
    watch: Watch, policy: Policy, author: NodeId, round_: int, model: bytes, metrics: Sequence[tuple[int, int]]
) -> Watch:
    """Return the watch after a member's word on a round, before anything is settled by it. Its first one counts.

    In exact mixing all have one model of a round, and a word on another one counts for nothing.
    """
    place = next((at for at, one in enumerate(watch.heard) if one.round == round_), None)
    if watch.last or place is None:
        return watch
    one = watch.heard[place]
    if author in one.words or (one.model_bytes and model != one.model):
        return watch
    word = tuple(value for index, value in metrics if index == policy.index)
    heard = replace(one, words={**one.words, author: word})
    return replace(watch, heard=(*watch.heard[:place], heard, *watch.heard[place + 1 :]))


def settled(watch: Watch, policy: Policy, members: Sequence[NodeId], done: int, *, last: int) -> Watch:
    """Return the watch after all that is settled now has been judged, in the order of rounds.

    Args:
        watch: what has been heard.
        policy: the charter's.
        members: who is one today.
        done: the last committed round.
        last: which round the run ends with if it is stopped here; 0 if it is over anyway.
    """
    while not watch.last and watch.heard:
        first = watch.heard[0]
        if first.round > done - SETTLED_AFTER and not all(node in first.words for node in members):
            break
        watch = _judged(replace(watch, heard=watch.heard[1:]), policy, first, faults(len(members)))
        if last and watch.idle >= policy.patience:
            watch = replace(watch, last=last)
    return watch


def best(watch: Watch, policy: Policy, members: int) -> Best | None:
    """Return the best round for who reads the ledger now: once it has stopped for good, before that so far.

    At the end of a run nothing settles its last rounds if a member stays silent; they count as far as they are heard.
    """
    if not watch.last:
        for one in watch.heard:
            watch = _judged(watch, policy, one, faults(members))
    return watch.best


def words(watch: Watch, policy: Policy) -> str:
    """Say that a run has been stopped, and why; empty if it has not been."""
    if not watch.last or watch.best is None:
        return ""
    rounds = "a round" if watch.idle == 1 else f"{watch.idle} rounds"
    return (
        f"stopped after round {watch.last}: no improvement of {policy.metric} for {rounds}, best round"
        f" {watch.best.round}"
    )


def _judged(watch: Watch, policy: Policy, one: Heard, liars: int) -> Watch:
    """Return the watch after one more round; one of which too few tell anything is as if it had not been."""
    scores, enough = one.scores, 2 * liars + 1
    here = Best(one.round, one.model, one.model_bytes)
    if watch.best is None:
        return replace(watch, best=here, references=scores, idle=0) if len(scores) >= enough else watch
    before = watch.references
    gains = [policy.gain(score, before[node]) for node, score in scores.items() if node in before]
    if len(gains) >= enough and median(gains) > policy.least:
        return replace(watch, best=here, references=scores, idle=0)
    return replace(watch, references={**scores, **before}, idle=watch.idle + (len(gains) >= enough))
