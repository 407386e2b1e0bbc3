"""For how long late work counts, and for how much."""

import math

import pytest

from swarm.errors import UsageError
from swarm.staleness import STALENESS_MAX, discounted, parse


def test_hand_computed_weights() -> None:
    assert [discounted(600, late) for late in (0, 3, 8, 15)] == [600, 300, 200, 150]
    assert discounted(100, 1) == 70
    assert discounted(1, 900) == 1, "who has little is not rounded away"


@pytest.mark.parametrize("samples", [1, 7, 600, 2**40 - 1])
def test_it_is_the_square_root_and_falls_with_every_round(samples: int) -> None:
    found = [discounted(samples, late) for late in range(STALENESS_MAX)]
    assert found == sorted(found, reverse=True)
    exact = [samples / math.sqrt(1 + late) for late in range(STALENESS_MAX)]
    assert all(abs(a - b) <= 1 + b / 1000 for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "01", "1001", "99999", "", "ten", "٣"])
def test_what_is_no_number_of_rounds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="late work counts"):
        parse(text)


def test_numbers_of_rounds() -> None:
    assert [parse(text) for text in ("1", "16", "1000")] == [1, 16, 1000]
