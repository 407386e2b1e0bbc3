"""Verdicts on two models: by hand, without contradicting themselves, and silent where cases show nothing."""

import math

import numpy as np
import pytest

from node.scoring.cases import Cases, Classified, Floats, Predicted, Survived, read_cases
from node.scoring.comparison import NAMES, Outcome, compare, deciding
from node.scoring.intervals import paired_difference


def cases(labels: list[int], scores: list[float]) -> Classified:
    found = read_cases({"labels": labels, "scores": scores})
    assert isinstance(found, Classified)
    return found


def right_on(labels: list[int], wrong: set[int]) -> Classified:
    """A model that is sure, and wrong on these cases."""
    return cases(labels, [0.1 + 0.8 * (label if i not in wrong else 1 - label) for i, label in enumerate(labels)])


LABELS = [0, 1] * 20


def test_mcnemar_counts_only_cases_on_which_one_model_is_right() -> None:
    # The swarm's is wrong on {0}, the site's on {1..9}: 9 gained, 1 lost, p = 2 * (1 + 10) / 1024.
    found = compare(right_on(LABELS, {0}), right_on(LABELS, {*range(1, 10)}), "accuracy")
    assert (found.outcome, found.difference) == (Outcome.BETTER, 8 / 40)
    assert found.p == pytest.approx(22 / 1024)
    assert found.interval is not None
    # Clopper-Pearson of 9 of 10 is 0.5550 to 0.9975; (2 * .5550 - 1) * 10 / 40 = .0275.
    assert found.interval.low == pytest.approx(0.0275, abs=1e-4)
    assert found.interval.high == pytest.approx(paired_difference(30, 9, 1, 0).high)
    assert found.sentence("the swarm's model", "the site's own") == (
        "the swarm's model is better than the site's own on the 40 cases: accuracy +0.200 (+0.027 to +0.353, p = 0.021; "
        "right on 9 that the other gets wrong, wrong on 1 that it gets right)"
    )


def test_turned_round_better_is_worse() -> None:
    found = compare(right_on(LABELS, {*range(1, 10)}), right_on(LABELS, {0}), "accuracy")
    assert (found.outcome, found.difference) == (Outcome.WORSE, -8 / 40)


def test_five_more_right_of_forty_is_no_verdict() -> None:
    found = compare(right_on(LABELS, set()), right_on(LABELS, {*range(5)}), "accuracy")
    assert found.outcome is Outcome.UNDECIDED
    assert found.p == pytest.approx(2 / 32)
    assert found.sentence("a", "b").startswith(
        "no difference that 40 cases can show between a and b: accuracy +0.125 ("
    )


def test_two_models_alike_on_every_case_are_not_said_to_be_alike_on_all() -> None:
    found = compare(right_on(LABELS, {3}), right_on(LABELS, {3}), "accuracy")
    assert (found.outcome, found.p) == (Outcome.UNDECIDED, 1.0)
    assert found.interval is not None
    # As many cases in a row without a difference leave 8.8 % open at the 97.5 % level: 0.912 ** 40 = 0.025.
    assert min(-found.interval.low, found.interval.high) >= 1 - 0.025 ** (1 / 40) > 0.088


def test_areas_are_compared_by_delong() -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    labels = [0] * 60 + [1] * 60
    signal = np.array(labels) + draw.normal(0, 0.3, 120)
    good, poor = (1 / (1 + np.exp(-(signal + draw.normal(0, noise, 120)))) for noise in (0.1, 3.0))
    found = compare(cases(labels, [*good]), cases(labels, [*poor]), "auc")
    assert (found.outcome, found.first > found.second) == (Outcome.BETTER, True)
    assert found.difference == pytest.approx(found.first - found.second)
    # By the definition: components of each case, their covariances over the two models.
    ill, well = np.arange(60, 120), np.arange(60)

    def kernel(scores: Floats) -> Floats:
        over: Floats = (scores[ill][:, None] > scores[well]) + 0.5 * (scores[ill][:, None] == scores[well])
        return over

    by_ill, by_well = (np.array([kernel(one).mean(axis=a) for one in (good, poor)]) for a in (1, 0))
    s = np.cov(by_ill) / 60 + np.cov(by_well) / 60
    deviation = math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    assert found.p == pytest.approx(math.erfc(abs(found.difference) / deviation / math.sqrt(2)))


def test_where_less_is_better_less_is_better() -> None:
    good, poor = cases(LABELS, [0.1 + 0.8 * y for y in LABELS]), cases(LABELS, [0.4 + 0.2 * y for y in LABELS])
    found = compare(good, poor, "brier")
    assert found.difference < 0
    assert found.first == pytest.approx(0.01)
    truth = np.linspace(0, 9, 50)
    near, far = Predicted(truth, truth + 0.1 * np.sin(truth)), Predicted(truth, truth + 2 * np.sin(truth))
    assert compare(near, far, "mae").outcome is Outcome.BETTER
    assert compare(near, far, "r2").outcome is Outcome.BETTER
    assert compare(far, near, "mae").outcome is Outcome.WORSE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_survival_is_compared_by_its_pairs(seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    times, events = draw.exponential(1, 80), draw.random(80) < 0.7
    good, poor = Survived(times, events, -times), Survived(times, events, draw.normal(0, 1, 80))
    found = compare(good, poor, "c_index")
    assert (found.outcome, found.first) == (Outcome.BETTER, 1.0)
    assert compare(good, good, "c_index").outcome is Outcome.UNDECIDED


def test_what_cannot_be_compared_is_said() -> None:
    one_class = right_on([1] * 16, {2})
    few = right_on([1] * 40 + [0] * 3, {2})
    assert compare(one_class, one_class, "auc").sentence("a", "b") == "no verdict: auc: all of class 1"
    assert compare(few, few, "auc").sentence("a", "b") == "no verdict: auc: too few (3)"
    assert compare(right_on(LABELS, set()), right_on([1, 0] * 20, set()), "accuracy").why == (
        "the two models were scored on different cases"
    )
    raw = cases(LABELS, [3.0 * y - 1 for y in LABELS])
    assert compare(raw, raw, "accuracy").why == "accuracy: scores are not probabilities"
    assert compare(few, few, "r2").why == "r2: these cases do not have it"
    tiny = right_on([0, 1, 1], set())
    assert compare(tiny, tiny, "accuracy").why == "accuracy: too few (3)"


def test_the_first_metric_that_was_agreed_on_decides() -> None:
    two, survival = right_on(LABELS, set()), Survived(np.arange(9.0), np.ones(9, bool), np.arange(9.0))
    assert deciding(two, ("loss", "auc", "accuracy")) == "auc"
    assert deciding(two, ("loss",)) == "accuracy"
    assert deciding(survival, ("accuracy",)) == "c_index"


def test_every_metric_gives_some_verdict_on_cases_that_have_it() -> None:
    draw = np.random.Generator(np.random.PCG64(5))
    times = draw.exponential(1, 60)
    kinds: list[tuple[Cases, Cases]] = [
        (cases(LABELS, [*draw.random(40)]), cases(LABELS, [*draw.random(40)])),
        (Predicted(times, draw.random(60)), Predicted(times, draw.random(60))),
        (Survived(times, times < 1, draw.random(60)), Survived(times, times < 1, draw.random(60))),
    ]
    told = set()
    for first, second in kinds:
        for name in NAMES:
            found = compare(first, second, name)
            if found.outcome is not Outcome.NONE:
                told.add(name)
                assert found.interval is not None
                assert found.interval.low <= found.difference <= found.interval.high or name == "ece"
    assert told == {*NAMES}
