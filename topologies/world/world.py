"""The simulated world: it drives many `Machine`s under one seeded scheduler and virtual time, and obeys their effects.

It is a shell like the real one, so the node that is tested here is the node that ships. It knows the seam and nothing
behind it: no message, no ledger, no round. Everything random comes from the seed, nothing from the machine it runs on,
so a run is its seed: same seed, same trace, byte for byte.

What it promises a machine is what the real shell promises: effects in order, a `Persist` durable before anything after
it is begun. While a sync takes its time the process is busy and events wait, and a crash may fall in any gap between
two effects or into the sync itself. What survives is what the simulated disk says, read back by the real journal.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from gossip.relay import Item as PassageItem
from gossip.relay import Out, Passages, is_carried
from swarm.errors import LedgerError, StoreError
from swarm.ledger.disk import DiskFull
from swarm.ledger.journal import BLOCKS, Journal, Opened, Placed, joined, scan
from swarm.ledger.snapshot import CONTEXT_BLOCKS
from swarm.machine import (
    RECORD_BLOCK,
    AddUp,
    Adopt,
    Answer,
    Appraise,
    Asked,
    Audit,
    Audited,
    Blend,
    Buffer,
    Check,
    Deposit,
    Divide,
    Effect,
    Evaluate,
    Event,
    Finished,
    Follow,
    Forget,
    Guard,
    Inspect,
    Join,
    Keep,
    LinkChanged,
    Machine,
    MaskUpdate,
    Mix,
    MixSlice,
    NodeId,
    Persist,
    Prune,
    Publish,
    Reach,
    ReadBlob,
    Received,
    Record,
    Report,
    Resting,
    Seal,
    Send,
    SendBlocks,
    SendChunk,
    Snapshot,
    Started,
    StoreFailed,
    Train,
    Unmask,
    WakeAt,
    Woke,
)
from swarm.mixing.compress.forms import Spec
from swarm.mixing.outer import NONE, Outer
from swarm.mixing.rules import Rule
from topologies.graph import Topology
from topologies.world.blobs import BLOB_S, BlobStore, Work
from topologies.world.checkers import Checker, Violation
from topologies.world.clock import EPOCH_S, Scheduler
from topologies.world.disk import SLOW_SYNC_S, SimulatedDisk
from topologies.world.faults import Crash, Fault, FaultPlan, Freeze, Replay
from topologies.world.learner import Learner
from topologies.world.links import Links
from topologies.world.misfortunes import Misfortunes
from topologies.world.network import Access, NetworkModel, NetworkProfile
from topologies.world.place import Place, Stats, member_id
from topologies.world.trace import Trace, Words

EVENTS_MAX = 5_000_000
"""Scheduler steps of one `run` unless told otherwise: minutes of real time, far beyond any honest scenario."""

HOLD_RETRY_S = 1.0
"""A process whose disk is full tries again after this long, as the real shell does. Meanwhile frames from peers are
dropped, because peers send them again, and everything else waits."""

FROZEN_LOOK_S = 0.05
"""Between looks whether a process that stands still, and whose sync is over, goes on."""

RESTART_S = 2.0
"""A process that stopped itself, or could not start, is tried again after this long, as a service manager does."""

START_SPREAD_S = 0.5
"""Processes of one swarm start within this time of each other."""

RECOVERY_OPERATIONS_MAX = 12
"""A crash during recovery falls within this many disk operations; opening a small journal takes about as many."""

SEGMENT_BYTES = 1 << 16
"""Journal segments are small here, so that rolling to a new one happens in most runs."""

SNAPSHOT_LOST = 0.5
"""A snapshot is not synced: a power failure takes it as often as not."""

Factory = Callable[[int, int], Machine]
"""(member, incarnation) -> machine. Incarnations count up from 0 with every start of the member, twins included."""

Sealer = Callable[[int, Callable[[], bytes]], Passages]
"""(member, draw) -> its links through relays. `draw` returns 32 bytes at each call, from the seed."""

SURPLUS_BYTES = 100
"""By how much a message is too long when it is damaged so."""

AUDIT_S = 1.0
"""How long the check of a whole ledger takes in the background."""


class World:
    """N members, their links, their disks and their misfortunes.

    Args:
        seed: Everything random follows from it.
        make: Makes a machine for each start of a process.
        topology: Members and links; a frame to anybody but a neighbour goes nowhere.
        plan: What goes wrong, and when.
        network: What the links are like.
        access: What each member's own line adds to that; none adds nothing.
        slow: Links (member, member), one entry for both ways, that are narrower or longer than the others: (bytes a
            second, further delay in seconds).
        audit: Checks the records of a whole ledger and returns what is wrong with it, empty if nothing is.
        codec: How contributions are compressed, as the charter has it.
        cuts: The slices in which they travel, as the charter has them.
        averages: How averages of those are compressed, as the charter has it.
        momentum: The quasi-global momentum of the charter; 0 for none.
        follows: Whether contributions say how public copies move (`Charter.follows`).
        outer: What a round does with the mean of its updates (`Charter.outer`).
        rule: By which updates are averaged, as the charter has it.
        masks: Whether updates travel masked, as the charter has it.
        salt: How many bytes of salt lie behind an update, as the charter has it. They are drawn from the seed.
        passages: Makes the links through relays of each start of a process: the very ones of the real shell. A pair of
            members that is linked through a relay is no link of the topology.
        learner: Answers Train, Evaluate and Inspect; without one training fails with a sentence.
        ids: Identity of each member, default `member_id`.
        twins: Members run as two processes with one identity and two disks: the liar of Bano et al., "Twins: BFT
            Systems Made Robust" (2021). Unless the plan routes them, `twin_split` gives each process of the pair half
            of the other processes; without it both talk to everybody.
        blobs: Blobs that every store holds from the beginning.
        checkers: Asked after every event.
        sync_s: Mean time of a sync; 0 means at once.
        ledger_id: Names the journal of every disk.
        record_trace: Keep all lines of the trace, not only the last few.
    """

    def __init__(
        self,
        *,
        seed: int,
        make: Factory,
        topology: Topology,
        plan: FaultPlan | None = None,
        network: NetworkProfile | None = None,
        access: Sequence[Access] = (),
        slow: Mapping[tuple[int, int], tuple[float, float]] | None = None,
        passages: Sealer | None = None,
        learner: Learner | None = None,
        audit: Callable[[Sequence[bytes]], str] = lambda _: "",
        codec: Spec | None = None,
        cuts: Sequence[tuple[int, int]] = (),
        averages: Spec | None = None,
        momentum: float = 0.0,
        follows: bool = False,
        outer: Outer = NONE,
        rule: Rule | None = None,
        masks: bool = False,
        salt: int = 0,
        ids: Sequence[NodeId] | None = None,
        twins: Collection[int] = (),
        twin_split: bool = True,
        blobs: Sequence[bytes] = (),
        checkers: Sequence[Checker] = (),
        sync_s: float = 0.002,
        ledger_id: bytes = bytes(32),
        record_trace: bool = False,
    ) -> None:
        self.seed, self.topology, self.plan = seed, topology, plan or FaultPlan()
        self.learner, self._audit, self._codec, self._momentum = learner, audit, codec, momentum
        self._cuts, self._averages, self._follows = cuts, averages, follows
        self._outer, self._rule, self._masks = outer, rule, masks
        self._salt = salt
        self.stats = Stats()
        self.trace = Trace(record=record_trace)
        self._make, self._sync_s, self._ledger_id = make, sync_s, ledger_id
        self._rng = _stream("world", seed)
        self._snapshot_rng = _stream("snapshots", seed)
        self._passages, self._passages_rng = passages, _stream("passages", seed)
        self._garble_rng = _stream("garble", seed)
        self._replayed = {fault.slot for fault in self.plan.faults if isinstance(fault, Replay)}
        self._scheduler = Scheduler()
        self._at = self._scheduler.at
        self._tickets = 0
        self._incarnations = [0] * topology.n
        self.ids = tuple(ids) if ids is not None else tuple(member_id(member) for member in range(topology.n))
        assert len(set(self.ids)) == topology.n, "as many different identities as members"
        self.places = self._populate(sorted(set(twins)), blobs)
        self.network = NetworkModel(
            network or NetworkProfile(),
            len(self.places),
            _stream("network", seed),
            [access[place.member] for place in self.places] if access else (),
            {
                (a.slot, b.slot): how
                for (one, other), how in (slow or {}).items()
                for a in self.places
                for b in self.places
                if (a.member, b.member) in ((one, other), (other, one))
            },
        )
        self._words = Words({node: f"n{member}" for member, node in enumerate(self.ids)}, EPOCH_S)
        self._hook(checkers)
        self._links = Links(self.places, self.network, self._scheduler, self._rng, self._relink)
        self._misfortunes = Misfortunes(
            self.places,
            self.network,
            self._links,
            self._scheduler,
            note=lambda text: self._note(None, text),
            crash=self._crash,
            freeze=self._freeze,
            set_alarm=self._set_alarm,
            replay=self._replay,
        )
        self._schedule(sorted(set(twins)) if twin_split else [])

    def _populate(self, twins: Sequence[int], blobs: Sequence[bytes]) -> tuple[Place, ...]:
        """Members in slots 0..n-1, then the second processes of twins; each knows its neighbours' processes."""
        who = [(member, 0) for member in range(self.topology.n)] + [(member, 1) for member in twins]
        places = tuple(
            Place(
                slot=slot,
                member=member,
                twin=twin,
                id=self.ids[member],
                name=f"n{member}" + "b" * twin,
                disk=SimulatedDisk(),
                blobs=self._store(blobs, slot),
            )
            for slot, (member, twin) in enumerate(who)
        )
        of_member = [tuple(place for place in places if place.member == member) for member in range(self.topology.n)]
        for place in places:
            for neighbour in self.topology.neighbours(place.member):
                place.peers[self.ids[neighbour]] = of_member[neighbour]
                place.links[self.ids[neighbour]] = ()
        return places

    def _store(self, blobs: Sequence[bytes], slot: int) -> BlobStore:
        if self.learner is None:
            return BlobStore(blobs)
        learner = self.learner
        return BlobStore(
            blobs,
            codec=self._codec,
            elements=learner.elements,
            bound=learner.bound,
            cuts=self._cuts,
            averages=self._averages,
            momentum=self._momentum,
            follows=self._follows,
            outer=self._outer,
            rule=self._rule,
            masks=self._masks,
            salt=self._salt,
            draw=_stream(f"salt/{slot}", self.seed).randbytes,
        )

    def _hook(self, checkers: Sequence[Checker]) -> None:
        """Remember only the hooks that are overridden: a run makes millions of calls."""
        self._checkers = tuple(checkers)
        self._on_start = [c.on_start for c in checkers if type(c).on_start is not Checker.on_start]
        self._on_event = [c.on_event for c in checkers if type(c).on_event is not Checker.on_event]
        self._on_persist = [c.on_persist for c in checkers if type(c).on_persist is not Checker.on_persist]
        self._on_send = [c.on_send for c in checkers if type(c).on_send is not Checker.on_send]
        self._on_crash = [c.on_crash for c in checkers if type(c).on_crash is not Checker.on_crash]

    def _schedule(self, split: Sequence[int]) -> None:
        for place in self.places:
            self._at(START_SPREAD_S * self._rng.random(), self._start, place)
        for member in split:
            others = [place.slot for place in self.places if place.member != member]
            self._rng.shuffle(others)
            half = len(others) // 2
            self._misfortunes.route_twin(member, others[:half], others[half:])
        for fault in self.plan.faults:
            self._at(fault.at_s, self.strike, fault)
        if self.plan.heal_s < math.inf:
            self._at(self.plan.heal_s, self._misfortunes.heal)

    # What scenarios use.

    @property
    def now(self) -> float:
        """Virtual time, in seconds from the beginning of the run."""
        return self._scheduler.now

    def run(
        self, until: float | Callable[[World], bool], *, max_events: int = EVENTS_MAX, end_s: float = math.inf
    ) -> bool:
        """Go on until virtual time `until`, or until a condition holds, asked at once and after every step.

        Returns:
            Whether it came to that: False if `max_events` steps or virtual time `end_s` were used up before, or
            nothing is left to happen and the condition does not hold.

        Raises:
            Violation: A checker objected.
        """
        if not callable(until):
            return self._scheduler.run(until, max_events, None)
        condition = until
        return self._scheduler.run(end_s, max_events, lambda: condition(self))

    def end(self) -> None:
        """Ask every checker for its last word.

        Raises:
            Violation: A checker objected.
        """
        for checker in self._checkers:
            checker.at_end(self)

    def fail(self, text: str) -> NoReturn:
        """Stop the run: `text` says which truth does not hold.

        Raises:
            Violation: Always, with seed, time and the last lines of the trace.
        """
        tail = "\n".join(self.trace.lines()[-20:])
        raise Violation(f"{text} (seed {self.seed}, at {self.now:.6f} s)\n{tail}")

    def place(self, node: int, twin: int = 0) -> Place:
        """The process of a member, or its second one."""
        if not twin:
            return self.places[node]
        return next(place for place in self.places if place.member == node and place.twin == twin)

    def ask(self, node: int, question: str, *, twin: int = 0) -> int:
        """Put a local question to a member now; the answer, with the ticket returned here, appears in its `answers`."""
        self._tickets += 1
        place = self.place(node, twin)
        ticket = self._tickets
        self._later(place, 0.0, lambda: (Asked(ticket, question),))
        return ticket

    def rest(self, node: int, why: str) -> None:
        """Let a member rest from now on, or with no reason train again. Its next process has not heard of it."""
        self._later(self.place(node), 0.0, lambda: (Resting(why),))

    def utter(self, node: int, to: NodeId, frame: bytes, *, twin: int = 0) -> None:
        """Put a frame on a member's link that its machine has not made, as a liar with its keys would."""
        self._transmit(self.place(node, twin), to, frame, None)

    def strike(self, fault: Fault) -> None:
        """Let a fault happen now, whatever its `at_s` says."""
        self._misfortunes.strike(fault)

    def trace_digest(self) -> str:
        """SHA-256 of the trace so far: equal for equal runs."""
        return self.trace.digest()

    # Handing events over.

    def _later(self, place: Place, delay_s: float, work: Work) -> None:
        """Hand the result of `work` to the machine that runs now, if it still runs then."""
        self._at(self._scheduler.now + delay_s, self._finish, place, place.incarnation, work)

    def _finish(self, place: Place, incarnation: int, work: Work) -> None:
        if place.machine is None or place.incarnation != incarnation:
            return
        for event in work():
            self._give(place, incarnation, event)

    def _note(self, place: Place | None, text: str) -> None:
        self.trace.add(f"{self._scheduler.now:.6f} {place.name if place else 'world'} {text}")

    # A process and its machine.

    def _give(self, place: Place, incarnation: int, event: Event) -> None:
        """Let the machine handle an event, or queue it while a sync keeps the process busy."""
        if place.machine is None or place.incarnation != incarnation:
            return
        if place.holding and isinstance(event, Received):
            self.stats.lost += 1
        elif place.frozen or place.syncing or place.inbox:
            place.inbox.append(event)
        else:
            self._handle(place, place.machine, event)

    def _handle(self, place: Place, machine: Machine, event: Event) -> None:
        effects = machine.handle(event, place.clock.read(self._scheduler.now))
        self.stats.events += 1
        line = f"{self._scheduler.now:.6f} {place.name} {self._words.event(event)}"
        if effects:
            self.trace.add(f"{line} > {self._words.effects(effects)}")
            place.effects, place.cursor = effects, 0
            self._perform(place)
        else:
            self.trace.add(line)
        for hook in self._on_event:
            hook(self, place.member, place.twin, event, effects)

    def _perform(self, place: Place) -> None:
        """Obey effects from the cursor on, until they are done, a sync takes time, or the process stops."""
        effects, obey = place.effects, self._obey
        while place.cursor < len(effects):
            if place.fuse >= 0:
                if place.fuse == 0 and place.crash is not None:
                    self._crash(place, place.crash)
                    return
                place.fuse -= 1
            effect = effects[place.cursor]
            if isinstance(effect, Send):
                self._send(place, effect.to, effect.frame, None)
            elif isinstance(effect, Persist):
                if self._sync_s > 0.0:
                    place.syncing = True
                    took = self._sync_s * (0.5 + self._rng.random()) + SLOW_SYNC_S * place.disk.slow
                    self._at(self._scheduler.now + took, self._synced, place, place.incarnation)
                    return
                if not self._persist(place, effect):
                    return
            elif isinstance(effect, Keep):
                if not self._keep(place, effect):
                    return
            elif isinstance(effect, Prune):
                if not self._prune(place, effect):
                    return
            else:
                obey(place, effect)
            place.cursor += 1
        place.effects = ()

    def _synced(self, place: Place, incarnation: int) -> None:
        """A sync is over: go on with the effects after it, then with the events that waited."""
        if place.machine is None or place.incarnation != incarnation:
            return
        if place.frozen:  # noticed when it goes on
            self._at(self._scheduler.now + FROZEN_LOOK_S, self._synced, place, incarnation)
            return
        effect = place.effects[place.cursor]
        place.syncing = place.holding = False
        assert isinstance(effect, Persist | Keep), "only what needs room on the disk takes time"
        if not (self._persist(place, effect) if isinstance(effect, Persist) else self._keep(place, effect)):
            return
        place.cursor += 1
        self._perform(place)
        self._catch_up(place)

    def _catch_up(self, place: Place) -> None:
        """Handle what has waited."""
        while place.inbox and not place.syncing and place.machine is not None:
            self._handle(place, place.machine, place.inbox.popleft())

    def _persist(self, place: Place, effect: Persist) -> bool:
        """Make the records durable, and say whether they are.

        Without room the process holds still and tries again: nothing is in doubt, and nothing may overtake the records.
        After any other failure nobody knows what is durable, so it stops.
        """
        assert place.journal is not None, "a running process has its journal open"
        try:
            place.journal.append(effect.records)
        except DiskFull as full:
            return self._hold(place, full.message)
        except StoreError as error:
            return self._stop(place, error)
        self.stats.persists += 1
        for hook in self._on_persist:
            hook(self, place.member, place.twin, effect.records)
        return True

    def _prune(self, place: Place, effect: Prune) -> bool:
        """Remove old segments, and say whether the disk let it."""
        assert place.journal is not None, "a running process has its journal open"
        try:
            place.journal.drop_wal_below(effect.view)
            place.journal.drop_feed_below(effect.seq)
        except StoreError as error:
            return self._stop(place, error)
        return True

    def _stop(self, place: Place, error: StoreError) -> bool:
        """End the process; a service manager starts it again. Returns False: the effect has not happened."""
        self._note(place, f"stops: {error.message}")
        self._crash(place, Crash(at_s=self._scheduler.now, slot=place.slot, down_s=RESTART_S))
        return False

    def _keep(self, place: Place, effect: Keep) -> bool:
        """Write a received piece, and say whether there was room; without, the process holds as for a Persist."""
        failed = place.blobs.keep(effect)
        return failed is None or self._hold(place, failed.why)

    def _hold(self, place: Place, why: str) -> bool:
        """Stand still and try again later. Returns False: the effect has not happened."""
        self._note(place, f"holds: {why}")
        place.syncing = place.holding = True
        self._at(self._scheduler.now + HOLD_RETRY_S, self._synced, place, place.incarnation)
        return False

    def _reach(self, place: Place, effect: Reach) -> None:
        """Tell of links that were there before the process cared for them."""
        fresh = {contact.node for contact in effect.contacts}
        for peer in sorted(fresh - place.reached):
            if place.links.get(peer):
                up = LinkChanged(peer, True, "connected")
                self._later(place, 0.0, functools.partial(tuple, (up,)))
        place.reached = fresh
        if place.passages is not None:
            self._pass(place, place.passages.reach(effect.contacts, effect.carried, self.now))

    def _obey(self, place: Place, effect: Effect) -> None:
        match effect:
            case Reach():
                self._reach(place, effect)
            case WakeAt(time=time):
                self._set_alarm(place, time)
            case SendChunk():
                self._send_chunk(place, effect)
            case SendBlocks():
                self._send_blocks(place, effect)
            case Seal():
                place.blobs.seal(effect)
            case Check():
                self._later(place, BLOB_S, place.blobs.check(effect))
            case Forget():
                place.blobs.forget(effect)
            case Snapshot(height=height, state=state):
                place.snapshot = height, state
            case Publish():
                place.published[effect.name] = effect.data
            case Audit(later=True):
                place.unaudited = True
            case Audit():
                self._later(place, AUDIT_S, functools.partial(self._audited, place))
            case Guard(data=data):
                place.guarded = data
            case Deposit() | Adopt():
                made = place.blobs.deposit(effect.data) if isinstance(effect, Deposit) else place.blobs.adopt(effect)
                self._later(place, BLOB_S, lambda: made)
            case ReadBlob():
                self._later(place, BLOB_S, place.blobs.read_blob(effect))
            case MaskUpdate():
                self._later(place, BLOB_S, place.blobs.mask(effect))
            case Unmask():
                self._later(place, BLOB_S, place.blobs.unmask(effect))
            case Inspect():
                assert self.learner is not None, "a machine that inspects updates needs a learner"
                self._later(place, BLOB_S, place.blobs.inspect(effect, self.learner))
            case Follow():
                self._later(place, BLOB_S, place.blobs.follow(effect))
            case Mix():
                self._later(place, BLOB_S, place.blobs.mix(effect))
            case Blend():
                self._later(place, BLOB_S, place.blobs.blend(effect))
            case MixSlice():
                self._later(place, BLOB_S, place.blobs.mix_slice(effect))
            case Join():
                self._later(place, BLOB_S, place.blobs.join(effect))
            case AddUp():
                self._later(place, BLOB_S, place.blobs.add_up(effect))
            case Divide():
                self._later(place, BLOB_S, place.blobs.divide(effect))
            case Train():
                self._train(place, effect)
            case Evaluate():
                self._later(place, BLOB_S, place.blobs.evaluate(effect, self.learner, place.member))
            case Appraise():
                self._later(place, BLOB_S, place.blobs.appraise(effect, self.learner, place.member))
            case Report():
                place.reports.append((self._scheduler.now, effect))
            case Answer():
                place.answers.append(effect)
            case Finished():
                place.finished = effect
            case Send() | Persist() | Keep() | Prune():
                raise AssertionError("obeyed by _perform")

    def _audited(self, place: Place) -> tuple[Event, ...]:
        try:
            found = [part for part in scan(place.disk, BLOCKS, self._ledger_id) if isinstance(part, Placed)]
        except StoreError as error:
            self._note(place, f"couldn't look through the ledger: {error.message}")
            return ()
        problem = self._audit([part.record.payload for part in found])
        place.unaudited = bool(problem)
        return (Audited(problem),)

    # Links.

    def _send(self, place: Place, to: NodeId, frame: bytes, payload: Buffer | None) -> None:
        stats = self.stats
        size = len(frame) if payload is None else len(frame) + len(payload)
        stats.frames += 1
        stats.frame_bytes += size
        for hook in self._on_send:
            hook(self, place.member, place.twin, to, frame)
        if place.passages is not None and place.passages.leads(to):
            out = place.passages.send(to, frame, payload, self.now)
            if out is None:
                stats.lost += 1
                return
            to, frame, payload = out.to, out.frame, out.payload
        self._transmit(place, to, frame, payload)

    def _transmit(self, place: Place, to: NodeId, frame: bytes, payload: Buffer | None) -> None:
        """Put a message on a link, whoever made it."""
        stats, route, slot = self.stats, self.network.route, place.slot
        size = len(frame) if payload is None else len(frame) + len(payload)
        targets = place.peers.get(to)
        if targets is None:
            stats.unroutable += 1
            return
        if place.slot in self._replayed and payload is None:
            place.sent.append((to, frame))
        if place.mute_until > self._scheduler.now:
            stats.lost += 1
            return
        if place.garbled_until > self._scheduler.now and self._garble_rng.random() < place.garbled:
            frame, payload = self._garble(frame, payload)
        event = Received(place.id, frame, payload)  # one object for all copies: events are frozen
        for target in targets:
            arrivals = route(slot, target.slot, size, self._scheduler.now)
            if not arrivals:
                stats.lost += 1
                if self.network.profile.fifo:
                    self._links.notice_pair(place, target)
            elif len(arrivals) > 1:
                stats.repeated += 1
            for at_s in arrivals:
                self._at(at_s, self._arrive, slot, target, self.network.epoch(slot, target.slot), event)

    def _garble(self, frame: bytes, payload: Buffer | None) -> tuple[bytes, Buffer | None]:
        """Damage one of the two parts of a message: a bit flipped, the end missing, or more of it."""
        rng = self._garble_rng
        in_payload = payload is not None and len(payload) > 0 and rng.random() < 0.5
        part = bytearray(payload if in_payload and payload is not None else frame)
        match rng.randrange(3):
            case 0:
                part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
            case 1:
                del part[rng.randrange(len(part)) :]
            case _:
                part += rng.randbytes(SURPLUS_BYTES)
        return (frame, bytes(part)) if in_payload else (bytes(part), payload)

    def _replay(self, place: Place, frames: int) -> None:
        """Send again what was sent; a process that is down sends nothing."""
        last = tuple(place.sent)
        for number in range(frames if last and place.machine is not None else 0):
            self._transmit(place, *last[number % len(last)], None)

    def _arrive(self, source: int, target: Place, epoch: int, event: Received) -> None:
        network = self.network
        if (
            target.machine is None
            or not network.is_open(source, target.slot)
            or network.epoch(source, target.slot) != epoch
        ):
            self.stats.lost += 1
            return
        self.stats.delivered += 1
        if target.passages is not None and is_carried(event.frame):
            sealed = target.passages.receive(event.sender, event.frame, event.payload, self.now)
            self._pass(target, sealed)
        else:
            self._give(target, target.incarnation, event)

    def _relink(self, place: Place, incarnation: int, event: Event) -> None:
        """Tell a process of a link, and those that go through it."""
        self._give(place, incarnation, event)
        if place.passages is not None and isinstance(event, LinkChanged):
            self._pass(place, place.passages.link(event.peer, event.up, self.now))

    def _pass(self, place: Place, items: Sequence[PassageItem]) -> None:
        """Do what the links through relays ask for, forward what is to be forwarded, and look again when it is time."""
        passages = place.passages
        assert passages is not None, "asked only where there are some"
        for item in (*items, *passages.carry(lambda _: 0)):
            match item:
                case Out():
                    self._transmit(place, item.to, item.frame, item.payload)
                case Report():
                    place.reports.append((self._scheduler.now, item))
                case _:
                    self._later(place, 0.0, functools.partial(tuple, (item,)))
        wake = passages.next_wake()
        if wake is not None and wake < place.passages_at:
            place.passages_at = wake
            self._at(max(wake, self.now), self._look_after, place, place.incarnation, wake)

    def _look_after(self, place: Place, incarnation: int, at_s: float) -> None:
        if place.incarnation == incarnation and place.passages_at == at_s and place.passages is not None:
            place.passages_at = math.inf
            self._pass(place, place.passages.step(self.now))

    def _send_chunk(self, place: Place, effect: SendChunk) -> None:
        payload = place.blobs.read(effect.digest, effect.offset, effect.length)
        if payload is not None:
            self._send(place, effect.to, effect.frame, payload)
            return
        failed = StoreFailed(effect.digest, f"couldn't read {effect.length} bytes at {effect.offset}: not in the store")
        self._later(place, 0.0, lambda: (failed,))

    def _send_blocks(self, place: Place, effect: SendBlocks) -> None:
        assert place.journal is not None, "a running process has its journal open"
        try:
            payloads = place.journal.blocks(effect.first, effect.last, effect.bytes_max)
        except StoreError as error:
            self._note(place, f"couldn't send blocks: {error.message}")
            return
        if payloads:
            self._send(place, effect.to, effect.frame, joined(payloads))

    # Time.

    def _set_alarm(self, place: Place, unix_s: float) -> None:
        at_s = max(self._scheduler.now, place.clock.when(unix_s))
        place.wake_unix_s = unix_s
        if at_s != place.wake_at:
            place.wake_at = at_s
            if at_s < math.inf:
                self._at(at_s, self._wake, place, place.incarnation, at_s)

    def _wake(self, place: Place, incarnation: int, at_s: float) -> None:
        """Only the alarm set last rings; older ones find that `wake_at` is no longer theirs."""
        if place.incarnation == incarnation and place.wake_at == at_s:
            place.wake_at = place.wake_unix_s = math.inf
            self._give(place, incarnation, Woke())

    def _train(self, place: Place, effect: Train) -> None:
        """Train; a training that still runs is given up for the new one."""
        place.training += 1
        token = place.training
        for delay_s, work in place.blobs.train(effect, self.learner, place.member):
            self._later(place, delay_s, _while_current(place, token, work))

    # Starting and stopping.

    def _start(self, place: Place) -> None:
        """Read the disk back with the real journal and make a new machine; try again later if that fails."""
        place.clock.restart()
        if place.recovery_crashes > 0:
            place.recovery_crashes -= 1
            self._crash_in_recovery(place)
            return
        journal = Journal(place.disk, ledger_id=self._ledger_id, segment_bytes=SEGMENT_BYTES)
        try:
            opened = self._open(place, journal)
        except StoreError as error:
            self._give_up(place, error)
            return
        kept = place.snapshot
        place.journal, place.opened = journal, opened
        place.incarnation = self._incarnations[place.member]
        self._incarnations[place.member] += 1
        place.machine = self._make(place.member, place.incarnation)
        if self._passages is not None:
            place.passages = self._passages(place.member, lambda: self._passages_rng.randbytes(32))
            place.passages_at = math.inf
        for hook in self._on_start:
            hook(self, place.member, place.twin, opened.records if kept is None else self._durable(place, opened))
        blobs, partial = place.blobs.listing()
        state = b"" if kept is None else kept[1]
        started = Started(opened.records, blobs, partial, state, place.unaudited, place.guarded)
        try:
            self._give(place, place.incarnation, started)
        except LedgerError as error:  # blocks that do not follow from each other: nothing to go on from
            self._give_up(place, error)
            return
        for peer in place.peers:
            for other in place.peers[peer]:
                self._links.notice_pair(place, other)

    def _open(self, place: Place, journal: Journal) -> Opened:
        """Read what the machine needs, as the real shell does: a snapshot whose block is not there counts for nothing.

        Raises:
            StoreError: The disk fails, or a block is damaged.
        """
        kept = place.snapshot
        if kept is not None:
            opened = _sound(journal.open(max(1, kept[0] - CONTEXT_BLOCKS)))
            if any((record.kind, record.height) == (RECORD_BLOCK, kept[0]) for record in opened.records):
                return opened
            place.snapshot = None
        return _sound(journal.open())

    def _give_up(self, place: Place, error: StoreError | LedgerError) -> None:
        """Do not start, and try again later: the disk may work again, or people may have repaired the ledger."""
        self._note(place, f"couldn't start: {error.message}")
        place.machine = place.journal = place.passages = None
        place.disk.crash(self._rng)
        self._at(self._scheduler.now + RESTART_S, self._start, place)

    def _durable(self, place: Place, opened: Opened) -> tuple[Record, ...]:
        """Return all records, those that the machine is spared as well."""
        found = [part for part in scan(place.disk, BLOCKS, self._ledger_id) if isinstance(part, Placed)]
        rest = [record for record in opened.records if record.kind != RECORD_BLOCK]
        return (*(part.record for part in found), *rest)

    def _crash(self, place: Place, crash: Crash) -> None:
        """Stop now. A sync under way may have written nothing, something or everything."""
        if place.machine is None:
            _replace(place, crash)
            return
        self.stats.crashes += 1
        self._note(place, f"crash after effect {place.cursor} of {len(place.effects)}" + " power" * crash.power)
        if place.syncing:
            self._tear(place)
        place.disk.crash(self._rng)
        if crash.power:
            place.blobs.lose_power(self._rng)
            if self._snapshot_rng.random() < SNAPSHOT_LOST:
                place.snapshot = None
        place.machine = place.journal = place.crash = place.passages = None
        place.inbox.clear()
        place.effects, place.cursor, place.fuse = (), 0, -1
        place.syncing = place.holding = place.frozen = False
        place.wake_at = place.wake_unix_s = math.inf
        place.links = dict.fromkeys(place.links, ())
        place.suspected.clear()
        place.recovery_crashes = crash.recovery_crashes
        _replace(place, crash)
        self.network.restarted(place.slot)
        self._links.notice_all()
        for hook in self._on_crash:
            hook(self, place.member, place.twin)
        self._at(self._scheduler.now + crash.down_s, self._start, place)

    def _freeze(self, place: Place, fault: Freeze) -> None:
        """Stand still from now; events wait."""
        if place.machine is None or place.frozen:
            return
        place.frozen = True
        self._links.notice_all()
        self._at(self._scheduler.now + fault.duration_s, self._thaw, place, place.incarnation)

    def _thaw(self, place: Place, incarnation: int) -> None:
        """Go on with what has waited, at the hour that it is now."""
        if not place.frozen or place.incarnation != incarnation:
            return
        self._note(place, "thaws")
        place.frozen = False
        self._links.notice_all()
        if not place.syncing:
            self._catch_up(place)

    def _tear(self, place: Place) -> None:
        """The sync under way wrote nothing, a part, or all of it, unacknowledged."""
        effect, journal = place.effects[place.cursor], place.journal
        if isinstance(effect, Keep):
            return  # held for want of room: nothing was begun
        assert isinstance(effect, Persist), "only a Persist takes time"
        assert journal is not None, "a running process has its journal open"
        records = effect.records
        fate = self._rng.randrange(3)
        if fate == 1:
            self._interrupted(place.disk, lambda: journal.append(records))
        elif fate == 2:
            with suppress(StoreError):
                journal.append(records)

    def _crash_in_recovery(self, place: Place) -> None:
        """Begin to read the disk, stop at any of its operations, and try again."""
        self._note(place, "crash in recovery")
        journal = Journal(place.disk, ledger_id=self._ledger_id, segment_bytes=SEGMENT_BYTES)
        self._interrupted(place.disk, journal.open)
        place.disk.crash(self._rng)
        self._at(self._scheduler.now + RESTART_S, self._start, place)

    def _interrupted(self, disk: SimulatedDisk, act: Callable[[], object]) -> None:
        """Let the disk refuse its k-th operation from now and everything after it, as if the process were gone."""
        disk.stop_after(self._rng.randrange(RECOVERY_OPERATIONS_MAX))
        with suppress(StoreError):
            act()


def _sound(opened: Opened) -> Opened:
    """Return what was read if a site may go on from it, by the rules of `swarm start`.

    Raises:
        StoreError: Blocks are damaged, or votes may be missing that were cast.
    """
    for finding in opened.findings:
        if (finding.log, finding.verdict) == (BLOCKS, "corruption"):
            raise StoreError(f"the ledger is damaged: {finding.text}")
    if not opened.votes_trustworthy:
        raise StoreError("votes may be missing")
    return opened


def _replace(place: Place, crash: Crash) -> None:
    """Give a process that is down the ledger it had when its disk was copied, or none, if that is what happens to it.

    Its blobs stay: they are what they are called. What it kept secret is in no copy.
    """
    if crash.anew or crash.restored:
        kept = place.backup if crash.restored else None
        place.disk = SimulatedDisk() if kept is None else kept.copy()
        place.snapshot, place.unaudited, place.guarded = None, False, b""


def _stream(purpose: str, seed: int) -> random.Random:
    """Randomness of its own for each purpose, so that a change to one does not shift the others."""
    return random.Random(f"{purpose}/{seed}")  # noqa: S311 - to be repeated, not secret


def _while_current(place: Place, token: int, work: Work) -> Work:
    """Nothing, if a later training has taken the place of this one."""
    return lambda: work() if place.training == token else ()
