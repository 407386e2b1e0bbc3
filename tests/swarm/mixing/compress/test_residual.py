"""Error feedback: nothing is lost, only late."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import UsageError
from swarm.mixing.compress import residual
from swarm.mixing.compress.forms import decode, parse
from swarm.mixing.compress.noise import noise_key

SPARSE = parse("topk:1")


def test_what_was_left_out_goes_on_top_of_the_next_update_by_hand() -> None:
    # One of three elements is kept each time: 5, then 3 + 3, then what has been waiting longest.
    state = residual.init(3)
    sent = []
    for update in ([5, 3, 2], [0, 3, 2], [0, 0, 1]):
        state, message = residual.apply(state, np.float32(update), SPARSE)
        sent.append(message.update.tolist())
    assert sent == [[5, 0, 0], [0, 6, 0], [0, 0, 5]]
    assert state.error.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "sign", "topk:50", "randk:50"])
def test_all_that_was_sent_is_all_there_was_but_for_one_residual(name: str) -> None:
    chance, spec, state = np.random.default_rng(0), parse(name), residual.init(500)
    given, sent = np.zeros(500), np.zeros(500)
    for round_ in range(60):
        update = chance.normal(0.3, 1.0, 500).astype(np.float32)
        state, out = residual.apply(
            state, update, spec, key=noise_key(b"e", round_) if name.startswith("randk") else None
        )
        given += update
        sent += out.update
    assert np.abs(given - sent - state.error).max() < 1e-3
    assert np.linalg.norm(state.error) < 0.5 * np.linalg.norm(given)


def test_without_memory_the_small_elements_never_arrive() -> None:
    update = np.float32([9, 1, 1])
    state, sent = residual.init(3), np.zeros(3)
    for _ in range(30):
        state, out = residual.apply(state, update, SPARSE)
        sent += out.update
        assert decode(out.message, 3).tolist() == out.update.tolist()
    assert sent[1] > 15
    alone = residual.apply(residual.init(3), update, SPARSE)[1]
    assert alone.update.tolist() == [9, 0, 0]


def test_a_round_that_did_not_count_leaves_the_state_before_it_as_it_was() -> None:
    state, _ = residual.apply(residual.init(3), np.float32([5, 3, 2]), SPARSE)
    error = state.error.tolist()
    residual.apply(state, np.float32([1, 1, 1]), SPARSE)
    assert state.error.tolist() == error == [0, 3, 2]


def test_the_sum_is_clipped_and_what_is_cut_off_is_forgotten() -> None:
    state = residual.Residual(np.float32([0, 6, 8]))
    state, out = residual.apply(state, np.zeros(3, np.float32), SPARSE, bound=5.0)
    assert out.update.tolist() == [0, 0, 4]
    assert state.error.tolist() == [0, 3, 0]


def test_an_update_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="not a finite number"):
        residual.apply(residual.init(2), np.float32([0, np.nan]), SPARSE)
