"""What scores come to, by hand; and that noise alone is a leak as seldom as an interval of 95 % says."""

from __future__ import annotations

import numpy as np
import pytest

from node.audit.reading import Likeness, nearness, read, right_guesses


def test_an_attack_that_is_always_right_has_an_advantage_of_one_and_a_finite_interval() -> None:
    found = read(np.arange(10.0) + 10, np.arange(10.0))
    assert (found.advantage, found.area) == (1.0, 1.0)
    assert found.found
    assert 0.5 < found.span.low < 0.7 < found.span.high == 1.0


def test_the_advantage_is_of_as_many_names_as_there_are_members_by_hand() -> None:
    """Two members, four others; the two highest are one of each: 1/2 - 1/4."""
    assert read(np.array([9.0, 1.0]), np.array([8.0, 2.0, 0.5, 0.1])).advantage == pytest.approx(0.25)


def test_hits_are_counted_above_the_score_that_a_hundredth_of_the_others_exceed() -> None:
    others = np.arange(200.0)  # Two of 200 are above 197.
    members = np.array([196.5, 197.5, 300.0, 100.0])
    first, second = read(members, others).hits
    assert (first.rate, first.share) == (0.01, 0.5)
    assert first.interval is not None
    assert first.interval.low < 0.5 < first.interval.high
    assert (second.rate, second.share, second.interval) == (0.001, None, None)


def test_scores_that_are_all_the_same_say_nothing() -> None:
    found = read(np.zeros(50), np.zeros(50))
    assert found.area == 0.5
    assert not found.found
    assert "found no leak beyond chance" in found.words
    assert "safe" not in found.words


def test_noise_is_a_leak_hardly_more_often_than_twice_in_forty() -> None:
    random = np.random.default_rng(0)
    leaks = sum(read(random.normal(size=60), random.normal(size=60)).found for _ in range(400))
    assert leaks <= 400 * 0.05


def test_guesses_are_half_in_at_the_top_and_half_out_at_the_bottom() -> None:
    members, others = np.array([5.0, 4.0, 0.0]), np.array([3.0, 2.0, 1.0])
    assert right_guesses(members, others, 6) == 4  # 5 4 3 are said to be in, 2 1 0 to be out.
    assert right_guesses(members, others, 2) == 1  # 5 in, which is right; 0 out, which is not.
    assert right_guesses(members, others, 1) == 1


def likeness(random: np.random.Generator, *, lead: float) -> Likeness:
    """Eight reconstructions that are all alike, as those of one update are, beside 40 records."""
    members = np.arange(40) < 20
    common = random.normal(size=40)
    rows = common + 0.1 * random.normal(size=(8, 40)) + lead * members
    return Likeness(rows, np.zeros(8), np.zeros(40), members)


def test_reconstructions_that_are_all_alike_are_not_taken_for_so_many_proofs() -> None:
    random = np.random.default_rng(0)
    found = [nearness([likeness(random, lead=0.0)]) for _ in range(16)]
    assert sum(one is not None and one.found for one in found) <= 2
    sure = nearness([likeness(random, lead=3.0)])
    assert sure is not None
    assert sure.found
    assert sure.lead_db > sure.chance.high + 1


def test_a_reconstruction_with_nothing_of_its_label_to_compare_says_nothing() -> None:
    alone = Likeness(np.zeros((1, 2)), np.zeros(1), np.array([0.0, 0.0]), np.array([True, True]))
    assert nearness([alone]) is None
    assert nearness([]) is None
