"""What a task may hand over as cases, and what is said about what it may not."""

import numpy as np
import pytest
import torch

from node.scoring.cases import Classified, Predicted, Survived, holds_cases, read_cases
from swarm.errors import UsageError


def test_each_kind_is_told_by_its_keys() -> None:
    assert isinstance(read_cases({"labels": [0, 1], "scores": [0.2, 0.7]}), Classified)
    assert isinstance(read_cases({"targets": [1.0], "predictions": [2.0]}), Predicted)
    assert isinstance(read_cases({"times": [1, 2], "events": [0, 1], "risks": [3, 4]}), Survived)
    assert not holds_cases({"samples": 3, "accuracy": 0.5})


def test_tensors_booleans_and_columns_of_one_are_arrays_like_any_other() -> None:
    labels = torch.tensor([[True], [False], [True]])
    scores = torch.tensor([[0.9], [0.2], [0.4]], requires_grad=True).to(torch.bfloat16)
    found = read_cases({"labels": labels, "scores": scores})
    assert isinstance(found, Classified)
    assert (found.labels.tolist(), found.classes, found.supports, found.cell) == ([1, 0, 1], 2, (1, 2), 1)
    assert found.predicted().tolist() == [1, 0, 0]


def test_two_columns_of_probabilities_are_the_probability_of_class_1() -> None:
    found = read_cases({"labels": [1, 0], "scores": [[0.3, 0.7], [0.6, 0.4]]})
    assert isinstance(found, Classified)
    assert found.scores.tolist() == [0.7, 0.4]


def test_numbers_that_are_no_probabilities_still_have_an_order() -> None:
    found = read_cases({"labels": [1, 0], "scores": [[-3.0, 2.0], [1.0, -1.0]]})
    assert isinstance(found, Classified)
    assert not found.probable
    assert (found.predicted().tolist(), found.score_of(1).tolist()) == ([1, 0], [5.0, -2.0])


def test_the_smallest_group_is_the_rarest_class_that_there_is() -> None:
    assert read_cases({"labels": [1] * 4, "scores": [0.5] * 4}).cell == 4
    assert read_cases({"labels": [0, 2, 2], "scores": np.full((3, 4), 0.25)}).cell == 1
    assert read_cases({"targets": [1, 2, 3], "predictions": [1, 2, 3]}).cell == 3
    assert read_cases({"times": [1, 2, 3], "events": [1, 0, 1], "risks": [1, 2, 3]}).cell == 1


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"labels": [0, 1]}, '"scores" is missing beside "labels"'),
        ({"labels": [0, 1], "scores": [0.1]}, 'there are 2 of "labels" and 1 of "scores"'),
        ({"labels": [], "scores": []}, "it has 0 cases"),
        (
            {"labels": [0, 2], "scores": [0.1, 0.2]},
            'one number a case, which is for two classes, and "labels" go up to 2',
        ),
        ({"labels": [0, 2], "scores": [1, 2]}, "they look like the classes that were chosen"),
        ({"labels": [0, 3], "scores": [[0.1, 0.2, 0.7]] * 2}, '"labels" must be whole numbers from 0 to 2'),
        ({"labels": [0, -1], "scores": [0.1, 0.2]}, '"labels" must be whole numbers from 0 to 1'),
        ({"labels": [0.5, 1], "scores": [0.1, 0.2]}, '"labels" must be whole numbers from 0 to 1'),
        ({"labels": [0, 1], "scores": [0.1, float("nan")]}, '"scores" has values that are not finite'),
        ({"labels": "ab", "scores": [0.1, 0.2]}, '"labels" is str, which is no array of numbers'),
        ({"labels": 1, "scores": 0.5}, '"labels" is one number, not one a case'),
        ({"labels": [0, 1], "scores": np.zeros((2, 3, 4))}, "its scores have shape (2, 3, 4)"),
        ({"labels": [[0, 1]], "scores": [0.5]}, '"labels" has shape (1, 2), not one class a case'),
        ({"labels": [0], "scores": [0.5], "targets": [1]}, "it has cases of several kinds"),
        ({"threshold_labels": [0]}, "it has a threshold's cases and no others"),
        ({"labels": [0], "scores": [0.5], "threshold_labels": [1]}, '"threshold_labels" stands alone'),
        (
            {"labels": [0], "scores": [[0.5, 0.3, 0.2]], "threshold_labels": [1], "threshold_scores": [0.5]},
            "it is for two classes",
        ),
        ({"times": [1, 2], "events": [0, 2], "risks": [1, 2]}, '"events" must be 1 where there was an event'),
        ({"targets": [[1, 2]], "predictions": [1]}, '"targets" has shape (1, 2), not one number a case'),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_sentence(result: dict[object, object], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_cases(result)
    assert caught.value.message.startswith("couldn't score the cases that evaluate() returned: ")
    assert why in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
