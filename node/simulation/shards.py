"""Where the models live and the work is done. `Shards` is the interface; `LocalShards` are processes of one machine.

`actors.RayShards` are actors on as many machines as a Ray cluster has.

Models that live on are rows of one float32 matrix in memory that the processes share, so nothing is copied between
them: a process is told *what* to do, takes the next unit of it from a common counter until none is left, and answers in
a few numbers. A unit (some peers to train, a block of columns to mix, a model and a thousand examples to test it on) is
the same whatever the number of processes, and touches nothing another unit touches; so a history depends on the seed
alone. Where all peers go on from one mean, no matrix is needed: what a peer has learned is added up at once.

Processes are forked: they see the data and the model without a copy, and a model may be any object, even one defined in
a notebook. Each computes with one thread. With one process, or elsewhere than on Linux, the work is done here.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.simulation.flat import TEST_ROWS, FlatModel
from node.simulation.learning import Dataset, Objective
from node.simulation.mixing import Mixer, SparseRows, blocks, merge
from node.simulation.steps import LocalSteps, Trainee
from node.task import round_seed
from swarm.errors import UsageError
from swarm.mixing.compress.choco import Public, propose
from swarm.mixing.compress.forms import Spec, decode, encode

MEMORYLESS = ("f32", "bf16")
"""Codecs good enough for models themselves, so that nobody keeps a copy."""

COMMON = -1
"""In place of a row: the common model."""

SUMS = 32
"""Sums of models that a mean is made of. Fixed, so that no sum depends on the number of processes."""

NO_MORE = 1 << 62
"""A unit that no order has."""

MEMORY_SPARE = 512 << 20
"""Bytes left to everything that is not a model: PyTorch itself, buffers, the data."""

Score: TypeAlias = tuple[int, float]
"""Right answers and the sum of losses over the test examples."""


class Shards(Protocol):
    """Rows of models, spread over places that work at the same time, and one common model, the same everywhere."""

    def train(self, round_: int, peers: Sequence[int], *, restart: bool, steps: Sequence[float] | None = None) -> None:
        """Let row k do one round of local training as `peers[k]`, from the common model if `restart`.

        What that does to its model is multiplied by `steps[k]`.
        """

    def average(self, round_: int, peers: Sequence[int], weights: NDArray[np.float64]) -> None:
        """Let these peers do one round from the common model; the weighted mean of what they get is the next one."""

    def begin_from(self, common: NDArray[np.float32]) -> None:
        """Make this the common model: shape (elements,)."""

    def mix(self, rows: SparseRows) -> None:
        """Replace the matrix by `rows` times it."""

    def publish(self) -> list[int]:
        """Let every row say how its public copy moves, under the codec; return the bytes of each message, by row.

        The next `mix` goes by these copies: x + (W - I) x_hat.
        """

    def merge(self) -> float:
        """Make the mean of all rows the common model; return their root mean squared distance from it."""

    def evaluate(self, rows: Sequence[int]) -> list[Score]:
        """Return the scores of these rows on the test examples; `COMMON` is the common model."""

    def model(self, row: int) -> NDArray[np.float32]:
        """Return a copy of a row, or of the common model: shape (elements,)."""

    def close(self) -> None:
        """Let go of the places and their memory."""


Order: TypeAlias = (
    tuple[Literal["train"], int, tuple[int, ...], bool, Sequence[float] | None]
    | tuple[Literal["average"], int, tuple[int, ...], NDArray[np.float64]]
    | tuple[Literal["publish"]]
    | tuple[Literal["mix"], SparseRows | None, bool]
    | tuple[Literal["merge"]]
    | tuple[Literal["evaluate"], tuple[int, ...]]
)
Answer: TypeAlias = float | Score | None


class LocalShards:
    """`Shards` on this machine: `workers` forked processes that share a matrix of `rows` models, or none with 0 rows.

    Args:
        model: What is trained.
        steps: How.
        objective: How answers are counted in tests.
        shares: Each peer's examples, positions in the training data.
        names: The peers', which their shuffles follow from.
        seed: The swarm's seed; `node.task.round_seed` says what becomes of it.
        test: Examples to test on.
        rows: Models that live on by themselves; 0 where only `average` is asked for.
        velocities: Whether momentum outlives a round.
        correction: The quasi-global momentum, 0 for none (`swarm.mixing.momentum`).
        gain: By how much steps are corrected, 0 for not at all (`swarm.mixing.diffusion`).
        codec: How exchanges travel, None for float32.
        workers: Processes; 1 works in this one.

    Raises:
        UsageError: so many models do not fit into memory.
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
        codec: Spec | None = None,
        workers: int | None = None,
    ) -> None:
        displacements = correction > 0 or gain > 0
        check_memory(rows, model.elements, velocities=velocities, displacements=displacements, copies=codec is not None)
        self._bench = Bench(
            model,
            steps,
            objective,
            shares,
            names,
            seed,
            test,
            rows,
            velocities=velocities,
            correction=correction,
            gain=gain,
            codec=codec,
        )
        self._sent: SparseRows | None = None
        self._published = False
        chosen = available_cores() if workers is None else workers
        forks = chosen > 1 and sys.platform == "linux"  # elsewhere a fork breaks the system's own libraries
        self._crew = _Crew(self._bench, chosen) if forks else None

    def train(self, round_: int, peers: Sequence[int], *, restart: bool, steps: Sequence[float] | None = None) -> None:
        """See `Shards.train`. Peers come in descending order of their number of examples."""
        self._do(("train", round_, tuple(peers), restart, steps))

    def publish(self) -> list[int]:
        """See `Shards.publish`."""
        self._published = True
        return [int(answer) for answer in self._do(("publish",)) if isinstance(answer, float)]

    def mix(self, rows: SparseRows) -> None:
        """See `Shards.mix`."""
        # A fixed graph is told to the processes once.
        self._do(("mix", None if rows is self._sent else rows, self._published))
        self._sent, self._published = rows, False

    def average(self, round_: int, peers: Sequence[int], weights: NDArray[np.float64]) -> None:
        """See `Shards.average`. Peers come in descending order of their number of examples."""
        used = len(self._do(("average", round_, tuple(peers), weights / weights.sum())))
        self._bench.finish_average(used)

    def begin_from(self, common: NDArray[np.float32]) -> None:
        """See `Shards.begin_from`."""
        self._bench.common.copy_(torch.from_numpy(common))

    def merge(self) -> float:
        """See `Shards.merge`."""
        squares = [answer for answer in self._do(("merge",)) if isinstance(answer, float)]
        return float(np.sqrt(sum(squares) / self._bench.rows))

    def evaluate(self, rows: Sequence[int]) -> list[Score]:
        """See `Shards.evaluate`."""
        answers = self._do(("evaluate", tuple(rows)))
        parts = len(answers) // len(rows) if rows else 0
        scores = []
        for first in range(0, len(answers), max(1, parts)):
            own = [answer for answer in answers[first : first + parts] if isinstance(answer, tuple)]
            scores.append((sum(hits for hits, _ in own), sum(loss for _, loss in own)))
        return scores

    def rows(self) -> NDArray[np.float32]:
        """Return the matrix itself, shape (rows, elements), as all processes see it."""
        return np.asarray(self._bench.models.numpy())

    def model(self, row: int) -> NDArray[np.float32]:
        """See `Shards.model`."""
        return np.array(self._bench.vector(row).numpy())

    def close(self) -> None:
        """End the processes. The matrix goes when the last of them has gone."""
        if self._crew is not None:
            self._crew.close()

    def _do(self, order: Order) -> list[Answer]:
        units = self._bench.begin(order)
        if self._crew is not None:
            return self._crew.do(order, units)
        with one_thread():
            try:
                return [self._bench.do(unit) for unit in range(units)]
            except Exception as error:  # the model is user code and may raise anything
                raise failed(f"{type(error).__name__}: {error}") from error


class Bench:
    """Memory and work of the shards, as each process sees them. `begin` takes an order, `do` does one unit of it.

    Orders speak of all `rows`; `held` says which of them are in this memory, all unless it is given. To train, to test
    and to add up are done with rows that are held; to mix and to merge take all of them.
    """

    def __init__(
        self,
        model: FlatModel,
        steps: LocalSteps,
        objective: Objective,
        shares: Sequence[NDArray[np.int64]],
        names: Sequence[str],
        seed: int,
        test: Dataset,
        rows: int,
        *,
        velocities: bool,
        held: slice | None = None,
        correction: float = 0.0,
        gain: float = 0.0,
        codec: Spec | None = None,
    ) -> None:
        self._model, self._steps, self._objective, self._test, self._seed = model, steps, objective, test, seed
        self._names = tuple(names)
        self._shares = [torch.from_numpy(np.ascontiguousarray(share, dtype=np.int64)) for share in shares]
        self.rows = rows
        held = slice(0, rows) if held is None else held
        self._first: int = held.start
        self.models = _shared(held.stop - held.start, model.elements)
        self._velocities = _shared(len(self.models), model.elements) if velocities else None
        self._moved = _shared(len(self.models), model.elements) if correction or gain else None
        self._correction, self._gain = correction, gain
        self._codec = codec
        self._copies = None if codec is None else _shared(len(self.models), model.elements)
        self._parameters = model.parameters(model.module)
        self.sums = _shared(0 if rows else min(SUMS, len(shares)), model.elements, torch.float64)
        self.common = _shared(1, model.elements)[0]
        self.common.copy_(model.initial)
        self._blocks = blocks(max(1, rows), model.elements)
        self._tests = self.tests(test)
        self._mixer: Mixer | None = None
        self._order: Order = ("evaluate", ())
        self._chunks: list[slice] = []
        self._scratch = torch.empty(0, model.elements)

    @staticmethod
    def tests(test: Dataset) -> range:
        """Return where the parts begin that examples are tested in."""
        return range(0, len(test), TEST_ROWS)

    def begin(self, order: Order) -> int:
        """Take an order; return how many units it has."""
        self._order = order
        match order:
            case ("train", _, peers, _, _):
                self._chunks = chunks(len(peers), self._steps.stacked)
                return len(self._chunks)
            case ("average", _, peers, _):
                self._chunks = chunks(len(peers), self._steps.stacked)
                return min(len(self.sums), len(self._chunks))
            case ("publish",):
                return len(self.models)
            case ("mix", rows, _):
                if rows is not None:
                    self._mixer = Mixer(rows)
                return len(self._blocks)
            case ("merge",):
                return len(self._blocks)
            case ("evaluate", wanted):
                return len(wanted) * len(self._tests)

    def do(self, unit: int) -> Answer:
        """Do one unit of the order at hand."""
        match self._order:
            case ("train", round_, peers, restart, steps):
                rows = self._chunks[unit]
                own = slice(rows.start - self._first, rows.stop - self._first)
                velocities = None if self._velocities is None else self._velocities[own]
                scales = None if steps is None else torch.tensor(steps[rows])
                if restart and self._copies is not None:
                    self._copies[own] = self.common
                begun = self.common if restart else None
                if self._gain:
                    self._train_tracking(own, velocities, round_, peers[rows], begun)
                    return None
                with self._corrected(own, scales, restart=restart):
                    self._train(self.models[own], velocities, round_, peers[rows], begun)
                return None
            case ("average", round_, peers, weights):
                self._average(unit, round_, peers, weights)
                return None
            case ("publish",):
                return float(self._publish(unit))
            case ("mix", _, published):
                assert self._mixer is not None, "the first order to mix says with what"
                self._mixer.mix(self.models, self._blocks[unit], self._copies if published else None)
                return None
            case ("merge",):
                return merge(self.models, self._blocks[unit], self.common)
            case ("evaluate", wanted):
                row, start = divmod(unit, len(self._tests))
                vector = self.vector(wanted[row])
                return self._model.evaluate(vector, self._test, self._objective, self._tests[start])

    def vector(self, row: int) -> Tensor:
        """Return a row that is held, or the common model, as it lies in the shared memory."""
        return self.common if row == COMMON else self.models[row - self._first]

    def finish_average(self, used: int) -> None:
        """Make the sums of the first so many units, in `sums`, the common model."""
        self.common.copy_(added_up(self.sums[:used]))

    def _publish(self, row: int) -> int:
        """Move a row's public copy towards its model, as its node does; return the bytes of the message.

        Under bf16 a copy has no memory: it is the model, rounded.
        """
        assert self._codec is not None, "who publishes has a codec"
        assert self._copies is not None, "and copies"
        model, copy = self.models[row].numpy(), self._copies[row].numpy()
        if self._codec.name in MEMORYLESS:
            message = encode(model, self._codec)
            decode(message, copy.size, spec=self._codec, out=copy)
            return len(message)
        after, message = propose(Public(0, copy), model, self._codec)
        copy[:] = after.copy
        return len(message)

    @contextlib.contextmanager
    def _corrected(self, rows: slice, steps: Tensor | None, *, restart: bool) -> Iterator[None]:
        """When these models are trained, multiply what that did by `steps`, and carry them on by their momentum s.

        Between rounds a row of `_moved` holds beta s - (1 - beta) x, x being the model that the round began with: with
        (1 - beta) times the mixed model added it is the next s, and no second matrix is needed for x.
        """
        if self._moved is None and steps is None:
            yield
            return
        models, beta = self.models[rows], self._correction
        base = self.common.expand_as(models) if restart else models.clone()
        yield
        if steps is not None:
            models.sub_(base).mul_(steps.unsqueeze(1)).add_(base)
        if self._moved is None:
            return
        moved = self._moved[rows]
        if not restart:
            moved.add_(base, alpha=1 - beta)
        for first, end in self._parameters:
            models[:, first:end].add_(moved[:, first:end], alpha=beta)
        moved.mul_(beta).sub_(base, alpha=1 - beta)

    def _train_tracking(
        self, rows: slice, velocities: Tensor | None, round_: int, peers: Sequence[int], start: Tensor | None
    ) -> None:
        """Train with each peer's correction c in its steps.

        Between rounds a row of `_moved` holds c - s y, y being the model that a peer's training ended with: with s
        times the mixed model added it is the next c, and no second matrix is needed for y.
        """
        assert self._moved is not None, "who tracks has room for it"
        models, moved = self.models[rows], self._moved[rows]
        if start is None:
            moved.add_(models, alpha=self._gain)
        steps = torch.tensor([float(self._steps.count(len(self._shares[peer]))) for peer in peers])
        push = torch.zeros_like(moved)
        for first, end in self._parameters:
            push[:, first:end] = moved[:, first:end] / steps.unsqueeze(1)
        self._train(models, velocities, round_, peers, start, push)
        moved.sub_(models, alpha=self._gain)

    def _average(self, unit: int, round_: int, peers: Sequence[int], weights: NDArray[np.float64]) -> None:
        """Train every so many-th chunk from the common model; leave the weighted sum of the results in one row."""
        if len(self._scratch) < self._chunks[0].stop:
            self._scratch = torch.empty(self._chunks[0].stop, self._model.elements)
        total = self.sums[unit].zero_()
        for rows in self._chunks[unit :: min(len(self.sums), len(self._chunks))]:
            models = self._scratch[: rows.stop - rows.start]
            self._train(models, None, round_, peers[rows], self.common)
            for model, weight in zip(models, weights[rows].tolist(), strict=True):
                total.add_(model, alpha=weight)  # in float64, for the sum is; a model is still in the cache

    def _train(
        self,
        models: Tensor,
        velocities: Tensor | None,
        round_: int,
        peers: Sequence[int],
        start: Tensor | None,
        push: Tensor | None = None,
    ) -> None:
        trainees = [Trainee(self._shares[peer], round_seed(self._seed, self._names[peer], round_)) for peer in peers]
        self._steps.train(models, velocities, trainees, start, push)


class _Crew:
    """Forked processes that work through the units of an order together."""

    def __init__(self, bench: Bench, size: int) -> None:
        context = multiprocessing.get_context("fork")
        self._next = context.Value("q", 0)
        self._owner = os.getpid()
        pipes = [context.Pipe() for _ in range(size)]
        self._links = [ours for ours, _ in pipes]
        self._processes = []
        for number, (_, theirs) in enumerate(pipes):
            # A process must not hold the others' ends open, or it would not notice that we are gone.
            foreign = [end for i, pair in enumerate(pipes) for end in (pair if i != number else pair[:1])]
            process = context.Process(target=self._work, args=(bench, theirs, foreign), daemon=True)
            with warnings.catch_warnings():
                # From Python 3.12 on. PyTorch has threads by now; a forked process uses none but its own (as data
                # loaders of PyTorch do).
                warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
                process.start()
            self._processes.append(process)
        for _, theirs in pipes:
            theirs.close()

    def do(self, order: Order, units: int) -> list[Answer]:
        """Have an order done; return the answers in order of units.

        Raises:
            UsageError: user code failed, or a process died.
        """
        self._next.value = 0
        for link in self._links:
            link.send((order, units))
        answers: list[Answer] = [None] * units
        waiting = dict(zip(self._links, self._processes, strict=True))
        failure = ""
        while waiting:
            ready = wait(list(waiting))
            for link in [link for link in waiting if link in ready]:
                process = waiting.pop(link)
                try:
                    done, wrong = link.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    done, wrong = [], f"one of its processes ended ({_ending(process.exitcode)})"
                failure = failure or wrong
                for unit, answer in done:
                    answers[unit] = answer
        if failure:
            self.close()
            raise failed(failure)
        return answers

    def close(self) -> None:
        """Hang up, and wait: a process ends when nobody listens any more."""
        self._stop()
        for link in self._links:
            link.close()
        for process in self._processes:
            process.join()

    def _work(self, bench: Bench, link: Connection, foreign: Sequence[Connection]) -> None:
        """Run in a forked process until the other side hangs up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that people talk to
        torch.set_num_threads(1)
        for end in foreign:
            end.close()
        with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
            while True:
                order, units = link.recv()
                link.send(self._take(bench, order, units))

    def _take(self, bench: Bench, order: Order, units: int) -> tuple[list[tuple[int, Answer]], str]:
        done: list[tuple[int, Answer]] = []
        try:
            bench.begin(order)
            while (unit := self._claim()) < units:
                done.append((unit, bench.do(unit)))
        except Exception as error:  # noqa: BLE001 - the model is user code and may raise anything; it becomes a sentence
            self._stop()
            return done, f"{type(error).__name__}: {error}"
        return done, ""

    def _stop(self) -> None:
        """Let nobody begin another unit."""
        with self._next.get_lock():
            self._next.value = NO_MORE

    def _claim(self) -> int:
        if os.getppid() != self._owner:
            return NO_MORE  # whoever wanted this is gone, and did not even say so
        with self._next.get_lock():
            unit = int(self._next.value)
            self._next.value = unit + 1
            return unit


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_memory(
    rows: int,
    elements: int,
    *,
    velocities: bool,
    displacements: bool = False,
    copies: bool = False,
    free: int | None = None,
    where: str = "of memory",
) -> None:
    """Raise `UsageError` when so many models do not fit into the memory that is free, and say how many would.

    `free` is in bytes; None looks at this machine.
    """
    one = 4 * elements * (1 + velocities + displacements + copies)
    free = free_bytes() if free is None else free
    if rows * one + MEMORY_SPARE > free:
        most = max(0, (free - MEMORY_SPARE) // one)
        raise UsageError(
            f"couldn't hold {rows:,} models of {elements:,} parameters: they take {rows * one / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB {where} are free",
            hint=f"Take at most {most:,} peers of this model, or a smaller model.",
        )


def free_bytes() -> int:
    """Return the memory that can be had: the machine's, or the control group's where that is less."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    with contextlib.suppress(OSError, ValueError):
        found = found or [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(found, default=1 << 62)


def _shared(rows: int, elements: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return zeros, shape (rows, elements), that forked processes share. Pages cost nothing until they are written."""
    if rows == 0:
        return torch.empty(0, elements, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, dtype.itemsize * rows * elements), dtype=dtype).view(rows, elements)


def chunks(rows: int, stacked: int) -> list[slice]:
    """Return which rows are trained together: few enough that there is work for several cores, 4 to 32 of them."""
    width = max(1, min(stacked, -(-rows // max(4, min(32, rows // 8)))))
    return [slice(start, min(start + width, rows)) for start in range(0, rows, width)]


def added_up(sums: Tensor) -> Tensor:
    """Return the common model, float32, from the sums of the units of an `average`, float64, in order of units."""
    return sums.sum(0).float()


def failed(reason: str) -> UsageError:
    """Return the error of a run that cannot go on."""
    return UsageError(f"couldn't go on with the simulation: {reason}", hint="If memory ran out, take fewer peers.")


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the forked processes do: sums may depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
