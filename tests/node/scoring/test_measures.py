"""Metrics: by hand where a hand can, against scikit-learn on drawn cases, and words in place of numbers that are none."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn import metrics as sk

from node.scoring.cases import Classified, Predicted, Survived, read_cases
from node.scoring.measures import (
    RANK_MIN,
    Estimate,
    Scores,
    choose_threshold,
    concordance_index,
    score,
)

SEEDS = (1, 2, 3)


def binary(labels: list[int], scores: list[float], **more: Sequence[float]) -> Classified:
    result: dict[object, object] = {"labels": labels, "scores": scores}
    found = read_cases(result | dict(more.items()))
    assert isinstance(found, Classified)
    return found


def drawn(seed: int, n: int = 200, classes: int = 2) -> Classified:
    draw = np.random.Generator(np.random.PCG64(seed))
    labels = draw.integers(0, classes, n)
    logits = draw.normal(0, 1, (n, classes)) + 1.2 * np.eye(classes)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Rounded, so that there are ties.
    found = read_cases({"labels": labels, "scores": np.round(scores[:, 1], 2) if classes == 2 else scores})
    assert isinstance(found, Classified)
    return found


def shown(scores: Scores, name: str) -> Estimate:
    found = scores.find(name)
    assert found is not None
    return found


def test_two_classes_by_hand() -> None:
    # Ill: five found, one missed. Well: three left alone, two taken for ill.
    cases = binary([1] * 6 + [0] * 5, [0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1, 0.3, 0.4, 0.55, 0.95])
    found = score(cases)
    assert (found.samples, found.cell, found.supports) == (11, 5, (5, 6))
    values = found.values()
    assert values["accuracy"] == pytest.approx(8 / 11)
    assert values["sensitivity_1"] == values["specificity_0"] == pytest.approx(5 / 6)
    assert values["specificity_1"] == values["sensitivity_0"] == pytest.approx(3 / 5)
    assert values["balanced_accuracy"] == pytest.approx((5 / 6 + 3 / 5) / 2)
    assert values["macro_f1"] == pytest.approx((10 / 13 + 6 / 9) / 2)
    # Of thirty pairs: .9 .8 .7 .6 each beat four, .5 three, .2 one.
    assert values["auc"] == pytest.approx(20 / 30)
    assert (values["support_0"], values["support_1"]) == (5.0, 6.0)
    assert shown(found, "sensitivity_1").support == 6


@pytest.mark.parametrize("seed", SEEDS)
def test_two_classes_agree_with_scikit_learn(seed: int) -> None:
    cases = drawn(seed)
    truth, said, given = cases.labels, cases.predicted(), cases.scores
    values = score(cases, intervals=False).values()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, said))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, said))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert values["auc"] == pytest.approx(sk.roc_auc_score(truth, given))
    assert values["brier"] == pytest.approx(sk.brier_score_loss(truth, given))
    assert values["sensitivity_1"] == pytest.approx(sk.recall_score(truth, said))
    assert values["specificity_1"] == pytest.approx(sk.recall_score(truth, said, pos_label=0))


@pytest.mark.parametrize("seed", SEEDS)
def test_four_classes_agree_with_scikit_learn(seed: int) -> None:
    cases = drawn(seed, classes=4)
    truth, said = cases.labels, cases.predicted()
    values = score(cases, intervals=False).values()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, said))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, said))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert values["auc"] == pytest.approx(sk.roc_auc_score(truth, cases.scores, multi_class="ovr"))
    for c in range(4):
        assert values[f"auc_{c}"] == pytest.approx(sk.roc_auc_score(truth == c, cases.scores[:, c]))
        assert values[f"sensitivity_{c}"] == pytest.approx(sk.recall_score(truth == c, said == c))
        assert values[f"specificity_{c}"] == pytest.approx(sk.recall_score(truth == c, said == c, pos_label=False))
    losses = np.square(cases.scores - np.eye(4)[truth]).sum(axis=1)
    assert values["brier"] == pytest.approx(losses.mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_regression_agrees_with_scikit_learn(seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    targets = draw.normal(50, 10, 80)
    said = targets + draw.normal(0, 4, 80)
    found = score(Predicted(targets, said))
    assert found.values() == {
        "mae": pytest.approx(sk.mean_absolute_error(targets, said)),
        "r2": pytest.approx(sk.r2_score(targets, said)),
    }
    for one in found.estimates:
        assert one.interval is not None
        assert one.value is not None
        assert one.interval.low < one.value < one.interval.high


def test_calibration_error_by_hand() -> None:
    # Said .85 of four of whom two are ill, .15 of six of whom none is: (4 * .35 + 6 * .15) / 10.
    found = score(binary([1, 1, 0, 0] + [0] * 6, [0.85] * 4 + [0.15] * 6))
    assert found.values()["ece"] == pytest.approx(0.23)
    exact = score(binary([1, 0] * 5, [0.5] * 10))
    assert exact.values()["ece"] == pytest.approx(0.0)


def test_harrells_index_by_hand() -> None:
    # Events at 1 and 3, the others are only known to live until 2 and 4. Pairs: 1 before 2, 3, 4 and 3 before 4.
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    assert concordance_index(Survived(times, events, np.array([4.0, 3.0, 2.0, 1.0]))) == 1.0
    assert concordance_index(Survived(times, events, np.array([2.0, 3.0, 2.0, 1.0]))) == pytest.approx(2.5 / 4)
    # Of two who leave on the same day, one with an event and one without, the former was first.
    tied = Survived(np.array([1.0, 1.0]), np.array([True, False]), np.array([1.0, 2.0]))
    assert concordance_index(tied) == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_harrells_index_counts_every_pair_once(seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    n = 700  # More than are compared at once.
    times, events = draw.integers(1, 50, n).astype(float), draw.random(n) < 0.4
    risks = np.round(-times / 20 + draw.normal(0, 1, n), 1)
    won = compared = 0.0
    for i in np.flatnonzero(events):
        later = (times > times[i]) | ((times == times[i]) & ~events)
        compared += later.sum()
        won += (risks[i] > risks[later]).sum() + 0.5 * (risks[i] == risks[later]).sum()
    found = score(Survived(times, events, risks))
    c_index = shown(found, "c_index")
    assert c_index.value == pytest.approx(won / compared)
    assert c_index.interval is not None
    assert c_index.interval.low < won / compared < c_index.interval.high
    assert found.values()["support_events"] == events.sum()


def test_a_hospital_with_one_class_is_told_so_in_words() -> None:
    found = score(binary([1] * 16, [0.9] * 14 + [0.3] * 2))
    assert found.values()["accuracy"] == found.values()["sensitivity_1"] == pytest.approx(14 / 16)
    assert shown(found, "auc").why == "all of class 1"
    assert shown(found, "balanced_accuracy").why == shown(found, "macro_f1").why == "one class only"
    assert shown(found, "specificity_1").why == "too few (0)"
    assert {"auc", "balanced_accuracy", "macro_f1", "specificity_1"}.isdisjoint(found.values())


def test_fewer_cases_of_a_kind_than_can_be_ranked_are_too_few() -> None:
    found = score(binary([1] * 40 + [0] * 3, [0.9] * 40 + [0.1] * 3))
    for name in ("auc", "balanced_accuracy", "macro_f1", "specificity_1", "sensitivity_0"):
        assert (shown(found, name).value, shown(found, name).why) == (None, "too few (3)")
    enough = score(binary([1] * 40 + [0] * RANK_MIN, [0.9] * 40 + [0.1] * RANK_MIN))
    assert shown(enough, "auc").value == 1.0


def test_scores_that_are_no_probabilities_are_only_ordered_and_it_says_so() -> None:
    found = score(binary([1] * 6 + [0] * 6, [3.0, 2, 1, 0, -1, 5, -2, -3, -4, -5, -6, -7]))
    assert found.values() == {"auc": 1.0, "support_0": 6.0, "support_1": 6.0}
    assert "not probabilities" in found.remarks[0]


def test_logits_of_several_classes_are_told_as_those_of_two_are() -> None:
    labels, logits = np.arange(30) % 3, 4.0 * np.eye(3)[np.arange(30) % 3]
    for classes in (3, 2):
        found = score(read_cases({"labels": labels % classes, "scores": logits[:, :classes]}))
        assert "not probabilities that add up to 1" in found.remarks[0]
        assert {"auc", "accuracy"} <= {*found.values()}
        assert "brier" not in found.values()
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert score(read_cases({"labels": labels, "scores": softmax})).remarks == ()


def test_a_threshold_of_its_own_mends_what_half_gets_wrong() -> None:
    # As in "No finding": the order is nearly perfect, and at 0.5 nearly everybody is called ill.
    own_labels, own_scores = [1] * 10 + [0] * 10, [0.9 + i / 200 for i in range(10)] + [0.7 + i / 60 for i in range(10)]
    cases = binary(
        [1] * 8 + [0] * 12,
        [0.9 + i / 100 for i in range(8)] + [0.6 + i / 50 for i in range(12)],
        threshold_labels=own_labels,
        threshold_scores=own_scores,
    )
    found = score(cases)
    values = found.values()
    assert values["auc"] == 1.0
    assert values["accuracy"] == pytest.approx(8 / 20)
    assert found.threshold == pytest.approx((0.85 + 0.9) / 2)
    assert values["accuracy_recalibrated"] == values["balanced_accuracy_recalibrated"] == 1.0
    assert shown(found, "sensitivity_1_recalibrated").support == 8


def test_a_threshold_needs_cases_of_both_kinds() -> None:
    found = score(binary([1, 0] * 5, [0.6, 0.4] * 5, threshold_labels=[1] * 30, threshold_scores=[0.7] * 30))
    assert found.threshold is None
    assert found.remarks == ("no threshold of this site's own: all of class 1 among the cases to choose it on",)
    assert choose_threshold(binary([1] * 5 + [0] * 5, [0.5] * 10))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_interval_holds_its_estimate(seed: int) -> None:
    for one in score(drawn(seed, 60, 1 + seed)).estimates if seed < 3 else score(drawn(seed, 40)).estimates:
        if one.interval is not None:
            assert one.value is not None
            assert one.interval.low <= one.value <= one.interval.high


def test_the_same_cases_have_the_same_intervals() -> None:
    assert score(drawn(1)) == score(drawn(1))


def test_a_perfect_score_has_an_interval_or_none_but_never_one_of_no_width() -> None:
    found = score(binary([1] * 9 + [0] * 7, [0.8] * 9 + [0.2] * 7))
    assert found.values()["accuracy"] == found.values()["macro_f1"] == 1.0
    for one in found.estimates:
        assert one.interval is None or one.interval.low < one.interval.high
    accuracy = shown(found, "accuracy").interval
    assert accuracy is not None
    assert accuracy.low < 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_the_interval_of_a_c_index_covers(seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))

    def cohort(n: int) -> Survived:
        risks = draw.normal(0, 1, n)
        died, gone = draw.exponential(np.exp(-risks)), draw.exponential(1.5, n)
        return Survived(np.minimum(died, gone), died <= gone, risks)

    truth = concordance_index(cohort(6_000))
    inside = 0
    for _ in range(150):
        found = shown(score(cohort(60)), "c_index").interval
        assert found is not None
        inside += found.low <= truth <= found.high
    assert inside >= 132, "of 150, 142 or 143 are expected"
