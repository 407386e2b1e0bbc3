"""Push-sum by hand, the mass that is never lost, and the mean it reaches over links that lose, repeat and reorder."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Reject, UsageError
from swarm.mixing import pushsum
from swarm.mixing.average import VALUE_LIMIT
from swarm.mixing.pushsum import PushSum, Running

UNIT = 2**32


def test_one_push_by_hand() -> None:
    # Weight 2 on [6]: mass 12 and 2. With two out-neighbours each gets a third, and a third stays.
    state, messages = pushsum.push(pushsum.init(np.float32([6]), 2.0), [4, 7])
    assert [m.number for m in messages.values()] == [1, 1]
    assert messages[4].total.tolist() == [4 * UNIT, 2 * UNIT // 3]
    assert state.mass.tolist() == [4 * UNIT, 2 * UNIT - 2 * (2 * UNIT // 3)]
    assert state.weight == pytest.approx(2 / 3)
    other = pushsum.receive(pushsum.init(np.float32([0]), 0.0), 1, messages[4])
    assert pushsum.settled(other).tolist() == [6]


def test_a_later_message_makes_up_for_a_lost_one() -> None:
    sender, receiver = pushsum.init(np.float32([8]), 1.0), pushsum.init(np.float32([0]), 1.0)
    sender, _lost = pushsum.push(sender, [1])
    sender, messages = pushsum.push(sender, [1])
    receiver = pushsum.receive(receiver, 0, messages[1])
    assert receiver.mass.tolist() == [6 * UNIT, UNIT + 3 * UNIT // 4]
    assert sender.mass.tolist() == [2 * UNIT, UNIT // 4]


def test_repeated_and_overtaken_messages_change_nothing() -> None:
    sender, receiver = pushsum.init(np.float32([8])), pushsum.init(np.float32([0]))
    sender, first = pushsum.push(sender, [1])
    sender, second = pushsum.push(sender, [1])
    receiver = pushsum.receive(receiver, 0, second[1])
    assert pushsum.receive(receiver, 0, second[1]) is receiver
    assert pushsum.receive(receiver, 0, first[1]) is receiver


def test_a_state_is_a_value() -> None:
    before = pushsum.init(np.float32([8, -2]))
    mass = before.mass.tolist()
    after, messages = pushsum.push(before, [1])
    pushsum.receive(before, 1, messages[1])
    pushsum.add(before, np.float32([1, 1]))
    assert before.mass.tolist() == mass
    assert (dict(before.sent), dict(before.received)) == ({}, {})
    assert after.sent[1].number == 1


def test_neighbours_that_are_always_served_together_cost_one_running_sum() -> None:
    state = pushsum.init(np.float32([1]))
    for _ in range(3):
        state, _ = pushsum.push(state, [1, 2, 3])
    assert len({id(running.total) for running in state.sent.values()}) == 1
    state, _ = pushsum.push(state, [1])
    state, messages = pushsum.push(state, [1, 2, 3])
    assert len({id(running.total) for running in state.sent.values()}) == 2
    assert [messages[i].number for i in (1, 2, 3)] == [5, 4, 4]


class Swarm:
    """Eight members on a directed ring with two chords, over links that lose, delay, repeat and reorder."""

    OUT = ((1, 3), (2,), (3,), (4,), (5, 0), (6,), (7,), (0,))

    def __init__(self, seed: int, loss: float) -> None:
        self.chance, self.loss = random.Random(seed), loss
        draw = np.random.default_rng(seed)
        self.models = draw.normal(size=(8, 6)).astype(np.float32)
        samples = draw.integers(1, 1000, 8)
        self.weights = samples / samples.mean()
        self.states = [pushsum.init(x, float(w)) for x, w in zip(self.models, self.weights, strict=True)]
        self.flying: list[tuple[int, int, Running]] = []

    @property
    def target(self) -> np.ndarray:
        return np.average(self.models.astype(np.float64), axis=0, weights=self.weights)

    def round(self) -> None:
        for i, out in enumerate(self.OUT):
            self.states[i], messages = pushsum.push(self.states[i], out)
            for j, message in messages.items():
                if self.chance.random() >= self.loss:
                    self.flying += [(i, j, message)] * self.chance.choice((1, 1, 2))
        self.chance.shuffle(self.flying)
        # A third of what is under way arrives later than what is sent after it.
        now, self.flying = self.flying[: len(self.flying) * 2 // 3], self.flying[len(self.flying) * 2 // 3 :]
        for i, j, message in now:
            self.states[j] = pushsum.receive(self.states[j], i, message)

    def mass(self) -> list[int]:
        """All there is, held or on its way, in Python's integers modulo 2**64."""
        total = [0] * 7
        for i, state in enumerate(self.states):
            parts = [state.mass]
            for j, running in state.sent.items():
                known = self.states[j].received.get(i)
                parts.append(running.total if known is None else running.total - known.total)
            for part in parts:
                total = [a + int(b) for a, b in zip(total, part, strict=True)]
        return [value % 2**64 for value in total]

    def error(self) -> float:
        return max(float(np.abs(pushsum.settled(state) - self.target).max()) for state in self.states)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_it_reaches_the_sample_weighted_mean_whatever_the_links_do(seed: int, loss: float) -> None:
    swarm = Swarm(seed, loss)
    assert swarm.error() > 0.1
    for _ in range(300):
        swarm.round()
    assert swarm.error() < 1e-6


@given(st.integers(0, 2**32), st.floats(0, 0.9))
@settings(max_examples=30, deadline=None)
def test_not_a_single_unit_of_mass_is_ever_lost(seed: int, loss: float) -> None:
    swarm = Swarm(seed, loss)
    before = swarm.mass()
    for _ in range(20):
        swarm.round()
        assert swarm.mass() == before


def test_without_running_sums_the_same_losses_lead_elsewhere() -> None:
    # Each message replaced by what it adds to the one before it: a lost one is then lost mass.
    swarm = Swarm(1, 0.0)
    chance = random.Random(9)
    for _ in range(300):
        for i, out in enumerate(Swarm.OUT):
            old = swarm.states[i].sent
            swarm.states[i], messages = pushsum.push(swarm.states[i], out)
            for j, message in messages.items():
                share = message.total - (old[j].total if j in old else 0)
                if chance.random() >= 0.05:
                    at = swarm.states[j]
                    swarm.states[j] = PushSum(at.mass + share, at.sent, at.received)
    assert swarm.error() > 1e-2


def test_totals_may_wrap_around() -> None:
    # The largest mass there can be, pushed until the running total has gone past 2**63 a few times.
    huge = np.full(1, VALUE_LIMIT, np.float32)
    a, b = pushsum.init(huge, 2.0**20), pushsum.init(huge, 0.0)
    for _ in range(40):
        a, there = pushsum.push(a, [1])
        b = pushsum.receive(b, 0, there[1])
        b, back = pushsum.push(b, [0])
        a = pushsum.receive(a, 1, back[0])
    assert a.sent[1].number * 2**61 > 2**64
    assert int(a.mass[0]) + int(b.mass[0]) == 2**62
    assert pushsum.settled(b).tolist() == [VALUE_LIMIT]


def test_local_steps_move_the_target_by_fedavgs_step() -> None:
    swarm = Swarm(4, 0.3)
    for step in range(400):
        if step < 50:
            updates = np.random.default_rng(step).normal(size=(8, 6)).astype(np.float32)
            swarm.models = swarm.models.astype(np.float64) + updates
            swarm.states = [
                pushsum.add(s, u, float(w)) for s, u, w in zip(swarm.states, updates, swarm.weights, strict=True)
            ]
        swarm.round()
    assert swarm.error() < 1e-6


def test_who_is_pushed_to_may_change_every_round() -> None:
    n, x = 8, np.arange(8, dtype=np.float32)
    states = [pushsum.init(x[i : i + 1]) for i in range(n)]
    for hop in (1, 2, 4):  # one-peer exponential: for a power of two, exact after log2 n exchanges
        pushed = [pushsum.push(state, [(i + hop) % n]) for i, state in enumerate(states)]
        states = [pushsum.receive(pushed[j][0], (j - hop) % n, pushed[(j - hop) % n][1][j]) for j in range(n)]
    assert [pushsum.settled(state).tolist() for state in states] == [[3.5]] * n


def test_nobody_to_push_to_keeps_everything() -> None:
    state = pushsum.init(np.float32([1]))
    assert pushsum.push(state, []) == (state, {})


def test_a_total_of_another_model_is_refused() -> None:
    state = pushsum.init(np.float32([1, 2]))
    with pytest.raises(Reject, match="it has 5 elements, not 2"):
        pushsum.receive(state, 0, Running(1, np.zeros(6, np.int64)))
    with pytest.raises(Reject):
        pushsum.receive(state, 0, Running(1, np.zeros(3)))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2 * VALUE_LIMIT])
def test_a_model_that_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="not finite or over 1024"):
        pushsum.init(np.float32([0, value]))
    with pytest.raises(UsageError, match="not finite or over 1024"):
        pushsum.add(pushsum.init(np.float32([0, 0])), np.float32([0, value]))


@pytest.mark.parametrize("weight", [-1.0, 2.0**21, float("nan")])
def test_a_weight_that_does_not_fit_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="weight"):
        pushsum.init(np.float32([0]), weight)


def test_a_member_without_samples_has_no_estimate_until_it_hears_from_one() -> None:
    with pytest.raises(UsageError, match="weight of 0"):
        pushsum.settled(pushsum.init(np.float32([1]), 0.0))


def test_long_vectors_are_handled_to_the_last_element() -> None:
    x = np.arange(2**15 + 3, dtype=np.float32) / 64
    assert np.array_equal(pushsum.settled(pushsum.init(x, 0.5)), x)
