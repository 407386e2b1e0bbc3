"""How long each record's gradient is, without computing it: ghost norms, layer by layer.

Of a linear layer with inputs a_t and gradients g_t of its outputs at positions t, a record's gradient of the weight is
the sum of g_t a_t^T. With one position its squared norm is |g|^2 |a|^2; with several

    |sum_t g_t a_t^T|^2 = sum_ts (a_t . a_s)(g_t . g_s)

(Goodfellow 2015; Li, Tramèr, Liang & Hashimoto 2021, "Large language models can be strong differentially private
learners", section 4), and a convolution is a linear layer on patches. What is added up of all records, each with its
own factor, is one product of the same a and g, kept from the one backward pass ("book-keeping", Bu, Wang, Zha & Karypis
2022). Where positions are many and the layer is small, records' gradients themselves are cheaper, and are taken.

Each layer here is a `Layer`: which modules it is for, gradients record by record, their squared norms, and their sum
with factors. A module of no kind listed in `LAYERS` is refused, not guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

Gradients = dict[str, Tensor]
"""By the parameter's name within its module."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What there is to know about modules of one kind.

    Each takes the module, its input and the gradient of its output, whose first dimension is records. `each` returns
    gradients of shape (records, *parameter), `squares` the squared norms of these, shape (records,), of all parameters
    together, `total` the sum of gradients with a factor for each record.
    """

    each: Callable[[Any, Tensor, Tensor], Gradients]
    squares: Callable[[Any, Tensor, Tensor], Tensor]
    total: Callable[[Any, Tensor, Tensor, Tensor], Gradients]


def _biased(module: Any) -> bool:
    return module.bias is not None


def _squares(gradients: Mapping[str, Tensor]) -> Tensor:
    parts = [one.flatten(1).double().square().sum(1) for one in gradients.values()]
    return torch.stack(parts).sum(0)


def _weighted(gradients: Mapping[str, Tensor], factors: Tensor) -> Gradients:
    return {name: torch.tensordot(factors, one, dims=1) for name, one in gradients.items()}


# --- linear -----------------------------------------------------------------------------------------------------------


def _positions(values: Tensor) -> Tensor:
    """Return (records, positions, features)."""
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _linear_each(module: nn.Linear, a: Tensor, g: Tensor) -> Gradients:
    a, g = _positions(a), _positions(g)
    found = {"weight": torch.einsum("ntp,ntd->npd", g, a)}
    return found if not _biased(module) else {**found, "bias": g.sum(1)}


def _linear_squares(module: nn.Linear, a: Tensor, g: Tensor) -> Tensor:
    a, g = _positions(a).double(), _positions(g).double()
    biased = 0.0 if not _biased(module) else g.sum(1).square().sum(1)
    if a.shape[1] == 1:
        return a.square().sum((1, 2)) * g.square().sum((1, 2)) + biased
    if a.shape[1] ** 2 <= a.shape[2] * g.shape[2]:
        return ((a @ a.mT) * (g @ g.mT)).sum((1, 2)) + biased
    return torch.einsum("ntp,ntd->npd", g, a).square().sum((1, 2)) + biased


def _linear_total(module: nn.Linear, a: Tensor, g: Tensor, factors: Tensor) -> Gradients:
    g = _positions(g) * factors[:, None, None]
    found = {"weight": g.flatten(0, 1).mT @ _positions(a).flatten(0, 1)}
    return found if not _biased(module) else {**found, "bias": g.sum((0, 1))}


# --- convolution ------------------------------------------------------------------------------------------------------

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_WEIGHT: Mapping[int, Callable[..., Tensor]] = {3: conv1d_weight, 4: conv2d_weight, 5: conv3d_weight}


def _padded(module: _Convolution, a: Tensor) -> tuple[Tensor, Any]:
    """Return the input as the convolution sees it, and what padding is left to do."""
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return a, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(a, module._reversed_padding_repeated_twice, mode=mode), 0  # noqa: SLF001 - as its forward


def _convolution_each(module: _Convolution, a: Tensor, g: Tensor) -> Gradients:
    """Return records' gradients, all at once: each record is a group of its own of one convolution."""
    (a, padding), records = _padded(module, a), a.shape[0]
    shape = (records * module.weight.shape[0], *module.weight.shape[1:])
    found = _WEIGHT[a.dim()](
        a.reshape(1, -1, *a.shape[2:]),
        shape,
        g.reshape(1, -1, *g.shape[2:]),
        module.stride,
        padding,
        module.dilation,
        records * module.groups,
    )
    gradients = {"weight": found.reshape(records, *module.weight.shape)}
    return gradients if not _biased(module) else {**gradients, "bias": g.flatten(2).sum(2)}


def _convolution_squares(module: _Convolution, a: Tensor, g: Tensor) -> Tensor:
    positions = g[0, 0].numel()
    if not isinstance(module, nn.Conv2d) or module.groups > 1 or positions**2 > module.weight.numel():
        return _squares(_convolution_each(module, a, g))
    seen, padding = _padded(module, a)
    patches = functional.unfold(seen, module.kernel_size, module.dilation, padding, module.stride).double()
    flat = g.flatten(2).double()
    found = ((patches.mT @ patches) * (flat.mT @ flat)).sum((1, 2))
    return found if not _biased(module) else found + flat.sum(2).square().sum(1)


def _convolution_total(module: _Convolution, a: Tensor, g: Tensor, factors: Tensor) -> Gradients:
    a, padding = _padded(module, a)
    g = g * factors.reshape(-1, *[1] * (g.dim() - 1))
    weight = _WEIGHT[a.dim()](a, module.weight.shape, g, module.stride, padding, module.dilation, module.groups)
    return (
        {"weight": weight} if not _biased(module) else {"weight": weight, "bias": g.transpose(0, 1).flatten(1).sum(1)}
    )


# --- embedding --------------------------------------------------------------------------------------------------------


def _words(module: nn.Embedding, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return what was looked up, (records, positions), and gradients, (records, positions, features)."""
    words, g = a.reshape(a.shape[0], -1), _positions(g)
    if module.padding_idx is not None:
        g = g * (words != module.padding_idx)[:, :, None]
    return words, g


def _embedding_each(module: nn.Embedding, a: Tensor, g: Tensor) -> Gradients:
    words, g = _words(module, a, g)
    found = g.new_zeros(words.shape[0], *module.weight.shape)
    return {"weight": found.scatter_add_(1, words[:, :, None].expand_as(g), g)}


def _embedding_squares(module: nn.Embedding, a: Tensor, g: Tensor) -> Tensor:
    words, g = _words(module, a, g)
    same = words[:, :, None] == words[:, None, :]
    return ((g.double() @ g.double().mT) * same).sum((1, 2))


def _embedding_total(module: nn.Embedding, a: Tensor, g: Tensor, factors: Tensor) -> Gradients:
    words, g = _words(module, a, g)
    found = g.new_zeros(module.weight.shape)
    return {"weight": found.index_add_(0, words.flatten(), (g * factors[:, None, None]).flatten(0, 1))}


# --- normalisation within a record ------------------------------------------------------------------------------------


def _layer_norm_each(module: nn.LayerNorm, a: Tensor, g: Tensor) -> Gradients:
    shape = module.normalized_shape
    scaled = functional.layer_norm(a, shape, None, None, module.eps)
    parts = {"weight": g * scaled} if not _biased(module) else {"weight": g * scaled, "bias": g}
    return {name: one.reshape(a.shape[0], -1, *shape).sum(1) for name, one in parts.items()}


def _group_norm_each(module: nn.GroupNorm, a: Tensor, g: Tensor) -> Gradients:
    scaled = functional.group_norm(a, module.num_groups, None, None, module.eps)
    return {
        "weight": (g * scaled).flatten(2).sum(2) if g.dim() > 2 else g * scaled,
        "bias": g.reshape(*g.shape[:2], -1).sum(2),
    }


def _small(each: Callable[[Any, Tensor, Tensor], Gradients]) -> Layer:
    """Return a layer of few parameters: records' gradients are small enough to be taken as they are."""
    return Layer(
        each,
        lambda module, a, g: _squares(each(module, a, g)),
        lambda module, a, g, factors: _weighted(each(module, a, g), factors),
    )


_CONVOLUTION = Layer(_convolution_each, _convolution_squares, _convolution_total)

LAYERS: Mapping[type[nn.Module], Layer] = {
    nn.Linear: Layer(_linear_each, _linear_squares, _linear_total),
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.Conv3d: _CONVOLUTION,
    nn.Embedding: Layer(_embedding_each, _embedding_squares, _embedding_total),
    nn.LayerNorm: _small(_layer_norm_each),
    nn.GroupNorm: _small(_group_norm_each),
}
"""By exact type: a subclass may do something else with its parameters."""
