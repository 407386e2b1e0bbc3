"""SHELL. The trainer process: but for the learning simulator, the only code that imports torch.

It runs the user's task and nothing else: no socket, no ledger. Requests and results are small MessagePack messages over
an inherited socket pair; parameters are files of the blob store, mapped into memory on both sides, so that a model is
shared and never copied through a pipe. If user code fails, the failure is reported in words and the worker goes on; if
it kills or hangs the process, the supervisor starts another (`node.trainer`). When the node goes away the socket closes
and the worker ends by itself.
"""

from __future__ import annotations

import argparse
import math
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgpack
import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from node.coalitions import coalition_from
from node.doctor.shapes import describe_data
from node.evaluation import Evaluation, read_result, save_cases
from node.storage import mapped_anew
from node.task import Budget, RunInfo, SiteInfo, checked_result, load_task, round_seed, where_in
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec, Vector, flatten, unflatten

PROGRESS_S = 0.2
"""Between progress messages: steps of small models come by the thousand."""

NO_BUDGET = Budget()

_LENGTH = struct.Struct(">I")


class _Enough(BaseException):
    """Ends a trial of user code. Not an `Exception`: a loop that survives one bad batch is not to survive this."""


class Worker:
    """One task at one site, driven by requests."""

    def __init__(
        self, link: socket.socket, *, task: Path, loader: Path | None, site: SiteInfo, budget: Budget = NO_BUDGET
    ) -> None:
        self._link = link
        self._budget, self._began_at, self._asked = budget, 0.0, False
        self._path, self._loader, self._site = task, loader, site
        self._task = load_task(task, loader)
        self._model: torch.nn.Module | None = None
        self._data: object = None
        self._loaded = False
        self._layout = Layout(())
        self._round = self._step = 0
        self._told_at = 0.0
        self._first_at, self._budget_s = 0.0, math.inf  # A trial ends so long after its first step.
        register_optimizer_step_post_hook(self._on_step)

    def serve(self) -> None:
        """Answer requests until the node hangs up."""
        while (request := receive(self._link)) is not None:
            kind = str(request["do"])
            try:
                match kind:
                    case "describe":
                        reply = self._describe(Path(str(request["path"])))
                    case "train":
                        reply = self._train(
                            int(request["round"]), Path(str(request["model"])), Path(str(request["update"]))
                        )
                    case "try":
                        reply = self._try(Path(str(request["model"])), Path(str(request["update"])), int(request["ms"]))
                    case "appraise":
                        reply = self._appraise(request)
                    case _:
                        which, cases = str(request.get("which", "swarm")), str(request.get("cases", ""))
                        reply = self._evaluate(int(request["round"]), Path(str(request["model"])), which, cases)
            except Exception as error:  # noqa: BLE001 - user code may raise anything; all of it becomes a sentence
                reply = {"error": self._sentence(error)}
            send(self._link, {"did": kind, "round": request.get("round", 0), **reply})

    # --- requests -----------------------------------------------------------------------------------------------

    def _describe(self, path: Path) -> dict[str, object]:
        """Build the model under the charter's seed; write its parameters to `path`; return their layout."""
        torch.manual_seed(self._site.seed)
        model = self._build()
        tensors = self._tensors(model)
        specs = [TensorSpec(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()]
        self._layout = Layout(tuple(sorted(specs, key=lambda spec: spec.name)))
        self._layout.check()
        arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
        flatten(arrays, self._layout).tofile(path)
        return {"layout": self._layout.encode(), "parameters": self._parameters(model)}

    def _train(self, round_: int, model_path: Path, update_path: Path) -> dict[str, object]:
        base = np.memmap(model_path, dtype="<f4", mode="r")
        model = self._restore(base)
        model.train()
        run = self._begin(round_, self._enough)
        data = self._get_data()
        self._began_at, self._asked = time.monotonic(), False
        samples, metrics, remarks = checked_result(self._task.train(model, data, run), "train")
        self._tell_step()
        if not self._asked and self._budget.spent(self._step, time.monotonic() - self._began_at):
            remarks.append(self._budget.ignored(self._step))
        self._write_update(model, base, update_path)
        return {"samples": samples, "metrics": metrics, "remarks": remarks, "parameters": self._parameters(model)}

    def _try(self, model_path: Path, update_path: Path, ms: int) -> dict[str, object]:
        """Train as in a round, but for `ms` after the first step at most. There is an update if that was enough."""
        base = np.memmap(model_path, dtype="<f4", mode="r")
        model = self._restore(base)
        model.train()
        began = time.monotonic()
        data = self._get_data()
        loaded = time.monotonic()
        run = self._begin(0)
        self._budget_s = ms / 1000
        result: dict[str, object] = {"samples": 0, "metrics": {}, "remarks": []}
        try:
            samples, metrics, remarks = checked_result(self._task.train(model, data, run), "train")
            result = {"samples": samples, "metrics": metrics, "remarks": remarks}
            self._write_update(model, base, update_path)
        except _Enough:
            pass
        finally:
            self._budget_s = math.inf
        return {
            **result,
            "finished": bool(result["samples"]),
            "steps": self._step,
            "load_ms": round(1000 * (loaded - began)),
            "train_ms": round(1000 * (time.monotonic() - loaded)),
            "data": describe_data(data),
        }

    def _evaluate(self, round_: int, model_path: Path, which: str, cases: str) -> dict[str, object]:
        """Score a model; with the path `cases` write there what it said of each case."""
        if which != "swarm":
            raise UsageError(f"couldn't evaluate a {which} model: this site makes none")
        read = self._judge(round_, np.memmap(model_path, dtype="<f4", mode="r"))
        if cases and read.cases is not None:
            save_cases(read.cases, Path(cases))
        return {**_told(read), "cases": bool(cases) and read.cases is not None}

    def _appraise(self, request: Mapping[str, str | int]) -> dict[str, object]:
        """Evaluate what some of a round's updates make of its model. Of one round all are judged on the same draws."""
        path, terms = Path(str(request["model"])), str(request["terms"])
        if not self._layout.tensors:
            self._restore(np.memmap(path, dtype="<f4", mode="r"))  # Which of the task's tensors travel is known then.
        vector = coalition_from(path, terms, elements=self._layout.elements, coded=bool(request["coded"]))
        return _told(self._judge(int(request["round"]), vector))

    def _judge(self, round_: int, vector: Vector) -> Evaluation:
        model = self._restore(vector)
        model.eval()
        run = self._begin(round_)
        with torch.no_grad():
            return read_result(self._task.evaluate(model, self._get_data(), run))

    # --- parts --------------------------------------------------------------------------------------------------

    def _build(self) -> torch.nn.Module:
        model = self._task.build_model()
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"build_model() returned {type(model).__name__}, not a torch.nn.Module")
        return model.to(self._site.device)

    def _tensors(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What travels: floating-point parameters and buffers, tied ones once. Counters stay at the site."""
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                found[name] = tensor
        return found

    def _restore(self, vector: Vector) -> torch.nn.Module:
        """Overwrite the model's floating-point state with a round's outcome, of which the model is the beginning."""
        if self._model is None:
            self._model = self._build()
        # A loop that takes its first step before it clears gradients must not step along those of the round before.
        self._model.zero_grad(set_to_none=True)
        tensors = self._tensors(self._model)
        if not self._layout.tensors:
            specs = [TensorSpec(n, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()]
            self._layout = Layout(tuple(sorted(specs, key=lambda spec: spec.name)))
        with torch.no_grad():
            for name, values in unflatten(vector[: self._layout.elements], self._layout).items():
                tensors[name].copy_(torch.from_numpy(np.array(values)))
        return self._model

    def _write_update(self, model: torch.nn.Module, base: Vector, path: Path) -> None:
        """Write trained minus base, tensor by tensor, straight into the file the node will take in."""
        update = mapped_anew(path, self._layout.elements, what="make room for the update")
        tensors = self._tensors(model)
        for name, (start, end) in self._layout.offsets().items():
            trained = tensors[name].detach().float().cpu().numpy().reshape(-1)
            np.subtract(trained, base[start:end], out=update[start:end])

    def _parameters(self, model: torch.nn.Module) -> list[int]:
        """Return the bounds of the vector's stretches that are trained: start, end, start, end, ..."""
        trained = [name for name, tensor in self._tensors(model).items() if tensor.requires_grad]
        return [bound for stretch in self._layout.stretches(trained) for bound in stretch]

    def _get_data(self) -> object:
        if not self._loaded:
            self._data = self._task.load_data(self._site)
            self._loaded = True
        return self._data

    def _begin(self, round_: int, enough: Callable[[], bool] = lambda: False) -> RunInfo:
        """Seed user code so that a repeated round repeats, and start counting its steps."""
        self._round, self._step = round_, 0
        seed = round_seed(self._site.seed, self._site.name, round_)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - user code may draw from the global generator
        self._tell_step()
        return RunInfo(round_, seed, self._site.device, self._site, enough)

    def _enough(self) -> bool:
        """Whether this site's budget is spent. One step is always made: an update of nothing helps nobody."""
        self._asked = True
        return self._step > 0 and self._budget.spent(self._step, time.monotonic() - self._began_at)

    def _on_step(self, *_: object) -> None:
        """Every optimizer step of user code is progress; the node tells a slow site from a stuck one by it."""
        self._step += 1
        now = time.monotonic()
        if self._step == 1:
            self._first_at = now
        if now - self._first_at > self._budget_s:
            raise _Enough
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._tell_step()

    def _tell_step(self) -> None:
        send(self._link, {"did": "step", "round": self._round, "step": self._step})

    def _sentence(self, error: Exception) -> str:
        for path in (self._path, self._loader):
            if path is not None:
                text = where_in(error, path)
                if path.name in text:
                    return text
        return f"{type(error).__name__}: {error}" if not isinstance(error, UsageError) else error.message


def _told(read: Evaluation) -> dict[str, object]:
    """Return what a score is told by. The groups stay at the site: by them the node judges what may leave."""
    told = {"samples": read.samples, "metrics": dict(read.metrics), "remarks": [*read.remarks]}
    return {**told, "groups": [*read.groups]}


def warm_up() -> None:
    """Import what PyTorch puts off until a first optimizer is made."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def send(link: socket.socket, message: Mapping[str, object]) -> None:
    """Write one length-prefixed message."""
    data: bytes = msgpack.packb(dict(message), use_bin_type=True)
    link.sendall(_LENGTH.pack(len(data)) + data)


def receive(link: socket.socket) -> dict[str, str | int] | None:
    """Read one length-prefixed message; None when the other end is gone."""
    head = _read(link, _LENGTH.size)
    body = None if head is None else _read(link, _LENGTH.unpack(head)[0])
    return None if body is None else msgpack.unpackb(body, raw=False)


def _read(link: socket.socket, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        part = link.recv(length - len(data))
        if not part:
            return None
        data += part
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as `python -m node.worker`; started by `node.trainer`, or forked by `node.forkserver`."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--fd", type=int, required=True)
    options.add_argument("--task", type=Path, required=True)
    options.add_argument("--loader", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--site", required=True)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--round-steps", type=int, default=0)
    options.add_argument("--round-seconds", type=float, default=0.0)
    chosen = options.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    link = socket.socket(fileno=chosen.fd)
    site = SiteInfo(chosen.site, chosen.data, chosen.seed, chosen.device)
    try:
        budget = Budget(chosen.round_steps, chosen.round_seconds)
        worker = Worker(link, task=chosen.task, loader=chosen.loader, site=site, budget=budget)
    except UsageError as error:
        send(link, {"did": "load", "error": error.message + (f" ({error.hint})" if error.hint else "")})
        return 1
    send(link, {"did": "load"})
    try:
        worker.serve()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # The node is gone.
    return 0


if __name__ == "__main__":
    sys.exit(main())
