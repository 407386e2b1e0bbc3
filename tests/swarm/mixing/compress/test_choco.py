"""CHOCO: by hand, in its two forms, and against the design's table of bytes to agreement."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import Reject
from swarm.mixing.compress import choco
from swarm.mixing.compress.forms import Spec, decode, encode, parse
from swarm.mixing.compress.noise import noise_key
from swarm.mixing.gossip import Row, mix
from swarm.vector import Vector
from tests.cases import shortened
from topologies.families import random_regular
from topologies.graph import Topology
from topologies.weights import metropolis_hastings


def rows_of(topology: Topology) -> list[Row]:
    weights = metropolis_hastings(topology)
    return [tuple((j, float(weights[i, j])) for j in range(topology.n) if weights[i, j] > 0) for i in range(topology.n)]


def test_one_exchange_by_hand() -> None:
    # Half and half, gamma 1/2; one of two elements is told. [4, 1] tells 4, [0, 2] tells 2; each moves a quarter of
    # the way between the copies.
    spec, row = parse("topk:500"), ((0, 0.5), (1, 0.5))
    a, b = np.float32([4, 1]), np.float32([0, 2])
    public_a, message_a = choco.propose(choco.init(2, (1,)).own, a, spec)
    public_b, message_b = choco.propose(choco.init(2, (0,)).own, b, spec)
    assert (public_a.copy.tolist(), public_b.copy.tolist()) == ([4, 0], [0, 2])
    seen_by_a = choco.Copies(public_a, {1: choco.follow(choco.init(2, (1,)).others[1], 1, message_b, spec)})
    seen_by_b = choco.Copies(public_b, {0: choco.follow(choco.init(2, (0,)).others[0], 1, message_a, spec)})
    assert choco.mix(seen_by_a, 0, a, row, 0.5).tolist() == [3, 1.5]
    assert choco.mix(seen_by_b, 1, b, row, 0.5).tolist() == [1, 1.5]


def test_a_copy_follows_in_order_and_only_once() -> None:
    spec, model = parse("bf16"), np.float32([3])
    one, first = choco.propose(choco.init(1, ()).own, model, spec)
    two, second = choco.propose(one, 2 * model, spec)
    known = choco.init(1, (5,)).others[5]
    with pytest.raises(Reject, match="message 1 is missing before 2"):
        choco.follow(known, 2, second, spec)
    known = choco.follow(known, 1, first, spec)
    assert choco.follow(known, 1, first, spec) is known
    known = choco.follow(known, 2, second, spec)
    assert (known.number, known.copy.tolist()) == (2, [6]) == (two.number, two.copy.tolist())
    with pytest.raises(Reject, match="agreed was bf16"):
        choco.follow(known, 3, encode(model, parse("f32")), spec)


def agree(spec: Spec, gamma: float, *, exchanges: int, goal: float = 1e-4) -> tuple[float, float, Vector]:
    """The design's setting: 25 members, 4 neighbours each, 4,000 elements. Return error, MB sent a node, the mean."""
    rows = rows_of(random_regular(25, 4, 1))
    x = np.random.default_rng(0).normal(size=(25, 4000)).astype(np.float32)
    mean = x.mean(axis=0, dtype=np.float64)
    spread, error, sent = float(np.sqrt(np.mean((x - mean) ** 2))), 1.0, 0
    public = [choco.init(4000, ()).own] * 25
    for t in range(exchanges):
        told = [
            choco.propose(public[i], x[i], spec, key=noise_key(b"c", t, i) if spec.name == "randk" else None)
            for i in range(25)
        ]
        public = [copy for copy, _ in told]
        sent += sum(4 * len(message) for _, message in told)
        x = np.array(
            [
                choco.mix(choco.Copies(public[i], {j: public[j] for j, _ in row}), i, x[i], row, gamma)
                for i, row in enumerate(rows)
            ]
        )
        error = float(np.sqrt(np.mean((x - mean) ** 2)) / spread)
        if error < goal:
            break
    assert np.abs(x.mean(axis=0, dtype=np.float64) - mean).max() < 1e-5
    return error, sent / 25 / 1e6, x


@pytest.mark.parametrize(
    ("name", "megabytes"),
    shortened(3, [("bf16", 1.12), ("int8", 0.57), ("int4", 0.33), ("topk:100", 0.82), ("sign", 0.94)]),
)
def test_it_agrees_to_one_in_ten_thousand_within_the_bytes_of_the_design(name: str, megabytes: float) -> None:
    spec = parse(name)
    error, sent, _ = agree(spec, choco.default_gamma(spec), exchanges=500)
    assert error < 1e-4
    assert sent == pytest.approx(megabytes, rel=0.08)


@pytest.mark.parametrize(("name", "floor"), [("bf16", 5e-4), ("int8", 1e-3), ("int4", 1e-2), ("topk:100", 0.15)])
def test_compressing_the_models_themselves_stops_at_a_floor(name: str, floor: float) -> None:
    spec, rows = parse(name), rows_of(random_regular(25, 4, 1))
    x = np.random.default_rng(0).normal(size=(25, 4000)).astype(np.float32)
    mean, errors = x.mean(axis=0, dtype=np.float64), []
    for _ in range(60):
        told = {i: decode(encode(x[i], spec), 4000) for i in range(25)}
        x = np.array([mix(row, {**told, i: x[i]}) for i, row in enumerate(rows)])
        errors.append(float(np.sqrt(np.mean((x - mean) ** 2))))
    assert min(errors) > floor


def test_the_form_with_one_running_sum_gives_the_same_models() -> None:
    topology, spec, gamma = random_regular(6, 3, 1), parse("int4"), 0.8
    rows = rows_of(topology)
    x = np.random.default_rng(2).normal(size=(6, 300)).astype(np.float32)
    y = x.copy()
    full = [choco.init(300, tuple(j for j, _ in row if j != i)) for i, row in enumerate(rows)]
    summed = [choco.init_summed(300, row) for row in rows]
    for t in range(1, 26):
        told = [choco.propose(full[i].own, x[i], spec) for i in range(6)]
        full = [
            choco.Copies(told[i][0], {j: choco.follow(p, t, told[j][1], spec) for j, p in full[i].others.items()})
            for i in range(6)
        ]
        x = np.array([choco.mix(full[i], i, x[i], rows[i], gamma) for i in range(6)])
        told = [choco.propose(summed[i].own, y[i], spec) for i in range(6)]
        for i, row in enumerate(rows):
            state = choco.Summed(told[i][0], summed[i].total, summed[i].numbers, row)
            for j, _ in reversed(row):  # in whatever order they arrive, and one of them twice
                state = choco.absorb(state, j, t, told[j][1], spec)
            summed[i] = choco.absorb(state, i, t, told[i][1], spec)
        y = np.array([choco.mix_summed(summed[i], y[i], gamma) for i in range(6)])
    assert np.abs(x - y).max() < 1e-5
    assert np.abs(y - y.mean(axis=0)).max() < 0.05


def test_a_running_sum_takes_messages_of_its_row_in_order() -> None:
    spec, state = parse("f32"), choco.init_summed(1, ((0, 0.5), (1, 0.5)))
    message = encode(np.float32([4]), spec)
    assert choco.absorb(state, 1, 1, message, spec).total.tolist() == [2]
    with pytest.raises(Reject, match="message 1 is missing before 2"):
        choco.absorb(state, 1, 2, message, spec)
    with pytest.raises(Reject, match="member 9: it is not in the row"):
        choco.absorb(state, 9, 1, message, spec)


def test_a_skipped_pair_does_not_move_the_mean() -> None:
    spec, x = parse("int8"), {i: np.float32([value]) for i, value in enumerate((0.0, 3.0, 9.0))}
    public = {i: choco.propose(choco.init(1, ()).own, model, spec)[0] for i, model in x.items()}
    alone = {0: ((0, 0.5), (1, 0.5)), 1: ((0, 0.5), (1, 0.5)), 2: ((2, 1.0),)}
    after = {i: choco.mix(choco.Copies(public[i], public), i, x[i], row, 1.0) for i, row in alone.items()}
    assert [float(after[i][0]) for i in range(3)] == pytest.approx([1.5, 1.5, 9.0], abs=1e-5)


@pytest.mark.parametrize("name", ["f32", "bf16", "int8", "int4", "sign", "topk:1", "topk:500", "randk:200"])
def test_default_steps_are_within_zero_and_one_and_above_the_proven_ones(name: str) -> None:
    proven = choco.safe_gamma(delta=0.5, gap=0.2, beta=1.0)
    assert proven == pytest.approx(0.04 * 0.5 / (3.2 + 0.04 + 4 + 0.4 - 0.8))
    assert proven / 10 < choco.default_gamma(parse(name)) <= 1
