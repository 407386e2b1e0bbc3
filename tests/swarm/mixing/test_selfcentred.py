"""Clipping towards oneself, by numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.mixing.products import STRETCH, TILE, Read
from swarm.mixing.selfcentred import clipped, distances, in_millionths, parse


def test_the_nearest_say_how_far_others_may_pull() -> None:
    # A ring: a third each. With a tenth for liars the nearer neighbour fits, 2 / 3 of 9 / 10, the other does not.
    # tau^2 = (1 / 3) 4 / 0.1 = 40 / 3; the other, 100 away squared, is multiplied by sqrt(40 / 3) / 10.
    taken, scales = clipped((1 / 3, 1 / 3, 1 / 3), 1, (100.0, 0.0, 4.0), 100)
    factor = math.sqrt(40 / 3) / 10
    assert scales == pytest.approx((factor, 1.0, 1.0))
    assert taken == pytest.approx((factor / 3, 1 - factor / 3 - 1 / 3, 1 / 3))
    assert in_millionths(scales)[0] == round(1e6 * factor)


def test_neighbours_alike_are_taken_as_they_are() -> None:
    weights = (0.25, 0.25, 0.25, 0.25)
    assert clipped(weights, 0, (0.0, 2.0, 2.0, 2.0), 100)[0] == pytest.approx(weights)


def test_models_that_are_the_same_stay_so() -> None:
    weights = (0.25, 0.5, 0.25)
    assert clipped(weights, 1, (0.0, 0.0, 0.0), 100) == (weights, (1.0, 1.0, 1.0))


def test_who_has_one_partner_cannot_tell_and_stays() -> None:
    assert clipped((0.5, 0.5), 0, (0.0, 9.0), 100)[0] == (1.0, 0.0)
    assert clipped((1.0,), 0, (0.0,), 100) == ((1.0,), (1.0,))


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1e6)), min_size=3, max_size=8),
    st.integers(1, 300),
    st.floats(1, 1e12),
)
def test_one_liar_pulls_no_further_however_far_away_it_is(
    found: list[tuple[float, float]], permille: int, further: float
) -> None:
    """The last of the neighbours lies; with its weight below delta it moves the member by at most W tau."""
    share = permille / 1000
    raw = [weight for weight, _ in found]
    weights = [
        share * 0.9,
        *((1 - share * 0.9) * weight / sum(raw) for weight in raw),
    ]  # number 0 lies, 1 is the member
    apart = [max(d for _, d in found) * further + 1, 0.0, *(d for _, d in found[1:])]
    taken, _ = clipped(weights, 1, apart, permille)
    tau = math.sqrt(math.fsum(w * d for w, d in list(zip(weights, apart, strict=True))[2:]) / share)
    assert taken[0] * math.sqrt(apart[0]) <= weights[0] * tau * (1 + 1e-9)
    assert math.fsum(taken) == pytest.approx(1.0)
    assert all(weight >= -1e-12 for weight in taken)


def test_distances_are_those_of_the_models() -> None:
    rng = np.random.default_rng(1)
    elements = STRETCH + TILE + 3
    models = [rng.normal(size=elements).astype(np.float32) for _ in range(3)]

    def of(model: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Read:
        return lambda start, count: model[start : start + count]

    found = distances([of(model) for model in models], 1, elements)
    exact = [math.fsum(((m.astype(np.float64) - models[1]) ** 2).tolist()) for m in models]
    assert found == pytest.approx(exact, rel=1e-12)
    models[2][5] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        distances([of(model) for model in models], 1, elements)


@pytest.mark.parametrize("text", ["", "0", "501", "0.1", "-1", "1000", "x"])
def test_what_is_no_share_in_thousandths_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="for the weight of liars"):
        parse(text)
    assert parse("500") == 500
