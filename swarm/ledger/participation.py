"""Whose work is in the models: what closes say of it, taken together over the rounds.

A run that ends is not yet a run in which everybody took part, and a model made without a site should not pass for one
that has it. All of this follows from the log: a close accounts for every member of its time, as included, as rejected
or as missing. Work that counts late covers the rounds that its author spent on it. What no work covers is a *gap*; a
run with gaps is one of a *subset* of its sites. Where nobody waits, rounds without a site are the rule, and only a site
whose work is in no model has gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView
from swarm.ledger.block import FinalBlock
from swarm.machine import NodeId
from swarm.staleness import STALENESS_MAX

WORKS_MAX = 10_000
"""Contributions in no round yet that are remembered before those that are too old to count late are forgotten."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """One round as it was closed: of which round the work of each author was, and who else was a member."""

    included: Mapping[NodeId, int]
    without: tuple[NodeId, ...]


@dataclass(slots=True)
class Participation:
    """Rounds by number, as far as they have been read, in order and from the first on; `waits`: the charter does."""

    waits: bool = True
    rounds: dict[int, Attendance] = field(default_factory=dict)
    _works: dict[int, tuple[NodeId, int]] = field(default_factory=dict)
    _counted: tuple[int, ...] = ()
    _round: int = 0

    def read(self, final: FinalBlock) -> None:
        """Take in the next final block, which is not checked here."""
        header = final.block.opened()
        self.note(header.first_index, [e.decode_entry(leaf) for leaf in final.block.leaves])

    def note(self, first: int, entries: Sequence[e.Entry]) -> None:
        """Take in the entries of the next final block, of which the first has this index in the log."""
        for index, entry in enumerate(entries, first):
            if entry.kind == e.CONTRIBUTION:
                work = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
                self._works[index] = NodeId(entry.author), work.round
            elif entry.kind == e.ROUND_CLOSE:
                self._close(codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX))

    def add(self, view: RoundView) -> None:
        """Take in a round that an audit has read."""
        if view.closed is None or view.terms is None:
            return
        included = {placed.author: placed.body.round for placed in view.closed.terms}
        without = tuple(seat.node for seat in view.terms.members if seat.node not in included)
        self.rounds[view.number] = Attendance(included, without)

    def forget(self, before: int) -> None:
        """Let go of earlier rounds than this, for who only wants to know the last ones."""
        self.rounds = {number: round_ for number, round_ in self.rounds.items() if number >= before}

    def gaps(self) -> dict[NodeId, list[int]]:
        """Return, for each site with any, the rounds that no work of it covers, ascending; the longest list first."""
        covered: dict[NodeId, set[int]] = {}
        for number, round_ in self.rounds.items():
            for author, begun in round_.included.items():
                spent = range(begun, number + 1) if self.waits else self.rounds
                covered.setdefault(author, set()).update(spent)
        found: dict[NodeId, list[int]] = {}
        for number, round_ in sorted(self.rounds.items()):
            for node in round_.without:
                if number not in covered.get(node, ()):
                    found.setdefault(node, []).append(number)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    def contributors(self) -> list[NodeId]:
        """Return whose work is in any model, in the order of their ids."""
        return sorted({author for round_ in self.rounds.values() for author in round_.included})

    def stretches(self) -> list[tuple[int, int, Attendance]]:
        """Return (first, last, attendance) of rounds in a row that were closed with the same sites."""
        runs: list[tuple[int, int, Attendance]] = []
        for number, round_ in sorted(self.rounds.items()):
            if runs and runs[-1][1] == number - 1 and {*runs[-1][2].included} == {*round_.included}:
                runs[-1] = runs[-1][0], number, round_
            else:
                runs.append((number, number, round_))
        return runs

    def _close(self, close: e.RoundClose) -> None:
        if close.round != self._round:  # A round may be closed again, with the same work; none counts in two rounds.
            for index in self._counted:
                self._works.pop(index, None)
            self._round, self._counted = close.round, ()
        self._counted += tuple(index for index, _ in close.included)  # What is left out may count in a later one.
        works = [self._works[index] for index, _ in close.included if index in self._works]
        included = dict(works)
        rejected = [self._works[index][0] for index, _ in close.rejected if index in self._works]
        without = (*(NodeId(node) for node in close.missing), *rejected)
        self.rounds[close.round] = Attendance(included, without)
        if len(self._works) > WORKS_MAX:
            oldest = close.round - STALENESS_MAX
            self._works = {index: work for index, work in self._works.items() if work[1] >= oldest}


def of_audit(audit: Audit) -> Participation:
    """Return what the rounds of an audit say."""
    found = Participation(waits=not audit.state.signed.charter.asynchronous)
    for view in audit.rounds.values():
        found.add(view)
    return found


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers briefly: [3, 4, 5, 9] as "3 to 5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def rounds_words(first: int, last: int) -> str:
    """Return a range of rounds in words: "round 3", "rounds 3 to 5"."""
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def gaps_words(gaps: Mapping[NodeId, Sequence[int]], names: Mapping[NodeId, str]) -> str:
    """Say whose work is missing for which rounds: "fra in rounds 3 to 5, 9; rome in round 2"; empty without gaps."""
    return "; ".join(
        f"{names.get(node, node.hex()[:8])} in round{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"
        for node, numbers in gaps.items()
    )
