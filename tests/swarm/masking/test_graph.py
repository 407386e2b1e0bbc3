"""Who masks with whom: all with all while they are few, then as few as the bounds allow, by an order nobody chose."""

import hashlib
import math
import random
import re
from pathlib import Path

import pytest

from swarm.errors import UsageError
from swarm.ledger.block import faults, quorum
from swarm.masking.graph import (
    COMPLETE_MAX,
    RECOVERY_BITS,
    SECRECY_BITS,
    Shape,
    neighbours,
    order,
    shape,
)

SPARSE = (31, 50, 100, 150, 200, 300, 500, 1000)
DECISION = Path(__file__).parents[3] / "docs" / "decisions" / "0039-masks.md"


def nodes(count: int) -> list[bytes]:
    return [hashlib.sha256(b"node %d" % number).digest() for number in range(count)]


def test_up_to_thirty_all_mask_with_all_and_the_threshold_is_the_ledger_quorum() -> None:
    for count in range(3, COMPLETE_MAX + 1):
        assert shape(count) == Shape(count, count - 1, quorum(count), count - max(3, quorum(count)))
    assert [shape(count).threshold for count in (3, 4, 5, 7, 10)] == [2, 3, 4, 5, 7]
    assert [shape(count).included_min for count in (3, 4, 5, 10)] == [3, 3, 4, 7]


def test_rosters_too_small_or_large_to_mask_are_refused() -> None:
    for count in (0, 1, 2, 1001):
        with pytest.raises(UsageError, match="couldn't mask a round"):
            shape(count)


def test_liars_are_counted_in_the_swarm_and_not_on_the_roster() -> None:
    assert [shape(count, 10).threshold for count in (5, 6, 7, 8, 9, 10)] == [5, 5, 6, 6, 7, 7]
    with pytest.raises(UsageError, match="fewer than 5"):
        shape(4, 10)
    for bad in range(40):
        for count in range(max(3, bad + 2), 60):
            found = shape(count, colluding=bad)
            assert bad < found.threshold <= found.degree + 1
            assert found.included_min >= bad + 2, "so that a sum is of two honest members at least"


@pytest.mark.parametrize("count", [*range(3, 31), *SPARSE])
def test_even_on_a_forked_ledger_no_two_sets_get_enough_answers(count: int) -> None:
    """Honest holders answer once, those who collude for both: 2t > holders + colluders, but for once in 2**40."""
    found, bad = shape(count), faults(count)
    if found.complete:
        assert 2 * found.threshold > count + bad
        return
    worst = 2 * found.threshold - (found.degree + 1)
    ways = math.comb(count - 1, found.degree)
    tail = sum(
        math.comb(bad, k) * math.comb(count - 1 - bad, found.degree - k)
        for k in range(worst, min(bad, found.degree) + 1)
    )
    assert count * tail * 2**SECRECY_BITS <= ways
    assert worst <= found.threshold, "so fewer than the threshold collude, too"


@pytest.mark.parametrize("count", SPARSE)
def test_the_bounds_hold_by_the_distributions_of_another_library(count: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the extra torch")
    found, bad, gone = shape(count), faults(count), count // 10
    neighbours_of = stats.hypergeom
    colluding = neighbours_of(count - 1, bad, found.degree)
    dropped = neighbours_of(count - 1, gone - 1, found.degree)
    assert count * colluding.sf(2 * found.threshold - found.degree - 2) <= 2.0**-SECRECY_BITS * 1.001
    assert count * dropped.sf(found.degree - found.threshold) <= 2.0**-RECOVERY_BITS * 1.001
    two_rows = neighbours_of(count, bad, found.degree)
    assert count * (count - 1) / 2 * two_rows.sf(found.degree - gone - 1) <= 2.0**-SECRECY_BITS * 1.001


@pytest.mark.parametrize("count", SPARSE)
def test_a_degree_less_would_break_a_bound(count: int) -> None:
    """The least there is: the search goes up in steps of two and stops at the first."""
    from swarm.masking.graph import _colluding_neighbours, _degree_floor, _recovers

    found, bad, gone = shape(count), faults(count), count // 10
    less = found.degree - 2
    threshold = (less + 1 + _colluding_neighbours(count, less, bad, 0)) // 2 + 1
    fits = less >= _degree_floor(count, bad, gone, 0) and threshold <= less and _recovers(count, less, threshold, gone)
    assert not fits


def test_who_is_absent_is_taken_to_have_been_kept_away_by_choice() -> None:
    """With few of a large swarm there, a sparse graph would be what somebody made of it: it grows dense."""
    shares = [shape(there, 300).degree / (there - 1) for there in (300, 280, 250, 200, 150)]
    assert shares == sorted(shares)
    assert shares[0] < 0.46
    assert shares[-1] > 0.85
    assert shape(30, 31) == Shape(30, 29, 21, 9), "ten liars of thirty-one, all on the roster"


def test_the_circle_of_those_there_bears_whoever_was_kept_from_it() -> None:
    """Somebody who knows the order keeps away the honest members nearest to one: it is still not among liars."""
    count, away, rng = 150, 15, random.Random(1)
    found, liars = shape(count - away, count), faults(count)
    for _ in range(20):
        everybody, beacon = nodes(count), rng.randbytes(32)
        circle = order(beacon, everybody)
        lying = {*rng.sample(range(count), liars)}
        places = [place for place, index in enumerate(circle) if index not in lying]
        victim = rng.choice(places)
        near = sorted(
            (place for place in places if place != victim),
            key=lambda one: min(abs(one - victim), count - abs(one - victim)),
        )
        gone = {circle[place] for place in near[:away]}
        there = [index for index in range(count) if index not in gone]
        of_those = order(beacon, [everybody[index] for index in there])
        around = neighbours(found, of_those, there.index(circle[victim]))
        colluding = sum(there[index] in lying for index in around)
        assert 2 * found.threshold > found.degree + 1 + colluding


@pytest.mark.parametrize("count", [3, 10, 31, 150])
def test_a_graph_is_regular_and_mutual_and_the_same_for_everybody(count: int) -> None:
    found, circle = shape(count), order(b"b" * 32, nodes(count))
    near = [neighbours(found, circle, index) for index in range(count)]
    assert sorted(circle) == [*range(count)]
    for index, others in enumerate(near):
        assert len({*others}) == found.degree
        assert index not in others
        assert [*others] == sorted(others)
        assert all(index in near[other] for other in others)


def test_a_small_circle_is_as_drawn() -> None:
    """Six in a circle, two on either side: whoever is opposite is no neighbour."""
    six, circle = Shape(6, 4, 3, 1), (2, 0, 4, 1, 5, 3)
    assert neighbours(six, circle, 2) == (0, 3, 4, 5)
    assert neighbours(six, circle, 1) == (0, 3, 4, 5)
    assert neighbours(six, circle, 0) == (1, 2, 3, 4)


def test_another_beacon_is_another_order_and_staying_away_moves_nobody_past_anybody() -> None:
    everybody = nodes(60)
    circle = [everybody[index] for index in order(b"b" * 32, everybody)]
    assert circle != [everybody[index] for index in order(b"c" * 32, everybody)]
    rng = random.Random(1)
    for _ in range(20):
        some = rng.sample(everybody, 45)
        there = [some[index] for index in order(b"b" * 32, some)]
        assert there == [one for one in circle if one in there]


def together(near: list[tuple[int, ...]], left: set[int]) -> bool:
    seen, frontier = {min(left)}, [min(left)]
    while frontier:
        fresh = ({*near[frontier.pop()]} & left) - seen
        seen |= fresh
        frontier += fresh
    return seen == left


@pytest.mark.parametrize("count", [100, 300])
def test_a_sum_on_a_sparse_graph_is_without_a_tenth_at_most(count: int) -> None:
    assert shape(count).included_min == count - count // 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_honest_members_stay_connected_although_the_weakest_are_cut_off(seed: int) -> None:
    """Whoever colludes stands at random; who drops out is chosen, where it hurts most: beside whom fewest are honest."""
    count = 150
    found, rng = shape(count), random.Random(seed)
    for _ in range(20):
        circle = order(rng.randbytes(32), nodes(count))
        near = [neighbours(found, circle, index) for index in range(count)]
        honest = {*rng.sample(range(count), count - faults(count))}
        weakest = min(sorted(honest), key=lambda index: len({*near[index]} & honest))
        cut = sorted({*near[weakest]} & honest, key=lambda one: abs(circle.index(one) - circle.index(weakest)))
        assert together(near, honest - {*cut[: found.dropping]})
    isolated = {weakest} | (honest - {*near[weakest]})
    assert not together(near, isolated), "and the test sees what is not connected"


def test_the_table_in_the_decision_is_what_the_code_computes() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (\d+) / (\d+) \| (\d+) / (\d+) \| (\d+) / (\d+) \|", DECISION.read_text(), re.MULTILINE
    )
    assert len(rows) >= 6
    for row in rows:
        count, *told = map(int, row)
        found = [shape(count), shape(count, colluding=count // 5), shape(count, colluding=count // 10)]
        assert [number for one in found for number in (one.degree, one.threshold)] == told
