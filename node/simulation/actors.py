"""SHELL. `Shards` on a Ray cluster: one actor a shard, on as many machines as it has. The only file that imports Ray.

An actor holds a stretch of the matrix, whole stacks of peers, and works on it as a forked process would (`Bench`).
Nobody holds all of it, the driver least of all. What travels between actors:

- a sparse exchange: the columns of those rows that somebody in another shard takes, and nothing else;
- a dense one (a complete graph, the last round): each actor gets some columns of every row, multiplies, and hands every
  other its part back, which is twice the matrix whatever the number of actors, where handing out rows were that many
  times the matrix;
- the mean of all models: the same columns, one way;
- orders, scores and the common model.

Every number is computed from the same operands in the same order as in one process, so for the same seed a history is
the same, bit for bit, whatever the number of actors.

Ray trusts whoever reaches its ports, with code. It is for simulating, on machines of one's own, and no part of a node.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import socket
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.simulation.flat import FlatModel
from node.simulation.learning import Dataset, Objective
from node.simulation.mixing import Bags, Mixer, SparseRows, blocks, merge, stripe_columns
from node.simulation.shards import (
    COMMON,
    SUMS,
    Answer,
    Bench,
    Order,
    Score,
    added_up,
    available_cores,
    check_memory,
    chunks,
    failed,
    free_bytes,
)
from node.simulation.steps import LocalSteps
from node.task import MODULE_PREFIX
from swarm.errors import UsageError

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, started for the purpose and ended with the process."""

START_S = 120.0
"""Seconds for actors to come up: a busy machine takes half a minute to start Ray and to import PyTorch twice."""

KNOCK_S = 10.0
"""Seconds for a cluster's head to accept a connection."""

STRIP_BYTES = 128 << 20
"""Columns of all rows that travel before they are mixed: what an exchange needs beside the matrix, over all actors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor is: the machine's id and name, its free memory, and the release of PyTorch there."""

    node: str
    host: str
    free: int
    torch: str


class Actor:
    """One shard, in a process that Ray starts. Its methods run one at a time, in the order the driver called them."""

    def place(self) -> Place:
        """Say where this is."""
        torch.set_num_threads(1)
        node = str(_ray().get_runtime_context().get_node_id())
        return Place(node=node, host=os.uname().nodename, free=free_bytes(), torch=torch.__version__)

    def begin(self, bench: tuple[Any, ...], held: slice, *, velocities: bool, correction: float, gain: float) -> None:
        """Take the data, and room for these rows."""
        self._bench = Bench(*bench, velocities=velocities, correction=correction, gain=gain, held=held)
        self._held = held
        self._mixer: Mixer | None = None
        self._bags: Bags | None = None

    def do(self, order: Order, units: Sequence[int]) -> tuple[list[Answer], str]:
        """Do these units of an order; return their answers, and what went wrong in user code, if anything did."""
        answers: list[Answer] = []
        try:
            self._bench.begin(order)
            answers += [self._bench.do(unit) for unit in units]
        except Exception as error:  # noqa: BLE001 - the model is user code and may raise anything; it becomes a sentence
            return answers, f"{type(error).__name__}: {error}"
        return answers, ""

    def sums(self, units: Sequence[int]) -> NDArray[np.float64]:
        """Return what these units of an `average` have added up, one a row."""
        return np.array(self._bench.sums[list(units)].numpy())

    def agree(self, common: NDArray[np.float32]) -> None:
        """Take over the common model."""
        self._bench.common.copy_(_tensor(common))

    def row(self, row: int) -> NDArray[np.float32]:
        """Return a row."""
        return np.array(self._bench.vector(row).numpy())

    def plan(self, starts: NDArray[np.int64], sources: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Take the rows of a sparse exchange: sources are one's own rows, then those borrowed."""
        self._bags = Bags(starts, sources, weights)

    def lend(self, rows: NDArray[np.int64], columns: slice) -> NDArray[np.float32]:
        """Return these columns of some of one's rows, counted from the first."""
        return self._bench.models[torch.from_numpy(rows), columns].numpy()

    def mix(self, columns: slice, *borrowed: NDArray[np.float32]) -> None:
        """Do the planned exchange on these columns, with those that others lent."""
        assert self._bags is not None, "a plan comes first"
        others = [_tensor(piece) for piece in borrowed]
        wide = stripe_columns(len(self._bench.models) + sum(map(len, others)))
        for start in range(columns.start, columns.stop, wide):
            stop = min(start + wide, columns.stop)
            own = self._bench.models[:, start:stop]
            lent = [piece[:, start - columns.start : stop - columns.start] for piece in others]
            own.copy_(self._bags.times(torch.cat([own, *lent])))

    def tell(self, rows: SparseRows) -> None:
        """Take a dense exchange."""
        self._mixer = Mixer(rows)

    def turn(self, cut: Sequence[slice], spans: Sequence[slice], *pieces: NDArray[np.float32]) -> Any:
        """Multiply columns of all rows, block by block; return every actor's part."""
        assert self._mixer is not None, "an exchange is told first"
        columns = torch.cat([_tensor(piece) for piece in pieces])
        for block in cut:
            self._mixer.mix(columns, block)
        parts = [columns[span].numpy() for span in spans]
        return parts if len(parts) > 1 else parts[0]

    def take(self, columns: slice, part: NDArray[np.float32]) -> None:
        """Put back what has become of these columns of one's rows."""
        self._bench.models[:, columns] = _tensor(part)

    def merge(self, cut: Sequence[slice], *pieces: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
        """Return the mean of columns of all rows, and for every block the sum of squared distances from it."""
        columns = torch.cat([_tensor(piece) for piece in pieces])
        mean = torch.empty(columns.shape[1])
        squares = [merge(columns, block, mean) for block in cut]
        return mean.numpy(), squares


class RayShards:
    """`Shards` by actors of a Ray cluster.

    Args:
        model: What is trained.
        steps: How.
        objective: How answers are counted in tests.
        shares: Each peer's examples, positions in the training data; in descending order of their number.
        names: The peers', which their shuffles follow from.
        seed: The swarm's seed; `node.task.round_seed` says what becomes of it.
        test: Examples to test on.
        rows: Models that live on by themselves; 0 where only `average` is asked for.
        velocities: Whether momentum outlives a round.
        correction: The quasi-global momentum; 0 for none.
        gain: By how much steps are corrected; 0 for not at all.
        workers: Actors; None is one for each processor of the cluster.
        address: The cluster's, as `ray.init` takes it; `LOCAL` starts one on this machine.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached or is too small, or PyTorch differs there.
    """

    def __init__(
        self,
        model: FlatModel,
        steps: LocalSteps,
        objective: Objective,
        *,
        shares: Sequence[NDArray[np.int64]],
        names: Sequence[str],
        seed: int,
        test: Dataset,
        rows: int,
        velocities: bool = False,
        correction: float = 0.0,
        gain: float = 0.0,
        workers: int | None = None,
        address: str = LOCAL,
    ) -> None:
        self._ray = _joined(address, workers)
        self._elements, self._rows, self._stacked = model.elements, rows, steps.stacked
        self._common = np.array(model.initial.numpy())
        self._tests = len(Bench.tests(test))
        # Whole stacks of peers each: a stack is trained by the same products wherever it is.
        stacks = chunks(rows, steps.stacked) if rows else []
        processors = int(self._ray.cluster_resources().get("CPU", 0))
        wanted = processors if workers is None else workers
        if wanted > processors:
            raise UsageError(
                f"couldn't start {wanted} actors: the Ray cluster has {processors} processors",
                hint=f"take at most {processors} workers",
            )
        self._spans = _dealt(stacks, [len(share) for share in shares], min(wanted, len(stacks))) if rows else []
        spans = self._spans or [slice(0, 0)] * wanted
        self._actors = [self._ray.remote(num_cpus=1)(Actor).remote() for _ in spans]
        self._units = [[unit for unit, stack in enumerate(stacks) if _within(stack, span)] for span in spans]
        self._sent: SparseRows | None = None
        self._lent: list[dict[int, Any]] = []
        self._cut = blocks(max(1, rows), model.elements)
        try:
            self._settle(spans, velocities=velocities, displacements=correction > 0 or gain > 0)
            _ship_code(model.module)
            bench = self._ray.put((model, steps, objective, shares, names, seed, test, rows))
            self._all(
                actor.begin.remote(bench, span, velocities=velocities, correction=correction, gain=gain)
                for actor, span in zip(self._actors, spans, strict=True)
            )
        except BaseException:
            self.close()
            raise

    def train(self, round_: int, peers: Sequence[int], *, restart: bool, steps: Sequence[float] | None = None) -> None:
        """See `Shards.train`. Peers come in descending order of their number of examples."""
        self._do(("train", round_, tuple(peers), restart, steps), self._units)

    def average(self, round_: int, peers: Sequence[int], weights: NDArray[np.float64]) -> None:
        """See `Shards.average`. Peers come in descending order of their number of examples."""
        order: Order = ("average", round_, tuple(peers), weights / weights.sum())
        units = min(SUMS, len(chunks(len(peers), self._stacked)))
        mine = [list(range(first, units, len(self._actors))) for first in range(len(self._actors))]
        self._do(order, mine)
        parts = self._all(actor.sums.remote(own) for actor, own in zip(self._actors, mine, strict=True))
        sums = torch.empty(units, self._elements, dtype=torch.float64)
        for own, part in zip(mine, parts, strict=True):
            sums[own] = _tensor(part)
        self._agree(added_up(sums).numpy())

    def begin_from(self, common: NDArray[np.float32]) -> None:
        """See `Shards.begin_from`."""
        self._agree(common)

    def publish(self) -> list[int]:
        """See `Shards.publish`. `Experiment` refuses a codec here."""
        raise AssertionError("actors exchange float32 models only")

    def mix(self, rows: SparseRows) -> None:
        """See `Shards.mix`."""
        if rows.dense:
            self._mix_dense(rows)
        else:
            self._mix_sparse(rows)
        self._sent = rows

    def merge(self) -> float:
        """See `Shards.merge`."""
        squares: list[float] = []
        mean = np.empty_like(self._common)
        for strip in self._strips():
            shared = _divided(strip, len(self._actors))
            found = self._all(
                actor.merge.remote(_from_zero(cut), *self._lend_all(_over(cut)))
                for actor, cut in zip(self._actors, shared, strict=False)
            )
            for cut, (part, own) in zip(shared, found, strict=True):
                mean[_over(cut)] = part
                squares += own
        self._agree(mean)
        return float(np.sqrt(sum(squares) / self._rows))

    def evaluate(self, rows: Sequence[int]) -> list[Score]:
        """See `Shards.evaluate`."""
        mine: list[list[int]] = [[] for _ in self._actors]
        for unit in range(len(rows) * self._tests):
            row = rows[unit // self._tests]
            mine[unit % len(mine) if row == COMMON else self._owner(row)].append(unit)
        answers: dict[int, Answer] = {}
        for own, found in zip(mine, self._do(("evaluate", tuple(rows)), mine), strict=True):
            answers.update(zip(own, found, strict=True))
        scores = []
        for first in range(0, len(rows) * self._tests, self._tests):
            parts = [answers[unit] for unit in range(first, first + self._tests)]
            told = [part for part in parts if isinstance(part, tuple)]
            scores.append((sum(hits for hits, _ in told), sum(loss for _, loss in told)))
        return scores

    def model(self, row: int) -> NDArray[np.float32]:
        """See `Shards.model`."""
        if row == COMMON:
            return self._common.copy()
        found: NDArray[np.float32] = self._all([self._actors[self._owner(row)].row.remote(row)])[0]
        return np.array(found)

    def close(self) -> None:
        """End the actors. A cluster of one's own stays for the next run, and ends with this process."""
        for actor in self._actors:
            with contextlib.suppress(Exception):  # it may be gone, and the cluster with it
                self._ray.kill(actor)

    # --- exchanges ------------------------------------------------------------------------------------------------

    def _mix_sparse(self, rows: SparseRows) -> None:
        if rows is not self._sent:
            self._plan(rows)
        for strip in self._strips():
            columns = _over(strip)
            # All is lent before anything is mixed: an actor does what it is told in the order it is told.
            pieces = [
                [self._actors[source].lend.remote(which, columns) for source, which in lent.items()]
                for lent in self._lent
            ]
            self._all(
                actor.mix.remote(columns, *borrowed) for actor, borrowed in zip(self._actors, pieces, strict=True)
            )

    def _plan(self, rows: SparseRows) -> None:
        """Tell every actor its rows; find what others must lend it."""
        self._lent, told = [], []
        for actor, span in zip(self._actors, self._spans, strict=True):
            entries = slice(rows.starts[span.start], rows.starts[span.stop])
            sources = rows.sources[entries]
            outside = (sources < span.start) | (sources >= span.stop)
            needed = np.unique(sources[outside])
            own = span.stop - span.start
            place = np.where(outside, own + np.searchsorted(needed, sources), sources - span.start)
            starts = rows.starts[span.start : span.stop + 1] - rows.starts[span.start]
            told.append(actor.plan.remote(starts, place.astype(np.int64), rows.weights[entries]))
            lent: dict[int, NDArray[np.int64]] = {}
            for source, other in enumerate(self._spans):
                which = needed[(needed >= other.start) & (needed < other.stop)] - other.start
                if len(which):
                    lent[source] = which
            self._lent.append(lent)
        self._all(told)

    def _mix_dense(self, rows: SparseRows) -> None:
        if rows is not self._sent:
            told = self._ray.put(rows)
            self._all(actor.tell.remote(told) for actor in self._actors)
        for strip in self._strips():
            shared = _divided(strip, len(self._actors))
            turned = []
            for actor, cut in zip(self._actors, shared, strict=False):
                method = actor.turn.options(num_returns=len(self._actors))
                parts = method.remote(_from_zero(cut), self._spans, *self._lend_all(_over(cut)))
                turned.append(parts if len(self._actors) > 1 else [parts])
            self._all(
                actor.take.remote(_over(cut), parts[number])
                for cut, parts in zip(shared, turned, strict=True)
                for number, actor in enumerate(self._actors)
            )

    def _lend_all(self, columns: slice) -> list[Any]:
        """Columns of all rows, a piece from each actor in order."""
        return [
            actor.lend.remote(np.arange(span.stop - span.start), columns)
            for actor, span in zip(self._actors, self._spans, strict=True)
        ]

    def _strips(self) -> Iterator[list[slice]]:
        """The blocks of columns, as many at a time as may travel at once."""
        wide = max(1, STRIP_BYTES // (4 * self._rows * (self._cut[0].stop - self._cut[0].start)))
        for first in range(0, len(self._cut), wide):
            yield self._cut[first : first + wide]

    # --- actors ---------------------------------------------------------------------------------------------------

    def _settle(self, spans: Sequence[slice], *, velocities: bool, displacements: bool) -> None:
        """Wait for the actors; refuse machines that cannot hold their rows, or would compute something else."""
        places = self._all((actor.place.remote() for actor in self._actors), timeout_s=START_S)
        rows: dict[str, int] = defaultdict(int)
        for place, span in zip(places, spans, strict=True):
            rows[place.node] += span.stop - span.start
            if place.torch != torch.__version__:
                raise UsageError(
                    f"couldn't simulate on {place.host}: it has PyTorch {place.torch}, and this machine has "
                    f"{torch.__version__}",
                    hint="install the same release on both",
                )
        for place in places:
            here = f"of memory on {place.host}"
            check_memory(
                rows[place.node],
                self._elements,
                velocities=velocities,
                displacements=displacements,
                free=place.free,
                where=here,
            )

    def _owner(self, row: int) -> int:
        return next(number for number, span in enumerate(self._spans) if span.start <= row < span.stop)

    def _agree(self, common: NDArray[np.float32]) -> None:
        self._common = common
        told = self._ray.put(common)
        self._all(actor.agree.remote(told) for actor in self._actors)

    def _do(self, order: Order, units: Sequence[Sequence[int]]) -> list[list[Answer]]:
        """Have every actor do its units; return their answers."""
        told = self._ray.put(order)
        found = self._all(actor.do.remote(told, own) for actor, own in zip(self._actors, units, strict=True))
        for _, wrong in found:
            if wrong:
                raise failed(wrong)
        return [answers for answers, _ in found]

    def _all(self, calls: Iterable[Any], timeout_s: float | None = None) -> list[Any]:
        """Wait for all of these; say in words what became of an actor."""
        errors = self._ray.exceptions
        try:
            found: list[Any] = self._ray.get(list(calls), timeout=timeout_s)
        except errors.GetTimeoutError:
            raise UsageError(
                f"couldn't start the actors: the Ray cluster did not give them processors within {timeout_s:g} s",
                hint="`ray status` says who uses them; or take fewer workers",
            ) from None
        except errors.RayError as error:
            reason = str(error.cause if isinstance(error, errors.RayTaskError) else error).strip()
            if "failed to import" in reason:
                raise UsageError(
                    "couldn't start the actors: a machine of the Ray cluster has not got this package",
                    hint="install the same version of swarm-node on all of them",
                ) from error
            raise failed(f"one of its actors failed ({reason.splitlines()[0]})") from error
        return found


# --- who does what ----------------------------------------------------------------------------------------------------


def _dealt(stacks: Sequence[slice], examples: Sequence[int], parts: int) -> list[slice]:
    """Cut the rows, between stacks, into stretches of about as many examples; none is empty."""
    after = np.cumsum([sum(examples[stack]) for stack in stacks])
    bounds = [0]
    for part in range(1, parts):
        ideal = int(np.searchsorted(after, after[-1] * part / parts, side="left")) + 1
        bounds.append(min(max(ideal, bounds[-1] + 1), len(stacks) - (parts - part)))
    bounds.append(len(stacks))
    return [slice(stacks[first].start, stacks[last - 1].stop) for first, last in itertools.pairwise(bounds)]


def _within(stack: slice, span: slice) -> bool:
    return bool(span.start <= stack.start and stack.stop <= span.stop)


def _divided(cut: Sequence[slice], parts: int) -> list[Sequence[slice]]:
    """Neighbouring blocks to each of so many, or to as many as there are blocks."""
    parts = min(parts, len(cut))
    bounds = [len(cut) * part // parts for part in range(parts + 1)]
    return [cut[first:last] for first, last in itertools.pairwise(bounds)]


def _over(cut: Sequence[slice]) -> slice:
    """The columns that neighbouring blocks cover."""
    return slice(cut[0].start, cut[-1].stop)


def _from_zero(cut: Sequence[slice]) -> list[slice]:
    """The blocks, as they lie in a matrix of just their columns."""
    return [slice(block.start - cut[0].start, block.stop - cut[0].start) for block in cut]


def _tensor(array: NDArray[Any]) -> Tensor:
    """An array that Ray handed over, only to be read: it lies in memory that others read too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*not writable")
        return torch.from_numpy(array)


# --- Ray itself -------------------------------------------------------------------------------------------------------


def available() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def check_available() -> None:
    """Raise `UsageError` unless Ray is installed."""
    if not available():
        raise UsageError(
            "couldn't simulate on a Ray cluster: Ray is not installed", hint="pip install 'swarm-node[ray]'"
        )


def _ray() -> Any:
    import ray

    return ray


def _joined(address: str, workers: int | None) -> Any:
    """Return Ray, connected to the cluster at this address: once a process."""
    check_available()
    # Read when Ray is imported. Nothing phones home, and a simulation opens no page.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = _ray()
    if ray.is_initialized():
        return ray
    own: dict[str, Any] = {}
    _knock(address)
    if address == LOCAL:
        own["num_cpus"] = max(available_cores(), workers or 1)
        own["include_dashboard"] = False
        # What can be imported here can be imported there.
        own["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(address, (str(error).strip().splitlines() or [type(error).__name__])[0]) from None
    return ray


def _knock(address: str) -> None:
    """Raise `UsageError` when nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None


def _unreachable(address: str, reason: str) -> UsageError:
    return UsageError(
        f"couldn't reach the Ray cluster {address}: {reason}",
        hint="start one with `ray start --head` and name what it prints, HOST:PORT, or write local",
    )


def _ship_code(module: torch.nn.Module) -> None:
    """Let Ray send the code of a task file along: other processes have not loaded it, and other hosts lack it."""
    for name in sorted({type(part).__module__ for part in module.modules()}):
        own = sys.modules.get(name)
        if name.startswith(MODULE_PREFIX) and isinstance(own, ModuleType):
            _ray().cloudpickle.register_pickle_by_value(own)
