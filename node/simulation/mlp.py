"""Multilayer perceptrons, many peers at once, with the backward pass written by hand.

Autograd keeps a graph, allocates every gradient and walks over all parameters three more times to apply momentum. Here
a step of all stacked peers is one batched matrix product per layer forward and two backward, into buffers that are
made once; momentum is the `beta` of the product that computes the gradient, and without momentum that product updates
the weights themselves.

Letters: k peers, b examples, i inputs, o outputs of a layer. z_l = h_{l-1} W_l^T + c_l, h_l = max(z_l, 0). With
d_L = (softmax(z_L) - onehot(y)) / b the gradients are W_l: d_l^T h_{l-1}, c_l: the sum of d_l over examples, and
d_{l-1} = d_l W_l where h_{l-1} > 0 (Rumelhart, Hinton & Williams, "Learning representations by back-propagating
errors", 1986).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.simulation.flat import FlatModel
from node.simulation.learning import PIXEL_MAX, Dataset, LocalTraining
from node.simulation.steps import Trainee, lockstep, shuffles, stack_size

PARTS_MAX = 512
"""Shapes of steps whose views are kept: unequal peers have many last batches."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer and where its weight (outputs x inputs) and bias are in the flat vector: [start, end)."""

    inputs: int
    outputs: int
    weight: tuple[int, int]
    bias: tuple[int, int] | None


def recognise(model: FlatModel) -> tuple[Layer, ...] | None:
    """Return the layers of a plain perceptron, or None for any other module.

    Plain is a bare `Linear`, or a `Sequential`, nested or not, of Flatten at most at the start, then Linear and ReLU in
    turn, ending with Linear; all of it trained, in float32, no layer used twice, no hooks. Classes derived from these
    may do anything, and are not taken for them.
    """
    spans = model.layout.offsets()
    parts = _flattened(model.module, "")
    if parts is None:
        return None
    if parts and type(parts[0][1]) is nn.Flatten and (parts[0][1].start_dim, parts[0][1].end_dim) == (1, -1):
        parts = parts[1:]
    linear, between = parts[::2], parts[1::2]
    plain = len(parts) % 2 == 1 and all(type(m) is nn.Linear for _, m in linear)
    if not plain or any(type(m) is not nn.ReLU for _, m in between):
        return None
    layers = []
    for name, module in linear:
        assert isinstance(module, nn.Linear)
        tensors = list(module.parameters(recurse=False))  # the weight, and the bias if there is one
        names = [f"{name}weight", f"{name}bias"][: len(tensors)]
        if any(
            n not in spans or not t.requires_grad or t.dtype != torch.float32
            for n, t in zip(names, tensors, strict=True)
        ):
            return None
        bias = spans[names[1]] if len(names) == 2 else None
        layers.append(Layer(module.in_features, module.out_features, spans[names[0]], bias))
    chained = all(a.outputs == b.inputs for a, b in itertools.pairwise(layers))
    whole = sum(b - a for layer in layers for a, b in (layer.weight, layer.bias or (0, 0))) == model.elements
    return tuple(layers) if chained and whole else None


def _flattened(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]] | None:
    """Return the parts of nested Sequentials as (prefix of names, module), or None where a hook is in the way."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, hook) for hook in hooks):
        return None
    if type(module) is not nn.Sequential:
        return [(prefix, module)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        parts = _flattened(child, f"{prefix}{name}.")
        if parts is None:
            return None
        found += parts
    # `named_children` names a module that is there twice once only.
    return found if len(found) >= len(module) else None


class BatchedPerceptron:
    """`LocalSteps` for the layers that `recognise` found, under cross entropy."""

    name = "batched"

    def __init__(self, layers: Sequence[Layer], data: Dataset, training: LocalTraining) -> None:
        self._layers = tuple(layers)
        self._training = training
        self._x = data.x.view(len(data), -1)
        self._y = data.y
        elements = sum(layer.outputs * (layer.inputs + (layer.bias is not None)) for layer in self._layers)
        self.stacked = stack_size(elements)
        self._buffers: _Buffers | None = None  # made by the process that trains, not by the one that forks it

    def count(self, examples: int) -> int:
        """See `LocalSteps.count`."""
        return self._training.steps(examples)

    def train(
        self,
        models: Tensor,
        velocities: Tensor | None,
        peers: Sequence[Trainee],
        start: Tensor | None = None,
        push: Tensor | None = None,
    ) -> None:
        """Train the rows in place. See `LocalSteps.train`."""
        sizes = [len(peer.share) for peer in peers]
        batch = self._training.batch_of(sizes[0])
        buffers = self._room(len(peers), batch)
        buffers.load(models if start is None else start.expand_as(models), buffers.weights, buffers.biases)
        fresh = velocities is None
        if velocities is not None:
            buffers.load(velocities, buffers.velocities, buffers.bias_velocities)
        pushes = None if push is None else buffers.like(push)
        generators = shuffles(peers)
        positions = torch.zeros(len(peers), sizes[0], dtype=torch.int64)
        for _ in range(self._training.epochs):
            for row, peer, generator in zip(positions, peers, generators, strict=True):
                order = torch.randperm(len(peer.share), generator=generator)
                torch.index_select(peer.share, 0, order, out=row[: len(order)])
            for first, lengths in lockstep(sizes, batch):
                # A row is as long as the longest; what a shorter one holds beyond its own length counts nothing.
                k, b = len(lengths), lengths[0]
                part = buffers.part(k, b)
                self._gather(part, positions[:k, first : first + b].reshape(-1))
                self._step(part, 1.0 / b if lengths[-1] == b else _mask(lengths, b), fresh=fresh)
                fresh = False
                if pushes is not None:
                    buffers.add(k, *pushes)
        buffers.store(models, buffers.weights, buffers.biases)
        if velocities is not None:
            buffers.store(velocities, buffers.velocities, buffers.bias_velocities)

    def _room(self, k: int, batch: int) -> _Buffers:
        kept = self._buffers
        if kept is None or kept.k != k or kept.batch < batch:
            self._buffers = kept = _Buffers(self._layers, k, batch, self._x, velocity=self._training.momentum > 0)
        return kept

    def _gather(self, part: _Part, which: Tensor) -> None:
        """Bring the examples at these positions into the input buffer, and their labels."""
        if part.pixels is not None:
            torch.index_select(self._x, 0, which, out=part.pixels)
            part.rows.copy_(part.pixels).div_(PIXEL_MAX)
        else:
            torch.index_select(self._x, 0, which, out=part.rows)
        torch.index_select(self._y, 0, which, out=part.y)

    def _step(self, part: _Part, scale: float | Tensor, *, fresh: bool) -> None:
        """Take one step of SGD. `scale` is what each example counts in its peer's mean."""
        inputs = part.x
        for layer in part.layers:
            if layer.bias is None:
                torch.bmm(inputs, layer.weight_t, out=layer.output)
            else:
                torch.baddbmm(layer.bias, inputs, layer.weight_t, out=layer.output)
            if layer is not part.layers[-1]:
                layer.output.clamp_(min=0)
            inputs = layer.output
        last = part.layers[-1]
        torch.softmax(last.output, 2, out=last.delta)
        last.delta.scatter_add_(2, part.y_kb1, part.minus_one).mul_(scale)
        for index in range(len(part.layers) - 1, 0, -1):
            layer, below = part.layers[index], part.layers[index - 1]
            torch.bmm(layer.delta, layer.weight, out=below.delta)  # before these weights are updated
            torch.ops.aten.threshold_backward.grad_input(below.delta, below.output, 0, grad_input=below.delta)
            self._update(layer, below.output, fresh=fresh)
        self._update(part.layers[0], part.x, fresh=fresh)

    def _update(self, layer: _Slab, inputs: Tensor, *, fresh: bool) -> None:
        """Apply the gradient delta^T inputs: into the velocity and on, or straight into the weights."""
        rate, decay, beta = self._training.learning_rate, self._training.weight_decay, self._training.momentum
        if not beta:
            layer.weight.baddbmm_(layer.delta_t, inputs, beta=1 - rate * decay, alpha=-rate)
            if layer.bias is not None:
                layer.bias.mul_(1 - rate * decay).sub_(layer.delta.sum(1, keepdim=True), alpha=rate)
            return
        if fresh:
            torch.bmm(layer.delta_t, inputs, out=layer.velocity)
        else:
            layer.velocity.baddbmm_(layer.delta_t, inputs, beta=beta)
        if decay:
            layer.velocity.add_(layer.weight, alpha=decay)
        layer.weight.add_(layer.velocity, alpha=-rate)
        if layer.bias is not None and layer.bias_velocity is not None:
            if fresh:
                torch.sum(layer.delta, 1, keepdim=True, out=layer.bias_velocity)
            else:
                layer.bias_velocity.mul_(beta).add_(layer.delta.sum(1, keepdim=True))
            if decay:
                layer.bias_velocity.add_(layer.bias, alpha=decay)
            layer.bias.add_(layer.bias_velocity, alpha=-rate)


def _mask(lengths: Sequence[int], b: int) -> Tensor:
    """Return 1 / length on a peer's own rows and 0 beyond, shape (k, b, 1): means over batches of unequal lengths."""
    length_k1 = torch.tensor(lengths).unsqueeze(1)
    return ((torch.arange(b) < length_k1) / length_k1).unsqueeze(2)


@dataclass(frozen=True, slots=True, eq=False)
class _Slab:
    """One layer of the first k peers on batches of b: views into the buffers. A trailing _t swaps the last two axes."""

    weight: Tensor  # (k, o, i)
    weight_t: Tensor
    bias: Tensor | None  # (k, 1, o)
    velocity: Tensor
    bias_velocity: Tensor | None
    output: Tensor  # (k, b, o), after ReLU but for the last layer
    delta: Tensor  # (k, b, o), the gradient of z
    delta_t: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a step of the first k peers on batches of b examples works on."""

    layers: tuple[_Slab, ...]
    x: Tensor  # (k, b, i)
    rows: Tensor  # the same as (k b, i)
    pixels: Tensor | None  # where x comes from if the data are pixels: (k b, i), uint8
    y: Tensor  # (k b,)
    y_kb1: Tensor
    minus_one: Tensor  # (k, b, 1)


class _Buffers:
    """All memory that steps of k peers with batches of up to `batch` examples need, made once."""

    def __init__(self, layers: Sequence[Layer], k: int, batch: int, x: Tensor, *, velocity: bool) -> None:
        self.k, self.batch = k, batch
        self._layers = layers
        self._x = torch.empty(k * batch * x.shape[1])
        self._pixels = torch.empty(k * batch * x.shape[1], dtype=torch.uint8) if x.dtype == torch.uint8 else None
        self._y = torch.empty(k * batch, dtype=torch.int64)
        self._outputs = [torch.empty(k * batch * layer.outputs) for layer in layers]
        self._deltas = [torch.empty(k * batch * layer.outputs) for layer in layers]
        self._minus_one = torch.tensor(-1.0)
        self.weights = [torch.empty(k, layer.outputs, layer.inputs) for layer in layers]
        self.biases = [torch.empty(k, 1, layer.outputs) if layer.bias else None for layer in layers]
        rows = k if velocity else 0
        self.velocities = [torch.empty(rows, layer.outputs, layer.inputs) for layer in layers]
        self.bias_velocities = [torch.empty(rows, 1, layer.outputs) if layer.bias else None for layer in layers]
        self._parts: dict[tuple[int, int], _Part] = {}

    def part(self, k: int, b: int) -> _Part:
        """Return the views of a step. They are kept: making thirty of them costs as much as a small product."""
        if (k, b) not in self._parts:
            if len(self._parts) >= PARTS_MAX:
                self._parts.clear()
            self._parts[k, b] = self._make_part(k, b)
        return self._parts[k, b]

    def _make_part(self, k: int, b: int) -> _Part:
        slabs = []
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            bias_velocity = self.bias_velocities[index]
            delta = self._shaped(self._deltas[index], k, b)
            slabs.append(
                _Slab(
                    weight=weight[:k],
                    weight_t=weight[:k].transpose(1, 2),
                    bias=None if bias is None else bias[:k],
                    velocity=self.velocities[index][:k],
                    bias_velocity=None if bias_velocity is None else bias_velocity[:k],
                    output=self._shaped(self._outputs[index], k, b),
                    delta=delta,
                    delta_t=delta.transpose(1, 2),
                )
            )
        x, y = self._shaped(self._x, k, b), self._y[: k * b]
        return _Part(
            layers=tuple(slabs),
            x=x,
            rows=x.view(k * b, -1),
            pixels=None if self._pixels is None else self._shaped(self._pixels, k, b).view(k * b, -1),
            y=y,
            y_kb1=y.view(k, b, 1),
            minus_one=self._minus_one.expand(k, b, 1),
        )

    def _shaped(self, flat: Tensor, k: int, b: int) -> Tensor:
        """Return the first part of a buffer as (k, b, width): contiguous, as batched products want it."""
        width = flat.numel() // (self.k * self.batch)
        return flat[: k * b * width].view(k, b, width)

    def load(self, rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Copy flat vectors, shape (k, elements), into per-layer tensors."""
        for layer, weight, bias in zip(self._layers, weights, biases, strict=True):
            weight.copy_(rows[:, slice(*layer.weight)].view_as(weight))
            if bias is not None and layer.bias is not None:
                bias.copy_(rows[:, slice(*layer.bias)].view_as(bias))

    def like(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return flat vectors, shape (k, elements), as per-layer tensors of their own."""
        weights = [torch.empty_like(weight) for weight in self.weights]
        biases = [None if bias is None else torch.empty_like(bias) for bias in self.biases]
        self.load(rows, weights, biases)
        return weights, biases

    def add(self, k: int, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Add these, per layer, to the parameters of the first k peers."""
        for mine, theirs in zip([*self.weights, *self.biases], [*weights, *biases], strict=True):
            if mine is not None and theirs is not None:
                mine[:k].add_(theirs[:k])

    def store(self, rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Copy per-layer tensors back into flat vectors."""
        for layer, weight, bias in zip(self._layers, weights, biases, strict=True):
            rows[:, slice(*layer.weight)].view_as(weight).copy_(weight)
            if bias is not None and layer.bias is not None:
                rows[:, slice(*layer.bias)].view_as(bias).copy_(bias)
