"""Round trips: TCP's numbers, and no answer is taken for that to another question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.roundtrip import GIVE_UP_S, PROBE_S, Echo, RoundTrip


def echo(*trips: float) -> Echo:
    """Return what measurements of so many seconds come to."""
    made, now = Echo(), 100.0
    made.linked()
    made.welcomed(now)
    for trip in trips:
        now += PROBE_S
        made.probed(now)
        made.answered(now + trip)
    return made


def test_the_numbers_are_those_of_rfc_6298() -> None:
    first = RoundTrip.first(0.8)
    assert (first.smoothed_s, first.variation_s) == (0.8, 0.4)
    then = first.then(1.6)
    assert then.smoothed_s == pytest.approx(7 / 8 * 0.8 + 1 / 8 * 1.6)
    assert then.variation_s == pytest.approx(3 / 4 * 0.4 + 1 / 4 * 0.8)


@given(st.lists(st.floats(1e-4, 30.0), min_size=1, max_size=60))
def test_it_is_never_outside_what_was_measured(trips: list[float]) -> None:
    found = echo(*trips).round_trip
    assert found is not None
    assert min(trips) - 1e-6 <= found.smoothed_s <= max(trips) + 1e-6
    assert 0 <= found.variation_s <= max(trips) + 1e-6


def test_a_steady_way_varies_less_and_less() -> None:
    found = echo(*[0.25] * 40).round_trip
    assert found is not None
    assert found.smoothed_s == pytest.approx(0.25)
    assert found.variation_s < 1e-5


def test_an_answer_that_nobody_asked_for_says_nothing() -> None:
    made = echo()
    made.answered(100.0)
    assert made.round_trip is None
    made.probed(105.0)
    made.answered(105.5)
    made.answered(105.9)  # It lies, or the network repeats itself.
    assert made.round_trip == RoundTrip.first(0.5)


def test_with_two_greetings_out_no_answer_counts() -> None:
    made = echo()
    made.probed(105.0)
    made.greeted()
    made.answered(105.1)
    made.answered(105.2)
    assert made.round_trip is None
    made.probed(110.2)
    made.answered(110.5)
    assert made.round_trip is not None


def test_what_is_never_answered_is_given_up_and_asked_again() -> None:
    made = echo()
    made.probed(105.0)
    assert made.due_at() == 105.0 + GIVE_UP_S
    made.probed(165.0)
    made.answered(165.5)
    assert made.round_trip == RoundTrip.first(0.5)
    assert made.due_at() == 165.0 + PROBE_S


def test_a_clock_that_went_back_measures_nothing() -> None:
    made = echo()
    made.probed(105.0)
    made.answered(104.0)
    assert made.round_trip is None


def test_what_was_not_answered_while_it_could_not_be_does_not_hold_up_the_first_measurement() -> None:
    made = Echo()
    made.linked()
    for _ in range(100):
        made.greeted()
    made.welcomed(1000.0)
    made.answered(1000.1)
    assert made.due_at() == 1000.0 + PROBE_S
