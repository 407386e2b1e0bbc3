"""SHELL. The parts of a user's module: what travels, what stays, what stands still; and what travels as one vector.

This is what a module is to a task's worker and to a script in the loop form (`node.loop.parameters`) alike.

A `state_dict` has floating-point tensors, parameters and buffers, and counters. Of the first those travel that a task
does not keep: *shared*. *Private* ones, of any type, are the site's own and are put back before each round; *frozen*
ones have the values of a file that all sites have, or that the task builds alike at each of them, and are put back
too. Counters that are none of these stay in the model from round to round as they are, and are never averaged: a mean
of counts counts nothing.

Batch normalisation is the one layer whose buffers are measured, not learned, so that averaging them is a decision
(Li, Jiang, Zhang, Kamp & Dou 2021, "FedBN"; Zhong et al. 2023, "Making batch normalization great in federated deep
learning"). Which is right depends on how sites differ, and no policy is right for all:

    average      everything travels: right where sites have other labels, ruinous where they have other scanners
    local        running statistics are private
    recalibrate  the same, and before a model is evaluated or exported they are measured anew with its weights
    local_all    whole layers are private (FedBN)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from node.declared import GUIDE, STATISTICS, Declared, matching
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec, Vector, flatten, unflatten


class Parts:
    """The tensors of one model, by what becomes of them.

    Args:
        model: as the task builds it under the charter's seed.
        said: what the task declares; by default nothing.
        folder: where the task file lies, and what it begins with.

    Attributes:
        layout: What travels, sorted by name.
        measured: The layers of batch normalisation whose statistics are not frozen.
        recalibrates: Whether those are measured anew before the model is used.
        warning: What the task leaves undecided of them, "" if nothing.

    Raises:
        UsageError: what is declared does not fit the model, it has no parameters, or one that is no real number.
    """

    def __init__(self, model: torch.nn.Module, said: Declared | None = None, folder: Path = Path()) -> None:
        self.model, said = model, said or Declared()
        state, aliases = _unique(model)
        _check_types(state)
        if said.initial:
            _begin_with(state, aliases, folder / said.initial, said)
        every = {alias: None for names in aliases.values() for alias in names}
        private = _own_names(matching(every, said.private, "private"), aliases)
        frozen = _own_names(matching(every, said.frozen, "frozen"), aliases)
        if both := sorted(private & frozen):
            raise UsageError(
                f"couldn't use the task's model: {both[0]} is private and frozen",
                hint="let no tensor be fitted by patterns of both, tied ones neither",
            )
        norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self.warning = ""
        if said.normalisation not in ("", "average") and not norms:
            raise UsageError(
                f"couldn't use normalisation = {said.normalisation!r}: the model has no layer of batch normalisation",
                hint="leave it out; GroupNorm and LayerNorm have no statistics that could be averaged",
            )
        of_norms = {
            name: [inner for inner in _within(name, module) if inner in state and inner not in frozen]
            for name, module in norms.items()
        }
        measured = [name for name, inner in of_norms.items() if any(one.endswith(STATISTICS[0]) for one in inner)]
        for inner in of_norms.values():
            if said.normalisation == "local_all":
                private |= {*inner}
            elif said.normalisation in ("local", "recalibrate"):
                private |= {one for one in inner if one.rpartition(".")[2] in STATISTICS}
        self.measured: tuple[_BatchNorm, ...] = tuple(norms[name] for name in measured)
        self.recalibrates = said.normalisation == "recalibrate"
        if measured and not said.normalisation and not {*_statistics(of_norms)} <= private:
            layers = f"{len(measured)} layer{'s' if len(measured) > 1 else ''}"
            self.warning = (
                f"the model has {layers} of batch normalisation, and the task does not say what becomes of running"
                " statistics: they are averaged, which harms where sites' scanners or instruments differ; write"
                f" normalisation = ... in the task file ({GUIDE})"
            )
        self._private, self._frozen = frozenset(private), frozenset(frozen)
        self._said = said
        _check_numbers({name: tensor for name, tensor in state.items() if name not in private | frozen})
        self._shared = frozenset(name for name, tensor in state.items() if tensor.is_floating_point())
        if not any(state[name].numel() for name in self._shared):
            raise UsageError("couldn't begin: the model has no parameters", hint="build its layers first")
        self._shared -= self._private | self._frozen
        if not self._shared:
            raise UsageError(
                "couldn't use the task's model: nothing of it is shared",
                hint="let private and frozen leave something to learn together; `swarm solo` needs no swarm",
            )
        if said.fedrep and not any(tensor.requires_grad for tensor in self.private.values()):
            raise UsageError("couldn't use fedrep: no private part of the model is trained", hint="leave fedrep out")
        for tensor in self.frozen.values():
            if isinstance(tensor, torch.nn.Parameter):
                tensor.requires_grad_(False)
        self._first = {name: state[name].detach().clone() for name in sorted(self._private | self._frozen)}
        specs = (
            TensorSpec(name, tuple(state[name].shape), str(state[name].dtype).removeprefix("torch."))
            for name in sorted(self._shared)
        )
        self.layout = Layout(tuple(specs))
        self.layout.check()

    @property
    def every(self) -> dict[str, torch.Tensor]:
        """All tensors as they are now, in the model's order: user code may have put others in their place."""
        return _unique(self.model)[0]

    @property
    def shared(self) -> dict[str, torch.Tensor]:
        """What travels."""
        return {name: tensor for name, tensor in self.every.items() if name in self._shared}

    @property
    def private(self) -> dict[str, torch.Tensor]:
        """What stays at the site."""
        return {name: tensor for name, tensor in self.every.items() if name in self._private}

    @property
    def frozen(self) -> dict[str, torch.Tensor]:
        """What is the same everywhere, for good."""
        return {name: tensor for name, tensor in self.every.items() if name in self._frozen}

    @property
    def rest(self) -> dict[str, torch.Tensor]:
        """What is none of these: counters, and other tensors that hold no real numbers."""
        known = self._shared | self._private | self._frozen
        return {name: tensor for name, tensor in self.every.items() if name not in known}

    @property
    def idle(self) -> dict[str, torch.Tensor]:
        """Parameters that travel, though no gradient reaches them as the model is built."""
        held = self.shared.items()
        return {n: one for n, one in held if isinstance(one, torch.nn.Parameter) and not one.requires_grad}

    def read(self) -> Vector:
        """Return a copy of what travels, float32, shape (layout.elements,)."""
        return flatten(
            {name: tensor.detach().float().cpu().numpy() for name, tensor in self.shared.items()}, self.layout
        )

    def write(self, vector: Vector, own: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Overwrite what travels with a vector of that shape, and private parts with the site's own; see `restore`."""
        self.restore(unflatten(vector, self.layout), own or {})

    def own(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of the private parts, by name."""
        return {name: numbers(tensor) for name, tensor in self.private.items()}

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches [start, end) of the vector that are trained: no running statistics, nothing frozen."""
        return self.layout.stretches([name for name, tensor in self.shared.items() if tensor.requires_grad])

    def restore(self, shared: Mapping[str, NDArray[np.generic]], private: Mapping[str, NDArray[np.generic]]) -> None:
        """Overwrite the model: shared tensors from the swarm's, private ones from the site's, or from the first model.

        Gradients go: a loop that takes its first step before it clears them must not step along those of the round
        before.
        """
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in self.every.items():
                if name in shared:
                    tensor.copy_(_tensor(shared[name]))
                elif name in self._first:
                    own = private.get(name) if name in self._private else None
                    fits = own is not None and tuple(own.shape) == tuple(tensor.shape)
                    tensor.copy_(_tensor(own) if own is not None and fits else self._first[name])

    def misfit(self, private: Mapping[str, NDArray[np.generic]]) -> str:
        """Say which private part was kept in another shape than it is built with now; empty if none was."""
        for name, tensor in self.private.items():
            kept = private.get(name)
            if kept is not None and tuple(kept.shape) != tuple(tensor.shape):
                shapes = f"shape {tuple(kept.shape)}, and is built with {tuple(tensor.shape)} now"
                return f"{name} was kept with {shapes}: it begins anew, as build_model() makes it"
        return ""

    def check_whole(self) -> None:
        """Raise `UsageError` if what travels is not there any more as it was built: a layer has been replaced."""
        shared = self.shared
        for spec in self.layout.tensors:
            now = tuple(shared[spec.name].shape) if spec.name in shared else None
            if now != spec.shape:
                became = "is gone" if now is None else f"has shape {now}, and was built with {spec.shape}"
                raise UsageError(
                    f"couldn't use what train() made of the model: {spec.name} {became}",
                    hint="give build_model() the layers that are trained; train() changes their values alone",
                )

    def check_base(self) -> None:
        """Raise `UsageError` unless frozen tensors that are in no file are what the task says that all sites have."""
        if not self._frozen or (self._said.initial and not self._said.frozen_sha256):
            return
        found, named = _sha256(self.frozen), self._said.frozen_sha256
        if not named:
            raise UsageError(
                "couldn't use frozen: frozen parts never travel, and nothing says that all sites have the same",
                hint=f'write frozen_sha256 = "{found}", which is what build_model() makes of them here; or name a file'
                " with their values: initial and initial_sha256",
            )
        if found != named:
            raise UsageError(
                f"couldn't use the task's model: its frozen tensors are others than the task file names, SHA-256"
                f" {found[:16]}... and not {named[:16]}...",
                hint="get the very files that build_model() reads, and the version of PyTorch, that the others have",
            )

    def train_mode(self) -> None:
        """Let the model be trained; layers that are frozen as a whole do as when they are used."""
        self.model.train()
        if not self._frozen:
            return
        every = [*self.every]
        for name, module in self.model.named_modules():
            own = [inner for inner in every if name and inner.startswith(f"{name}.")]
            if own and self._frozen.issuperset(own):
                module.eval()

    def check_frozen(self) -> None:
        """Raise `UsageError` if a frozen parameter has been trained all the same. Its buffers are put back unsaid."""
        for name, tensor in self.frozen.items():
            if isinstance(tensor, torch.nn.Parameter) and not torch.equal(tensor, self._first[name]):
                raise UsageError(
                    f"couldn't accept what train() did: the frozen tensor {name} was changed",
                    hint="leave requires_grad and the data of frozen parameters as they are",
                )

    def begin_as(self, common: Parts) -> None:
        """Take the values of what travels, and of what is frozen, from a model that was built for no site.

        Raises:
            UsageError: what travels or is frozen has another name, shape or type here than there.
        """
        for what, ours, theirs in (
            ("shared", self.shared, common.shared),
            ("frozen", self.frozen, common.frozen),
        ):
            for name in sorted({*ours, *theirs}):
                here, there = (_described(tensors.get(name)) for tensors in (ours, theirs))
                if here != there:
                    raise UsageError(
                        f"couldn't use the task's model: {name} is {what}, and build_model(site) gives it {here} at"
                        f" this site, where build_model() gives it {there}",
                        hint=f'let the site change private parts alone, as in private = ["{_layer(name)}"]',
                    )
            with torch.no_grad():
                for name, tensor in ours.items():
                    tensor.copy_(theirs[name])
        self._first |= {name: tensor.detach().clone() for name, tensor in self.frozen.items()}

    @contextmanager
    def held(self, part: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Let the parameters of a part stand still meanwhile: without gradients, no optimizer steps them."""
        trained = [tensor for tensor in part.values() if tensor.requires_grad]
        for tensor in trained:
            tensor.requires_grad_(False)
        try:
            yield
        finally:
            for tensor in trained:
                tensor.requires_grad_(True)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let the model be trained for this site alone meanwhile: counters of the common training do not see it."""
        counters = {name: tensor.detach().clone() for name, tensor in self.rest.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.every.items():
                    if name in counters:
                        tensor.copy_(counters[name])

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Let batch normalisation forget its statistics and take the plain mean of all batches it sees meanwhile."""
        momenta = [layer.momentum for layer in self.measured]
        for layer in self.measured:
            layer.reset_running_stats()
            layer.momentum = None
        try:
            yield
        finally:
            for layer, momentum in zip(self.measured, momenta, strict=True):
                layer.momentum = momentum


def numbers(tensor: torch.Tensor) -> NDArray[np.generic]:
    """Return a copy of a tensor as numpy has it; what numpy has no type for as float32, which holds all its values."""
    own = tensor.detach().cpu()
    return np.array((own.float() if own.dtype is torch.bfloat16 else own).numpy())


def _described(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "no tensor"
    return f"shape {tuple(tensor.shape)} and type {str(tensor.dtype).removeprefix('torch.')}"


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _unique(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """Return the tensors of a model under the first of their names, and all names of each: tied ones have several."""
    state: dict[str, torch.Tensor] = {}
    first: dict[int, str] = {}
    aliases: dict[str, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            own = first.setdefault(id(tensor), name)
            state.setdefault(own, tensor)
            aliases.setdefault(own, []).append(name)
    return state, aliases


def _check_types(state: Mapping[str, torch.Tensor]) -> None:
    """Raise `UsageError` for a tensor that has no shape yet."""
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise UsageError(
                f"couldn't use the task's model: {name} gets its shape only with the first batch, and all sites have to"
                " agree on it before",
                hint="give the layer its number of inputs: Linear(64, 10) in place of LazyLinear(10)",
            )


def _check_numbers(state: Mapping[str, torch.Tensor]) -> None:
    """Raise `UsageError` for a trained tensor that could not be averaged, and would go its own way at each site."""
    for name, tensor in state.items():
        if tensor.is_complex() and tensor.requires_grad:
            raise UsageError(
                f"couldn't use the task's model: {name} is complex, and what travels are real numbers",
                hint="make the parameter a real one with a last dimension of 2, and use torch.view_as_complex(it)"
                f' where it is used; or let it stay at each site: private = ["{name}"]',
            )


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of tensors with their names, types and shapes, in hexadecimal digits."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _own_names(fitting: set[str], aliases: Mapping[str, list[str]]) -> set[str]:
    """Return the names that tensors go by: one that is private under any of its names is private."""
    return {own for own, names in aliases.items() if fitting.intersection(names)}


def _within(name: str, module: torch.nn.Module) -> list[str]:
    return [f"{name}.{inner}" if name else inner for inner in module.state_dict(keep_vars=True)]


def _statistics(of_norms: Mapping[str, list[str]]) -> list[str]:
    inner = [one for names in of_norms.values() for one in names]
    return [one for one in inner if one.rpartition(".")[2] in STATISTICS[:2]]


def _layer(name: str) -> str:
    """Return the pattern of a tensor's whole layer: "head.weight" is of "head.*"."""
    layer, _, _ = name.rpartition(".")
    return f"{layer}.*" if layer else name


def _begin_with(
    state: Mapping[str, torch.Tensor], aliases: Mapping[str, list[str]], path: Path, said: Declared
) -> None:
    """Give tensors the values of a file: all that are frozen, and of others those that it has and that are not fresh.

    Raises:
        UsageError: it is not the file that the task names, or does not fit the model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"couldn't read {path}, which the task begins with: {error.strerror}", hint="put it beside the task file"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != said.initial_sha256:
        raise UsageError(
            f"couldn't begin with {path}: its SHA-256 begins {found[:16]}, not {said.initial_sha256[:16]}",
            hint="get the file that the task file was written with",
        )
    try:
        values = load(data)
    except SafetensorError as error:
        raise UsageError(f"couldn't read {path}: {error}", hint="write it with safetensors.torch.save_file") from None
    own = {alias: name for name, names in aliases.items() for alias in names}
    # What the file has and the model has not can be left out by name, too: the head that it was trained with.
    left = matching({**own, **values}, said.fresh, "fresh")
    fresh = _own_names(left, aliases)
    values = {name: tensor for name, tensor in values.items() if name not in left and own.get(name) not in fresh}
    given = {own[name]: tensor for name, tensor in values.items() if name in own}
    if odd := min({*values} - {*own}, default=""):
        raise UsageError(
            f"couldn't begin with {path}: the model has no tensor {odd!r}",
            hint=f'rename it, or leave it out: fresh = ["{odd}"]',
        )
    frozen = _own_names(matching(own, said.frozen, "frozen"), aliases)
    if both := sorted(frozen & fresh):
        raise UsageError(
            f"couldn't begin with {path}: {both[0]} is frozen and fresh",
            hint="what is frozen has the file's values: let no tensor be fitted by patterns of both, tied ones neither",
        )
    if lacking := sorted(frozen - {*given}):
        raise UsageError(
            f"couldn't begin with {path}: it lacks {lacking[0]}, which is frozen", hint="save it there too"
        )
    with torch.no_grad():
        for name, tensor in given.items():
            if tensor.shape != state[name].shape:
                shapes = f"{tuple(tensor.shape)}, not {tuple(state[name].shape)}"
                raise UsageError(
                    f"couldn't begin with {path}: {name} has shape {shapes}",
                    hint=f'build the layer as it is there, or let it begin anew: fresh = ["{_layer(name)}"]',
                )
            state[name].copy_(tensor)
