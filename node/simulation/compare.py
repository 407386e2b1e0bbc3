"""A comparison under way: one scenario, its topologies, every seed, at one speed or both.

Everything that can be refused is refused when it is set up: a graph that does not exist for so many sites, a link that
no two of them can have, models that do not fit into memory. Then runs follow one another, and whoever watches is told
after each round; stopped at any moment, it has a result of what was done.

At learning speed the mixing is that of the node, as a matrix: A_ij = W_ij min(1, n_j / n_i) for the schedule W and the
sites' counts n (`topologies.plan`), push-sum where links go one way (`swarm.ledger.pushing`), and in the last round the
mean of all models weighted by counts. Faults, loss and liars are for the protocol speed alone; the notes say so.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from node.data import SiteData
from node.simulation import datasets, protocol
from node.simulation.actors import check_available
from node.simulation.flat import FlatModel
from node.simulation.learner import TaskLearner, score, task_source, tensors
from node.simulation.learning import Dataset, LocalTraining
from node.simulation.mixing import Rows
from node.simulation.recommend import recommend
from node.simulation.results import (
    Facts,
    Holdings,
    LinkLoad,
    Loss,
    PeerScore,
    Resilience,
    Result,
    Round,
    Run,
    Speed,
)
from node.simulation.run import Exact, Experiment, Gossip, Score, Simulation
from node.simulation.run import Round as EngineRound
from node.simulation.shards import check_memory
from node.task import load_task
from swarm.charter import AVERAGE_CODECS
from swarm.errors import UsageError
from swarm.ledger.entry import METRIC_SCALE
from swarm.ledger.exchange import Exchange, Mass
from swarm.ledger.pushing import settle, step
from swarm.machine import NodeId
from swarm.mixing.average import integer_weights
from swarm.mixing.compress.forms import encoded_bytes
from swarm.mixing.compress.forms import parse as parse_codec
from swarm.mixing.corrections import NONE as UNCORRECTED
from swarm.mixing.corrections import parse as parse_correction
from swarm.mixing.outer import parse as parse_outer
from swarm.mixing.rules import parse as parse_rule
from swarm.routes import FOLD, cuts
from swarm.salt import SALT_BYTES
from swarm.stopping import Policy, Watch, committed, settled
from swarm.stopping import told as told_by
from swarm.vector import Vector
from topologies import partitions, resilience, schedules, spectrum
from topologies.graph import Edge, Topology
from topologies.mixing import Promise, Schedule
from topologies.pace import Exchange as Reckoned
from topologies.pace import Pace
from topologies.plan import LINKS, check_steady
from topologies.scenario import OWN, Scenario, Site
from topologies.world.attacks import Attack, dissent
from topologies.world.attacks import parse as parse_attack

T = TypeVar("T")

NEAR = 1e-3
"""The relative consensus distance to which rounds are counted."""

SAMPLED_ROUNDS = 64
"""Rounds of a drawn schedule over which its facts are averaged."""

PAIRS_MAX = 64
"""Most sites of which all pairs are tried as losses: 2,016 eigenvalue problems, a second."""

SINGLES_MAX = 256
"""Most sites that are tried as losses one by one; beyond, single points of failure alone are found."""

LINKS_MAX = 20_000
"""Links whose bytes a result lists; of more, the busiest. A complete graph of 200 has 19,900."""

NODE_BYTES, MODELS_HELD = 4 << 20, 12
"""What a node takes in the simulated world: its ledger and the links to all others, and models (its own before and
after training, its partners', those of the last round)."""

OUTCOMES_HELD = 3
"""How many of those models have the outer optimiser's memory behind them: of the last two rounds, and the next."""

Told = Callable[["Progress"], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a comparison stands after a round: the `run`-th of `runs`, of so many rounds."""

    run: int
    runs: int
    topology: str
    seed: int
    speed: Speed
    rounds: int
    round: Round


@dataclass(frozen=True, slots=True)
class _Rows:
    """One exchange, for the engine."""

    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ground:
    """What all runs of one seed stand on."""

    shares: partitions.Partition
    train: Dataset
    test: Dataset
    x: datasets.Features
    examples: datasets.Examples

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of every site."""
        return np.array([len(share) for share in self.shares], dtype=np.int64)


class Comparison:
    """Set up to be played once.

    Args:
        scenario: What is compared.
        speeds: At which speeds.
        folder: Where the task file goes that every site would run; the result is written by whoever asked.
        command: What was typed, for the result.
        cluster: Address of a Ray cluster for the learning speed (`actors.LOCAL`: of this machine alone); None forks.
        workers: Processes or actors at learning speed; None is one per core.

    Raises:
        UsageError: It cannot be run as described; nothing has been simulated.
    """

    def __init__(
        self,
        scenario: Scenario,
        speeds: Sequence[Speed],
        folder: Path,
        command: str = "",
        *,
        cluster: str | None = None,
        workers: int | None = None,
    ) -> None:
        self.scenario, self.speeds = scenario, tuple(speeds)
        self._command, self._cluster, self._workers = command, cluster, workers
        if cluster is not None:
            check_available()
        if cluster is not None and scenario.learning.codec and scenario.learning.mixing == "gossip":
            raise UsageError(
                f"couldn't gossip under {scenario.learning.codec} on a Ray cluster: its actors exchange float32 models",
                hint="leave --ray out, or the codec",
            )
        if scenario.learning.clip and "learning" in speeds:
            raise UsageError(
                f"couldn't clip at learning speed (clip = {scenario.learning.clip}): there a round is one matrix, and"
                " what a site takes of a model depends on the models",
                hint="take --speed protocol",
            )
        if scenario.learning.stop and scenario.learning.mixing == "gossip" and "learning" in speeds:
            raise UsageError(
                "couldn't stop a gossiping swarm early at learning speed: its sites go by their own models' scores, of"
                " which few are tested there",
                hint="take --speed protocol, or --mixing exact",
            )
        if scenario.terms.asynchronous and "learning" in speeds:
            raise UsageError(
                "couldn't play an asynchronous swarm at learning speed: what comes when is not known there",
                hint="take --speed protocol",
            )
        learning = scenario.learning
        self._check_attack(speeds)
        self.reachable = scenario.reachable
        for name in scenario.topologies:
            self._check(name, open_topology(name, scenario, learning.seeds[0]))
        self._examples = datasets.load(learning.data, datasets.column_of(learning.partition))
        self.task = self._task_file(folder)
        task = load_task(self.task)
        self._model = FlatModel(task.build_model, learning.seeds[0])
        self._build = task.build_model
        self._check_route()
        self._check_memory()
        self._grounds = lru_cache(maxsize=2)(self._prepare)
        self.runs: list[Run] = []
        self.notes: list[str] = []

    @property
    def parameters(self) -> int:
        """Of one model."""
        return self._model.elements

    def play(self, told: Told = lambda _: None) -> Iterator[Run]:
        """Run everything, in order; each run is in `runs` while it is still going on, so an interrupt keeps it."""
        speeds: tuple[Speed, ...] = ("learning", "protocol")
        wanted = [
            (topology, seed, speed)
            for topology in self.scenario.topologies
            for seed in self.scenario.learning.seeds
            for speed in speeds
            if speed in self.speeds
        ]
        for number, (topology, seed, speed) in enumerate(wanted, 1):
            for run in self._run(topology, seed, speed):
                self._keep(run)
                if run.rounds:
                    told(
                        Progress(
                            run=number,
                            runs=len(wanted),
                            topology=topology,
                            seed=seed,
                            speed=speed,
                            rounds=self.scenario.learning.rounds,
                            round=run.rounds[-1],
                        )
                    )
            yield self.runs[-1]

    def result(self, *, partial: bool = False) -> Result:
        """What is known so far."""
        scenario, learning = self.scenario, self.scenario.learning
        ground = self._grounds(learning.seeds[0])
        labels, counts = partitions.holdings(ground.examples.y, ground.shares)
        named = tuple(self._examples.labels[int(label)] for label in labels)
        return Result(
            scenario=described(scenario, self.speeds),
            names=scenario.names,
            parameters=self.parameters,
            holdings=Holdings(labels=named, counts=tuple(tuple(row) for row in counts.tolist())),
            runs=tuple(self.runs),
            recommendation=recommend(self.runs, scenario.names, learning.target_accuracy),
            partial=partial,
            notes=(*self._standing_notes(), *dict.fromkeys(self.notes)),
            command=self._command,
        )

    # --- setting up ---------------------------------------------------------------------------------------------

    def _check(self, name: str, schedule: Schedule) -> None:
        """Refuse links that nobody can open, and rounds that are no averages or that nodes cannot do."""
        there = set(self.reachable.edges)
        if missing := [link for link in schedule.links.edges if link not in there]:
            a, b = (self.scenario.sites[member].name for member in missing[0])
            raise UsageError(
                f"couldn't use the topology {name}: {a} and {b} are linked in it, and both are outbound_only",
                hint="let one of the two accept connections, let others relay (relay = true below [swarm]), or give a"
                " graph of your own that avoids the pair",
            )
        if self.scenario.learning.mixing == "exact":
            return
        if schedule.states > 1 or schedule.promise is Promise.PRODUCT:
            raise UsageError(
                f"couldn't gossip over {name}: only all its rounds together make an average",
                hint="choose base2, which ends in the exact mean too, or --mixing exact",
            )
        if self.scenario.learning.follows:
            check_steady(schedule, name, self.scenario.learning.codec)

    def _check_attack(self, speeds: Sequence[Speed]) -> None:
        """Refuse what cannot be played: nodes do not tell each other what they are about to offer."""
        attack = self._attack
        if attack is not None and attack.colludes and "protocol" in speeds:
            raise UsageError(
                f"couldn't play the attack {attack.name} at protocol speed: its attackers know the honest updates of"
                " the round, or tell each neighbour something else",
                hint="take --speed learning",
            )
        directed = any(not open_topology(name, self.scenario, 1).symmetric for name in self.scenario.topologies)
        if attack is not None and attack.on_links and directed:
            raise UsageError(
                f"couldn't play the attack {attack.name} over links that go one way: there a site has no weight on who"
                " it takes from that an attacker could know",
                hint="take a topology whose links go both ways, as ring",
            )

    def _check_route(self) -> None:
        """Refuse parts that could not go straight from who computes them to who needs them, or that would be empty."""
        scenario, route = self.scenario, self.scenario.route
        if route is None:
            return
        pairs = scenario.n * (scenario.n - 1) // 2
        for name in scenario.topologies:
            if len(open_topology(name, scenario, scenario.learning.seeds[0]).links.edges) < pairs:
                raise UsageError(
                    f"couldn't go by the {route.name} route over the topology {name}: everybody must reach everybody",
                    hint="take the topology complete alone, or go by spread",
                )
        if route.slices > self._model.elements:
            raise UsageError(
                f"couldn't cut a model of {self._model.elements} parameters into {route.slices} slices",
                hint="a model this small goes by spread; leave the route out",
            )

    def _task_file(self, folder: Path) -> Path:
        kind, _, path = self.scenario.learning.model.partition(":")
        if kind == "task" and path:
            return Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        task = folder / "task.py"
        task.write_text(task_source(self.scenario.learning, self._examples), encoding="utf-8")
        return task

    def _check_memory(self) -> None:
        n, elements = self.scenario.n, self._model.elements
        here = self._cluster is None  # the machines of a cluster are asked when they are known
        if here and "learning" in self.speeds and self.scenario.learning.mixing == "gossip":
            learning = self.scenario.learning
            displacements, copies = bool(learning.correction), bool(learning.codec)
            check_memory(n, elements, velocities=False, displacements=displacements, copies=copies)
        slots = parse_outer(self.scenario.learning.outer).slots
        if "protocol" in self.speeds and not _fits(n, elements, slots):
            low, high = 0, n
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _fits(middle, elements, slots) else (low, middle)
            raise UsageError(
                f"couldn't play {n} nodes whose model has {elements:,} parameters: there is not enough memory for them",
                hint=f"take at most {low} nodes, a smaller model, or --speed learning",
            )

    def _prepare(self, seed: int) -> _Ground:
        shares, x = datasets.divide(self._examples, self.scenario, seed)
        examples = self._examples
        attack = self._attack
        if attack is not None and attack.on_data:
            examples, shares, x = datasets.spoil(examples, shares, x, attack, self.scenario.attackers)
        train, test = tensors(examples, x)
        return _Ground(shares=shares, train=train, test=test, x=x, examples=examples)

    @property
    def _attack(self) -> Attack | None:
        text = self.scenario.learning.attack
        return parse_attack(text) if text else None

    def _tested(self, seed: int) -> list[int]:
        """Whose own models are tested: the same at both speeds."""
        n, wanted = self.scenario.n, self.scenario.learning.tested
        if not 0 < wanted < n:
            return list(range(n))
        return sorted(int(peer) for peer in np.random.default_rng(seed).choice(n, wanted, replace=False))

    def _standing_notes(self) -> Iterator[str]:
        if not self.scenario.uneventful and "learning" in self.speeds:
            yield (
                "At learning speed nothing is lost and nobody fails or lies; the scenario's misfortunes happen at "
                "protocol speed."
            )
        if self.scenario.learning.model.startswith("task:") and "learning" in self.speeds:
            yield "At learning speed the task file gives the model alone; training is the SGD of the settings."
        learning = self.scenario.learning
        if learning.attack:
            names = [self.scenario.names[member] for member in self.scenario.attackers]
            yield f"{', '.join(names)} attack by {learning.attack}; accuracies are those of the models that come of it."
        if "protocol" in self.speeds and any(site.protocol for site in self.scenario.sites):
            yield "Sites that speak an older version of the protocol are played by today's node."
        if learning.codec and learning.mixing == "exact" and "learning" in self.speeds:
            yield (
                f"At learning speed models are averaged as they are: {learning.codec} is in the bytes "
                "and seconds reckoned, and what it leaves out of an update is felt at protocol speed."
            )
        if learning.salt and "learning" in self.speeds:
            yield "At learning speed a salt is in the bytes and seconds reckoned; what is learned is the same without."

    # --- playing ------------------------------------------------------------------------------------------------

    def _keep(self, run: Run) -> None:
        """Put a run in its place: instead of itself as it was a round ago."""
        key = (run.topology, run.seed, run.speed)
        if self.runs and (self.runs[-1].topology, self.runs[-1].seed, self.runs[-1].speed) == key:
            self.runs[-1] = run
        else:
            self.runs.append(run)

    def _run(self, name: str, seed: int, speed: Speed) -> Iterator[Run]:
        ground = self._grounds(seed)
        with tempfile.TemporaryDirectory(prefix="swarm-simulate-") as folder:
            learner, founded, drawn = None, None, seed
            sites: list[SiteData] = []
            links = self._granted(name, seed)
            if "protocol" in self.speeds:
                # Drawn schedules are drawn from the ledger's id, so both speeds need to know the ledger.
                sites = datasets.write_sites(
                    Path(folder), ground.examples, ground.shares, ground.x, self.scenario.names
                )
                learner = self._learner(sites, seed)
                gossip = "" if self.scenario.learning.mixing == "exact" else LINKS if name == OWN else name
                directed = bool(gossip) and not open_topology(name, self.scenario, seed).symmetric
                founded = protocol.found(
                    self.scenario, learner, self.task, schedule=gossip, links=links, seed=seed, directed=directed
                )
                drawn = protocol.schedule_seed(founded)
            schedule = open_topology(name, self.scenario, drawn)
            blank = self._blank(name, schedule, seed, drawn, speed, ground)
            if speed == "learning":
                yield from self._learn(blank, schedule, ground)
                return
            assert learner is not None, "the protocol speed was asked for"
            assert founded is not None, "and its swarm is founded"
            play = protocol.Play(
                self.scenario,
                founded,
                learner,
                sites,
                links=links,
                seed=seed,
                score=lambda model: score(learner.model, model, ground.test),
                tested=self._tested(seed),
            )
            yield from self._follow(blank, play)

    def _granted(self, name: str, seed: int) -> Topology:
        """The links of the charter: for gossip all that can be had, as the ledger uses them; else the topology's."""
        if self.scenario.learning.mixing == "gossip" and name != OWN:
            return self.reachable
        return open_topology(name, self.scenario, seed).links

    def _learner(self, sites: Sequence[SiteData], seed: int) -> TaskLearner:
        return TaskLearner(
            self.task,
            sites,
            self.scenario.sites,
            seed=seed,
            bound=self.scenario.terms.clip_norm,
            behaviours=self.scenario.behaviours,
            attack=self._attack,
            attackers=self.scenario.attackers,
        )

    def _blank(self, name: str, schedule: Schedule, seed: int, drawn: int, speed: Speed, ground: _Ground) -> Run:
        return Run(
            topology=name,
            seed=seed,
            schedule_seed=drawn,
            speed=speed,
            facts=self._facts(schedule, ground),
            resilience=_resilience(schedule.links),
            rounds=(),
            links=(),
            complete=False,
            model="",
        )

    def _pace(self, ground: _Ground, copy_bytes: int) -> Pace:
        learning = self.scenario.learning
        steps = [learning.local_epochs * -(-int(size) // learning.batch) for size in ground.sizes]
        return Pace(self.scenario, steps, float(copy_bytes))

    @property
    def _update_bytes(self) -> int:
        """Of one update, or in gossip one model, as it travels: encoded, slice by slice where it is cut, and salted."""
        learning = self.scenario.learning
        return self._encoded(learning.codec) + (SALT_BYTES if learning.salt else 0)

    @property
    def _part_bytes(self) -> int:
        """Of what comes back on a route: a sum, or all averaged slices of a model."""
        route, codec = self.scenario.route, self.scenario.learning.codec
        if route is not None and route.name == FOLD:
            return 8 * self._model.elements
        return self._encoded(codec if codec in AVERAGE_CODECS else "")

    def _encoded(self, codec: str) -> int:
        elements, route = self._model.elements, self.scenario.route
        if not codec:
            return 4 * elements
        spans = cuts(elements, route.slices) if route is not None and route.slices else ((0, elements),)
        return sum(encoded_bytes(parse_codec(codec), end - start) for start, end in spans)

    @property
    def _whole_bytes(self) -> int:
        """Of what a site sends of its model in a round that averages all: whole where gossip follows public copies."""
        return self._encoded("") if self.scenario.learning.follows else self._update_bytes

    def _averaging(self, pace: Pace, links: Sequence[Edge], *, last: bool = False) -> Reckoned:
        """What a round costs in which all models become one: exact mixing, and the last round of gossip.

        `pace` is that of copies of `_whole_bytes`, and what is sent is in those.
        """
        route = self.scenario.route
        if route is None:
            return pace.spread(links, last=last)
        return pace.routed(route, float(self._part_bytes), last=last)

    def _follow(self, blank: Run, play: protocol.Play) -> Iterator[Run]:
        """The protocol speed."""
        rounds: list[Round] = []
        wanted = self.scenario.learning.rounds
        while len(rounds) < wanted:
            one = play.next_round()
            if one is None and play.stopped:
                self.notes.append(_stopped_words(blank, len(rounds), self.scenario.learning.stop))
                yield _replaced(blank, rounds, play.loads(), complete=True, model=play.final_model())
                return
            if one is None:
                self.notes.append(f"{blank.topology}, seed {blank.seed}: {play.why_not()}.")
                break
            rounds.append(one)
            model = play.final_model() if len(rounds) == wanted else None
            yield _replaced(blank, rounds, play.loads(), complete=len(rounds) == wanted, model=model)
        if len(rounds) < wanted:
            yield _replaced(blank, rounds, play.loads(), complete=False, model=None)

    def _learn(self, blank: Run, schedule: Schedule, ground: _Ground) -> Iterator[Run]:
        """The learning speed."""
        learning = self.scenario.learning
        exact = learning.mixing == "exact"
        cap_ppm = self.scenario.terms.weight_cap_ppm
        weights = np.array(integer_weights(ground.sizes.tolist(), cap_ppm=cap_ppm))
        pushes = None if exact or schedule.symmetric else _Pushes(schedule, weights)
        exchange: Gossip | Exact = (
            Exact(
                cap_ppm=cap_ppm,
                outer=parse_outer(learning.outer),
                rule=parse_rule(learning.rule) if learning.rule else None,
                attack=self._attack,
                attackers=self.scenario.attackers,
                bound=self.scenario.terms.clip_norm,
            )
            if exact
            else Gossip(
                mixing=self._mixing(schedule, weights, learning.rounds, pushes),
                steps=None if pushes is None else pushes.steps,
                codec=learning.spec,
                whole_at_last=True,  # bf16 nodes round there too; what that does to a mean is below any tolerance
            )
        )
        corrected = parse_correction(learning.correction) if learning.correction else UNCORRECTED
        experiment = Experiment(
            build=self._build,
            train=ground.train,
            test=ground.test,
            shares=ground.shares,
            local=LocalTraining(
                learning_rate=learning.learning_rate,
                batch=learning.batch,
                epochs=learning.local_epochs,
                momentum=learning.momentum,
            ),
            exchange=exchange,
            rounds=learning.rounds,
            seed=blank.seed,
            names=self.scenario.names,
            correction=corrected.momentum,
            gain=corrected.gain,
            tested=learning.tested or None,
            workers=self._workers,
            cluster=self._cluster,
        )
        ledger = _Ledger(self.scenario.n, self._pace(ground, self._update_bytes), self._update_bytes)
        whole = self._pace(ground, self._whole_bytes)
        rounds: list[Round] = []
        stops = None if learning.stopping is None else _Stop(learning.stopping, self.scenario.n)
        with Simulation(experiment) as simulation:
            for t in range(learning.rounds):
                seen = simulation.next_round()
                stopped = stops is not None and stops.after(t + 1, seen.average, rounds=learning.rounds)
                last = stopped or t + 1 == learning.rounds
                if exact or last:
                    links = schedule.links.edges if exact else self.reachable.edges
                    ledger.average(self._averaging(whole, links, last=last), links, self._whole_bytes)
                else:
                    ledger.exchange(schedule, t)
                rounds.append(ledger.told(seen))
                model = simulation.average_model() if last else None
                if stopped and t + 1 < learning.rounds:
                    self.notes.append(_stopped_words(blank, t + 1, learning.stop))
                yield _replaced(blank, rounds, ledger.loads(), complete=last, model=model)
                if last:
                    return

    def _mixing(
        self, schedule: Schedule, weights: NDArray[np.int64], rounds: int, pushes: _Pushes | None
    ) -> Callable[[int], _Rows]:
        """Return what the members do, as a function of t: that of the node in round t + 1."""
        counts, gamma = weights.astype(np.float64), self.scenario.learning.step
        attack, attackers = self._attack, self.scenario.attackers

        @lru_cache(maxsize=64)
        def turn(t: int) -> _Rows:
            rows = []
            for member, row in enumerate(schedule.mixing(t).rows):
                taken = {j: gamma * w * min(1.0, counts[j] / counts[member]) for j, w in row if j != member and w}
                if attack is not None and attack.on_links and member not in attackers:
                    taken = dissent(taken, attackers, attack.strength)
                taken[member] = 1.0 - sum(taken.values())
                rows.append(tuple(sorted(taken.items())))
            return _Rows(tuple(rows))

        def at(t: int) -> _Rows:
            if t == rounds - 1:
                mean = tuple(enumerate((counts / counts.sum()).tolist()))
                return _Rows((mean,) * len(counts))
            if pushes is not None:
                return pushes.rows(t)
            return turn(t if schedule.period is None else t % schedule.period)

        return at

    def _facts(self, schedule: Schedule, ground: _Ground) -> Facts:
        pace, whole = self._pace(ground, self._update_bytes), self._pace(ground, self._whole_bytes)
        links = schedule.links
        degrees = [links.degree(member) for member in range(links.n)]
        hops = spectrum.hops(links)
        period = schedule.period or SAMPLED_ROUNDS
        exact = self.scenario.learning.mixing == "exact"
        final = self._averaging(whole, links.edges if exact else self.reachable.edges, last=True)
        if exact:
            one = self._averaging(whole, links.edges)
            sent, seconds = one.sent, one.seconds
        else:
            turns = [pace.round(mixing) for mixing in schedule.mixings(period)]
            sent = np.sum([turn.sent for turn in turns], axis=0) / period
            seconds = float(np.mean([turn.seconds for turn in turns]))
        return Facts(
            reference=schedule.reference,
            links=len(links.edges),
            degree_min=min(degrees),
            degree_max=max(degrees),
            diameter=hops.diameter,
            hops_mean=hops.mean,
            period=schedule.period,
            gap=_unless_refused(lambda: spectrum.rate(schedule).gap),
            exact_after=schedule.exact_after,
            rounds_to_thousandth=_unless_refused(lambda: spectrum.predicted_rounds(schedule, NEAR)),
            copies_mean=float(sent.mean()),
            copies_max=float(sent.max()),
            model_bytes=self._update_bytes,
            training_s=float(pace.training_s.max()),
            round_s=seconds,
            final_s=final.seconds,
        )


class _Pushes:
    """Push-sum over a schedule whose links go one way, nothing being lost: what the nodes' ledger makes of it."""

    def __init__(self, schedule: Schedule, weights: NDArray[np.int64]) -> None:
        self._schedule = schedule
        self._nodes = [NodeId(index.to_bytes(32, "big")) for index in range(len(weights))]
        self._weights = {node: int(weight) for node, weight in zip(self._nodes, weights, strict=True)}
        self._masses: Mapping[NodeId, Mass] = {}
        self._t = 0

    def steps(self, t: int) -> NDArray[np.float64]:
        """By what each member's training in round t is multiplied; asked for before its `rows`."""
        assert t == self._t, "rounds come one after the other"
        return np.array([step(self._masses.get(node)) for node in self._nodes])

    def rows(self, t: int) -> _Rows:
        """What the models of round t become, and on to the next."""
        assert t == self._t, "rounds come one after the other"
        self._t += 1
        targets = {
            node: tuple(self._nodes[target] for target in self._schedule.targets(t, index))
            for index, node in enumerate(self._nodes)
        }
        held: dict[NodeId, list[int]] = {}
        for index, node in enumerate(self._nodes):
            for target in targets[node]:
                held.setdefault(target, []).append(index)
        exchange = Exchange(
            receipts={node: tuple(indices) for node, indices in held.items()}, targets=targets, masses=self._masses
        )
        done = settle(exchange, {node: index for index, node in enumerate(self._nodes)}, self._weights)
        self._masses = done.after
        number = {node: index for index, node in enumerate(self._nodes)}
        return _Rows(
            tuple(
                tuple(sorted((number[giver], share) for giver, share in done.row(node).items())) for node in self._nodes
            )
        )


class _Ledger:
    """What has been sent and how long it took, by the cost model."""

    def __init__(self, n: int, pace: Pace, size: int) -> None:
        """`pace` is how long exchanges take, of messages of `size` bytes."""
        self._pace, self._size = pace, size
        self._seconds = 0.0
        self._sent: NDArray[np.float64] = np.zeros(n)
        self._links: dict[Edge, float] = {}

    def exchange(self, schedule: Schedule, t: int) -> None:
        """A round of gossip."""
        mixing = schedule.mixing(t)
        done = self._pace.round(mixing)
        self._seconds += done.seconds
        self._sent = self._sent + done.sent * self._size
        for a, b in mixing.edges:
            link = (a, b) if a < b else (b, a)
            self._links[link] = self._links.get(link, 0.0) + self._size

    def average(self, done: Reckoned, links: Sequence[Edge], size: int) -> None:
        """A round in which all models become one, by copies of so many bytes; what links carry is shared evenly."""
        self._seconds += done.seconds
        self._sent = self._sent + done.sent * size
        each = size * float(done.sent.sum()) / len(links)
        for link in links:
            self._links[link] = self._links.get(link, 0.0) + each

    def told(self, seen: EngineRound) -> Round:
        """The round, with its costs."""
        return Round(
            number=seen.number,
            virtual_s=round(self._seconds, 6),
            bytes_total=round(float(self._sent.sum())),
            bytes_busiest=round(float(self._sent.max())),
            consensus_distance=seen.consensus_distance,
            average_accuracy=None if seen.average is None else seen.average.accuracy,
            average_loss=None if seen.average is None else seen.average.loss,
            peers=tuple(PeerScore(peer=peer, accuracy=own.accuracy, loss=own.loss) for peer, own in seen.peers),
        )

    def loads(self) -> tuple[LinkLoad, ...]:
        """Bytes over every link so far."""
        return tuple(
            LinkLoad(low=low, high=high, bytes=round(size)) for (low, high), size in sorted(self._links.items())
        )


def open_topology(text: str, scenario: Scenario, seed: int) -> Schedule:
    """Return the schedule of that name for a scenario's sites: "ring", "base3", "random_regular:4", "own".

    Raises:
        UsageError: There is none of that name or size, or the graph is of other sites.
    """
    name, _, degree = text.partition(":")
    if name != OWN:
        return schedules.build(name, scenario.n, degree=int(degree) if degree else 3, seed=seed)
    if scenario.arcs:
        return schedules.directed(scenario.n, scenario.arcs, name=OWN)
    return schedules.static(Topology.from_edges(scenario.n, scenario.graph), name=OWN)


class _Stop:
    """The charter's early stopping where all sites have one model of a round and test it on the same examples.

    So each says the same of it, in the words and by the arithmetic of `swarm.stopping`. Nobody is late here: words on a
    round are all in before the next one closes, as at protocol speed they are unless a site is cut off or very slow.
    """

    def __init__(self, policy: Policy, n: int) -> None:
        self._policy, self._watch = policy, Watch()
        self._members = [NodeId(member.to_bytes(32)) for member in range(n)]

    def after(self, number: int, told: Score | None, *, rounds: int) -> bool:
        """Whether the run ends with this round, of which the sites tell this."""
        assert told is not None, "every round is tested"
        model = number.to_bytes(32)
        value = {"accuracy": told.accuracy, "loss": told.loss}[self._policy.metric]
        words = ((self._policy.index, round(value * METRIC_SCALE)),)
        self._watch = committed(self._watch, number, model, 1)
        for member in self._members:
            self._watch = told_by(self._watch, self._policy, member, number, model, words)
        last = 0 if number >= rounds else number
        self._watch = settled(self._watch, self._policy, self._members, number, last=last)
        return bool(self._watch.last)


def _stopped_words(run: Run, last: int, stop: str) -> str:
    return f"{run.topology}, seed {run.seed}, at {run.speed} speed: stopped after round {last} by {stop}."


def described(scenario: Scenario, speeds: Sequence[Speed]) -> dict[str, object]:
    """Return a scenario as plain values, for a result: what was asked for, and nothing of the machine."""
    learning, terms = scenario.learning, scenario.terms
    own: tuple[str, ...] = (
        "name",
        "samples",
        "step_s",
        "uplink_bytes_s",
        "downlink_bytes_s",
        "latency_s",
        "outbound_only",
        "behaviour",
    )
    rare = (
        "slowdown",
        "stale_charter_s",
        "protocol",
    )  # told where a site has them: most scenarios know nothing of them
    usual = Site(name="usual")
    own += tuple(name for name in rare if any(getattr(site, name) != getattr(usual, name) for site in scenario.sites))
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "speeds": list(speeds),
        "topologies": list(scenario.topologies),
        "learning": {name: getattr(learning, name) for name in learning.__dataclass_fields__},
        "swarm": {name: getattr(terms, name) for name in terms.__dataclass_fields__},
        "network": {"latency_s": scenario.latency_s, "jitter_s": scenario.jitter_s, "loss": scenario.loss},
        "sites": [{name: getattr(site, name) for name in own} for site in scenario.sites],
        "links": [
            {"between": list(line.between), "bandwidth_bytes_s": line.bandwidth_bytes_s, "latency_s": line.latency_s}
            for line in scenario.lines
        ],
        "faults": [
            {"kind": one.kind, "at_s": one.at_s, "for_s": one.for_s, "groups": [list(group) for group in one.groups]}
            for one in scenario.mishaps
        ],
        "churn": None
        if scenario.churn is None
        else {name: getattr(scenario.churn, name) for name in scenario.churn.__dataclass_fields__},
        "graph": [list(link) for link in scenario.graph],
        "arcs": [list(arc) for arc in scenario.arcs],
    }


def _resilience(links: Topology) -> Resilience:
    n = links.n
    one = resilience.losing_one(links) if 1 < n <= SINGLES_MAX else ()
    two = resilience.losing_two(links) if 3 <= n <= PAIRS_MAX else ()
    return Resilience(
        single_points=resilience.find_articulation(links),
        bridges=resilience.find_bridges(links),
        one=tuple(_loss(loss) for loss in one),
        worst_two=_loss(two[0]) if two else None,
    )


def _loss(found: resilience.Loss) -> Loss:
    return Loss(members=found.members, cut_off=found.cut_off, gap=found.gap)


def _replaced(
    blank: Run, rounds: Sequence[Round], loads: tuple[LinkLoad, ...], *, complete: bool, model: Vector | None
) -> Run:
    """A run as it stands; of more links than a result lists, the busiest."""
    kept = loads
    if len(loads) > LINKS_MAX:
        busiest = sorted(loads, key=lambda load: (-load.bytes, load.low, load.high))[:LINKS_MAX]
        kept = tuple(sorted(busiest, key=lambda load: (load.low, load.high)))
    return Run(
        topology=blank.topology,
        seed=blank.seed,
        schedule_seed=blank.schedule_seed,
        speed=blank.speed,
        facts=blank.facts,
        resilience=blank.resilience,
        rounds=tuple(rounds),
        links=kept,
        complete=complete,
        model="" if model is None else hashlib.sha256(model.astype("<f4").tobytes()).hexdigest(),
    )


def _unless_refused(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except UsageError:
        return None


def _fits(nodes: int, elements: int, slots: int) -> bool:
    """Whether so many nodes and their models fit into memory: counted in models, as the engine does."""
    one = MODELS_HELD + OUTCOMES_HELD * slots + -(-NODE_BYTES // (4 * elements))
    try:
        check_memory(nodes * one, elements, velocities=False)
    except UsageError:
        return False
    return True
