"""Which form of local training a model gets, decided by the model alone: the same on any machine, at any load."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from node.simulation.flat import FlatModel, travelling
from node.simulation.learning import CROSS_ENTROPY, Dataset, LocalTraining, Objective
from node.simulation.loop import OneByOne
from node.simulation.mlp import BatchedPerceptron, recognise
from node.simulation.steps import LocalSteps, Trainee
from node.simulation.vmapped import Stacked
from swarm.errors import UsageError

Form = Literal["auto", "batched", "vmap", "loop"]

VMAP_ELEMENTS_MAX = 100_000
"""Parameters up to which stacking pays (seven times a loop at 1,000, 1.3 times at 80,000, nothing at 160,000).

Larger models spend their time in matrix products, which a loop does as well.
"""

PROBE_TOLERANCE = 1e-4


def choose_steps(
    model: FlatModel, objective: Objective, data: Dataset, training: LocalTraining, form: Form = "auto"
) -> LocalSteps:
    """Return the fastest form that fits, or the one asked for.

    Raises:
        UsageError: the form asked for does not fit this model.
    """
    layers = recognise(model) if objective is CROSS_ENTROPY and data.y.ndim == 1 else None
    if layers is not None and data.x[0].numel() != layers[0].inputs:
        raise UsageError(
            f"couldn't train that model on this data: it takes {layers[0].inputs} features, an example has "
            f"{data.x[0].numel()}"
        )
    match form:
        case "auto" | "batched" if layers is not None:
            return BatchedPerceptron(layers, data, training)
        case "auto":
            small = model.elements <= VMAP_ELEMENTS_MAX and not _convolves(model.module)
            fits = small and not why_not_stackable(model, objective, data, training)
            return Stacked(model, objective, data, training) if fits else OneByOne(model, objective, data, training)
        case "vmap":
            reason = why_not_stackable(model, objective, data, training)
            if reason:
                raise UsageError(f"couldn't stack that model: {reason}", hint="Leave the choice to the simulator.")
            return Stacked(model, objective, data, training)
        case "loop":
            return OneByOne(model, objective, data, training)
        case _:
            raise UsageError(
                "couldn't batch that model: it is not Linear and ReLU in turn under cross entropy",
                hint="Leave the choice to the simulator.",
            )


def why_not_stackable(model: FlatModel, objective: Objective, data: Dataset, training: LocalTraining) -> str:
    """Return why `vmap` cannot train this model, or nothing: it is tried, on two peers and a few examples.

    Raises:
        UsageError: the model cannot be trained on this data at all.
    """
    tensors = travelling(model.module)
    if not all(t.requires_grad and t.dtype == torch.float32 for t in tensors.values()):
        return "some of its tensors are not trained, or not float32"
    if len(tensors) < len(model.module.state_dict()):
        # A call with other parameters leaves a module that has one of them twice with a mixture (PyTorch 2.13).
        return "it keeps counters, or uses a tensor under two names"
    which = torch.arange(min(4, len(data)))
    peers = [Trainee(which, 1), Trainee(which, 1)]
    expected, got = model.initial.repeat(2, 1), model.initial.repeat(2, 1)
    try:
        OneByOne(model, objective, data, training).train(expected, None, peers)
    except Exception as error:  # the model is user code and may raise anything
        raise UsageError(f"couldn't train that model on this data: {type(error).__name__}: {error}") from error
    try:
        Stacked(model, objective, data, training).train(got, None, peers)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"vmap says {(str(error) or type(error).__name__).splitlines()[0]}"
    if not torch.allclose(expected, got, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE):
        return "stacked, it does not learn what it learns alone"
    return ""


def _convolves(module: nn.Module) -> bool:
    """Stacked convolutions become grouped ones: 0.8 to 2.3 times as fast as a loop on a CPU, hard to foresee."""
    return any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())  # noqa: SLF001 - their one root
