"""A model, whatever it is made of, is one vector with a layout, and the same as in a worker."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.loop.parameters import difference, parameters_of, write_update
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec


def arrays() -> dict[str, np.ndarray]:
    return {"w": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.array([7.0], np.float32)}


def test_arrays_lie_in_the_order_of_their_names_and_are_written_in_place() -> None:
    model = arrays()
    held = model["w"]
    parameters = parameters_of(model)
    assert [spec.name for spec in parameters.layout.tensors] == ["b", "w"]
    assert parameters.read().tolist() == [7, 0, 1, 2, 3, 4, 5]
    parameters.write(np.arange(7, dtype=np.float32) * 2)
    assert model["b"].tolist() == [0]
    assert held.tolist() == [[2, 4, 6], [8, 10, 12]]
    assert parameters.trained() == ((0, 7),)


def test_a_module_gives_the_tensors_a_worker_takes() -> None:
    """Tied weights once, running statistics too, counters not, and what is frozen is not trained."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    parameters = parameters_of(model)
    names = [spec.name for spec in parameters.layout.tensors]
    assert names == ["0.bias", "0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight", "2.bias"]
    # Offsets: 0.bias 0-2, 0.weight 2-6, 1.bias 6-8, running_mean 8-10, running_var 10-12, 1.weight 12-14, 2.bias 14-16.
    assert parameters.trained() == ((0, 8), (12, 14))


def test_writing_a_module_clears_gradients() -> None:
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    parameters_of(model).write(np.array([5.0, 1.0, 2.0], np.float32))
    assert model.weight.grad is None
    assert model.bias.tolist() == [5.0]
    assert model.weight.tolist() == [[1.0, 2.0]]


def test_an_update_is_trained_minus_received(tmp_path: Path) -> None:
    trained, base = np.array([3, 5, -np.inf], np.float32), np.array([1, 10, -np.inf], np.float32)
    layout = Layout((TensorSpec("a", (1,), "float32"), TensorSpec("b", (2,), "float32")))
    longest, share = write_update(trained, base, layout, tmp_path / "update")
    assert np.fromfile(tmp_path / "update", "<f4").tolist() == [2, -5, 0], "what has not changed has not changed"
    assert (longest, share) == ("b", pytest.approx(25 / 29))


def test_what_is_not_finite_after_training_is_told_by_its_tensor(tmp_path: Path) -> None:
    trained, base = np.array([3, np.nan, np.inf], np.float32), np.zeros(3, np.float32)
    layout = Layout((TensorSpec("a", (1,), "float32"), TensorSpec("b", (2,), "float32")))
    with pytest.raises(UsageError, match="b is not finite after training .2 of its 2 numbers, the first is nan"):
        write_update(trained, base, layout, tmp_path / "update")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (3, "couldn't read the parameters of a int"),
        ({"a": [1.0]}, "it is list, not an array"),
        ({"a": np.array([1])}, "it is int64, not an array"),
        ({}, "the model has no parameters"),
        ({"a": np.zeros((0, 3))}, "the model has no parameters"),
        (nn.ReLU(), "the model has no parameters"),
    ],
)
def test_what_is_no_model_is_refused_in_words(model: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parameters_of(model)


def test_a_difference_names_the_first_tensor_that_differs() -> None:
    base = Layout((TensorSpec("a", (2,)), TensorSpec("b", (3,))))
    assert difference(base, base) == ""
    assert difference(Layout((TensorSpec("a", (2,)),)), base) == "tensor 'b' is missing"
    assert "not in the charter" in difference(base, Layout((TensorSpec("a", (2,)),)))
    assert (
        difference(Layout((TensorSpec("a", (4,)), TensorSpec("b", (3,)))), base)
        == "tensor 'a' has shape (4,), not (2,)"
    )
    assert "float64, not float32" in difference(Layout((TensorSpec("a", (2,), "float64"), TensorSpec("b", (3,)))), base)
