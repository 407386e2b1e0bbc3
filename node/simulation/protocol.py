"""The protocol speed: the very node that ships, as many of them as the scenario has sites, in the simulated world.

Keys are made, a charter is drafted and signed by all, and every site's `node.core.Node` is fed by a world that knows
the scenario's lines, machines and misfortunes; training is the real task (`node.simulation.learner`). So whatever the
node does when a VPN drops or a site lies happens here, in virtual time, and for the same task, seed and shares the
final model is the networked swarm's, bit for bit, as long as the same members take part in the same rounds.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from typing_extensions import override

from gossip import wire
from gossip.noise import KeyPair
from gossip.relay import Passages
from node.core import Node
from node.data import SiteData
from node.simulation.flat import FlatModel
from node.simulation.learner import TaskLearner
from node.simulation.results import LinkLoad, PeerScore, Round
from node.task import task_digest
from swarm import charter as terms
from swarm.identity import Identity, verify
from swarm.ledger.audit import audit
from swarm.machine import Digest, Effect, Event, Mixed
from swarm.mixing.outer import buffers_text, lengthened, untrained
from swarm.mixing.outer import parse as parse_outer
from swarm.salt import SALT_BYTES
from swarm.vector import Vector, blob_digest, leaf_hashes
from topologies.graph import Edge, Topology
from topologies.scenario import METRICS, Scenario
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.world import Sealer, World

DAY_MS = 86_400_000

STALL_PATIENCES = 10
"""Patiences without a round after which a swarm is taken to stand still: below quorum it pauses for ever."""

EVENTS_MAX = 1_000_000_000
"""A thousand members need some millions a round; what really ends a run is `STALL_PATIENCES`."""

FRAMES_KEPT, SIGNATURES_KEPT = 4096, 1 << 16
"""What is remembered of what was read and checked: every frame that a thousand members have in the air at a time, and
every signature of a few rounds. At 200 members that is 100 MB."""

COLLECT_EVERY = 1_000_000
"""New objects, less those that are gone, between two looks for cycles: some hundred megabytes."""

Score = Callable[[Vector], tuple[float, float]]
"""(accuracy, mean loss) of a model."""


@dataclass(frozen=True, slots=True)
class Founded:
    """A swarm whose charter all have signed, and the outcome it starts from."""

    identities: tuple[Identity, ...]
    signed: terms.SignedCharter
    initial: bytes


def found(
    scenario: Scenario,
    learner: TaskLearner,
    task: Path,
    *,
    schedule: str,
    links: Topology,
    seed: int,
    directed: bool = False,
) -> Founded:
    """Make keys and a charter for a scenario; the same arguments give the same ledger id.

    With a `schedule` sites mix by gossip along it, `directed` or not; without one exactly, by the scenario's route.
    `links` are those that the charter grants.

    Raises:
        UsageError: The terms cannot be accepted.
    """
    identities = tuple(_identity(seed, member) for member in range(scenario.n))
    cards = tuple(
        terms.make_card(who, name=site.name, endpoint="" if site.outbound_only else f"tcp://{site.name}:17400")
        for who, site in zip(identities, scenario.sites, strict=True)
    )
    created_ms = int(EPOCH_S * 1000) - 60_000
    text = draft(
        scenario,
        learner.model,
        task,
        cards,
        schedule=schedule,
        links=links,
        seed=seed,
        created_ms=created_ms,
        directed=directed,
    )
    signed = sign(text, identities)
    return Founded(identities, signed, _initial(learner.model, signed.charter.outer.slots))


def draft(
    scenario: Scenario,
    model: FlatModel,
    task: Path,
    cards: Sequence[terms.Card],
    *,
    schedule: str,
    links: Topology,
    seed: int,
    created_ms: int,
    directed: bool = False,
) -> terms.Charter:
    """Return the charter that a scenario describes, for members with these cards, in the scenario's order.

    Arguments otherwise as for `found`; `created_ms` is the Unix time of its making.
    """
    asked, learning = scenario.terms, scenario.learning
    slots = parse_outer(learning.outer).slots
    initial = _initial(model, slots)
    buffers = untrained(model.parameters(model.module), model.elements) if slots else ()
    arcs = " ".join(f"{a}>{b}" for a, b in scenario.arcs) if schedule == terms.OWN_LINKS else ""
    complete = len(links.edges) == scenario.n * (scenario.n - 1) // 2
    return terms.Charter(
        version=terms.CHARTER_VERSION,
        name=scenario.name,
        created_ms=created_ms,
        members=tuple(cards),
        task=terms.Task(
            task.stem,
            task_digest(task),
            model.layout.digest(),
            model.elements,
            blob_digest(len(initial), leaf_hashes(initial)),
            seed,
        ),
        round=terms.RoundPolicy(
            rounds=learning.rounds,
            mixing="gossip" if schedule else "exact",
            outer=learning.outer,
            min_contributions=scenario.fewest,
            deadline_ms=round(asked.deadline_s * 1000),
            patience_ms=round(asked.patience_s * 1000),
            clip_norm_milli=round(asked.clip_norm * 1000),
            weight_cap_ppm=asked.weight_cap_ppm,
        ),
        ledger=terms.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=METRICS,
        edges=() if complete else links.edges,
        predecessor=(),
        options=terms.options_of(
            asynchronous=terms.BUFFERED if asked.asynchronous else "",
            buffers=buffers_text(buffers),
            clip=str(learning.clip) if learning.clip else "",
            codec=learning.codec,
            correction=learning.correction,
            gamma="" if learning.gamma is None else f"{learning.gamma:g}",
            links=arcs or ("directed" if directed else ""),
            pace="" if schedule or not asked.waited else str(asked.waited),
            relay=terms.RELAYS[0] if asked.relay else "",
            route="" if scenario.route is None else learning.route,
            rule=learning.rule,
            salt=str(SALT_BYTES) if learning.salt else "",
            schedule=schedule,
            stop=learning.stop,
            staleness="" if schedule or learning.rule or not asked.late_rounds else str(asked.late_rounds),
        ),
    )


def sign(charter: terms.Charter, identities: Sequence[Identity]) -> terms.SignedCharter:
    """Return a charter with every founder's signature."""
    signed = terms.SignedCharter(charter, {})
    for who in identities:
        signed = signed.sign(who)
    signed.check()
    return signed


def outdated(charter: terms.Charter) -> terms.Charter:
    """Return terms that the members of a charter might have had a day before: what a stale start-up kit holds."""
    return msgspec.structs.replace(charter, created_ms=charter.created_ms - DAY_MS)


def _initial(model: FlatModel, slots: int) -> bytes:
    return lengthened(model.initial.numpy().astype("<f4").tobytes(), slots)


def schedule_seed(founded: Founded) -> int:
    """What drawn schedules are drawn from in this swarm (as `topologies.plan.SchedulePlan` does)."""
    return int.from_bytes(founded.signed.ledger_id[:4], "big")


class Play:
    """A swarm of real nodes under way, round by round.

    Args:
        scenario: Where it plays.
        founded: The swarm, of `found`.
        learner: Its task.
        sites: Whose data, in member order.
        links: As given to `found`.
        seed: Of the world: delays, losses, churn.
        score: Tests a model.
        tested: Whose models are tested, ascending.
        older: What plays a site whose software speaks an older version of the protocol, by version; without, today's
            node does.
    """

    def __init__(
        self,
        scenario: Scenario,
        founded: Founded,
        learner: TaskLearner,
        sites: Sequence[SiteData],
        *,
        links: Topology,
        seed: int,
        score: Score,
        tested: Sequence[int],
        older: Mapping[str, type[Node]] = MappingProxyType({}),
    ) -> None:
        self._founded = founded
        stale = any(site.stale_charter_s for site in scenario.sites)
        self._stale = sign(outdated(founded.signed.charter), founded.identities) if stale else founded.signed
        self._scenario, self._score, self._tested = scenario, score, tuple(tested)
        self._honest = scenario.honest
        self._elements = founded.signed.charter.task.parameters
        self._watch = _Watch(self._honest, self._elements)
        self._number = 0
        self._rounds = founded.signed.charter.round.rounds
        dialable = scenario.links.edges if any(site.outbound_only for site in scenario.sites) else links.edges
        # Frames are read and signatures checked as on the hosts, but what is the same for everybody once.
        decode = lru_cache(FRAMES_KEPT)(wire.decode)
        checked = lru_cache(SIGNATURES_KEPT)(verify)
        data = [hashlib.sha256(site.name.encode()).digest() for site in sites]
        self.world = World(
            seed=seed,
            make=lambda member, incarnation: older.get(scenario.sites[member].protocol, Node)(
                signed=self._charter(member),
                identity=founded.identities[member],
                rng=random.Random(f"node/{seed}/{member}/{incarnation}"),  # noqa: S311 - to be repeated, not secret
                now=EPOCH_S + self.world.now,
                code_digest=founded.signed.charter.task.digest,
                layout_digest=founded.signed.charter.task.layout,
                data_digest=data[member],
                decode=decode,
                verify=checked,
            ),
            topology=Topology.from_edges(scenario.n, sorted({*links.edges} & {*dialable})),
            plan=scenario.plan(seed),
            network=scenario.profile,
            access=scenario.access,
            slow=scenario.slow,
            passages=self._passages(founded) if scenario.terms.relay else None,
            learner=learner,
            audit=lambda payloads: _fault_of(payloads, founded.signed),
            ids=[who.node for who in founded.identities],
            momentum=founded.signed.charter.momentum,
            follows=founded.signed.charter.follows,
            outer=founded.signed.charter.outer,
            rule=founded.signed.charter.rule_of(exchanging=False),
            twins=scenario.twins,
            blobs=[founded.initial],
            codec=founded.signed.charter.codec,
            cuts=founded.signed.charter.cuts,
            averages=founded.signed.charter.averages,
            salt=founded.signed.charter.salt,
            checkers=[self._watch],
            ledger_id=founded.signed.ledger_id,
        )
        lasting = [m.for_s for m in scenario.mishaps if m.for_s < 1e9]
        lasting += [site.stale_charter_s for site in scenario.sites if site.stale_charter_s < math.inf]
        self._stall_s = STALL_PATIENCES * scenario.terms.patience_s + max(lasting, default=0.0)

    def _charter(self, member: int) -> terms.SignedCharter:
        """The terms that a site which starts now finds in its folder."""
        stale = self.world.now < self._scenario.sites[member].stale_charter_s
        return self._stale if stale else self._founded.signed

    @staticmethod
    def _passages(founded: Founded) -> Sealer:
        """Links through relays, under the members' own transport keys."""

        def make(member: int, draw: Callable[[], bytes]) -> Passages:
            who = founded.identities[member]
            keys = KeyPair(who.curve_public, who.curve_secret)
            return Passages(me=who.node, keys=keys, ledger_id=founded.signed.ledger_id, draw=draw)

        return make

    def next_round(self) -> Round | None:
        """Let the next round happen and return what is known after it; None if it does not come about."""
        number = self._number + 1
        watch, last = self._watch, number == self._rounds
        wanted = self._all_done if last else (lambda world: watch.over(number) or self._all_done(world))
        with _seldom_collected():
            came = self.world.run(wanted, max_events=EVENTS_MAX, end_s=self.world.now + self._stall_s)
        if self.stopped and number > self._last():
            return None
        if not came and not (last and self.final_model() is not None):  # who is away for ever is not waited for
            return None
        self._number = number
        models = watch.models_after(number)
        if last:
            models = {member: model for member in models if (model := self.final_model(member)) is not None} or models
        at_s = self.world.now if last and came else watch.at_s[number]
        return self._told(number, at_s, models)

    @property
    def stopped(self) -> bool:
        """Whether the charter's rule has ended the run before its last round, and everybody is done."""
        return self._all_done(self.world) and self._last() < self._rounds

    def _last(self) -> int:
        """Return the last round of the run, as far as anybody knows."""
        machines = [self.world.place(member).machine for member in self._honest]
        return min((one.replica.head.last for one in machines if isinstance(one, Node)), default=self._rounds)

    def why_not(self) -> str:
        """Say in words what a swarm that stands still is waiting for."""
        for member in self._honest:
            machine = self.world.place(member).machine
            if isinstance(machine, Node):
                status = machine.status(EPOCH_S + self.world.now)
                words = status["halted"] or status["paused"] or f"it is {status['phase']}"
                return f"round {self._number + 1} was not over after {self._stall_s:.0f} virtual seconds: {words}"
        return f"round {self._number + 1} was not over after {self._stall_s:.0f} virtual seconds: all sites are down"

    def final_model(self, member: int = -1) -> Vector | None:
        """Return the common model that a member holds after the last round (-1: of anybody who has it)."""
        outcome = self.final_outcome(member)
        return None if outcome is None else outcome[: self._elements]

    def final_outcome(self, member: int = -1) -> Vector | None:
        """As `final_model`, with what the outer optimiser remembers: the blob that the ledger names."""
        for candidate in [member] if member >= 0 else self._honest:
            place = self.world.place(candidate)
            if isinstance(place.machine, Node) and place.machine.replica.head.complete:
                model = place.blobs.vector(Digest(place.machine.replica.head.committed.model))
                if model is not None:
                    return model
        return None

    def loads(self) -> tuple[LinkLoad, ...]:
        """Bytes over every link so far, by members."""
        found: dict[Edge, int] = {}
        for (source, target), size in self._carried():
            pair = (min(source, target), max(source, target))
            found[pair] = found.get(pair, 0) + size
        return tuple(LinkLoad(low=low, high=high, bytes=size) for (low, high), size in sorted(found.items()) if size)

    def _all_done(self, world: World) -> bool:
        return all(world.places[member].finished for member in self._honest)

    def _told(self, number: int, at_s: float, models: dict[int, Vector]) -> Round:
        sent = [0] * self._scenario.n
        for (source, _), size in self._carried():
            sent[source] += size
        mean = np.zeros(len(next(iter(models.values()))))
        for model in models.values():
            mean += model
        mean /= len(models)
        squares = [float(np.square(model - mean).sum()) for model in models.values()]
        accuracy, loss = self._score(mean.astype(np.float32))
        scores = []
        for member in self._tested:
            if member in models:
                own = self._score(models[member])
                scores.append(PeerScore(peer=member, accuracy=own[0], loss=own[1]))
        return Round(
            number=number,
            virtual_s=round(at_s, 6),
            bytes_total=sum(sent),
            bytes_busiest=max(sent),
            consensus_distance=float(np.sqrt(sum(squares) / len(squares))),
            average_accuracy=accuracy,
            average_loss=loss,
            peers=tuple(scores),
            missing=self._missing(number),
        )

    def _missing(self, number: int) -> int:
        for member in self._honest:
            machine = self.world.place(member).machine
            closed = machine.status(EPOCH_S + self.world.now)["closed"] if isinstance(machine, Node) else []
            assert isinstance(closed, list), "a status lists the rounds closed last"
            for one in closed:
                if one["round"] == number:
                    return len(one["without"])
        return 0

    def _carried(self) -> list[tuple[Edge, int]]:
        """Bytes handed to every direction between members; the second process of a twin is its member."""
        places = self.world.places
        return [
            ((source.member, target.member), size)
            for index, size in enumerate(self.world.network.carried)
            if size
            for source, target in [(places[index // len(places)], places[index % len(places)])]
        ]


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let the collector of cycles look less often: what hundreds of nodes hold are millions of objects, and no cycles.

    At its usual pace it takes a third of the time of 200 nodes.
    """
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Watch(Checker):
    """Keeps every member's model as it comes out of a round, before the store forgets it."""

    def __init__(self, honest: Sequence[int], elements: int) -> None:
        self._honest, self._elements = frozenset(honest), elements
        self._models: dict[int, dict[int, Vector]] = {}
        self._latest: dict[int, Vector] = {}
        self.at_s: dict[int, float] = {}

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if not isinstance(event, Mixed) or event.model is None or node not in self._honest:
            return
        model = world.place(node, twin).blobs.vector(event.model)
        if model is None:
            return
        self._models.setdefault(event.round, {})[node] = model[: self._elements]
        if event.round + 1 not in self._models:  # whoever comes late does not make the round longer
            self.at_s[event.round] = world.now

    def over(self, number: int) -> bool:
        """Whether all have come out of a round, or somebody out of the next."""
        return len(self._models.get(number, ())) == len(self._honest) or number + 1 in self._models

    def models_after(self, number: int) -> dict[int, Vector]:
        """Every member's model after a round; whoever was not in it still has the one before."""
        for old in sorted(r for r in self._models if r <= number):
            self._latest.update(self._models.pop(old) if old < number else self._models[old])
        return {member: self._latest[member] for member in sorted(self._latest)}


def _identity(seed: int, member: int) -> Identity:
    """Keys that protect nothing: they follow from the seed, so that a simulation can be repeated."""
    own = hashlib.sha256(f"simulated/{seed}/{member}".encode()).digest()
    return Identity.from_seed(own, hashlib.sha256(own).digest())


def _fault_of(payloads: Sequence[bytes], signed: terms.SignedCharter) -> str:
    found = [step.failure for step in audit(payloads, signed) if step.failure is not None]
    return str(found[0]) if found else ""
