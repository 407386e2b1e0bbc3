"""Push-sum by the ledger: masses by hand, sums that never change, and the weighted mean through any loss."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.exchange import Exchange, Mass
from swarm.ledger.pushing import STEP_MAX, UNIT, Settled, settle, step
from swarm.ledger.state import State, decode_body, settled
from swarm.machine import NodeId
from tests.builders import Feeds, digest, make_swarm
from tests.swarm.ledger.test_exchange import NODES, Log, told

A, B, C, D = (NodeId(bytes([number]) * 32) for number in range(1, 5))


def played(
    weights: Mapping[NodeId, int],
    targets: Mapping[NodeId, Sequence[NodeId]],
    lost: Sequence[tuple[NodeId, NodeId]] = (),
    masses: Mapping[NodeId, Mass] | None = None,
) -> Settled:
    """A round in which all arrives but what is lost, as (giver, taker)."""
    places = {node: number for number, node in enumerate(weights)}
    held = {
        taker: tuple(places[g] for g in weights if taker in targets.get(g, ()) and (g, taker) not in lost)
        for taker in weights
    }
    exchange = Exchange(receipts=held, targets={k: tuple(v) for k, v in targets.items()}, masses=masses or {})
    return settle(exchange, places, weights)


def held(settled: Settled) -> list[float]:
    return [settled.after[node].held / UNIT for node in sorted(settled.after)]


def test_a_round_by_hand() -> None:
    # A gives B half of 4, B gives C a third of 4 and A a third, C gives nothing.
    done = played({A: 4, B: 4, C: 4}, {A: [B], B: [A, C]})
    third = (4 * UNIT // 3) / UNIT
    assert held(done) == [4 - 2 + third, 4 + 2 - 2 * third, 4 + third]
    assert done.row(C) == {B: third / (4 + third), C: 4 / (4 + third)}
    assert done.row(A)[A] == pytest.approx(2 / (2 + third))
    assert done.rest(A) == pytest.approx(4 / (2 + third))


def test_a_large_site_gives_a_small_one_what_that_one_gives_it() -> None:
    done = played({A: 6, B: 2}, {A: [B], B: [A]})
    assert held(done) == [6, 2], "each gives 1"
    assert done.row(A) == {A: 5 / 6, B: 1 / 6}
    assert done.row(B) == {A: 1 / 2, B: 1 / 2}


def test_a_share_that_is_lost_stays_with_its_giver() -> None:
    done = played({A: 4, B: 4, C: 4}, {A: [B, C]}, lost=[(A, C)])
    share = (4 * UNIT // 3) / UNIT
    assert held(done) == [4 - share, 4 + share, 4], "and the other one is no larger for it"


def test_a_gift_takes_the_word_of_both() -> None:
    places = {A: 0, B: 1}
    weights = {A: 4, B: 4}
    assert not settle(Exchange(receipts={B: (0,)}), places, weights).gifts, "A has not said that it gives"
    assert not settle(Exchange(targets={A: (B,)}), places, weights).gifts, "B has not said that it holds"
    assert not settle(Exchange(receipts={A: (0,)}, targets={A: (A,)}), places, weights).gifts, "nor to oneself"
    assert settle(Exchange(receipts={B: (0,)}, targets={A: (B,)}), places, weights).gifts == {B: {A: 2 * UNIT}}


def test_who_is_not_in_a_round_keeps_its_mass_and_who_comes_brings_its_own() -> None:
    first = played({A: 4, B: 4}, {A: [B], B: []})
    then = played({B: 4, C: 8}, {B: [C, A], C: [B]}, masses=first.after)
    assert then.before[C] == Mass(8, 8 * UNIT)
    assert then.after[A] == first.after[A]
    assert sum(mass.held for mass in then.after.values()) == 16 * UNIT


def test_training_counts_by_what_a_member_came_with() -> None:
    assert step(None) == step(Mass(4, 4 * UNIT)) == 1.0
    assert step(Mass(4, 8 * UNIT)) == 0.5
    assert step(Mass(4, 1)) == STEP_MAX


def exponential(n: int, t: int) -> dict[int, list[int]]:
    hops = max(1, (n - 1).bit_length())
    return {i: [(i + (1 << t % hops)) % n] for i in range(n)}


def chorded_ring(n: int, _: int) -> dict[int, list[int]]:
    """Everybody gives to the next, and the first to all: as unlike a balanced graph as one that is connected can be."""
    return {i: [(i + 1) % n] if i else list(range(1, n)) for i in range(n)}


@pytest.mark.parametrize("graph", [exponential, chorded_ring])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_weighted_mean_is_reached_when_a_third_of_all_messages_are_lost(graph: object, seed: int) -> None:
    n, chance = 9, random.Random(seed)
    nodes = [NodeId(bytes([number]) * 32) for number in range(n)]
    weights = {node: chance.randrange(1, 400) for node in nodes}
    x = np.random.default_rng(seed).normal(size=(n, 3))
    counts = np.array([weights[node] for node in nodes])
    mean, total = counts @ x / counts.sum(), int(counts.sum()) * UNIT
    masses: Mapping[NodeId, Mass] = {}
    for t in range(400):
        planned = graph(n, t)  # type: ignore[operator]
        targets = {nodes[i]: [nodes[j] for j in to] for i, to in planned.items()}
        lost = [(g, k) for g, to in targets.items() for k in to if chance.random() < 0.3]
        done = played(weights, targets, lost, masses)
        matrix = np.zeros((n, n))
        for i, node in enumerate(nodes):
            for giver, share in done.row(node).items():
                matrix[i, nodes.index(giver)] = share
        x, masses = matrix @ x, done.after
        now = np.array([masses[node].held for node in nodes])
        assert now.sum() == total, "to the last unit"
        assert now.min() > 0
        assert np.allclose(now @ x / total, mean, atol=1e-11)
    assert np.allclose(x, mean, atol=1e-9)


def test_equal_counts_on_a_one_peer_exponential_graph_end_in_the_mean_after_its_period() -> None:
    n = 8
    nodes = [NodeId(bytes([number]) * 32) for number in range(n)]
    x = np.eye(n)
    masses: Mapping[NodeId, Mass] = {}
    for t in range(3):
        targets = {nodes[i]: [nodes[j] for j in to] for i, to in exponential(n, t).items()}
        done = played(dict.fromkeys(nodes, 60), targets, masses=masses)
        x = np.array([[done.row(node).get(other, 0.0) for other in nodes] for node in nodes]) @ x
        masses = done.after
    assert np.allclose(x, 1 / n, atol=1e-12)
    assert {mass.held for mass in masses.values()} == {60 * UNIT}


# --- in the log -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_", "targets"), [((1, 1), ()), ((2, 1), ()), ((), (b"short",)), ((), (A, A)), ((), (B, A))]
)
def test_a_push_out_of_order_or_bounds_is_refused(held_: tuple[int, ...], targets: tuple[bytes, ...]) -> None:
    leaf = Feeds(make_swarm(4, schedule="ring", links="directed")).write(0, e.Push(1, held_, targets))
    with pytest.raises(Reject, match="push"):
        decode_body(e.decode_entry(leaf))
    leaf = Feeds(make_swarm(4, schedule="ring", links="directed")).write(0, e.Push(0, (), ()))
    with pytest.raises(Reject, match="push"):
        decode_body(e.decode_entry(leaf))


def pushing() -> Log:
    return Log(make_swarm(4, rounds=3, schedule="one_peer_exponential", links="directed"))


def push(log: Log, author: int, held_: Sequence[int], targets: Sequence[int]) -> None:
    assert log.state.exchange is not None
    indices = tuple(sorted(log.index_of(other) for other in held_))
    log.say(author, e.Push(log.state.round, indices, tuple(sorted(NODES[target] for target in targets))))


def masses(log: Log) -> dict[int, float]:
    assert log.state.exchange is not None
    return {NODES.index(node): mass.held / UNIT for node, mass in log.state.exchange.masses.items()}


def one_round(log: Log) -> None:
    """Everybody has ten samples; 0 gives to 1 and 3, 1 to 2; 3 has not got it."""
    number = log.state.round
    models = log.state.exchange.models if log.state.exchange is not None else {}
    log.contribute(0, 1, 2, 3, number=number, bases={i: models[NODES[i]].model for i in range(4) if NODES[i] in models})
    push(log, 0, [], [1, 3])
    push(log, 1, [0], [2])
    push(log, 2, [1], [])
    push(log, 3, [], [])
    log.close()
    for author in range(4):
        log.attest(author, told(author), model=f"model of {author} after {number}")
    log.commit()


def test_masses_are_in_the_state_once_a_round_is_over_and_go_on_from_there() -> None:
    log = pushing()
    assert masses(log) == {}
    one_round(log)
    third = (10 * UNIT // 3) / UNIT
    assert masses(log) == {0: 10 - third, 1: 5 + third, 2: 15, 3: 10}
    assert log.state.exchange is not None
    assert not log.state.exchange.targets
    one_round(log)
    assert sum(masses(log).values()) == 40
    assert masses(log)[2] == pytest.approx(15 + (5 + third) / 2, abs=1 / UNIT)
    assert snapshot.decode(snapshot.encode(log.state), State, log.state.signed) == log.state


def test_a_receipt_says_nothing_where_links_go_one_way_nor_a_push_where_they_do_not() -> None:
    log = pushing()
    log.contribute(0, 1)
    log.receive(0, 1)
    assert log.state.exchange is not None
    assert not log.state.exchange.receipts
    both = Log()
    both.contribute(0, 1)
    push(both, 0, [1], [1])
    assert both.state.exchange is not None
    assert not both.state.exchange.receipts
    assert not both.state.exchange.targets


def test_the_last_push_before_the_close_counts_and_none_after() -> None:
    log = pushing()
    log.contribute(0, 1, 2, 3)
    push(log, 1, [0], [])
    push(log, 0, [], [1])
    push(log, 0, [], [2])
    log.close()
    push(log, 0, [], [1])
    done = settled(log.state)
    assert done is not None
    assert not done.gifts


def test_the_last_round_makes_one_model_and_masses_are_over() -> None:
    log = pushing()
    one_round(log)
    one_round(log)
    assert log.state.exchange is not None
    log.contribute(0, 1, 2, 3, number=3, bases={i: log.state.exchange.models[NODES[i]].model for i in range(4)})
    log.close()
    assert settled(log.state) is None
    for author in range(4):
        log.say(author, e.Attest(3, log.state.close.index if log.state.close else 0, digest("mean"), 128, (), b""))
    log.commit()
    assert masses(log) == {}
