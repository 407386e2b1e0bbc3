"""What a run stands on in either world: a scenario's data, divided, its task file, and how good a model is.

Both worlds get the same files from here, so that a run differs by where it is played and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from node.data import SiteData
from node.simulation import datasets
from node.simulation.learner import TaskLearner, score, task_source, tensors
from node.simulation.learning import Dataset
from swarm.ledger.audit import Audit
from swarm.vector import Vector
from tests.chaos.plan import Trouble
from topologies.scenario import Scenario, parse

ACCEPTANCE = "bad-week"
"""The packaged scenario of the acceptance run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """A scenario and a seed, with everything on disk that its sites need."""

    scenario: Scenario
    seed: int
    sites: Sequence[SiteData]
    task: Path
    learner: TaskLearner
    test: Dataset

    def accuracy(self, model: Vector) -> float:
        """Return the share of the held-out examples, the same for all seeds, that a model gets right."""
        return score(self.learner.model, model, self.test)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is left of a run, of whichever world.

    Attributes:
        audits: Of every site's own copy of the ledger, signatures checked, in the scenario's order.
        accuracy: Of the final model.
        over: Round -> seconds from the start until the first site had its outcome.
        said: Site -> what it reported to its people, in order.
        starting: Who was seen to take its time to start, and when: as good a reason to be missing as any in the plan.
    """

    audits: Sequence[Audit]
    accuracy: float
    over: Mapping[int, float]
    said: Mapping[str, Sequence[str]]
    starting: Sequence[Trouble] = ()


def scenario_of(name: str) -> Scenario:
    """Return a scenario by the path of its file or, if it is packaged, by name."""
    if name.endswith(".toml"):
        return parse(Path(name).read_text(encoding="utf-8"), name)
    file = resources.files("topologies") / "presets" / f"{name}.toml"
    return parse(file.read_text(encoding="utf-8"), name)


def set_up(scenario: Scenario, seed: int, folder: Path) -> Stage:
    """Write what the sites of a scenario need into a new folder, and load its task."""
    learning = scenario.learning
    assert learning.mixing == "exact", "the ledger names who is in a mean, and who is not, where there is one mean"
    examples = datasets.load(learning.data)
    shares, x = datasets.divide(examples, scenario, seed)
    sites = datasets.write_sites(folder / "data", examples, shares, x, scenario.names)
    task = folder / "task.py"
    task.write_text(task_source(learning, examples))
    learner = TaskLearner(
        task, sites, scenario.sites, seed=seed, bound=scenario.terms.clip_norm, behaviours=scenario.behaviours
    )
    return Stage(scenario=scenario, seed=seed, sites=sites, task=task, learner=learner, test=tensors(examples, x)[1])
