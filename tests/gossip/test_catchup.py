"""The plan of catching up: what is asked of whom, and who pays for what goes wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from gossip import catchup
from gossip.catchup import (
    ASKED_PER_PEER_MAX,
    LIAR_S,
    RANGE_BLOCKS,
    SLOW_S,
    TIMEOUT_S,
    WINDOW_BLOCKS,
    Ask,
    CatchUp,
    Piece,
)
from swarm.machine import NodeId

A, B, C, D = (NodeId(bytes([i]) * 32) for i in range(4))


def plan(seed: int = 1) -> CatchUp:
    return CatchUp(random.Random(seed))


def blocks(first: int, last: int) -> list[bytes]:
    return [b"block %d" % height for height in range(first, last + 1)]


def answer(one: CatchUp, ask: Ask, now: float = 0.0, *, count: int | None = None) -> bool:
    found = blocks(ask.first, ask.last)[:count]
    return one.arrived(ask.node, ask.first, found, now)


def ranges(asks: Sequence[Ask]) -> list[tuple[int, int]]:
    return sorted((ask.first, ask.last) for ask in asks)


def follow(one: CatchUp, height: int) -> int:
    """Take what follows, as an owner that finds all of it right; return the new height."""
    for piece in one.pieces(height):
        assert piece.first == height + 1
        assert list(piece.blocks) == blocks(piece.first, piece.first + len(piece.blocks) - 1)
        height += len(piece.blocks)
    return height


def test_ranges_are_spread_over_the_peers_and_bounded() -> None:
    asks = plan().asks(0, {A: 10_000, B: 10_000, C: 10_000}, 0.0)
    assert len(asks) == 3 * ASKED_PER_PEER_MAX
    assert {node: sum(ask.node == node for ask in asks) for node in (A, B, C)} == dict.fromkeys((A, B, C), 2)
    assert ranges(asks) == [(1 + i * RANGE_BLOCKS, (i + 1) * RANGE_BLOCKS) for i in range(6)]


def test_nobody_is_asked_for_more_than_it_has() -> None:
    for ask in plan().asks(5, {A: 7, B: 5 + 3 * RANGE_BLOCKS, C: 3}, 0.0):
        assert ask.last <= {A: 7, B: 5 + 3 * RANGE_BLOCKS}[ask.node]
    assert plan().asks(5, {A: 5, C: 3}, 0.0) == []


def test_everything_is_fetched_once_and_handed_on_in_order() -> None:
    one, height, top, asked = plan(), 3, 2_000, []
    rng = random.Random(2)
    under_way: list[Ask] = []
    while height < top:
        fresh = one.asks(height, {A: top, B: top, C: top}, 0.0)
        asked += fresh
        under_way += fresh
        assert answer(one, under_way.pop(rng.randrange(len(under_way))))
        height = follow(one, height)
    assert [h for ask in sorted(asked, key=lambda a: a.first) for h in range(ask.first, ask.last + 1)] == list(
        range(4, top + 1)
    )
    assert one.asks(height, {A: top}, 0.0) == []
    assert not one.busy


def test_no_more_is_fetched_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one = plan()
    tips = {A: 10**6, B: 10**6}
    first: Ask | None = None
    highest = 0
    for _ in range(100):
        for ask in one.asks(0, tips, 0.0):
            highest = max(highest, ask.last)
            if ask.first == 1:
                first = ask
            else:
                answer(one, ask)
    assert highest == WINDOW_BLOCKS
    assert first is not None
    answer(one, first)
    assert follow(one, 0) == WINDOW_BLOCKS
    monkeypatch.setattr(catchup, "WINDOW_BYTES_MAX", 100)
    two = plan()
    answer(two, next(ask for ask in two.asks(0, tips, 0.0) if ask.first > 1))
    assert two.asks(0, {**tips, C: 10**6}, 0.0) == []


def test_an_answer_that_holds_less_is_completed() -> None:
    one = plan()
    (ask,) = one.asks(0, {A: 10}, 0.0)
    assert answer(one, ask, count=4)
    assert ranges(one.asks(0, {A: 10}, 0.0)) == [(5, 10)]
    assert follow(one, 0) == 4


@pytest.mark.parametrize(
    ("node", "first", "count"), [(B, 1, 10), (A, 2, 9), (A, 1, 0), (A, 1, 11), (A, 11, 3)], ids=str
)
def test_what_was_not_asked_for_is_not_taken(node: NodeId, first: int, count: int) -> None:
    one = plan()
    one.asks(0, {A: 10}, 0.0)
    assert not one.arrived(node, first, blocks(first, first + count - 1), 0.0)
    assert one.pieces(0) == []


def test_a_slow_peer_keeps_nobody_waiting_and_is_asked_last() -> None:
    one = plan()
    (low,) = one.asks(0, {A: RANGE_BLOCKS}, 0.0)
    assert one.asks(0, {A: RANGE_BLOCKS, B: RANGE_BLOCKS}, TIMEOUT_S - 0.1) == []
    assert one.next_wake() == TIMEOUT_S
    again = one.asks(0, {A: RANGE_BLOCKS, B: RANGE_BLOCKS}, TIMEOUT_S)
    assert again == [Ask(B, 1, RANGE_BLOCKS)]
    assert not answer(one, low, TIMEOUT_S + 1), "too late: somebody else was asked"
    assert answer(one, again[0], TIMEOUT_S + 1)
    height = follow(one, 0)
    tips = dict.fromkeys((A, B), height + 4 * RANGE_BLOCKS)
    fresh = one.asks(height, tips, TIMEOUT_S + 1)
    assert [ask.node for ask in fresh] == [B, B, A, A], "the slow one is asked where nobody else can be"
    for ask in fresh:
        one.lost(ask.node)
    later = one.asks(height, tips, TIMEOUT_S + SLOW_S + 1)
    assert sorted({ask.node for ask in later[:2]}) == [A, B]


def test_what_a_lost_peer_was_asked_for_is_asked_of_others_at_once() -> None:
    one = plan()
    one.asks(0, {A: 30}, 0.0)
    assert one.asks(0, {A: 30, B: 30}, 1.0) == []
    one.lost(A)
    assert one.asks(0, {B: 30}, 1.0) == [Ask(B, 1, 30)]
    two = plan()
    two.asks(0, {A: 30}, 0.0)
    assert two.asks(0, {B: 30}, 1.0) == [Ask(B, 1, 30)], "nobody need say so: it is not there any more"


def test_pieces_say_who_sent_what_and_end_at_a_gap() -> None:
    one = plan()
    for ask in one.asks(0, {A: RANGE_BLOCKS}, 0.0):
        answer(one, ask, count=3)
    for ask in one.asks(0, {B: 5}, 0.0):
        answer(one, ask)
    (late,) = [ask for ask in one.asks(0, {C: 9}, 0.0) if ask.first == 6]
    answer(one, late, count=1)
    assert one.pieces(0) == [
        Piece(A, 1, tuple(blocks(1, 3))),
        Piece(B, 4, tuple(blocks(4, 5))),
        Piece(C, 6, tuple(blocks(6, 6))),
    ]
    assert one.pieces(4) == [Piece(B, 5, tuple(blocks(5, 5))), Piece(C, 6, tuple(blocks(6, 6)))]


def test_whoever_lied_alone_is_not_asked_again_for_a_while_and_what_others_sent_is_kept() -> None:
    one = plan()
    tips = dict.fromkeys((A, B), 4 * RANGE_BLOCKS)
    asks = one.asks(0, tips, 0.0)
    for ask in asks:
        answer(one, ask)
    (liar,) = [ask.node for ask in asks if ask.first == 1]
    other = B if liar == A else A
    assert one.failed(0, [liar, liar], 0.0) == liar
    assert not one.alone
    again = one.asks(0, tips, 1.0)
    assert {ask.node for ask in again} == {other}
    assert ranges(again) == ranges([ask for ask in asks if ask.node == liar])[: len(again)]
    assert one.asks(0, {liar: 500}, LIAR_S - 1.0) == []
    one.lost(other)
    assert {ask.node for ask in one.asks(0, {liar: 500}, LIAR_S)} == {liar}


def test_a_doubt_about_several_is_settled_by_asking_one_at_a_time() -> None:
    for seed in range(20):
        one = plan(seed)
        tips = dict.fromkeys((A, B, C), 3 * RANGE_BLOCKS)
        for ask in one.asks(0, tips, 0.0):
            answer(one, ask)
        assert one.failed(0, [A, B], 0.0) is None
        assert one.pieces(0) == []
        height, told, now = 0, list[NodeId](), 0.0
        while height < 3 * RANGE_BLOCKS:
            now += 0.1
            asks = one.asks(height, tips, now)
            assert len(asks) == 1 or not one.alone
            for ask in asks:
                answer(one, ask, now)
            for piece in one.pieces(height):
                if piece.node == A:  # the liar
                    liar = one.failed(height, [A], now)
                    told += [] if liar is None else [liar]
                    break
                height += len(piece.blocks)
        assert told in ([], [A])
        assert one.asks(height, tips, now) == []
        assert not one.alone, "the stretch is behind"


def test_blocks_that_lead_nowhere_are_noticed_when_nothing_more_comes() -> None:
    one = plan()
    (ask,) = one.asks(0, {A: 5}, 0.0)
    assert not one.stuck(0, 100.0), "nothing is here yet"
    answer(one, ask, 2.0)
    assert not one.stuck(0, 2.0 + TIMEOUT_S - 0.1)
    assert one.next_wake() == 2.0 + TIMEOUT_S
    assert one.stuck(0, 2.0 + TIMEOUT_S)
    assert one.failed(0, [A], 8.0) == A
    assert not one.busy
    assert one.next_wake() is None


def test_a_full_window_of_no_use_is_noticed_at_once() -> None:
    one, tips = plan(), {A: 10**6}
    while asks := one.asks(0, tips, 0.0):
        assert not one.stuck(0, 0.0)
        for ask in asks:
            answer(one, ask)
    assert one.stuck(0, 0.0)


def test_the_same_seed_makes_the_same_plan() -> None:
    tips = dict.fromkeys((A, B, C, D), 5_000)
    assert plan(7).asks(0, tips, 0.0) == plan(7).asks(0, tips, 0.0)


def test_blocks_above_a_gap_that_nobody_can_fill_do_not_make_it_look_again_and_again() -> None:
    """A wake in the past is a node that never sleeps."""
    one = plan()
    first, *others = one.asks(0, {A: 4 * RANGE_BLOCKS, B: 4 * RANGE_BLOCKS}, 0.0)
    for ask in (first, *others):
        if ask.first > 1:
            assert answer(one, ask)
    now = 0.0
    for _ in range(20):
        wake = one.next_wake()
        assert wake is not None
        assert wake > now
        now = wake
        one.stuck(0, now)
        one.asks(0, {}, now)
