"""Which records a task trains on, in the forms that tasks have; and what has none is refused in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from node.audit.records import Pair, Records, confidence, scoring
from swarm.errors import UsageError

X, Y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


class Both(NamedTuple):
    first: object
    second: object


FEW = Pair(X[:2], Y[:2])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        ((X, Y), (X[:3], Y[:3])),
        {"train": (X, Y), "test": (X[:3], Y[:3])},
        (TensorDataset(X, Y), TensorDataset(X[:3], Y[:3])),
        (X.numpy(), Y.numpy()),
        Both((X, Y), "more"),
        Both(X, Y[:, None]),
        ("name", 3, (X, Y)),
    ],
)
def test_records_are_found_and_replaced_in_the_form_that_they_have(data: object) -> None:
    records = Records(data)
    assert torch.equal(records.trained.x, X)
    y = FEW.y[:, None] if records.trained.y.dim() == 2 else FEW.y
    again = records.with_(Pair(FEW.x, y))
    assert type(again) is type(data)
    found = Records(again)
    assert torch.equal(found.trained.x, FEW.x)
    assert torch.equal(found.trained.y, y)
    if records.held_out is not None:
        assert found.held_out is not None
        assert torch.equal(found.held_out.x, X[:3])


@pytest.mark.parametrize("data", [None, X, (X, Y[:3]), (X, X), [], {"x": X}, (torch.tensor(1.0), torch.tensor(2))])
def test_data_without_inputs_and_labels_side_by_side_are_refused(data: object) -> None:
    with pytest.raises(UsageError, match=r"couldn't find records in what load_data\(\) returned"):
        Records(data)


def test_how_sure_a_model_is_follows_from_its_loss_by_hand() -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    records = Pair(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0]))
    sure = confidence(model, scoring(model, records, "cpu"), records, "cpu")
    assert sure == pytest.approx([3.0, -1.0], abs=1e-5)  # log(p / (1 - p)) is the difference of outputs.


@pytest.mark.parametrize(
    ("outputs", "labels", "classes"),
    [
        (3, torch.tensor([0, 1, 2]), 3),
        (1, torch.tensor([0.0, 1.0, 1.0]), 2),
        (1, torch.tensor([[0], [1], [1]]), 2),
        (1, torch.tensor([0.5, 1.5, 2.0]), 0),
    ],
)
def test_the_loss_follows_from_shapes(outputs: int, labels: torch.Tensor, classes: int) -> None:
    records = Pair(torch.randn(3, 2), labels)
    how = scoring(nn.Linear(2, outputs), records, "cpu")
    assert how.classes == classes
    assert np.isfinite(confidence(nn.Linear(2, outputs), how, records, "cpu")).all()


def test_outputs_that_no_loss_follows_from_are_refused() -> None:
    with pytest.raises(UsageError, match="no loss follows"):
        scoring(nn.Linear(2, 3), Pair(X, torch.tensor([0, 1, 2, 3, 4, 5])), "cpu")
    with pytest.raises(UsageError, match="does not take the first array alone"):
        scoring(nn.Linear(7, 3), Pair(X, Y), "cpu")
