"""Whose work is in the models, from the closes of a log that is written by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.participation import Participation, gaps_words, ranges
from swarm.machine import NodeId
from tests.builders import contribution, digest, make_swarm

SWARM = make_swarm(4, rounds=9)
NODES = [who.node for who in SWARM.identities]
NAMES = {node: f"site-{i}" for i, node in enumerate(NODES)}


class Log:
    """Entries one after the other, as final blocks would hold them."""

    def __init__(self, *, waits: bool = True) -> None:
        self.read = Participation(waits=waits)
        self.size = 1

    def work(self, author: int, number: int) -> int:
        """Append a contribution; return its index."""
        body = contribution(SWARM, author, number=number)
        entry = e.Entry(
            e.ENTRY_VERSION, e.CONTRIBUTION, bytes(32), NODES[author], 0, bytes(32), 0, codec.encode(body), b""
        )
        return self._append(entry)

    def close(self, number: int, included: list[int], missing: list[int], *, rejected: tuple[int, ...] = ()) -> None:
        pairs = tuple((index, 1) for index in included)
        gone = tuple(bytes(NODES[member]) for member in missing)
        body = e.RoundClose(number, 1, pairs, gone, tuple((index, e.UNAVAILABLE) for index in rejected))
        self._append(e.derived_entry(ledger_id=bytes(32), kind=e.ROUND_CLOSE, index=self.size, ts_ms=0, body=body))

    def _append(self, entry: e.Entry) -> int:
        index, self.size = self.size, self.size + 1
        self.read.note(index, [entry])
        return index


def test_a_run_in_which_everybody_was_in_every_round_has_no_gaps() -> None:
    log = Log()
    for number in (1, 2, 3):
        log.close(number, [log.work(author, number) for author in range(4)], [])
    assert log.read.gaps() == {}
    assert log.read.contributors() == sorted(NODES)
    assert [(first, last) for first, last, _ in log.read.stretches()] == [(1, 3)]


def test_late_work_covers_the_rounds_that_its_author_spent_on_it() -> None:
    log = Log()
    for number in range(1, 5):
        log.close(number, [log.work(author, number) for author in range(3)], [3])
    late = log.work(3, 2)
    log.close(5, [*(log.work(author, 5) for author in range(3)), late], [])
    assert log.read.gaps() == {NODES[3]: [1]}, "what it did in rounds 2 to 4 is in round 5"
    assert gaps_words(log.read.gaps(), NAMES) == "site-3 in round 1"
    assert [(first, last, len(one.included)) for first, last, one in log.read.stretches()] == [(1, 4, 3), (5, 5, 4)]


def test_work_that_was_offered_and_left_out_is_missing() -> None:
    log = Log()
    away = log.work(3, 1)
    log.close(1, [log.work(author, 1) for author in range(3)], [], rejected=(away,))
    assert log.read.gaps() == {NODES[3]: [1]}


def test_a_second_close_of_a_round_takes_the_place_of_the_first() -> None:
    log = Log()
    works = [log.work(author, 1) for author in range(4)]
    log.close(1, works[:3], [3])
    log.close(1, works, [])
    assert log.read.gaps() == {}


def test_where_nobody_waits_only_who_is_in_no_round_is_missing() -> None:
    log = Log(waits=False)
    for number in range(1, 5):
        log.close(number, [log.work(number % 3, number)], [author for author in range(4) if author != number % 3])
    assert log.read.gaps() == {NODES[3]: [1, 2, 3, 4]}


def test_who_is_no_member_of_a_round_is_not_missed_in_it() -> None:
    log = Log()
    log.close(1, [log.work(0, 1)], [])
    log.close(2, [log.work(0, 2)], [1])
    assert log.read.gaps() == {NODES[1]: [2]}


@given(st.sets(st.integers(1, 60), min_size=1))
def test_ranges_say_which_numbers_they_are_made_of(numbers: set[int]) -> None:
    found: list[int] = []
    for part in ranges(sorted(numbers)).split(", "):
        first, _, last = part.partition(" to ")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(numbers)


def test_a_site_without_a_name_is_called_by_the_beginning_of_its_id() -> None:
    stranger = NodeId(digest("stranger"))
    assert (
        gaps_words({stranger: [2, 3], NODES[1]: [2]}, NAMES)
        == f"{stranger.hex()[:8]} in rounds 2 to 3; site-1 in round 2"
    )
