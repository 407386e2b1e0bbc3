"""SHELL. A model as an ONNX file, for those who will use it without PyTorch and without this project.

What goes into the model is not written down anywhere in a task, so it is looked at: evaluate() runs until it first
calls the model, and the shapes and types of what it passes are what the file accepts, with batches of any size where
the model allows it. No value of that batch gets further: the model is traced on zeros. Nor do the notes in which the
exporter keeps where each operation stands in whose source: they have this machine's paths in them.

What was written is tried on the batch before it is handed out, by ONNX's own reference implementation, and held against
what PyTorch says; how far apart they are is told.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from node.export import check_available
from node.storage import write_file_durably
from swarm.errors import UsageError

ROWS = 2
"""Of the batch that the model is traced and tried on; of one, a tracer would take its size for a constant."""


@dataclass(frozen=True, slots=True)
class Written:
    """How far ONNX and PyTorch are apart at most, on the batch tried; None, and why, where that was not found out.

    `fixed` says that batches have to be as large as the one tried.
    """

    difference: float | None
    why: str
    fixed: bool

    @property
    def sentence(self) -> str:
        """All of it in words."""
        held = f"could not be tried ({self.why})"
        if self.difference is not None:
            held = f"was tried on held-out cases: at most {self.difference:.1e} from what PyTorch says"
        return f"the ONNX model {held}{'; it takes batches of one size only' if self.fixed else ''}"


class _Called(BaseException):
    """Ends evaluate() at its first call of the model. Not an `Exception`: nothing is to go on after it."""


def export_onnx(
    model: Any, evaluate: Callable[[], object], target: Path, origin: Mapping[str, str], *, mode: int = 0o666
) -> Written:
    """Write a model that is ready to be used, as ONNX. `evaluate` calls it somewhere, with this site's data.

    Raises:
        UsageError: an extra is missing, evaluate() does not call the model, or the model cannot be traced.
        StoreError: the disk refused.
    """
    check_available()
    import onnx
    import torch

    batch = _seen(model, evaluate)
    zeros = tuple(torch.zeros_like(tensor) for tensor in batch)
    program = _traced(model, zeros)
    for graph in (program.model.graph, *(function.graph for function in program.model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
    proto = program.model_proto
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {"origin": json.dumps(dict(origin), sort_keys=True)})
    try:
        data = proto.SerializeToString()
    except ValueError as error:
        raise UsageError(
            "couldn't export as ONNX: the model is larger than one such file may be, 2 GiB",
            hint="export it as safetensors",
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file_durably(target, data, mode=mode)
    difference, why = _apart(model, batch, proto)
    return Written(difference, why, _fixed(proto))


def _seen(model: Any, evaluate: Callable[[], object]) -> tuple[Any, ...]:
    """Return what evaluate() first calls the model with: a few rows, where all of it has rows alike."""
    import torch

    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _Called

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        evaluate()
    except _Called:
        pass
    finally:
        handle.remove()
    if not found:
        raise UsageError(
            "couldn't export as ONNX: evaluate() does not call the model, so nobody knows what goes into it",
            hint="let evaluate() call model(...), and what it calls be in the model's forward()",
        )
    args, kwargs = found[0]
    if kwargs or not args or not all(isinstance(one, torch.Tensor) for one in args):
        raise UsageError(
            "couldn't export as ONNX: the model is called with something else than tensors, one after another",
            hint="let forward() take tensors",
        )
    rows = {tuple(one.shape[:1]) for one in args}
    return tuple(one[:ROWS] for one in args) if len(rows) == 1 and rows != {()} else args


def _traced(model: Any, zeros: tuple[Any, ...]) -> Any:
    """Return the exporter's program, for any number of cases where the model allows that."""
    import torch

    alike = len({tuple(one.shape[:1]) for one in zeros}) == 1 and zeros[0].dim() > 0
    shapes = tuple({0: torch.export.Dim("cases")} for _ in zeros) if alike else None
    try:
        # The exporter talks: progress, and advice to those who maintain it.
        with warnings.catch_warnings(), _quiet("torch.onnx"), redirect_stdout(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                model, zeros, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
            )
    except Exception as error:
        cause = error.__cause__ or error
        why = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UsageError(
            f"couldn't export as ONNX: the model cannot be traced: {type(cause).__name__}: {why[:300]}",
            hint="a forward() that decides by values has no graph; export it as safetensors, or rewrite that part",
        ) from error


def _fixed(proto: Any) -> bool:
    """Whether the tracer has found that the model takes one number of cases only."""
    dims = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return not all(found and found[0].HasField("dim_param") for found in dims)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _apart(model: Any, batch: tuple[Any, ...], proto: Any) -> tuple[float | None, str]:
    """Return the largest difference between what ONNX and PyTorch make of a batch, or why it is not known."""
    import numpy as np
    import torch
    from onnx.reference import ReferenceEvaluator

    with torch.no_grad():
        expected = model(*batch)
    outputs = [expected] if isinstance(expected, torch.Tensor) else [*expected]
    try:
        session = ReferenceEvaluator(proto)
        names = [value.name for value in proto.graph.input]
        made = session.run(None, {name: one.cpu().numpy() for name, one in zip(names, batch, strict=True)})
        apart = [
            float(np.max(np.abs(one.cpu().double().numpy() - np.asarray(other, np.float64)), initial=0.0))
            for one, other in zip(outputs, made, strict=True)
        ]
    except Exception as error:  # noqa: BLE001 - the reference does not know every operation
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    return max(apart), ""
