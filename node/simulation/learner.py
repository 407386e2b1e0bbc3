"""The sites' training in the simulated world: a real task file on real shares, in this process.

It does what a trainer process does (`node.worker`), step for step: the same file loaded the same way, the same seeds
before the same calls, the same clipping. So what it hands to the simulated node is, bit for bit, what the networked
node would get; only the seconds are the scenario's. One module serves all members, since a model travels as a vector;
what does not travel (counters of batch normalisation) is kept for each member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from node.data import SiteData
from node.declared import Declared
from node.simulation.datasets import Examples
from node.simulation.flat import TEST_ROWS, FlatModel, travelling
from node.simulation.learning import CROSS_ENTROPY, Dataset
from node.steering import Bend, Steering
from node.task import RunInfo, SiteInfo, checked_result, load_task, round_seed, where_in
from swarm.errors import UsageError
from swarm.vector import Vector, flatten
from topologies.scenario import Learning, Site
from topologies.world.attacks import Attack, changed
from topologies.world.learner import SLOW_FACTOR, Behaviour, Lesson, handed_over

HIDDEN_MAX, HIDDEN_MIN = 200, 32
"""Width of the two hidden layers of "mlp": as many as there are features, within these. 200 is McMahan's 2NN."""

LAYERS_MAX, WIDTH_MAX = 10, 100_000

HANG_S = float("inf")


class TaskLearner:
    """A `topologies.world.learner.Learner`: the task of one swarm at all its sites.

    Args:
        path: The task file.
        sites: Their folders of data, in member order.
        machines: How fast each is, in the same order.
        seed: The charter's.
        bound: The charter's on the norm of an update.
        behaviours: Who does otherwise.
        attack: What attackers do to what they have learnt; one on data is done already.
        attackers: Who they are.

    Raises:
        UsageError: The file is no task, or its model has nothing to train.
    """

    def __init__(
        self,
        path: Path,
        sites: Sequence[SiteData],
        machines: Sequence[Site],
        *,
        seed: int,
        bound: float,
        behaviours: Mapping[int, Behaviour],
        attack: Attack | None = None,
        attackers: Sequence[int] = (),
    ) -> None:
        self._attack, self._attackers = attack, frozenset(attackers)
        self._before: dict[int, Vector] = {}
        self._path, self._task = path, load_task(path)
        if self._task.declared != Declared() or self._task.build_optimizer is not None:
            raise UsageError(
                f"couldn't play {path}: what it keeps private, frozen or from round to round is not simulated",
                hint="try it with `swarm solo` and `swarm doctor`, or take out what it declares",
            )
        self.model = FlatModel(self._task.build_model, seed)
        self.bound = bound
        self._module = self.model.copy_module()
        self._infos = [SiteInfo(site.name, site.folder, seed, "cpu") for site in sites]
        self._step_s = [machine.pace_s for machine in machines]
        self._behaviours, self._seed = dict(behaviours), seed
        self._data: dict[int, object] = {}
        self._counters: dict[int, dict[str, torch.Tensor]] = {}
        self._steps = 0
        self._steering = Steering()
        self._stepped: dict[int, dict[str, int]] = {}  # How often a member's parameters were, when it last trained.

    @property
    def elements(self) -> int:
        """Length of the vector."""
        return self.model.elements

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        """Do a round of the task's own training, as one site's trainer process does."""
        behaviour = self._behaviours.get(member, Behaviour.HONEST)
        self._steps, bend = 0, None
        hook = register_optimizer_step_post_hook(self._count)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # as every peer on a machine of its own is told to: sums depend on how many add
        try:
            with torch.random.fork_rng(devices=[]):
                self._restore(member, model)
                self._module.train()
                if correction is not None:
                    bend = Bend.of(correction, self.model.layout, self._module, self._stepped.get(member, {}))
                self._steering.begin(self._module, push=None if bend is None else bend.push)
                run = self._begin(member, number)
                result = self._task.train(self._module, self._held(member), run)
                samples, metrics, _ = checked_result(result, "train")
            self._steering.end()
            self._remember(member)
            learnt = self._attacked(member, number, model)
            if bend is not None:
                bend.settle(learnt, self._steering.steps)
            self._stepped[member] = dict(self._steering.steps)
            update = handed_over(learnt, behaviour, self.bound)
            error = "train() raised RuntimeError: out of memory" if behaviour is Behaviour.RAISES else ""
        except Exception as wrong:  # noqa: BLE001 - user code may raise anything; all of it becomes a sentence
            update, samples, metrics, error = np.empty(0, np.float32), 0, {}, self._sentence(wrong)
        finally:
            hook.remove()
            torch.set_num_threads(before)
        return Lesson(
            update=None if error else update,
            samples=samples,
            steps=self._steps,
            duration_s=self._duration(member, behaviour),
            metrics=metrics,
            error=error,
            parameters=self.model.parameters(self._module),
        )

    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        """Ask the task how good a model is at one site."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self._restore(member, model)
                self._module.eval()
                run = self._begin(member, 0)
                result = self._task.evaluate(self._module, self._held(member), run)
                samples, metrics, _ = checked_result(result, "evaluate")
        finally:
            torch.set_num_threads(before)
        return samples, metrics

    def _restore(self, member: int, model: Vector) -> None:
        # A loop that takes its first step before it clears gradients must not step along those of somebody else.
        self._module.zero_grad(set_to_none=True)
        self.model.load(torch.from_numpy(np.array(model, dtype=np.float32)), self._module)
        state = self._module.state_dict()
        for name, value in self._counters.get(member, {}).items():
            state[name].copy_(value)

    def _remember(self, member: int) -> None:
        counters = {
            name: value.clone()
            for name, value in self._module.state_dict().items()
            if isinstance(value, torch.Tensor) and not value.is_floating_point()
        }
        if counters:
            self._counters[member] = counters

    def _update(self, base: Vector) -> Vector:
        trained = {name: t.detach().float().numpy() for name, t in travelling(self._module).items()}
        update = flatten(trained, self.model.layout)
        np.subtract(update, base, out=update)
        return update

    def _attacked(self, member: int, number: int, base: Vector) -> Vector:
        """Return what a member has learnt, or what it makes of that as an attacker."""
        update = self._update(base)
        if self._attack is None or self._attack.on_data or member not in self._attackers:
            return update
        before = self._before.get(member)
        last = None if before is None else base - before
        self._before[member] = np.array(base)
        return changed(self._attack, update, last, np.random.default_rng((self._seed, number, member)))

    def _begin(self, member: int, number: int) -> RunInfo:
        seed = round_seed(self._seed, self._infos[member].name, number)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, TID251 - as the trainer process does for code that draws from it
        return RunInfo(number, seed, "cpu", self._infos[member])

    def _held(self, member: int) -> object:
        if member not in self._data:
            self._data[member] = self._task.load_data(self._infos[member])
        return self._data[member]

    def _duration(self, member: int, behaviour: Behaviour) -> float:
        if behaviour is Behaviour.HANG:
            return HANG_S
        return max(1, self._steps) * self._step_s[member] * (SLOW_FACTOR if behaviour is Behaviour.SLOW else 1)

    def _count(self, optimizer: Optimizer, *_: object) -> None:
        self._steering.after(optimizer)
        self._steps += 1

    def _sentence(self, error: Exception) -> str:
        return error.message if isinstance(error, UsageError) else where_in(error, self._path)


def tensors(examples: Examples, x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> tuple[Dataset, Dataset]:
    """Return the training examples, with these features, and the test examples, for the engine."""
    return (
        Dataset(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(examples.y)),
        Dataset(torch.from_numpy(examples.x_test), torch.from_numpy(examples.y_test)),
    )


def score(model: FlatModel, vector: Vector, test: Dataset) -> tuple[float, float]:
    """Return (accuracy, mean loss) of a model on the test examples, computed as the engine does."""
    flat = torch.from_numpy(np.array(vector, dtype=np.float32))
    hits, loss = 0, 0.0
    for start in range(0, len(test), TEST_ROWS):
        right, lost = model.evaluate(flat, test, CROSS_ENTROPY, start)
        hits, loss = hits + right, loss + lost
    return hits / len(test), loss / len(test)


# --- the task file ----------------------------------------------------------------------------------------------------


def task_source(learning: Learning, examples: Examples) -> str:
    """Return the task file of a model by name: what every site would run.

    Raises:
        UsageError: There is no model of that name.
    """
    layers = _layers(learning.model, examples.features, len(examples.labels))
    return _TASK.format(
        what=f"{learning.model} on {examples.name}",
        model=layers[0] if len(layers) == 1 else f"nn.Sequential({', '.join(layers)})",
        rate=repr(learning.learning_rate),
        momentum=repr(learning.momentum),
        epochs=learning.local_epochs,
        batch=learning.batch,
    )


def _layers(name: str, features: int, classes: int) -> list[str]:
    kind, colon, argument = name.partition(":")
    if kind == "linear" and not colon:
        return [f"nn.Linear({features}, {classes})"]
    if kind != "mlp" or (colon and not argument):
        raise UsageError(
            f"couldn't find the model {name!r}", hint="use mlp, mlp:200,200, linear or task:FILE with a task file"
        )
    usual = min(HIDDEN_MAX, max(HIDDEN_MIN, features))
    try:
        widths = [int(part) for part in argument.split(",")] if colon else [usual, usual]
    except ValueError:
        widths = []
    if not 1 <= len(widths) <= LAYERS_MAX or not all(1 <= width <= WIDTH_MAX for width in widths):
        raise UsageError(
            f"couldn't make the model {name!r}: {argument!r} are not the widths of 1 to {LAYERS_MAX} hidden layers",
            hint="write mlp:200,200",
        )
    layers = []
    for inputs, outputs in zip([features, *widths], [*widths, classes], strict=True):
        layers += [f"nn.Linear({inputs}, {outputs})", "nn.ReLU()"]
    return layers[:-1]


_TASK = '''\
"""{what}: the task that was simulated, as every site runs it. Data are train.npz and test.npz, arrays x and y."""

import numpy as np
import torch
from torch import nn


def build_model():
    return {model}


def load_data(site):
    def read(name):
        with np.load(site.folder / name, allow_pickle=False) as file:
            return torch.from_numpy(file["x"].astype(np.float32)), torch.from_numpy(file["y"].astype(np.int64))

    return read("train.npz"), read("test.npz")


def train(model, data, run):
    x, y = data[0]
    optimizer = torch.optim.SGD(model.parameters(), lr={rate}, momentum={momentum})
    for _ in range({epochs}):
        for batch in torch.randperm(len(x)).split({batch}):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
    return {{"samples": len(x), "loss": loss.item()}}


def evaluate(model, data, run):
    x, y = data[1]
    output = model(x)
    right = (output.argmax(1) == y).float().mean()
    return {{"samples": len(y), "accuracy": right.item(), "loss": nn.functional.cross_entropy(output, y).item()}}
'''
