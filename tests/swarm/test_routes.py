"""Who computes what on the way to the mean."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarm.errors import UsageError
from swarm.ledger.entry import Contribution, Partial
from swarm.ledger.partials import counts
from swarm.mixing.average import add_weighted, mean_of_sums_into, sums_problem, weighted_mean_into
from swarm.routes import NORM_UNITS, OWNERS, Fold, Route, cuts, norm_units, owners, parse, slices_digest, within_bound
from tests.builders import changed, contribution, digest, make_swarm


@pytest.mark.parametrize(
    ("text", "route"),
    [("fold", Route("fold")), ("sharded", Route("sharded", 5)), ("sharded:16", Route("sharded", 16))],
)
def test_names_of_routes(text: str, route: Route) -> None:
    assert parse(text, 5) == route


@pytest.mark.parametrize(
    "text", ["", "spread", "sharded:", "sharded:0", "sharded:257", "fold:2", "Fold", "sharded:1000"]
)
def test_a_route_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't accept the charter: route"):
        parse(text, 5)


@given(st.integers(1, 500), st.integers(1, 256))
def test_slices_lie_side_by_side_and_are_alike(elements: int, slices: int) -> None:
    found = cuts(elements, slices)
    assert (found[0][0], found[-1][1], len(found)) == (0, elements, slices)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    lengths = {end - start for start, end in found}
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 60), st.integers(1, 120))
def test_every_slice_has_two_owners_and_work_is_shared_out(n: int, slices: int) -> None:
    nodes = list(range(n))
    found = [owners(number, slices, nodes) for number in range(slices)]
    assert all(len({*who}) == len(who) == min(OWNERS, n) for who in found)
    load = Counter(itertools.chain.from_iterable(found))
    most = -(-slices // n) * min(OWNERS, n)
    assert max(load.values()) <= most
    if slices % n == 0:
        assert {*load.values()} == {slices // n * min(OWNERS, n)}, "as many for each"


@pytest.mark.parametrize("n", range(1, 65))
def test_a_fold_adds_everybody_once(n: int) -> None:
    fold = Fold(n)
    sums = {index: Counter(fold.covered(fold.group(index, 0))) for index in range(fold.folded)}
    for number in range(1, fold.steps + 1):
        for index in range(fold.folded):
            assert {*fold.group(index, number)} == {*fold.group(index, number - 1)} | {*fold.other(index, number)}
        sums = {index: sums[index] + sums[next(iter(fold.other(index, number)))] for index in range(fold.folded)}
        for index in range(fold.folded):
            assert sums[index] == Counter(fold.covered(fold.group(index, number))), "what its group is said to cover"
    assert all(total == Counter(range(n)) for total in sums.values())
    assert fold.folded == 2**fold.steps <= n < 2 * fold.folded


def test_norms_of_slices_add_up_to_that_of_the_update() -> None:
    bound = 10.0
    update = np.full(100, 0.999, np.float32)
    parts = [norm_units(float(np.linalg.norm(update[start:end])), bound) for start, end in cuts(100, 7)]
    assert within_bound(parts)
    assert not within_bound([norm_units(1.01 * units**0.5 / NORM_UNITS**0.5 * bound, bound) for units in parts])
    assert norm_units(0.0, bound) == 0
    assert norm_units(bound, bound) == NORM_UNITS


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(0, 2**32))
def test_sums_divided_are_the_mean_to_the_last_bit(weights: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 3)
    updates = [(scale * rng.standard_normal(333)).clip(-1000, 1000).astype(np.float32) for _ in weights]
    base = rng.standard_normal(333).astype(np.float32)
    mean, divided = np.empty_like(base), np.empty_like(base)
    weighted_mean_into(mean, base, updates, weights)
    low, high = np.zeros(333, np.int64), np.zeros(333, np.int64)
    for number, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        add_weighted(high if number % 2 else low, update, weight)
    mean_of_sums_into(divided, base, low + high, sum(weights))
    assert np.array_equal(mean, divided)


def test_sums_out_of_bounds_are_refused() -> None:
    update = np.full(16, 2.5, np.float32)  # Its norm is 10.
    sums = np.zeros(16, np.int64)
    add_weighted(sums, update, 7)
    assert sums_problem(sums, 7, 10.0) == ""
    assert "over the charter's bound" in sums_problem(sums, 7, 9.99)
    assert "over the charter's bound" in sums_problem(sums, 6, 10.0)
    sums[3] = 2**62
    assert "larger than" in sums_problem(sums, 7, 1e9)


# --- in the charter and the log ---------------------------------------------------------------------------------------


def sliced(sizes: tuple[int, ...], *, of: int = 0) -> Contribution:
    slices = tuple((digest(f"slice {i}"), size) for i, size in enumerate(sizes))
    body = contribution(make_swarm(4, elements=10), of)
    return replace(body, slices=slices, update_digest=slices_digest(slices), update_bytes=sum(sizes))


def test_a_contribution_has_the_slices_of_the_charter() -> None:
    charter = make_swarm(4, elements=10, route="sharded").charter
    assert charter.cuts == ((0, 2), (2, 5), (5, 7), (7, 10))
    assert charter.carries(sliced((8, 12, 8, 12)))
    assert not charter.carries(sliced((12, 8, 8, 12)))
    assert not charter.carries(sliced((8, 12, 8)))
    assert not charter.carries(contribution(make_swarm(4, elements=10), 0)), "a whole one"
    whole = make_swarm(4, elements=10).charter
    assert not whole.carries(sliced((8, 12, 8, 12)))


def test_what_members_may_fetch_from_one_another() -> None:
    def moved(route: str) -> list[int]:
        charter = make_swarm(4, elements=10, route=route).charter
        return [size for size in range(1, 100) if charter.moves(size)]

    assert moved("") == [40]
    assert moved("fold") == [40, 80]
    assert moved("sharded") == [8, 12, 40]


@pytest.mark.parametrize("route", ["fold", "sharded"])
def test_a_route_needs_everybody_to_reach_everybody(route: str) -> None:
    options = (("route", route),)
    ring = changed(make_swarm(4, edges=((0, 1), (0, 3), (1, 2), (2, 3))), options=options)
    with pytest.raises(UsageError, match="everybody must reach everybody"):
        ring.check()
    gossip = changed(make_swarm(4, schedule="ring"), options=(("route", route), ("schedule", "ring")))
    with pytest.raises(UsageError, match="with gossip mixing"):
        gossip.check()


@pytest.mark.parametrize("route", ["fold", "sharded"])
def test_a_route_takes_any_number_of_sites_that_only_dial_out_if_others_relay(route: str) -> None:
    with pytest.raises(UsageError, match="everybody must reach everybody") as caught:
        make_swarm(4, elements=10, route=route, hidden=(2, 3))
    assert "--relay" in caught.value.hint
    make_swarm(4, elements=10, route=route, hidden=(2, 3), relay="sealed").charter.check()


def test_a_model_has_an_element_for_each_slice() -> None:
    with pytest.raises(UsageError, match="3 parameters in 4 slices"):
        make_swarm(4, elements=3, route="sharded")
    make_swarm(4, elements=4, route="sharded").charter.check()


NODES = [who.node for who in make_swarm(6, elements=10).identities]


def part(number: int, size: int, norms: tuple[int, ...] = ()) -> Partial:
    return Partial(1, 9, number, digest("part"), size, norms)


def test_a_slice_counts_from_its_owners_and_from_nobody_else() -> None:
    charter = make_swarm(4, elements=10, route="sharded").charter
    nodes, norms = NODES[:4], (1, 2, 3, 4)
    assert [n for n in nodes if counts(charter, nodes, n, part(1, 12, norms))] == nodes[1:3]
    assert [n for n in nodes if counts(charter, nodes, n, part(3, 12, norms))] == [nodes[0], nodes[3]]
    assert not counts(charter, nodes, nodes[1], part(1, 8, norms)), "another size"
    assert not counts(charter, nodes, nodes[1], part(1, 12, norms[:3])), "a norm too few"
    assert not counts(charter, nodes, nodes[1], part(4, 12, norms)), "no slice"
    assert not counts(charter, nodes, NODES[5], part(1, 12, norms)), "not in the round"


def test_a_sum_counts_from_those_who_pair_up() -> None:
    charter = make_swarm(6, elements=10, route="fold").charter
    assert [n for n in NODES if counts(charter, NODES, n, part(2, 80))] == NODES[:4]
    assert not any(counts(charter, NODES, n, part(number, 80)) for n in NODES for number in (0, 3))
    assert not counts(charter, NODES, NODES[0], part(1, 40))
    assert not counts(charter, NODES, NODES[0], part(1, 80, (1,)))
