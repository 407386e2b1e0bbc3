"""Who is unlike the others, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from swarm.mixing.outliers import unlike


def test_a_norm_far_from_the_median_is_named_with_its_score() -> None:
    # Norms 1.0 1.1 0.9 1.2 9: median 1.1, distances .1 0 .2 .1 7.9, their median .1, below a tenth of 1.1: .11.
    words = unlike([(1.0, 0.5), (1.1, 0.5), (0.9, 0.5), (1.2, 0.5), (9.0, 0.5)])
    assert words[:4] == ("", "", "", "")
    assert words[4] == "its norm is 9, 8.18 times the median (score +48.4)"


def test_clipped_to_one_bound_nobody_is_unlike() -> None:
    assert unlike([(1.0, 0.2), (1.0000001, 0.2), (0.9999999, 0.2), (0.99, 0.2)]) == ("", "", "", "")


def test_who_sends_nothing_among_those_who_do_is_named() -> None:
    assert "its norm is 0" in unlike([(1.0, 0.2), (1.0, 0.2), (1.1, 0.2), (0.0, 0.0)])[3]


def test_who_sends_something_among_those_who_do_not_is_named() -> None:
    assert unlike([(0.0, 0.0)] * 4 + [(2.0, 0.0)])[4] == "its norm is 2, and most sites' is 0"


def test_pointing_against_the_others_is_named() -> None:
    words = unlike([(1.0, 0.5), (1.0, 0.5), (1.0, -0.05), (1.0, -0.4)])
    assert words == ("", "", "", "it points against the others (cosine -0.40)")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_among_few_nobody_is_unlike(count: int) -> None:
    assert unlike([(10.0**i, -1.0) for i in range(count)]) == ("",) * count
