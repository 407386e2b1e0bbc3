"""SHELL. The loop: one owner, one queue, effects performed in order.

Everything that happens to the node becomes an event for `node.core.Node`, one at a time, on this thread; every effect
is obeyed here, in the order it was given. A `Persist` is durable when the journal's `append` returns, so whatever
follows may be seen by others. Long work goes to the trainer process or the bulk thread and comes back as events.

When the disk is full training stops, the ballast is given up, and the ledger goes on in its room. Only when that is
full too the loop *holds*: the effect that failed is tried again each second and nothing after it happens, so that
nothing is promised that is not written and nothing is lost. Others see a silent site and go on without it.
"""

from __future__ import annotations

import json
import random
import selectors
import shutil
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gossip.zeromq import Incident, Readable
from node.alone import Alone, Baseline
from node.auditor import Auditor
from node.beacon import Beacon
from node.bulk import BulkWorker, Measured
from node.checkpoints import Checkpoints
from node.clock import Clock
from node.core import Node
from node.dashboard.beside import Beside
from node.disclosed import Disclosed
from node.egress.gate import UNAPPROVED, Gate, Out
from node.links import Links
from node.storage import (
    HOLD_RETRY_S,
    Ballast,
    BlobStore,
    SnapshotFile,
    lengthen,
    store_error,
    sync_folder,
    write_file_durably,
)
from node.telemetry.flows import Sending, Sendings
from node.trainer import (
    AppraiseDone,
    Described,
    EvaluateDone,
    Exported,
    Failed,
    LogLine,
    Noted,
    Progress,
    TrainDone,
    Trainer,
    TrainerEvent,
    Tried,
)
from swarm import disclosure
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.identifiers import of_event
from swarm.identity import Identity
from swarm.ledger.disk import DiskFull
from swarm.ledger.journal import Journal, joined
from swarm.machine import (
    AddUp,
    Adopt,
    Answer,
    Appraise,
    Appraised,
    Asked,
    Audit,
    Blend,
    BlobRead,
    Check,
    Deposit,
    Divide,
    Effect,
    Evaluate,
    Evaluated,
    Event,
    Finished,
    Follow,
    Forget,
    Guard,
    Inspect,
    Join,
    Keep,
    LinkChanged,
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
    Report,
    Resting,
    Seal,
    Send,
    SendBlocks,
    SendChunk,
    Snapshot,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    Unmask,
    WakeAt,
    Woke,
)
from swarm.mixing.average import VALUE_LIMIT
from swarm.vector import Layout

POLL_S_MAX = 1.0
"""Longest wait in the loop, so that a stop request is noticed."""

ALONE_POLL_S = 0.1
"""The same while this site trains alone, whose worker is looked at between waits."""

DOUBT_S = 5.0
"""Without a link for this long, a site with new keys in waiting tries those."""

ROOM_S = 1.0
"""Between looks at how much room the disk has."""

PAUSED_BY_PEOPLE = "it was paused by its people, and goes on with `swarm resume`"
NO_ROOM = "its disk is full, and it goes on by itself once there is room"

QUESTION_BYTES_MAX = 4096
"""Largest local question."""


class Keys(Protocol):
    """The site's secrets: those of today, and those that the members may have agreed to by now (`node.site.Site`)."""

    def load_identity(self) -> Identity:
        """Return those of today."""
        ...

    def load_successor(self) -> Identity | None:
        """Return those in waiting, if any."""
        ...

    def succeed(self, curve_key: bytes) -> Identity | None:
        """Let those in waiting replace those of today if their public transport key is this one, and return them."""
        ...


@dataclass(slots=True)
class Ports:
    """The shells a runtime drives."""

    transport: Links
    journal: Journal
    store: BlobStore
    trainer: Trainer
    bulk: BulkWorker
    clock: Clock
    snapshots: SnapshotFile
    auditor: Auditor
    ballast: Ballast = field(default_factory=lambda: Ballast(Path(), 0))
    beacon: Beacon = field(default_factory=Beacon)
    checkpoints: Checkpoints | None = None
    disclosed: Disclosed | None = None
    alone: Alone | None = None
    gate: Gate | None = None
    page: Beside | None = None


class Runtime:
    """Drives one node until it is told to stop, or until the run is done and nobody needs it any more.

    `curve_key` is the public transport key it begins with. `paused` is the file that is there while people want this
    site paused; it outlives the process. `slots` is how many vectors the outer optimiser remembers. `guarded` is the
    file of the node's secret, where it has one (`Guard`).
    """

    def __init__(
        self,
        node: Node,
        ports: Ports,
        *,
        control: Path,
        report: Callable[[Report, float], None],
        snapshot: Callable[[Mapping[str, object], float], None],
        linger_s: float | None,
        layout_digest: bytes,
        layout_path: Path,
        public: Path,
        finished: Callable[[], None],
        curve_key: bytes,
        keys: Keys,
        paused: Path | None = None,
        baseline: Callable[[], Baseline] | None = None,
        slots: int = 0,
        guarded: Path | None = None,
    ) -> None:
        self._node = node
        self._guarded = guarded
        self._curve_key, self._keys = curve_key, keys
        self._linked: set[NodeId] = set()
        self._troubles: dict[NodeId, str] = {}  # why there is no link to a peer, as the transport said last
        self._doubt_at = ports.clock.now() + DOUBT_S
        self._doubted = False
        self._transport, self._journal, self._store = ports.transport, ports.journal, ports.store
        self._trainer, self._bulk, self._clock = ports.trainer, ports.bulk, ports.clock
        self._snapshots, self._auditor = ports.snapshots, ports.auditor
        self._ballast, self._beacon, self._checkpoints = ports.ballast, ports.beacon, ports.checkpoints
        self._disclosed, self._gate, self._page = ports.disclosed, ports.gate, ports.page
        if self._gate is not None:
            self._bulk.outlet = self._gate.offered
        self._alone = ports.alone if baseline is not None else None
        self._baseline, self._alone_over = baseline, False
        self._paused_path = paused
        self._paused = paused is not None and paused.exists()
        self._short = False
        self._room_at = 0.0
        self._control_path = control
        self._report = report
        self._snapshot = snapshot
        self._linger_s = linger_s
        self._events: deque[Event] = deque()
        self._held: deque[Effect] = deque()
        self._held_until = 0.0
        self._holding = False
        self._unpruned = False  # whether people know that old records could not be removed
        self._wake_at = 0.0
        self._stopping = False
        self._finished: Finished | None = None
        self._finished_at = 0.0
        self._unexported = False
        self._snapshot_at = 0.0
        self._sendings, self._arrivals = Sendings(), Sendings()
        self._sender: NodeId | None = None  # of the event whose effects are obeyed, or held
        self._updates: dict[int, tuple[Path, Train]] = {}
        self._carried: dict[int, Path] = {}  # Corrections that a trainer could not take in its steps.
        self._models: dict[int, Evaluate] = {}
        self._appraising: Appraise | None = None  # The node asks one question at a time.
        self._longest: tuple[int, tuple[str, float]] = (0, ("", 0.0))  # The tensor that makes most of an update.
        self._measured: Measured | None = None  # How long this site's last update was,
        self._own_update: Mapping[str, object] | None = None  # and what people here are told of it.
        self._control: ControlSocket | None = None
        self._layout_digest, self._layout_path, self._public = layout_digest, layout_path, public
        self._initial, self._slots = ports.store.new_file(), slots
        self._on_finished = finished
        self._fatal: SwarmError | None = None

    def stop(self) -> None:
        """Ask the loop to end. Safe in a signal handler."""
        self._stopping = True

    def run(self, started: Started) -> Finished | None:
        """Run until stopped. Return how the run ended, or None when it was stopped while it was going on.

        Raises:
            SwarmError: the node could not begin, or could not go on.
        """
        self._control = ControlSocket(self._control_path)
        try:
            self._transport.open()
            self._trainer.start()
            self._trainer.describe(self._initial)
            self._transport.watch(self._trainer.fileno())
            self._transport.watch(self._control.fileno())
            self._begin_resting()
            self._events.append(started)
            while not self._stopping and not self._lingered():
                self._turn()
            state = self._node.snapshot()
            if state.height and not self._held:  # A block that is held back is not durable, and its state not either.
                self._keep_snapshot(state)
        finally:
            self._beacon.stopping()
            self._tell_moved(self._sendings.rest(), self._arrivals.rest(), self._clock.now())
            self._control.close()
            self._trainer.close()
            if self._alone is not None:
                self._alone.stop()
            self._auditor.close()
            if self._page is not None:
                self._page.close()
            self._bulk.close()
            self._transport.close()
        if self._fatal is not None:
            raise self._fatal
        if self._finished is None and (why := self._node.paused(self._clock.now())):
            return Finished("PAUSED", why)
        return self._finished

    # --- one turn of the loop -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = self._clock.now()
        self._look_for_room(now)
        if self._held:
            self._retry(now)
            self._answer_meanwhile(now)
        else:
            if now >= self._wake_at:
                self._wake_at = now + POLL_S_MAX
                self._events.append(Woke())
            while self._events and not self._held:
                self._handle(self._events.popleft())
        now = self._clock.now()
        self._show(now)
        self._beacon.turned(now, self._at())
        self._doubt_key(now)
        self._tend_gate(now)
        self._tend_alone(now)
        self._tell_moved(self._sendings.over(now), self._arrivals.over(now), now)
        for report in self._page.tend(now) if self._page is not None else ():
            self._report(report, now)
        due = self._held_until if self._held else self._wake_at
        most = ALONE_POLL_S if self._alone is not None and self._alone.busy else POLL_S_MAX
        self._collect(0.0 if self._events and not self._held else min(max(due - now, 0.0), most))

    def _handle(self, event: Event) -> None:
        now = self._clock.now()
        self._sender = event.sender if isinstance(event, Received) else None
        self._perform(deque(self._node.handle(event, now)))

    def _perform(self, effects: deque[Effect]) -> None:
        """Obey in order; hold the rest when the disk is full."""
        while effects:
            try:
                self._obey(effects[0])
            except DiskFull as full:
                if self._make_room(effects, full):
                    continue
                self._hold(effects, full)
                return
            effects.popleft()

    def _hold(self, effects: deque[Effect], full: DiskFull) -> None:
        now = self._clock.now()
        if not self._holding:
            self._holding = True
            text = f"{full.message}: this site holds still until there is space, nothing is lost"
            self._report(Report("disk_full", text, {"id": "SWARM-DISK-FULL"}, level="error"), now)
        self._held = effects
        self._held_until = now + HOLD_RETRY_S

    def _retry(self, now: float) -> None:
        if now < self._held_until:
            return
        held, self._held = self._held, deque()
        self._perform(held)
        if not self._held:
            self._holding = False
            self._report(Report("disk_space", "there is space on the disk again: going on"), now)

    def _collect(self, timeout_s: float) -> None:
        """Wait for the world and queue what it says. While holding, the network is drained but not believed."""
        items = self._transport.poll(timeout_s)
        now = self._clock.now()
        for item in items:
            match item:
                case Received() | LinkChanged():
                    if isinstance(item, LinkChanged):
                        (self._linked.add if item.up else self._linked.discard)(item.peer)
                        self._troubles.pop(item.peer, None)
                    if not self._held or isinstance(item, LinkChanged):
                        self._events.append(item)
                case Incident():
                    if item.peer is not None and item.peer not in self._linked:
                        self._troubles[item.peer] = item.text
                    values = {"id": identifier} if (identifier := of_event(item.event)) else {}
                    self._report(Report(item.event, item.text, values, level=item.level), now)
                case Readable():
                    pass
        for event in self._trainer.poll(now):
            self._from_trainer(event, now)
        for report in self._checkpoints.reports() if self._checkpoints is not None else ():
            self._report(report, now)
        self._events.extend(self._bulk.take())
        if self._bulk.measured is not self._measured:
            self._tell_measured(now)
        audited = self._auditor.poll()
        if isinstance(audited, Report):
            self._report(audited, now)
        elif audited is not None:
            self._events.append(audited)
        if self._control is not None:
            for asked in self._control.questions():
                if asked.question in ("pause", "resume"):
                    self._pause(asked, now)
                else:
                    self._events.append(asked)

    # --- resting ------------------------------------------------------------------------------------------------

    def _begin_resting(self) -> None:
        """What this site rests for when it starts has to be known before it could begin to train."""
        now = self._clock.now()
        if self._ballast.size and not self._ballast.take():
            self._short = True
            text = f"there is no room to keep {self._ballast.size >> 20} MiB for the ledger: this site does not train"
            self._report(Report("disk_short", text, level="error"), now)
        if self._paused:
            self._report(Report("paused", f"this site trains nothing: {PAUSED_BY_PEOPLE}", level="warning"), now)
        if self._paused or self._short:
            self._rest()

    def _pause(self, asked: Asked, now: float) -> None:
        """Do as this site's people want, and remember it for the next start before saying so."""
        wanted = asked.question == "pause"
        assert self._control is not None, "it has asked"
        try:
            if self._paused_path is None:
                raise StoreError("couldn't remember it: this site has no folder")
            set_paused(self._paused_path, paused=wanted)
        except StoreError as error:
            self._control.answer(Answer(asked.ticket, {"error": error.message}))
            return
        changed, self._paused = self._paused != wanted, wanted
        if changed:
            self._rest()
            text = f"this site trains nothing: {PAUSED_BY_PEOPLE}" if wanted else "resumed: this site trains again"
            self._report(Report("paused" if wanted else "resumed", text), now)
        self._control.answer(Answer(asked.ticket, {"paused": wanted, "changed": changed}))

    def _rest(self) -> None:
        """Let the node know what it rests for, if anything, and stop what must not go on."""
        why = " and ".join([PAUSED_BY_PEOPLE] * self._paused + [NO_ROOM] * self._short)
        if why:
            self._give_up_training()
        self._store.spare = self._ballast.size if self._short else 0
        # Before anything that is waiting: it was said of a site that trains.
        self._events.appendleft(Resting(why, frugal=self._short))

    def _give_up_training(self) -> None:
        """End what the trainer is at, and what it was asked for besides; nobody waits for any of it."""
        self._trainer.abandon()
        if self._gate is not None:
            self._gate.rest()
        for path, _ in self._updates.values():
            path.unlink(missing_ok=True)
        self._updates.clear()
        self._carried.clear()
        self._models.clear()
        self._appraising = None

    def _look_for_room(self, now: float) -> None:
        """Stop training before the disk is full, and begin again, with new ballast, once there is room for both."""
        if not self._ballast.size or now < self._room_at:
            return
        self._room_at = now + ROOM_S
        if not self._short:
            if self._ballast.free() < self._ballast.size:
                self._be_short(f"less than {self._ballast.size >> 20} MiB are free on this disk", now)
        elif self._ballast.take() and self._ballast.free() >= 2 * self._ballast.size:
            self._short = False
            self._rest()
            self._report(Report("disk_room", "there is room on the disk again: going on"), now)

    def _be_short(self, why: str, now: float) -> None:
        self._short = True
        self._rest()
        text = f"{why}: training stops, and what room is left is the ledger's; free some space"
        self._report(Report("disk_short", text, level="error"), now)

    def _make_room(self, effects: deque[Effect], full: DiskFull) -> bool:
        """Make the first effect possible on a full disk, or unnecessary. Return whether that has changed anything."""
        if not self._ballast.size:
            return False
        now, effect = self._clock.now(), effects[0]
        if not self._short:
            self._be_short(full.message, now)
        if isinstance(effect, Keep | Seal):
            # Nobody votes by half a model: its bytes can come again, and the ledger need not wait for them. Whatever
            # else comes of it must find the node informed, or it would take what is not there for what has arrived.
            kept = [one for one in effects if not (isinstance(one, Keep | Seal) and one.digest == effect.digest)]
            effects.clear()
            effects.extend(kept)
            self._events.appendleft(StoreFailed(effect.digest, full.message, lost=True))
            return True
        if self._ballast.release():
            text = "the disk is full: the ledger goes on in the room that was kept for it"
            self._report(Report("ballast_released", text, level="error"), now)
            return True
        return False

    def _answer_meanwhile(self, now: float) -> None:
        """Whoever asks how things stand is answered while the loop holds, too: that changes nothing."""
        for event in [one for one in self._events if isinstance(one, Asked) and one.question == "status"]:
            self._events.remove(event)
            if self._control is not None:
                reply = {**self._node.status(now), "resting": NO_ROOM}
                self._control.answer(Answer(event.ticket, reply))

    def _at(self) -> str:
        """Return in one line what this site is at, for the service manager."""
        head = self._node.replica.head
        resting = " and ".join(["paused"] * self._paused + ["disk full"] * (self._short or bool(self._held)))
        done = f"{head.committed.round} of {head.last} rounds committed"
        return f"{done}, block {head.height}{f'; {resting}' if resting else ''}"

    # --- effects ------------------------------------------------------------------------------------------------

    def _obey(self, effect: Effect) -> None:
        match effect:
            case Reach():
                self._reach(effect)
            case Persist():
                if self._gate is not None:
                    self._gate.saying(effect.records)
                self._journal.append(effect.records)
            case Send():
                self._transport.send(effect.to, effect.frame)
            case SendChunk():
                self._send_chunk(effect)
            case SendBlocks():
                self._send_blocks(effect)
            case Keep():
                self._store.keep(effect)
                self._note_kept(effect)
            case Seal():
                self._store.seal(effect.digest, effect.size, effect.leaves)
            case Check():
                self._bulk.submit_check(effect)
            case Forget():
                # The same bytes may have been made again, as of a model that no longer changes, and the node has yet to
                # hear of it: what it lets go of is the first.
                again = {event.digest for event in self._events if isinstance(event, Stored)}
                self._store.forget([digest for digest in effect.digests if digest not in again])
                self._bulk.drop(effect.digests)
            case Prune():
                self._prune(effect)
            case Snapshot():
                self._keep_snapshot(effect)
            case Publish():
                self._publish(effect)
            case Audit(later=True):
                self._auditor.announce()
            case Audit():
                self._auditor.start()
            case Guard():
                self._guard(effect)
            case Deposit():
                path = self._store.new_file()
                stored = self._store.write_file(path, len(effect.data), [effect.data])
                self._store.adopt(path, stored)
                self._events.append(stored)
            case ReadBlob():
                self._read_blob(effect)
            case MaskUpdate():
                self._bulk.submit_mask(effect)
            case Adopt():
                if self._gate is not None:
                    self._gate.releasing(effect)
                if (released := self._bulk.release(effect.digest)) is not None:
                    self._events.append(released)
            case Unmask():
                self._bulk.submit_unmask(effect)
            case Inspect():
                self._bulk.submit_inspect(effect)
            case Follow():
                self._bulk.submit_follow(effect)
            case Mix():
                self._bulk.submit_mix(effect)
            case Blend():
                self._bulk.submit_blend(effect)
            case MixSlice():
                self._bulk.submit_slice(effect)
            case Join():
                self._bulk.submit_join(effect)
            case AddUp():
                self._bulk.submit_sum(effect)
            case Divide():
                self._bulk.submit_divide(effect)
            case Train() | Evaluate() | Appraise() if self._paused or self._short:
                pass  # The node hears next that this site rests.
            case Train():
                if effect.counted is not None:
                    self._bulk.submit_counted(effect.counted)
                self._train(effect)
            case Evaluate():
                if self._checkpoints is not None:
                    self._checkpoints.committed(effect.round, effect.model)
                if self._node.replica.head.stopped and self._updates:
                    self._give_up_training()
                self._models[effect.round] = effect
                self._trainer.evaluate(effect.round, self._store.path(effect.model))
                self._began("evaluating", effect.round)
            case Appraise():
                self._appraising = effect
                terms = [(self._store.path(digest), weight) for digest, weight in effect.terms]
                self._trainer.appraise(effect.round, self._store.path(effect.model), terms)
            case WakeAt():
                self._wake_at = effect.time
            case Report():
                self._report(effect, self._clock.now())
            case Answer():
                if self._control is not None:
                    self._control.answer(Answer(effect.ticket, self._with_troubles(effect.reply)))
            case Finished():
                if effect.outcome == "DONE":
                    self._export()
                elif effect.outcome == "FAILED" and self._finished is not None and self._finished.outcome == "DONE":
                    return  # What is done stays done, whatever is found out later.
                self._finished, self._finished_at = effect, self._clock.now()

    def _train(self, effect: Train) -> None:
        """Have a round trained, but one whose update could not leave, or that is done and waits for people.

        It is trained by the correction that belongs to its model; without that, say so and no more.
        """
        if self._gate is not None:
            refusal = self._gate.refusal(effect)
            if refusal is not None:
                self._events.append(refusal)
                return
            if self._gate.resumes(effect):
                return
        correction = self._bulk.correction(effect.learned, effect.model) if effect.learned else None
        if effect.learned and correction is None:
            self._events.append(Trained(effect.round, None, error="its correction is gone", forgot=True))
            return
        path, rounds = self._store.new_file(), self._node.replica.head.terms.round.rounds
        self._updates[effect.round] = path, effect
        if correction is not None and not self._trainer.bends:
            self._carried[effect.round], correction = correction, None
        self._trainer.train(effect.round, self._store.path(effect.model), path, rounds=rounds, correction=correction)
        self._began("training", effect.round)

    def _began(self, event: str, round_: int) -> None:
        """Say when something began, for whoever measures how long it takes: what ends it says the node."""
        self._report(Report(event, f"{event} for round {round_}", {"round": round_}, level="debug"), self._clock.now())

    def _export(self) -> None:
        """Have the result written. A folder that was just restored may know it before the task has said its layout."""
        self._unexported = not self._layout_path.exists()
        if not self._unexported:
            self._on_finished()

    def _reach(self, effect: Reach) -> None:
        """Let the transport know who may talk to this site, and by which key the others know it from now on."""
        succeeded = self._keys.succeed(effect.curve_key)
        if effect.curve_key != self._curve_key:
            identity = succeeded or self._keys.load_identity()
            if identity.curve_public == effect.curve_key:
                self._take_key(identity)
            else:
                self._fatal = UsageError(
                    "couldn't go on: the members know this site by a transport key that is not in its folder",
                    hint="restore keys/ from your backup; without it, leave and join again",
                )
                self._stopping = True
                return
        self._transport.reach(effect.contacts, effect.carried)

    def _take_key(self, identity: Identity) -> None:
        self._curve_key = identity.curve_public
        self._transport.rekey(identity.curve_secret, identity.curve_public)

    def _doubt_key(self, now: float) -> None:
        """With no link to anybody and new keys in waiting: perhaps the others know this site by those already.

        Whoever agreed to them last hears of it last, and by then nobody talks to its old key any more.
        """
        if self._linked:
            self._doubt_at, self._doubted = now + DOUBT_S, False
        elif now >= self._doubt_at:
            self._doubt_at = now + DOUBT_S
            current, successor = self._keys.load_identity(), self._keys.load_successor()
            if successor is not None:
                self._take_key(current if self._curve_key == successor.curve_public else successor)
                level = "debug" if self._doubted else "info"
                self._doubted = True
                text = "nobody knows this site: trying its other transport key"
                self._report(Report("other_key", text, level=level), now)

    def _guard(self, effect: Guard) -> None:
        """Keep a secret durably, or let go of it."""
        assert self._guarded is not None, "where there is a secret there is a place for it"
        if effect.data:
            write_file_durably(self._guarded, effect.data)
        elif self._guarded.exists():
            try:
                self._guarded.unlink()
            except OSError as error:
                raise store_error(f"remove {self._guarded}", error) from error
            sync_folder(self._guarded.parent)

    def _read_blob(self, effect: ReadBlob) -> None:
        """Hand a small blob to the node. One that cannot be read is empty: it is asked for again."""
        try:
            data = bytes(self._store.read(effect.digest, 0, effect.size))
        except StoreError as error:
            self._report(Report("store_failed", error.message, level="error"), self._clock.now())
            data = b""
        self._events.append(BlobRead(effect.digest, data))

    def _send_chunk(self, effect: SendChunk) -> None:
        """Send a range of a blob. What cannot be read is not sent: the receiver asks elsewhere when nothing comes."""
        try:
            data = self._store.read(effect.digest, effect.offset, effect.length)
        except StoreError as error:
            self._report(Report("store_failed", error.message, level="error"), self._clock.now())
            return
        self._transport.send(effect.to, effect.frame, data)
        known = self._sendings.known(effect.to, effect.digest)
        round_ = 0 if known else self._node.round_of(effect.digest)
        self._sendings.note(effect.to, effect.digest, len(data), self._clock.now(), round_=round_)

    def _note_kept(self, effect: Keep) -> None:
        """Count what a holder has given of a blob; what this site has made itself comes from nobody."""
        if self._sender is not None:
            known = self._arrivals.known(self._sender, effect.digest)
            round_ = 0 if known else self._node.round_of(effect.digest)
            self._arrivals.note(self._sender, effect.digest, len(effect.payload), self._clock.now(), round_=round_)

    def _tell_moved(self, sent: Sequence[Sending], received: Sequence[Sending], now: float) -> None:
        """Say what has gone to whom, and come from whom: too much for people, and what a round's trace is made of."""
        for event, way, over in (("sent", "to", sent), ("received", "from", received)):
            for one in over:
                member = self._node.peers.members.get(one.other)
                name = one.other.hex()[:8] if member is None else member.name
                values: dict[str, str | int | float | bool] = {"round": one.round, "peer": name, way: one.other.hex()}
                values |= {"digest": one.digest.hex(), "bytes": one.size, "began": round(one.began_s, 3)}
                values |= {"seconds": round(one.ended_s - one.began_s, 3)}
                self._report(Report(event, f"{event} {one.size} bytes {way} {name}", values, level="debug"), now)

    def _prune(self, effect: Prune) -> None:
        """Remove what nobody needs any more, if that is possible: what stays only takes room, and is tried again."""
        try:
            self._journal.drop_wal_below(effect.view)
            self._journal.drop_feed_below(effect.seq)
        except StoreError as error:
            if not self._unpruned:
                text = f"old records of the ledger stay on the disk, and are tried again: {error.message}"
                self._report(Report("prune_failed", text, level="warning"), self._clock.now())
            self._unpruned = True
        else:
            self._unpruned = False

    def _publish(self, effect: Publish) -> None:
        """Replace what others may fetch. It is no part of what must not be lost, so a full disk holds up nothing."""
        try:
            write_file_durably(self._public / effect.name, effect.data, mode=0o644)
        except StoreError as error:
            self._report(Report("publish_failed", error.message, level="warning"), self._clock.now())

    def _send_blocks(self, effect: SendBlocks) -> None:
        """Send blocks as they lie in the journal. What is damaged is not sent, and said here."""
        try:
            payloads = self._journal.blocks(effect.first, effect.last, effect.bytes_max)
        except StoreError as error:
            self._report(Report("journal", f"{error.message} ({error.hint})", level="error"), self._clock.now())
            return
        if payloads:
            self._transport.send(effect.to, effect.frame, joined(payloads))

    def _keep_snapshot(self, snapshot: Snapshot) -> None:
        """Keep it if that is possible: without it the next start only takes longer."""
        try:
            self._snapshots.save(snapshot)
        except StoreError as error:
            self._report(Report("store_failed", error.message, level="warning"), self._clock.now())

    def _from_trainer(self, event: TrainerEvent, now: float) -> None:
        match event:
            case Progress():
                self._events.append(Stepped(event.round, event.step, event.steps))
            case TrainDone():
                self._longest = (event.round, event.longest)
                trained = Trained(
                    event.round, None, samples=event.samples, metrics=event.metrics, privacy=event.privacy
                )
                path, asked_for = self._updates.pop(event.round)
                base = asked_for.model if asked_for.whole else None
                carried = self._carried.pop(event.round, None)
                self._bulk.submit_update(trained, path, base, event.parameters, asked_for.step, asked_for.copy, carried)
            case EvaluateDone():
                self._events.append(self._evaluated(event, self._models.pop(event.round), now))
            case AppraiseDone() if self._gate is not None and not self._gate.tells(event.round):
                self._appraised(0, {}, UNAPPROVED)
            case AppraiseDone():
                self._appraised(event.samples, event.metrics, "", self._cell(event, now))
            case Described():
                self._take_model(event, now)
            case Tried() | Exported():
                pass  # Only `swarm doctor` asks for a trial, and `swarm export` for a model of this site's own.
            case Failed(kind="describe"):
                self._fatal = UsageError(
                    f"couldn't build the task's model: {event.text}",
                    hint=event.hint or "mend the task file",
                    identifier=event.identifier or "SWARM-TASK-FAILED",
                )
                self._stopping = True
            case Failed(kind="train"):
                self._updates.pop(event.round)[0].unlink(missing_ok=True)
                self._carried.pop(event.round, None)
                self._events.append(Trained(event.round, None, error=event.text, refused=event.refused))
            case Failed(kind="appraise"):
                self._appraised(0, {}, event.text)
            case Failed():
                asked = self._models.pop(event.round)
                failed = Evaluated(event.round, asked.model, 0, {}, error=event.text, unscored=event.unscored)
                self._events.append(failed)
            case LogLine():
                self._report(Report("task_output", event.text, level="debug"), now)
            case Noted():
                self._report(Report("script", event.text), now)

    def _tell_measured(self, now: float) -> None:
        """Say if this site's own update was cut, or is of nothing. To people here: others learn no more of it."""
        before, self._measured = self._measured, self._bulk.measured
        measured = self._measured
        if measured is None:
            return
        longest = self._longest[1] if self._longest[0] == measured.round else ("", 0.0)
        values = {"round": measured.round, "norm": measured.norm, "bound": measured.bound, "left": measured.left}
        text = measured.told(longest)
        self._own_update = {**values, "longest": longest[0], "told": text}
        if measured.beyond is not None:
            name = Layout.decode(self._layout_path.read_bytes()).name_at(measured.beyond)
            held = (
                f"round {measured.round}: gossip keeps the numbers of a model between {-VALUE_LIMIT:g} and"
                f" {VALUE_LIMIT:g}, and there are others in {name}: they were cut to that"
            )
            self._report(Report("model_cut", held, {"round": measured.round, "tensor": name}, level="warning"), now)
        if not measured.norm and before is not None and not before.norm:
            return  # Trees that are grown, sums that are told: it was said of the first of such rounds.
        if text:
            self._report(Report("update_cut" if measured.norm else "update_empty", text, values, level="warning"), now)

    def _evaluated(self, done: EvaluateDone, asked: Evaluate, now: float) -> Evaluated:
        """Return what the machine is told of an evaluation: only that there was one, before people let anything out."""
        if self._gate is not None and not self._gate.tells(done.round):
            text = f"the scores of round {done.round} stay here: {UNAPPROVED}"
            self._report(Report("scores_kept", text, {**done.metrics, "round": done.round}), now)
            return Evaluated(done.round, asked.model, 0, {}, cell=0)
        return Evaluated(done.round, asked.model, done.samples, done.metrics, cell=self._cell(done, now))

    def _appraised(self, samples: int, metrics: Mapping[str, float], error: str, cell: int | None = None) -> None:
        asked, self._appraising = self._appraising, None
        if asked is not None:
            self._events.append(Appraised(asked.round, asked.number, samples, metrics, error, cell))

    def _cell(self, done: EvaluateDone | AppraiseDone, now: float) -> int:
        """Return the fewest cases that these scores would tell apart; none at all if that cannot be remembered."""
        if self._disclosed is None:
            return disclosure.smallest(done.groups)
        try:
            return self._disclosed.cell(done.groups)
        except StoreError as error:
            self._report(Report("store_failed", error.message, level="error"), now)
            return 0

    def _take_model(self, described: Described, now: float) -> None:
        """The worker has built the model: check that it is the charter's, and offer it as the one to start from."""
        layout = Layout.decode(described.layout)
        for text in described.warnings:
            self._report(Report("task_warning", text, level="warning"), now)
        if layout.digest() != self._layout_digest:
            text = f"the task's model has {layout.elements} parameters in {len(layout.tensors)} tensors"
            self._fatal = UsageError(
                f"couldn't use the task file: its model is not the charter's ({text})",
                hint="every site needs the task file the charter was made with, and the same version of PyTorch",
                identifier="SWARM-TASK-MODEL",
            )
            self._stopping = True
            return
        write_file_durably(self._layout_path, described.layout, mode=0o644)
        if self._unexported:
            self._export()
        lengthen(self._initial, layout.nbytes * (1 + self._slots))  # The outer optimiser remembers nothing yet.
        stored = self._store.add_file(self._initial)
        self._events.append(stored)
        # Another version of PyTorch may draw other initial values. That is no harm: the charter names the digest, and
        # a peer that holds it will send it.
        self._report(Report("model_built", f"the model has {layout.elements} parameters", level="debug"), now)

    def _tend_gate(self, now: float) -> None:
        """See whether people, or the end of its round, have decided on an update that waits; not while the loop holds.

        What cannot be carried out now, as on a full disk, is tried again with the next turn.
        """
        if self._gate is None or self._held:
            return
        try:
            decided = self._gate.turn()
        except StoreError as error:
            self._report(Report("store_failed", error.message, level="warning"), now)
            return
        if isinstance(decided, Out):
            self._events.extend(self._bulk.let_out(decided.files, decided.trained))
        elif decided is not None:
            self._events.append(decided)

    def _tend_alone(self, now: float) -> None:
        """Train this site's baseline while the swarm wants nothing of it, and stop at once when it does."""
        if self._alone is None or self._alone_over or self._baseline is None:
            return
        done = self._finished is not None and self._finished.outcome == "DONE"
        wanted = done and not (self._paused or self._short or self._updates or self._models or self._held)
        said: list[Report] = []
        if wanted and not self._alone.busy:
            said = self._alone.begin(self._baseline())
            self._alone_over = not said
        elif wanted:
            said = self._alone.poll(now)
        else:
            self._alone.stop()
        for report in said:
            self._report(report, now)
            self._alone_over |= report.event in ("alone_done", "alone_failed")

    # --- people -------------------------------------------------------------------------------------------------

    def _show(self, now: float) -> None:
        if now >= self._snapshot_at:
            self._snapshot_at = now + 0.25
            self._snapshot(self._with_troubles(self._node.status(now)), now)

    def _with_troubles(self, status: Mapping[str, object]) -> Mapping[str, object]:
        """Return a status that also says of each member why there is no link to it: the node itself sees no sockets.

        And what a site that is trained by a script of its people waits for; and how long this site's last update was.
        """
        waiting = self._trainer.waiting or ("" if self._gate is None else self._gate.words)
        if waiting:
            status = {**status, "waiting": waiting}
        if self._trainer.unscored:
            status = {**status, "unscored": self._trainer.unscored}
        if self._own_update is not None:
            status = {**status, "own_update": self._own_update}
        members = status.get("members")
        if not isinstance(members, list) or not self._troubles:
            return status
        troubles = {node.hex(): text for node, text in self._troubles.items()}
        return {**status, "members": [{**one, "trouble": troubles.get(one["node"], "")} for one in members]}

    def _lingered(self) -> bool:
        """Whether the run is over and everybody else has it too, or has had the time to fetch it."""
        if self._finished is not None and self._finished.outcome == "LEFT":
            return True
        if self._finished is not None and self._node.ended is None:
            self._finished = None  # It had failed, and has recovered.
        if self._finished is None or self._linger_s is None or self._unexported:
            return False
        if self._alone is not None and not self._alone_over and self._finished.outcome == "DONE":
            return False
        waited = self._clock.now() - self._finished_at
        return waited >= self._linger_s or self._node.everyone_has_finished()


def set_paused(path: Path, *, paused: bool) -> None:
    """Remember durably whether people want a site paused. Raises `StoreError`."""
    if paused:
        write_file_durably(path, b"this site trains nothing while this file is here: swarm resume\n", mode=0o644)
    elif path.exists():
        try:
            path.unlink()
        except OSError as error:
            raise store_error(f"remove {path}", error) from error
        sync_folder(path.parent)


class ControlSocket:
    """Local questions over a Unix socket: one JSON line in, one JSON line out. Only this user can open it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            self._listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            self._listener.close()
            raise UsageError(
                f"couldn't make the socket {path}: {error.strerror or error}",
                hint="a socket's path may have about a hundred characters: use a folder with a shorter one",
            ) from None
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waiting: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """The selector's descriptor: readable when anybody asks."""
        return self._selector.fileno()

    def questions(self) -> Sequence[Asked]:
        """Return what is being asked now."""
        asked = []
        for key, _ in self._selector.select(0):
            connection = key.fileobj
            assert isinstance(connection, socket.socket), "only sockets are registered"
            if connection is self._listener:
                caller, _ = self._listener.accept()
                caller.setblocking(False)
                self._selector.register(caller, selectors.EVENT_READ)
                continue
            self._selector.unregister(connection)
            try:
                question = question_of(connection.recv(QUESTION_BYTES_MAX))
            except (OSError, UsageError):
                connection.close()
                continue
            self._waiting[connection.fileno()] = connection
            asked.append(Asked(connection.fileno(), question))
        return asked

    def answer(self, answer: Answer) -> None:
        """Reply and hang up. A reader that went away is nobody's problem."""
        connection = self._waiting.pop(answer.ticket, None)
        if connection is None:
            return
        try:
            connection.setblocking(True)
            connection.settimeout(0.5)
            connection.sendall(json.dumps(answer.reply).encode() + b"\n")
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        listening = [key.fileobj for key in self._selector.get_map().values()]
        for connection in (*self._waiting.values(), *listening):
            assert isinstance(connection, socket.socket), "only sockets are registered"
            connection.close()
        self._selector.close()
        self._path.unlink(missing_ok=True)


def question_of(line: bytes) -> str:
    """Return what a line on the control socket asks. Raises `UsageError` when it asks nothing."""
    try:
        return str(json.loads(line)["question"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError("couldn't read a question on the control socket", hint="ask with `swarm status`") from None


def free_bytes(folder: Path) -> Callable[[], int]:
    """Return a function that tells the free space of the disk a folder is on, in bytes."""
    return lambda: shutil.disk_usage(folder).free


def seeded(seed: bytes) -> random.Random:
    """Return the node's random source: jitter and peer choice, nothing secret."""
    return random.Random(seed)  # noqa: S311 - nothing secret is drawn from it
