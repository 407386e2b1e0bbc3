"""SHELL. The trainer process: but for the learning simulator, the only code that imports torch.

It runs the user's task and nothing else: no socket, no ledger. Requests and results are small MessagePack messages over
an inherited socket pair; parameters are files of the blob store, mapped into memory on both sides, so that a model is
shared and never copied through a pipe. If user code fails, the failure is reported in words and the worker goes on; if
it kills or hangs the process, the supervisor starts another (`node.trainer`). When the node goes away the socket closes
and the worker ends by itself.

What of a model travels and what stays is for `node.parts`, what is added to steps for `node.steering`, what is kept
from round to round for `node.private`, what several processes of one site say to each other for `node.ranks`. Here they
meet: a round's training, and models that are looked at.
"""

from __future__ import annotations

import argparse
import errno
import gc
import hashlib
import json
import math
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from node import overview
from node.changes import DIVERGED, change_into, longest_of
from node.coalitions import coalition_from
from node.doctor.shapes import describe_data
from node.dpsgd.allowance import SPENT, Allowance, Told
from node.dpsgd.session import Private
from node.evaluation import Evaluation, read_result, save_cases
from node.export import ONNX, SAFETENSORS, export_tensors
from node.onnx import export_onnx
from node.optimizers import keep_optimizer_state, optimizer_state
from node.parts import Parts, numbers
from node.private import Own, PrivateFolder, check_folder
from node.ranks import DEVICE, Ranks, check_device, device_of, digest, send
from node.spending import Spending
from node.steering import Bend, Steering
from node.storage import Exhausted, mapped_anew
from node.task import (
    ALL,
    BODY,
    HEAD,
    NO_SITE,
    PERSONAL,
    RECALIBRATE,
    Budget,
    RunInfo,
    SiteInfo,
    checked_result,
    load_task,
    round_seed,
    where_in,
)
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.mixing.local import DITTO, FEDPROX, ROUNDS_MAX, SCAFFOLD, parse
from swarm.privacy.accounting import Budget as PrivacyBudget
from swarm.vector import Vector, unflatten

MEASURED = 'it is a buffer: see what writes to it, or let it stay here, as in private = ["{}"]'
"""What to do about a tensor that is not finite and that no gradient reaches."""

PROGRESS_S = 0.2
"""Between progress messages: steps of small models come by the thousand."""

NO_BUDGET = Budget()

SWARM = "swarm"
"""The model that is looked at, if not this site's own, which is `PERSONAL`."""

RECALIBRATE_STEPS_MAX = 100
"""Most batches that statistics of batch normalisation are measured on: their mean over so many is steady."""


class _Enough(BaseException):
    """Ends a trial of user code. Not an `Exception`: a loop that survives one bad batch is not to survive this."""


class NotThereError(UsageError):
    """What was asked for does not exist, by no fault of the task's."""


class Worker:
    """One task at one site, driven by requests.

    `private` is the folder for what never leaves the site, None to keep that in memory only; `local` the charter's
    algorithm of local training, "" for none; `tracks` whether steps may have to take a correction; `rounds` how many
    there are, 0 if that is not known. `ranks` is this
    process's place among those that train together, None where it is alone: all do the same, and the first writes and
    evaluates.
    """

    def __init__(
        self,
        link: socket.socket,
        *,
        task: Path,
        loader: Path | None,
        site: SiteInfo,
        budget: Budget = NO_BUDGET,
        private: Path | None = None,
        local: str = "",
        tracks: bool = False,
        rounds: int = 0,
        ranks: Ranks | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self._link, self._ranks = link, ranks or Ranks(link)
        self._allowance = allowance or Allowance()
        self._leaves = False
        self._told: Told | None = None
        self._budget, self._began_at, self._asked = budget, 0.0, False
        self._path, self._loader, self._site = task, loader, site
        self._local = parse(local) if local else None
        self._local_text, self._tracks = local, tracks
        if private is not None:
            check_folder(private)
        self._own = PrivateFolder(private)
        self._misfits: set[str] = set()
        self._task = load_task(task, loader, by_name=True)
        self._parts: Parts | None = None
        self._data: object = None
        self._loaded = False
        self._rounds = rounds
        self._round = self._step = self._call_step = self._steps_max = 0
        self._told_at = 0.0
        self._first_at, self._budget_s = 0.0, math.inf  # A trial ends so long after its first step.
        self._steering = Steering()
        register_optimizer_step_post_hook(self._on_step)
        if self._local is not None:
            register_optimizer_step_pre_hook(self._steering.before)

    def serve(self) -> None:
        """Answer requests until the node hangs up."""
        while (request := self._ranks.receive()) is not None:
            self._ranks.answer(self.answer(request))

    def answer(self, request: Mapping[str, str | int]) -> dict[str, object]:
        """Do what a request asks for and return the answer; whatever user code does becomes a sentence."""
        kind, round_ = str(request["do"]), int(request.get("round", 0))
        try:
            match kind:
                case "describe":
                    reply = self._describe(Path(str(request["path"])))
                case "evaluate" | "appraise" | "export" if not self._ranks.first:
                    reply = self._assist(round_, Path(str(request["model"])), request)
                case "train":
                    self._rounds = int(request.get("rounds", 0)) or self._rounds
                    learned = Path(found) if (found := str(request.get("correction", ""))) else None
                    reply = self._train(round_, Path(str(request["model"])), Path(str(request["update"])), learned)
                case "try":
                    reply = self._try(Path(str(request["model"])), Path(str(request["update"])), int(request["ms"]))
                case "appraise":
                    reply = self._appraise(round_, Path(str(request["model"])), request)
                case "export":
                    target, origin = Path(str(request["target"])), json.loads(str(request["origin"]))
                    which, form = str(request["which"]), str(request.get("form", SAFETENSORS))
                    reply = self._export(round_, Path(str(request["model"])), target, origin, which, form)
                case _:
                    which, cases = str(request.get("which", SWARM)), str(request.get("cases", ""))
                    reply = self._evaluate(round_, Path(str(request["model"])), which, cases)
            if self._own.remarks and "remarks" in reply:
                reply["remarks"] = [*self._own.remarks, *reply["remarks"]]  # type: ignore[misc]
                self._own.remarks.clear()
        except Exception as error:  # noqa: BLE001 - user code may raise anything; all of it becomes a sentence
            reply = {"error": self._sentence(error)}
            if isinstance(error, UsageError) and error.identifier == SPENT:
                reply["refused"] = True
            if isinstance(error, NotThereError):
                reply = {"error": error.message, "hint": error.hint}
        return {"did": kind, "round": round_, **reply}

    # --- requests -----------------------------------------------------------------------------------------------

    def _describe(self, path: Path) -> dict[str, object]:
        """Build the model under the charter's seed; write its parameters to `path`; return their layout."""
        parts = self._build()
        parts.read().tofile(path)
        warnings = [*overview.warnings(parts), *overview.slips(self._path, self._loader)]
        told = {"warnings": warnings, "notes": [*overview.notes(parts)]}
        return {"layout": parts.layout.encode(), "parameters": _bounds(parts), **told}

    def _train(
        self, round_: int, model_path: Path, update_path: Path, learned: Path | None = None
    ) -> dict[str, object]:
        base = self._opened(model_path)
        before = self._own.before(round_)
        parts = self._restore(base, before)
        run = self._begin(round_, self._enough)
        data = self._get_data()
        drift = self._drift(before, base, round_)
        bend = None if learned is None else self._bend(before, learned)
        optimizer = self._optimizer(parts, before, "optimizer")
        self._leaves = True
        try:
            push = drift if bend is None else bend.push
            samples, metrics, remarks = self._learn(parts, data, run, optimizer, base, push)
        finally:
            self._leaves = False
        told = self._told
        if told is not None and metrics:
            # They are of the records as they are: no noise is in them, so they do not go where the update goes.
            shown = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
            remarks.append(f"for this site alone, as they are not private: {shown}")
            metrics = {}
        self._tell_step()
        reply = {"samples": samples, "metrics": metrics, "remarks": remarks, "parameters": _bounds(parts)}
        if told is not None:
            reply["privacy"] = [told.epsilon, told.decimals]
        reply |= self._trained(parts)
        if self._ranks.first:
            name, share = self._write_update(parts, base, update_path, drift, bend)
            reply |= {"longest": name, "share": share}
        arrays = _under("private", {name: numbers(tensor) for name, tensor in parts.private.items()})
        words: dict[str, str | int | float | bool | None] = {}
        self._keep_optimizer(optimizer, "optimizer", arrays, words)
        drift_is_kept = self._local is not None and self._local.name == SCAFFOLD
        if drift_is_kept and self._ranks.first:
            arrays |= {"drift/base": np.array(base), "drift/moved": np.fromfile(update_path, "<f4")}
        if (drift_is_kept or self._tracks) and self._ranks.first:
            words |= {f"steps/{name}": count for name, count in self._steering.steps.items()}
        if self._local is not None and self._local.name == DITTO:
            self._train_personal(before, base, data, run, arrays, words)
        if self._ranks.first and (arrays or words):
            # Before the update is: no other site may hold of a round what lacks its part here.
            self._own.keep(Own(round_, arrays, words))
        return reply

    def _try(self, model_path: Path, update_path: Path, ms: int) -> dict[str, object]:
        """Train as in a round, but for `ms` after the first step at most. There is an update if that was enough."""
        base = self._opened(model_path)
        parts = self._restore(base, Own())
        began = time.monotonic()
        data = self._get_data()
        loaded = time.monotonic()
        run = self._begin(0)
        self._budget_s = ms / 1000 if self._ranks.first else math.inf
        result: dict[str, object] = {"samples": 0, "metrics": {}, "remarks": []}
        optimizer = self._optimizer(parts, Own(), "optimizer")
        try:
            samples, metrics, remarks = self._learn(parts, data, run, optimizer, base, {})
            result = {"samples": samples, "metrics": metrics, "remarks": remarks, **self._trained(parts)}
            if self._ranks.first:
                self._write_update(parts, base, update_path, {})
        except _Enough:
            self._ranks.ends = self._ranks.size > 1  # The others are in the middle of a step, and wait for this one.
        finally:
            self._budget_s = math.inf
        self._keep_optimizer(optimizer, "optimizer", {}, {})  # Says what could not be kept.
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
        read = self._judge(round_, self._opened(model_path), which)
        if cases and read.cases is not None:
            save_cases(read.cases, Path(cases))
        return {**_told(read), "cases": bool(cases) and read.cases is not None}

    def _appraise(self, round_: int, model_path: Path, request: Mapping[str, str | int]) -> dict[str, object]:
        """Evaluate what some of a round's updates make of its model. Of one round all are judged on the same draws."""
        elements = self._opened(model_path).size
        return _told(self._judge(round_, _coalition(model_path, request, elements), SWARM))

    def _judge(self, round_: int, vector: Vector, which: str) -> Evaluation:
        parts = self._ready(round_, vector, which)
        run = self._begin(round_)
        with torch.no_grad():
            return read_result(self._task.evaluate(parts.model, self._get_data(), run))

    def _assist(self, round_: int, model_path: Path, request: Mapping[str, str | int]) -> dict[str, object]:
        """Do what the first process does to a model before it is looked at, which may train it, and no more.

        With `evaluate_ranks = "all"` that includes evaluate(), of which the first process's result counts.
        """
        vector = self._opened(model_path)
        if request["do"] == "appraise":
            vector = _coalition(model_path, request, vector.size)
        parts = self._ready(round_, vector, str(request.get("which", SWARM)))
        if request["do"] != "export" and self._task.declared.evaluate_ranks == "all":
            run = self._begin(round_)
            with torch.no_grad():
                self._task.evaluate(parts.model, self._get_data(), run)
        return {}

    def _export(
        self, round_: int, model_path: Path, target: Path, origin: Mapping[str, str], which: str, form: str
    ) -> dict[str, object]:
        """Write all tensors of a model, private and frozen ones too, for this site alone to read; or its graph."""
        parts = self._ready(round_, self._opened(model_path), which)
        if form == ONNX:
            run, mode = self._begin(round_), 0o600 if which == PERSONAL else 0o666
            with torch.no_grad():
                written = export_onnx(
                    parts.model,
                    lambda: self._task.evaluate(parts.model, self._get_data(), run),
                    target,
                    origin,
                    mode=mode,
                )
            return {"samples": 0, "metrics": {}, "remarks": [written.sentence]}
        export_tensors({name: numbers(tensor) for name, tensor in parts.every.items()}, target, origin, mode=0o600)
        return {"samples": 0, "metrics": {}, "remarks": []}

    # --- training -----------------------------------------------------------------------------------------------

    def _learn(
        self,
        parts: Parts,
        data: object,
        run: RunInfo,
        optimizer: torch.optim.Optimizer | None,
        base: Vector,
        push: Mapping[str, torch.Tensor],
    ) -> tuple[int, dict[str, float], list[str]]:
        """Do a round's training of the model that others will have, in one phase, or in FedRep's two."""
        local = self._local
        pull = self._named(base, parts) if local is not None and local.name == FEDPROX else {}
        self._steering.begin(
            parts.model,
            what=self._local_text,
            pull=pull,
            strength=local.strength if local is not None and pull else 0.0,
            push=push,
        )
        passes = self._task.declared.fedrep
        for _ in range(passes):
            with parts.held(parts.shared):
                self._call(parts, data, replace(run, phase=HEAD, optimizer=optimizer))
        with parts.held(parts.private) if passes else nullcontext():
            found = self._call(parts, data, replace(run, phase=BODY if passes else ALL, optimizer=optimizer))
        self._steering.end()
        self._check_whole(parts)
        parts.check_frozen()
        return found

    def _check_whole(self, parts: Parts) -> None:
        """Raise `UsageError` where train() has put other tensors in place; the model is built anew for what follows."""
        try:
            parts.check_whole()
        except UsageError:
            self._parts = None
            raise

    def _call(self, parts: Parts, data: object, run: RunInfo) -> tuple[int, dict[str, float], list[str]]:
        """Call the user's train() once, within this site's budget."""
        parts.train_mode()
        self._began_at, self._asked, self._call_step = time.monotonic(), False, self._step
        leaves = self._leaves and run.phase in (ALL, HEAD, BODY)
        ahead = max(1, self._rounds - self._round + 1) * (1 + self._task.declared.fedrep)
        plain = run.phase in (PERSONAL, RECALIBRATE)
        self._allowance.begin(lambda: parts.every, round_=self._round, calls=ahead, leaves=leaves, plain=plain)
        private = self._allowance.open if self._ranks.size == 1 else _not_together
        found = self._task.train(parts.model, data, replace(run, private=private))
        if self._ranks.size > 1:
            gc.collect()  # A wrapper of this round that is still about would take part in the next one's steps.
        if found is None and not self._ranks.first:
            return 0, {}, []
        samples, metrics, remarks = checked_result(found, "train")
        told = self._allowance.end()
        remarks += self._allowance.remarks
        self._allowance.remarks.clear()
        if told is not None:
            # How many were in the batches is a secret that the guarantee rests on; how many there are is told.
            self._told, samples = told, told.records
        elif leaves:
            self._told = None
        steps = self._step - self._call_step
        if not self._asked and self._budget.spent(steps, time.monotonic() - self._began_at):
            remarks.append(self._budget.ignored(steps))
        return samples, metrics, remarks

    def _drift(self, before: Own, base: Vector, round_: int) -> dict[str, torch.Tensor]:
        """Return what is added to each parameter after each of its steps: (R - r_i) / K_i of `swarm.mixing.local`."""
        if self._local is None or self._local.name != SCAFFOLD or not before.round:
            return {}
        passed, kept = round_ - before.round, before.under("drift")
        if (
            not 0 < passed <= ROUNDS_MAX
            or not kept
            or kept["base"].size != base.size
            or kept["moved"].size != base.size
        ):
            return {}
        assert self._parts is not None, "it was restored"
        before_base, before_moved = (kept[name].astype(np.float32) for name in ("base", "moved"))
        shared, pushed = self._parts.shared, {}
        for name, (start, end) in self._parts.layout.offsets().items():
            steps = before.words.get(f"steps/{name}")
            if isinstance(steps, int) and steps > 0:
                moved = (base[start:end] - before_base[start:end]) / np.float32(passed)
                own = torch.from_numpy((moved - before_moved[start:end]) / np.float32(steps))
                pushed[name] = own.reshape(shared[name].shape).to(shared[name])
        return pushed

    def _bend(self, before: Own, learned: Path) -> Bend:
        """Return how this round's steps take what earlier ones have taught this site."""
        assert self._parts is not None, "it was restored"
        correction: Vector = np.memmap(learned, dtype="<f4", mode="r")
        steps = {name.removeprefix("steps/"): steps for name, steps in before.words.items() if name[:6] == "steps/"}
        return Bend.of(correction, self._parts.layout, self._parts.model, steps)

    def _train_personal(
        self,
        before: Own,
        base: Vector,
        data: object,
        run: RunInfo,
        arrays: dict[str, NDArray[np.generic]],
        words: dict[str, str | int | float | bool | None],
    ) -> None:
        """Ditto: train the site's own model, from where it was, pulled to the one that the round began with."""
        assert self._parts is not None, "it was restored"
        assert self._local is not None, "the charter says so"
        parts, kept = self._parts, before.under("personal")
        parts.restore(self._named_arrays(base) | kept, kept or before.under("private"))
        optimizer = self._optimizer(parts, before, "personal_optimizer")
        self._steering.begin(
            parts.model, what=self._local_text, pull=self._named(base, parts), strength=self._local.strength
        )
        with parts.apart():
            self._call(parts, data, replace(run, phase=PERSONAL, optimizer=optimizer))
        self._steering.end()
        arrays |= _under("personal", {n: numbers(t) for n, t in {**parts.shared, **parts.private}.items()})
        self._keep_optimizer(optimizer, "personal_optimizer", arrays, words)

    # --- models to look at --------------------------------------------------------------------------------------

    def _ready(self, round_: int, vector: Vector, which: str) -> Parts:
        """Let the model be the one that a round ended with, the swarm's or this site's own, ready to be used."""
        before = self._own.before(round_ + 1)
        parts = self._restore(vector, before)
        if which == PERSONAL:
            self._personalise(parts, before, round_, vector)
        elif which != SWARM:
            raise UsageError(f"couldn't look at the model {which!r}", hint=f"ask for {SWARM} or {PERSONAL}")
        if self._task.declared.normalisation == "recalibrate":
            self._recalibrate(parts, round_)
        parts.model.eval()
        return parts

    def _personalise(self, parts: Parts, before: Own, round_: int, vector: Vector) -> None:
        """Put this site's own model in place of the swarm's: Ditto's, or one trained on, which is done once."""
        kept, said = before.under("personal"), self._task.declared
        if not (kept or said.fine_tune or self._task.personalise is not None or parts.private):
            raise NotThereError(
                "couldn't look at a personal model: this site makes none",
                hint="leave out --personal: private parts, fine_tune or personalise() make one, or --local ditto",
            )
        if kept:
            parts.restore(self._named_arrays(vector) | kept, kept)
        if not said.fine_tune and self._task.personalise is None:
            return
        of = hashlib.sha256(vector.data).hexdigest()
        if (known := self._own.personal(of)) is not None and known.round == round_:
            tuned = known.under("personal")
            parts.restore(self._named_arrays(vector) | tuned, tuned)
            return
        optimizer = self._optimizer(parts, Own(), "optimizer")
        run = replace(self._begin(round_), phase=PERSONAL, optimizer=optimizer)
        with parts.apart():
            if self._task.personalise is not None:
                parts.train_mode()
                self._task.personalise(parts.model, self._get_data(), run)
            for _ in range(said.fine_tune if self._task.personalise is None else 0):
                self._call(parts, self._get_data(), run)
        parts.check_frozen()
        tuned = {name: numbers(tensor) for name, tensor in {**parts.shared, **parts.private}.items()}
        if self._ranks.first:
            self._own.keep_personal(Own(round_, _under("personal", tuned), {"of": of}))

    def _recalibrate(self, parts: Parts, round_: int) -> None:
        """Measure the statistics of batch normalisation on this site's data, with the weights standing still.

        The user's own loop is what goes through the data as it has to be gone through; after each of its steps the
        parameters are put back.
        """
        stand = {name: tensor.detach().clone() for name, tensor in parts.model.named_parameters()}
        run = replace(self._begin(round_), phase=RECALIBRATE, optimizer=self._optimizer(parts, Own(), "optimizer"))
        data = self._get_data()
        self._steering.begin(parts.model, pinned=stand)
        self._steps_max = RECALIBRATE_STEPS_MAX
        try:
            with parts.apart(), parts.measuring(), torch.enable_grad():
                self._call(parts, data, run)
        except _Enough:
            pass
        finally:
            self._steps_max = 0
            self._steering.end()
            with torch.no_grad():
                for name, parameter in parts.model.named_parameters():
                    parameter.copy_(stand[name])
            parts.model.zero_grad(set_to_none=True)

    # --- parts --------------------------------------------------------------------------------------------------

    def _build(self) -> Parts:
        """Build the model under the charter's seed: what is private, and never sent, begins alike everywhere too.

        Where the task builds by the site, what is shared begins as without one, though it be drawn in another order.
        """
        common = self._build_as()
        common.check_base()
        if not self._task.by_site or self._site.name == NO_SITE:
            return common
        own = self._build_as(site=self._site)
        own.begin_as(common)
        return own

    def _build_as(self, **site: SiteInfo) -> Parts:
        torch.manual_seed(self._site.seed)
        model = self._task.build_model(**site)
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"build_model() returned {type(model).__name__}, not a torch.nn.Module")
        return Parts(model.to(self._site.device), self._task.declared, self._path.parent)

    def _built(self) -> Parts:
        """Return the model, built when it is first needed."""
        if self._parts is None:
            self._parts = self._build()
        return self._parts

    def _opened(self, path: Path) -> Vector:
        """Map the model that a round's outcome begins with: what an outer optimiser remembers follows it there."""
        whole: Vector = np.memmap(path, dtype="<f4", mode="r")
        return whole[: self._built().layout.elements]

    def _restore(self, vector: Vector, own: Own) -> Parts:
        """Let the model be a vector of the swarm's, and what this site has kept."""
        parts = self._built()
        if (text := parts.misfit(own.under("private"))) and text not in self._misfits:
            self._misfits.add(text)
            self._own.remarks.append(text)
        parts.restore(self._named_arrays(vector), own.under("private"))
        self._steering.begin(parts.model)  # Whatever a request before that failed has left.
        return parts

    def _named_arrays(self, vector: Vector) -> dict[str, NDArray[np.generic]]:
        return {**unflatten(vector, self._built().layout)}

    def _named(self, vector: Vector, parts: Parts) -> dict[str, torch.Tensor]:
        """Return the tensors of a vector as those of the model are, by name."""
        shared = parts.shared
        arrays = unflatten(vector, parts.layout)
        return {name: torch.from_numpy(np.array(array)).to(shared[name]) for name, array in arrays.items()}

    def _optimizer(self, parts: Parts, own: Own, part: str) -> torch.optim.Optimizer | None:
        """Return what the task's build_optimizer makes, with the state it had, if the task keeps that."""
        if self._task.build_optimizer is None:
            return None
        optimizer = self._task.build_optimizer(parts.model)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"build_optimizer() returned {type(optimizer).__name__}, not a torch.optim.Optimizer",
                hint="return torch.optim.SGD(model.parameters(), ...) or another",
            )
        state = optimizer_state(own, part) if self._task.declared.optimizer_state == "keep" else {}
        if state:
            # Rates and the like are what build_optimizer says today; what the steps have left behind is kept.
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return optimizer

    def _keep_optimizer(
        self,
        optimizer: torch.optim.Optimizer | None,
        part: str,
        arrays: dict[str, NDArray[np.generic]],
        words: dict[str, str | int | float | bool | None],
    ) -> None:
        if optimizer is not None and self._task.declared.optimizer_state == "keep":
            keep_optimizer_state(optimizer, part, arrays, words)

    def _write_update(
        self, parts: Parts, base: Vector, path: Path, drift: Mapping[str, torch.Tensor], bend: Bend | None = None
    ) -> tuple[str, float]:
        """Write trained minus base into the file the node takes in: less a drift's part in it, with all of a bend's.

        Return the tensor that makes most of its norm, and which share of the squared norm that is, 0 to 1.

        Raises:
            UsageError: a tensor has become what no number can be added to others' for.
        """
        update = mapped_anew(path, parts.layout.elements, what="make room for the update")
        tensors = parts.shared
        for name, (start, end) in parts.layout.offsets().items():
            trained = tensors[name].detach().float().cpu().numpy().reshape(-1)
            hint = DIVERGED if isinstance(tensors[name], torch.nn.Parameter) else MEASURED.format(name)
            change_into(update[start:end], trained, base[start:end], name, hint)
            if name in drift:
                added = drift[name].float().cpu().numpy().reshape(-1) * np.float32(self._steering.steps.get(name, 0))
                np.subtract(update[start:end], added, out=update[start:end])
        if bend is not None:
            bend.settle(update, self._steering.steps)
        return longest_of(update, parts.layout)

    def _trained(self, parts: Parts) -> dict[str, object]:
        """Return by what the processes that train together know that they have trained one model; alone, nothing."""
        if self._ranks.size == 1:
            return {}
        return {"trained": digest(tensor for tensor in parts.every.values() if tensor.requires_grad)}

    def _get_data(self) -> object:
        if not self._loaded:
            self._data = self._task.load_data(self._site)
            self._loaded = True
        return self._data

    def _begin(self, round_: int, enough: Callable[[], bool] = lambda: False) -> RunInfo:
        """Seed user code so that a repeated round repeats, and start counting its steps."""
        self._round, self._step, self._call_step = round_, 0, 0
        seed = round_seed(self._site.seed, self._site.name, round_)
        rank, size = self._ranks.rank, self._ranks.size
        torch.manual_seed(seed + rank)  # Draws of their own: masks of dropout, for one.
        np.random.seed(seed + rank)  # noqa: NPY002 - user code may draw from the global generator
        random.seed(seed + rank)
        self._tell_step()
        return RunInfo(round_, seed, self._site.device, self._site, enough, self._rounds, rank=rank, processes=size)

    def _enough(self) -> bool:
        """Whether this site's budget is spent. One step is always made: an update of nothing helps nobody."""
        self._asked = True
        steps = self._step - self._call_step
        spent = steps > 0 and self._budget.spent(steps, time.monotonic() - self._began_at)
        return spent if self._budget == NO_BUDGET else self._ranks.agreed(spent=spent)

    def _on_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Every optimizer step of user code is progress; the node tells a slow site from a stuck one by it."""
        self._steering.after(optimizer)
        self._step += 1
        now = time.monotonic()
        if self._step == 1:
            self._first_at = now
        if now - self._first_at > self._budget_s or 0 < self._steps_max <= self._step:
            raise _Enough
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._tell_step()

    def _tell_step(self) -> None:
        send(self._link, {"did": "step", "round": self._round, "step": self._step})

    def _sentence(self, error: Exception) -> str:
        said = self._said(error)
        return f"there is not enough memory for it: {said}" if _is_exhausted(error) else said

    def _said(self, error: Exception) -> str:
        if isinstance(error, SwarmError):
            return error.message + (f" ({error.hint})" if error.hint and not isinstance(error, StoreError) else "")
        for path in (self._path, self._loader):
            if path is not None:
                text = where_in(error, path)
                if path.name in text:
                    return text
        return f"{type(error).__name__}: {error}"


def _is_exhausted(error: Exception) -> bool:
    """Whether memory was missing, of this machine or of its GPU, whoever asked for it and in whatever words."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = isinstance(error, MemoryError | torch.OutOfMemoryError | Exhausted)
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _not_together(*_: object, **__: object) -> Private:
    """What `run.private` is where a site trains in several processes."""
    raise UsageError(
        "couldn't train privately in several processes: each would draw batches and noise of its own, and the account"
        " is of one",
        hint="set task.processes = 1",
    )


def _bounds(parts: Parts) -> list[int]:
    """Return the bounds of the vector's stretches that are trained: start, end, start, end, ..."""
    return [bound for stretch in parts.trained() for bound in stretch]


def _coalition(model: Path, request: Mapping[str, str | int], elements: int) -> Vector:
    """Return the model that an `appraise` asks about."""
    terms, coded, salt = str(request["terms"]), bool(request["coded"]), int(request["salt"])
    return coalition_from(model, terms, elements=elements, coded=coded, salt=salt)


def _told(read: Evaluation) -> dict[str, object]:
    """Return what a score is told by. The groups stay at the site: by them the node judges what may leave."""
    told = {"samples": read.samples, "metrics": dict(read.metrics), "remarks": [*read.remarks]}
    return {**told, "groups": [*read.groups]}


def _under(part: str, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {f"{part}/{name}": array for name, array in arrays.items()}


def warm_up() -> None:
    """Import what PyTorch puts off until a first optimizer is made."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


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
    options.add_argument("--private", type=Path)
    options.add_argument("--local", default="")
    options.add_argument("--tracks", action="store_true")
    options.add_argument("--rounds", type=int, default=0)
    options.add_argument("--rank", type=int, default=0)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--others", default="", help="the first process's links to the others: descriptors")
    options.add_argument("--epsilon", type=float, default=0.0)
    options.add_argument("--delta", type=float, default=0.0)
    options.add_argument("--spending", type=Path)
    options.add_argument("--ledger", default="")
    chosen = options.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    # What lies beside the file is found from wherever the node was started, as by `python task.py`.
    sys.path[:0] = [str(path.resolve().parent) for path in (chosen.task, chosen.loader) if path is not None]
    link = socket.socket(fileno=chosen.fd)
    others = [socket.socket(fileno=int(number)) for number in chosen.others.split(",") if number]
    ranks = Ranks(link, chosen.rank, chosen.processes, others)
    try:
        device = device_of(chosen.device, chosen.rank, chosen.processes)
        check_device(device)
        site = SiteInfo(chosen.site, chosen.data, chosen.seed, device)
        budget = Budget(chosen.round_steps, chosen.round_seconds)
        allowance = Allowance(
            PrivacyBudget(chosen.epsilon, chosen.delta) if chosen.epsilon else None,
            Spending(chosen.spending) if chosen.spending is not None else None,
            chosen.ledger,
        )
        worker = Worker(
            link,
            task=chosen.task,
            loader=chosen.loader,
            site=site,
            budget=budget,
            private=chosen.private,
            local=chosen.local,
            tracks=chosen.tracks,
            rounds=chosen.rounds,
            ranks=ranks,
            allowance=allowance,
        )
        ranks.meet(device)
    except (SwarmError, distributed.DistError) as error:
        said = str(error) if not isinstance(error, SwarmError) else error.message
        hint = getattr(error, "hint", "")
        if isinstance(error, SwarmError) and error.identifier == DEVICE:
            send(link, {"did": "load", "error": said, "hint": hint, "id": DEVICE})
            return 1
        send(link, {"did": "load", "error": said + (f" ({hint})" if hint else "")})
        return 1
    if ranks.first:
        send(link, {"did": "load"})
    try:
        worker.serve()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # The node is gone.
    return 0


if __name__ == "__main__":
    sys.exit(main())
