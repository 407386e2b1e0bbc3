"""Scores as people read them: what gives an interval and what does not, gaps in words, and no order without a reason."""

import numpy as np
import pytest

from node.scoring.cases import read_cases
from node.scoring.intervals import Interval, newcombe, wilson
from node.scoring.measures import score
from node.scoring.words import Column, apart_words, supports_words, table, told_interval, told_words

TOLD = {"support_0": 56.0, "support_1": 48.0}


@pytest.mark.parametrize(
    ("name", "value", "told", "expected"),
    [
        ("accuracy", 83 / 104, {}, wilson(83, 104)),
        ("accuracy_recalibrated", 83 / 104, {}, wilson(83, 104)),
        ("sensitivity_1", 35 / 48, TOLD, wilson(35, 48)),
        ("sensitivity_0", 50 / 56, TOLD, wilson(50, 56)),
        ("specificity_1", 50 / 56, {"support_1": 48.0}, wilson(50, 56)),
        ("auc", 0.9, TOLD, newcombe(0.9, 48, 56)),
        ("auc", 0.9, {"support_1": 48.0}, None),
        ("auc", 0.9, {"support_0": 30.0, "support_1": 48.0}, None),  # There is a third class.
        ("sensitivity_1", 0.5, {}, None),
        ("sensitivity_2", 0.5, TOLD, None),
        ("brier", 0.1, TOLD, None),
        ("loss", 0.5, TOLD, None),
        ("accuracy", 1.5, {}, None),
        ("sensitivity_1", 0.5, {"support_1": 500.0}, None),
        ("sensitivity_1", 0.5, {"support_1": -3.0}, None),
        ("specificity_1", 0.5, {"support_1": 104.0}, None),
    ],
)
def test_an_interval_takes_the_number_of_cases_it_is_of(
    name: str, value: float, told: dict[str, float], expected: Interval | None
) -> None:
    assert told_interval(name, value, 104, told) == expected


def test_a_score_that_was_withheld_has_no_interval() -> None:
    assert told_interval("accuracy", 0.5, 0, {}) is None


def test_what_a_site_told_is_read_with_its_interval_and_counts_as_counts() -> None:
    assert told_words("accuracy", 83 / 104, 104, {}) == "0.7981 (0.71 to 0.86)"
    assert told_words("loss", 0.25, 104, {}) == "0.2500"
    assert told_words("support_1", 48.0, 104, {}) == "48"


def test_sites_are_put_in_an_order_only_where_intervals_lie_apart() -> None:
    near = {"a": Interval(0.6, 0.8, ""), "b": Interval(0.7, 0.9, "")}
    assert apart_words(near).startswith("All these intervals overlap")
    assert apart_words({"a": near["a"]}) == ""
    far = {**near, "c": Interval(0.1, 0.3, "")}
    assert apart_words(far) == (
        "Intervals that do not overlap: a above c; b above c. All others do. Each site has patients of its own."
    )
    many = {str(i): Interval(i, i + 0.5, "") for i in range(5)}
    assert "and 4 more pairs" in apart_words(many)


def test_a_table_says_in_words_what_has_no_number() -> None:
    scores = score(read_cases({"labels": [1] * 16, "scores": [0.9] * 16}))
    columns = [
        Column(name="swarm", note="", scores=scores, samples=16),
        Column(name="bare", note="", numbers={"accuracy": 0.5, "loss": 1.25}, samples=16),
    ]
    lines = table(columns, ["auc", "accuracy"])
    assert [line.split()[0] for line in lines[:3]] == ["swarm", "auc", "accuracy"]
    assert "all of class 1" in lines[1]
    assert "1.000 (0.81 to 1.00)" in lines[2]
    assert "0.500 (no interval)" in lines[2]
    assert lines[-1].split() == ["loss", "-", "1.250", "(no", "interval)"]
    assert supports_words(scores.supports) == "0 of class 0, 16 of class 1"


def test_more_cases_than_can_be_resampled_still_have_what_formulas_give() -> None:
    labels = np.arange(30_000) % 2
    found = score(read_cases({"targets": labels, "predictions": labels * 0.5}))
    mae = found.find("mae")
    assert mae is not None
    assert mae.interval is not None
    assert (mae.value, mae.interval.method) == (0.25, "normal")
