"""The loop: effects in order whatever the disk says, results from long work, local questions, and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from gossip import messages as m
from gossip import wire
from gossip.protocol import CAPABILITIES
from gossip.zeromq import Incident, Item
from node.alone import Alone, Baseline
from node.auditor import Auditor
from node.bulk import BulkWorker, _Made
from node.clock import Clock
from node.core import SOFTWARE
from node.disclosed import Disclosed
from node.egress.gate import Gate
from node.links import Links
from node.runtime import QUESTION_BYTES_MAX, ControlSocket, Ports, Runtime, free_bytes
from node.storage import Ballast, BlobStore, SnapshotFile
from node.trainer import (
    AppraiseDone,
    Described,
    EvaluateDone,
    Failed,
    LogLine,
    Progress,
    TrainDone,
    Trainer,
    TrainerEvent,
)
from swarm import codec
from swarm.errors import StoreError, UsageError
from swarm.identity import Identity
from swarm.ledger import snapshot
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock, Header
from swarm.ledger.disk import DiskFull
from swarm.ledger.journal import Journal, joined
from swarm.ledger.note import parse
from swarm.ledger.tlog import members_policy, origin
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Answer,
    Asked,
    Buffer,
    Contact,
    Digest,
    Effect,
    Event,
    Finished,
    Forget,
    Keep,
    LinkChanged,
    NodeId,
    Received,
    Record,
    Report,
    Resting,
    Seal,
    Started,
    StoreFailed,
)
from swarm.vector import Layout, TensorSpec
from tests.benchmarks.ledgers import make_ledger
from tests.builders import CODE, LAYOUT, Swarm, digest, identity, make_swarm
from topologies.world.clock import EPOCH_S
from topologies.world.disk import SimulatedDisk

TURNS_MAX = 5_000
"""Far more turns than any story here takes: a loop that never ends must fail a test and not hang it."""

WAIT_S = 20.0
"""For the bulk thread, which answers within a millisecond."""

MODEL = Layout((TensorSpec("weight", (4, 8)),))
"""The 32 parameters of `make_swarm`."""


class FakeClock(Clock):
    """Time that only the transport's waits move."""

    def __init__(self) -> None:
        super().__init__()
        self.time = EPOCH_S

    def now(self) -> float:
        """See `Clock.now`."""
        return self.time


class CountingBulk(BulkWorker):
    """The real worker; the fake transport waits until it has nothing in hand, so that a run is the same every time."""

    def __init__(self, store: BlobStore) -> None:
        self.submitted = 0
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        super().__init__(store, elements=32, bound=100.0, wake=lambda: self._bell.put(None))

    def settle(self) -> None:
        """Wait for every result."""
        while self.submitted:
            self._bell.get(timeout=WAIT_S)
            self.submitted -= 1

    def _submit(self, work: Callable[..., Sequence[Event | _Made]], *arguments: object) -> None:
        self.submitted += 1
        super()._submit(work, *arguments)


class FakeTransport:
    """Links that say what the story says. A wait moves the clock by what was asked for, or a little less."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.items: list[Item] = []
        self.watched: list[int] = []
        self.turns = 0
        self.waited_s = 0.0
        self.life: list[str] = []
        self.peers: list[Contact] = []
        self.keys: list[bytes] = []

    def open(self) -> None:
        self.life.append("open")

    def close(self) -> None:
        self.life.append("close")

    def watch(self, fd: int) -> None:
        self.watched.append(fd)

    def reach(self, contacts: Sequence[Contact], carried: Sequence[NodeId]) -> None:
        self.peers = list(contacts)

    def rekey(self, secret_key: bytes, public_key: bytes) -> None:
        self.keys.append(public_key)

    def send(self, to: NodeId, frame: bytes, payload: Buffer | None = None) -> bool:
        self._site.sent(to, frame, payload)
        return True

    def poll(self, timeout_s: float) -> list[Item]:
        self.turns += 1
        assert self.turns < TURNS_MAX, "the story never ends"
        self._site.bulk.settle()
        self._site.clock.time += timeout_s
        self.waited_s = timeout_s
        self._site.turn()
        items, self.items = self.items, []
        return items


class FakeTrainer:
    """Answers every request at once. An update moves each parameter by the number of the round."""

    waiting = ""
    unscored = ""

    def __init__(self) -> None:
        self.layout = MODEL
        self.initial = np.zeros(32, "<f4")
        self.events: list[TrainerEvent] = []
        self.fails: dict[str, int] = {}
        self.life: list[str] = []
        self.asked: list[str] = []
        self.groups: tuple[int, ...] = ()

    def start(self) -> None:
        self.life.append("start")

    def close(self) -> None:
        self.life.append("close")

    def fileno(self) -> int:
        return -1

    def abandon(self) -> None:
        self.life.append("abandon")
        self.events = [event for event in self.events if isinstance(event, Described)]

    def _refuses(self, kind: str, round_: int) -> bool:
        self.asked.append(kind)
        if self.fails.get(kind, 0) <= 0:
            return False
        self.fails[kind] -= 1
        self.events.append(Failed(kind, round_, "ValueError: no (task.py, line 3)"))
        return True

    def describe(self, path: Path) -> None:
        if not self._refuses("describe", 0):
            self.initial.tofile(path)
            self.events.append(Described(self.layout.encode()))

    def train(self, round_: int, model: Path, update: Path, *, rounds: int = 0, correction: Path | None = None) -> None:
        if not self._refuses("train", round_):
            assert np.fromfile(model, "<f4").size == 32
            np.full(32, round_, "<f4").tofile(update)
            done = TrainDone(round_, 10, {"loss": 0.5})
            self.events += [Progress(round_, 1, 2), LogLine(f"in round {round_}"), done]

    def evaluate(self, round_: int, model: Path) -> None:
        if not self._refuses("evaluate", round_):
            mean = float(np.fromfile(model, "<f4").mean())
            self.events.append(EvaluateDone(round_, sum(self.groups) or 3, {"loss": mean}, self.groups))

    def appraise(self, round_: int, model: Path, terms: Sequence[tuple[Path, int]]) -> None:
        if not self._refuses("appraise", round_):
            assert all(np.fromfile(path, "<f4").size == 32 for path in (model, *(path for path, _ in terms)))
            self.events.append(AppraiseDone(round_, 3, {"loss": 1.0 - 0.25 * len(terms)}))

    def poll(self, now: float) -> list[TrainerEvent]:
        events, self.events = self.events, []
        return events


class FakeAlone:
    """A baseline of a few polls. `life` is what was asked of it, by the turn of the loop's clock."""

    def __init__(self, polls: int = 3, *, fails: bool = False) -> None:
        self.life: list[str] = []
        self.busy, self._polls, self._fails = False, polls, fails

    def begin(self, baseline: Baseline) -> list[Report]:
        self.life.append(f"begin {baseline.rounds}")
        self.busy = True
        return [Report("alone_began", "it began")]

    def poll(self, now: float) -> list[Report]:
        self._polls -= 1
        if self._polls > 0:
            return []
        self.busy = False
        self.life.append("end")
        return [Report("alone_failed" if self._fails else "alone_done", "it ended")]

    def stop(self) -> None:
        if self.busy:
            self.life.append("stop")
        self.busy = False


class Site:
    """A real node, journal, blob store and bulk worker in a folder; fakes for the network and the user's code.

    `happened` is everything others could notice, in order: ("sent", kind of message) and ("said", name of the report).
    """

    def __init__(self, folder: Path, swarm: Swarm, *, disk: SimulatedDisk | None = None) -> None:
        self.folder, self.swarm = folder, swarm
        self.disk = disk or SimulatedDisk()
        self.clock = FakeClock()
        self.store = BlobStore(folder / "blobs")
        self.bulk = CountingBulk(self.store)
        self.transport = FakeTransport(self)
        self.trainer = FakeTrainer()
        self.node = swarm.node(0, now=EPOCH_S)
        self.identity = swarm.identities[0]
        self.successor: Identity | None = None
        self.control = folder / "run" / "c"
        self.happened: list[tuple[str, str]] = []
        self.reports: list[Report] = []
        self.frames: list[tuple[NodeId, m.Message, bytes | None]] = []
        self.snapshots: list[Mapping[str, object]] = []
        self.on_send: Callable[[m.Message], None] = lambda _: None
        self.turn: Callable[[], None] = lambda: None
        self.exported = 0
        self.ballast = Ballast(folder, 0)
        self.paused = folder / "paused"
        self.baseline: FakeAlone | None = None
        self.disclosed: Disclosed | None = None
        self.gate: Gate | None = None

    def runtime(self, *, linger_s: float | None = 10.0) -> Runtime:
        ports = Ports(
            transport=cast("Links", self.transport),
            journal=Journal(self.disk, ledger_id=self.swarm.signed.ledger_id, segment_bytes=1 << 16),
            store=self.store,
            trainer=cast("Trainer", self.trainer),
            bulk=self.bulk,
            clock=self.clock,
            snapshots=SnapshotFile(self.folder / "snapshot"),
            auditor=Auditor(self.folder, marker=self.folder / "unaudited", run=self.folder / "run"),
            ballast=self.ballast,
            alone=cast("Alone | None", self.baseline),
            disclosed=self.disclosed,
            gate=self.gate,
        )
        self.started = Started(ports.journal.open().records, *self.store.listing())
        return Runtime(
            self.node,
            ports,
            control=self.control,
            report=self._report,
            snapshot=lambda status, now: self.snapshots.append(status),
            linger_s=linger_s,
            layout_digest=MODEL.digest(),
            layout_path=self.folder / "layout",
            public=self.folder / "public",
            finished=self._finished,
            curve_key=self.identity.curve_public,
            keys=self,
            paused=self.paused,
            baseline=lambda: Baseline(
                owner="", rounds=self.node.replica.head.committed.round, initial=b"", blobs=self.folder
            ),
        )

    def load_identity(self) -> Identity:
        return self.identity

    def load_successor(self) -> Identity | None:
        return self.successor

    def succeed(self, curve_key: bytes) -> Identity | None:
        if self.successor is None or self.successor.curve_public != curve_key:
            return None
        self.identity, self.successor = self.successor, None
        return self.identity

    def run(self, *, linger_s: float | None = 10.0, until: Callable[[], bool] = lambda: False) -> Finished | None:
        """Run until the node ends by itself or a condition holds."""
        runtime = self.runtime(linger_s=linger_s)
        story = self.turn

        def turn() -> None:
            story()
            if until():
                runtime.stop()

        self.turn = turn
        return runtime.run(self.started)

    def sent(self, to: NodeId, frame: bytes, payload: Buffer | None) -> None:
        message = wire.decode(frame)
        self.on_send(message)
        self.frames.append((to, message, None if payload is None else bytes(payload)))
        self.happened.append(("sent", type(message).__name__))

    def durable(self) -> tuple[Record, ...]:
        """Return what a process that started now would read back."""
        return Journal(self.disk, ledger_id=self.swarm.signed.ledger_id, segment_bytes=1 << 16).open().records

    def settled(self) -> bool:
        """Whether nothing but time makes the loop go on: it waits for a while."""
        return self.transport.waited_s > 0.1

    def told(self, event: str) -> list[str]:
        return [report.text for report in self.reports if report.event == event]

    def _report(self, report: Report, now: float) -> None:
        self.reports.append(report)
        self.happened.append(("said", report.event))

    def _finished(self) -> None:
        self.exported += 1


@pytest.fixture
def alone(tmp_path: Path) -> Site:
    """A swarm of one: its own quorum, so that a whole run needs nobody else."""
    return Site(tmp_path, make_swarm(1, rounds=2))


@pytest.fixture
def among_three(tmp_path: Path) -> Site:
    return Site(tmp_path, make_swarm(3))


def greeting(swarm: Swarm, member: int) -> list[Item]:
    """A link to a member, its greeting, and that it remembers nothing this site has said."""
    node = swarm.identities[member].node
    hello = m.Hello((1, 0), SOFTWARE, CAPABILITIES, node, swarm.signed.ledger_id, CODE, LAYOUT, answer=False)
    nothing = m.Reminder(0, (), (), b"")
    return [LinkChanged(node, True), *(Received(node, wire.encode(message)) for message in (hello, nothing))]


# --- a run, from the first turn to the last ---------------------------------------------------------------------------


def test_a_run_ends_by_itself_and_its_model_and_ledger_are_on_the_disk(alone: Site) -> None:
    finished = alone.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert alone.exported == 1
    model = alone.node.replica.head.committed.model
    # Updates of 1 and then 2 on a model of zeros.
    np.testing.assert_array_equal(np.fromfile(alone.folder / "blobs" / model.hex(), "<f4"), np.full(32, 3.0))
    blocks = [record.payload for record in alone.durable() if record.kind == RECORD_BLOCK]
    *_, last = audit(blocks, alone.swarm.signed)
    assert last.failure is None
    assert last.state.complete
    assert Layout.decode((alone.folder / "layout").read_bytes()) == MODEL
    assert sorted(alone.trainer.asked) == ["describe", "evaluate", "evaluate", "train", "train"]
    assert "in round 2" in alone.told("task_output")
    assert [path.name for path in (alone.folder / "blobs").glob("new-*")] == []


@pytest.mark.parametrize("full", [False, True])
def test_a_run_goes_on_where_old_records_cannot_be_removed_and_it_is_said_once(
    alone: Site, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(_: Journal, view: int) -> None:
        tries.append(view)
        raise (DiskFull if full else StoreError)("couldn't remove wal/00000000.seg: Input/output error")

    monkeypatch.setattr(Journal, "drop_wal_below", refuse)
    finished = alone.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert len(tries) > 1
    (said,) = alone.told("prune_failed")
    assert said.startswith("old records of the ledger stay on the disk, and are tried again: couldn't remove")
    assert alone.told("disk_full") == []


def test_everything_is_closed_at_the_end_and_no_socket_is_left(alone: Site) -> None:
    alone.run()
    assert alone.transport.life == ["open", "close"]
    assert alone.trainer.life == ["start", "close"]
    assert not alone.control.exists()


def test_a_run_without_an_end_goes_on_until_it_is_stopped(alone: Site) -> None:
    finished = alone.run(linger_s=None, until=lambda: alone.exported == 1 and alone.transport.turns > 500)
    assert finished is not None
    assert finished.outcome == "DONE"
    assert alone.transport.turns > 500


def test_a_node_that_is_stopped_early_says_that_there_is_no_end_and_goes_on_from_there_later(tmp_path: Path) -> None:
    swarm, disk = make_swarm(1, rounds=2), SimulatedDisk()
    first = Site(tmp_path, swarm, disk=disk)
    assert first.run(until=lambda: first.node.replica.head.round == 2) is None
    held = first.node.replica.head
    second = Site(tmp_path, swarm, disk=disk)
    finished = second.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert second.told("started") == [f"ledger at block {held.height}, round 2 of 2"]
    assert second.trainer.asked.count("train") <= 1, "the first round is not trained again"


def test_training_that_fails_is_told_and_tried_again(alone: Site) -> None:
    alone.trainer.fails["train"] = 1
    finished = alone.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    (text,) = alone.told("training_failed")
    assert "ValueError: no (task.py, line 3)" in text
    assert not list((alone.folder / "blobs").glob("new-*"))


def test_an_evaluation_that_fails_is_told_and_the_run_ends_nevertheless(alone: Site) -> None:
    alone.trainer.fails["evaluate"] = 1
    finished = alone.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    (text,) = alone.told("evaluation_failed")
    assert "ValueError: no" in text


def test_what_the_transport_noticed_is_told_to_people(alone: Site) -> None:
    alone.transport.items = [Incident(peer=None, event="stranger", text="somebody knocked", level="warning")]
    alone.run()
    assert alone.told("stranger") == ["somebody knocked"]


def test_status_is_shown_a_few_times_a_second_of_the_clock(among_three: Site) -> None:
    among_three.run(until=lambda: among_three.clock.time > EPOCH_S + 20)
    assert 20 <= len(among_three.snapshots) <= 81
    assert among_three.snapshots[-1]["me"] == "site-0"


# --- what others' work is worth ---------------------------------------------------------------------------------------


@pytest.fixture
def judging(tmp_path: Path) -> Site:
    """A swarm of one that judges its own work: that does not count, and is asked and said all the same."""
    return Site(tmp_path, make_swarm(1, rounds=2, contribution="loo:loss:lower:100"))


def test_models_of_some_updates_are_judged_by_the_trainer_and_what_comes_of_it_is_on_the_ledger(judging: Site) -> None:
    finished = judging.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert judging.trainer.asked.count("appraise") >= 2, "with and without its update"
    blocks = [record.payload for record in judging.durable() if record.kind == RECORD_BLOCK]
    *_, last = audit(blocks, judging.swarm.signed)
    scores = [score for judged in last.scores.rounds.values() for score in judged.scores.values()]
    assert {score.scores[0][1] for score in scores} == {250_000}
    assert judging.snapshots[-1]["appraisal"] is not None


def test_a_model_that_cannot_be_judged_is_told_and_the_run_ends_nevertheless(judging: Site) -> None:
    judging.trainer.fails["appraise"] = 1
    finished = judging.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    (text,) = judging.told("score_failed")
    assert text == "judging the contributions to round 1 failed: ValueError: no (task.py, line 3)"


# --- what cannot be mended here ---------------------------------------------------------------------------------------


def test_a_model_that_is_not_the_charters_ends_the_run_with_a_hint(alone: Site) -> None:
    alone.trainer.layout = Layout((TensorSpec("bias", (3,)), TensorSpec("weight", (4, 8))))
    with pytest.raises(UsageError, match=r"not the charter's .*35 parameters in 2 tensors") as caught:
        alone.run()
    assert "task file" in caught.value.hint
    assert alone.transport.life[-1] == alone.trainer.life[-1] == "close"
    assert not alone.control.exists()
    assert not (alone.folder / "layout").exists()
    assert alone.trainer.asked == ["describe"], "nothing is trained with it"


def test_a_task_that_cannot_build_its_model_ends_the_run_with_its_words(alone: Site) -> None:
    alone.trainer.fails["describe"] = 1
    with pytest.raises(UsageError, match=r"couldn't build the task's model: ValueError: no \(task\.py, line 3\)"):
        alone.run()
    assert alone.trainer.life[-1] == "close"


def test_other_initial_values_are_no_harm_the_charters_are_fetched(among_three: Site) -> None:
    among_three.trainer.initial = np.ones(32, "<f4")
    among_three.transport.items = greeting(among_three.swarm, 1)
    among_three.run(until=lambda: among_three.transport.turns > 50)
    assert "train" not in among_three.trainer.asked
    assert among_three.node.status(among_three.clock.time)["phase"] == "fetching"


def test_a_disk_that_fails_ends_the_run_and_nothing_is_sent_that_it_was_to_hold(among_three: Site) -> None:
    among_three.transport.items = greeting(among_three.swarm, 1)

    def break_disk() -> None:
        if among_three.told("link_up"):
            among_three.disk.stop_after(0)

    among_three.turn = break_disk
    with pytest.raises(StoreError):
        among_three.run()
    assert ("sent", "EntryMessage") not in among_three.happened
    assert among_three.trainer.life[-1] == among_three.transport.life[-1] == "close"
    assert not among_three.control.exists()


# --- a full disk --------------------------------------------------------------------------------------------------------


def fill(site: Site, *, seconds: float) -> None:
    """Let the disk be full from the start until so long after that was noticed. The first neighbour is welcome."""
    site.disk.full = True
    site.transport.items = greeting(site.swarm, 1) if len(site.swarm.identities) > 1 else []
    noticed: list[float] = []

    def turn() -> None:
        if site.told("disk_full"):
            noticed.append(site.clock.time)
        if noticed and site.clock.time >= noticed[0] + seconds:
            site.disk.full = False

    site.turn = turn


def mine(site: Site) -> list[bytes]:
    """Return this site's own entries that are durable."""
    return [record.payload for record in site.durable() if record.kind == RECORD_ENTRY]


def test_a_full_disk_holds_everything_after_the_effect_that_failed_and_then_it_happens_in_order(
    among_three: Site,
) -> None:
    site = among_three
    fill(site, seconds=10.0)
    written: list[int] = []
    site.on_send = lambda message: written.append(len(mine(site))) if isinstance(message, m.EntryMessage) else None
    site.run(until=lambda: bool(site.told("disk_space")))
    at = site.happened.index(("said", "disk_full"))
    assert ("sent", "EntryMessage") not in site.happened[:at]
    # The contribution becomes durable, then it is announced to the neighbour, then put into words, as the machine
    # said: all of it in the very retry that found space, which is told when it is over.
    held = [what for what in site.happened[at:] if what != ("said", "disk_full")]
    assert held[:3] == [("sent", "EntryMessage"), ("said", "trained"), ("said", "disk_space")]
    assert written == [1]


def test_nothing_is_sent_or_said_while_the_disk_is_full(among_three: Site) -> None:
    site = among_three
    fill(site, seconds=float("inf"))
    seen: list[int] = []

    def held() -> bool:
        if site.told("disk_full"):
            seen.append(len([what for what in site.happened if what != ("said", "disk_full")]))
        return len(seen) > 12

    site.run(until=held)
    assert len(set(seen)) == 1, "not even a heartbeat: others see a silent site and go on"
    assert mine(site) == []


def test_a_full_disk_is_told_of_once_however_often_it_is_tried_again(among_three: Site) -> None:
    site = among_three
    fill(site, seconds=10.0)
    site.run(until=lambda: bool(site.told("disk_space")))
    assert len(site.told("disk_full")) == 1
    assert len(site.told("disk_space")) == 1


def test_a_full_disk_is_tried_again_each_second_of_the_clock(among_three: Site) -> None:
    site = among_three
    fill(site, seconds=float("inf"))
    tries: list[int] = []
    times: list[float] = []

    def held() -> bool:
        if site.told("disk_full") and (not tries or site.disk.operations != tries[-1]):
            tries.append(site.disk.operations)
            times.append(site.clock.time)
        return len(tries) > 5

    site.run(until=held)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == [pytest.approx(1.0, abs=0.01)] * 5


def test_frames_that_come_while_the_disk_is_full_are_dropped_but_a_lost_link_is_not_forgotten(
    among_three: Site,
) -> None:
    site = among_three
    fill(site, seconds=5.0)
    fill_turn = site.turn
    other = site.swarm.identities[2].node
    told: list[bool] = []

    def turn() -> None:
        fill_turn()
        if site.told("disk_full") and not told:
            told.append(True)
            # The link is believed later; the greeting is asked for again by this site's own.
            site.transport.items += greeting(site.swarm, 2)

    site.turn = turn
    site.run(until=lambda: bool(site.told("disk_space")) and len(site.told("link_up")) == 2)
    assert site.node.peers.members[other].linked
    assert not site.node.peers.members[other].welcome
    assert m.Hello in [type(message) for to, message, _ in site.frames if to == other]


def test_a_question_behind_the_effect_that_a_full_disk_refused_waits_and_is_answered(among_three: Site) -> None:
    site = among_three
    fill(site, seconds=5.0)
    fill_turn = site.turn
    callers: list[socket.socket] = []
    waiting: list[socket.socket] = []

    def turn() -> None:
        fill_turn()
        if not site.told("disk_full"):
            callers.append(call(site.control, b'{"question": "status"}\n'))
        elif not waiting:
            waiting.extend(caller for caller in callers if not select.select([caller], [], [], 0)[0])

    site.turn = turn
    site.run(until=lambda: bool(site.told("disk_space")) and site.settled())
    # One question a turn: it is let in at the end of one turn and read at the end of the next. Of the last two one came
    # in the very turn that brought the event whose effects are held, behind it, and one while they are held.
    assert waiting == callers[-2:]
    assert all(json.loads(read_all(caller))["me"] == "site-0" for caller in callers)


def test_after_a_full_disk_nothing_is_lost_a_whole_run_ends_as_if_it_had_not_been(alone: Site) -> None:
    fill(alone, seconds=30.0)
    finished = alone.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert alone.told("disk_full")
    assert alone.clock.time > EPOCH_S + 30
    blocks = [record.payload for record in alone.durable() if record.kind == RECORD_BLOCK]
    *_, last = audit(blocks, alone.swarm.signed)
    assert last.failure is None
    assert last.state.complete


def test_what_is_announced_is_on_the_disk_already(among_three: Site) -> None:
    site = among_three
    site.transport.items = [*greeting(site.swarm, 1), *greeting(site.swarm, 2)]
    announced: list[bool] = []

    def check(message: m.Message) -> None:
        if isinstance(message, m.EntryMessage):
            announced.append(message.leaf in mine(site))

    site.on_send = check
    site.run(until=lambda: len(announced) >= 2)
    assert announced == [True, True]


# --- chunks -------------------------------------------------------------------------------------------------------------


def test_a_range_of_a_blob_goes_out_with_its_header_and_one_that_cannot_be_read_is_told(among_three: Site) -> None:
    site = among_three
    model = site.swarm.charter.task.initial_model
    neighbour = site.swarm.identities[1].node
    want = Received(neighbour, wire.encode(m.Want(model, 16, 48)))
    steps: Iterator[list[Item]] = iter([greeting(site.swarm, 1), [want]])

    def turn() -> None:
        if site.told("model_built"):
            site.transport.items += next(steps, [])
        chunks = [payload for _, message, payload in site.frames if isinstance(message, m.ChunkHeader)]
        if len(chunks) == 1 and not site.told("store_failed"):
            (site.folder / "blobs" / model.hex()).unlink(missing_ok=True)
            site.transport.items += [want]

    site.turn = turn
    site.run(until=lambda: bool(site.told("store_failed")))
    chunks = [(to, message, payload) for to, message, payload in site.frames if isinstance(message, m.ChunkHeader)]
    assert chunks == [(neighbour, m.ChunkHeader(model, 16), bytes(48))]
    assert model.hex()[:12] in site.told("store_failed")[0]


def test_a_checkpoint_is_there_for_others_to_fetch_and_nobody_waits_for_it(alone: Site) -> None:
    alone.run()
    path = alone.folder / "public" / "checkpoint"
    log = origin(alone.swarm.charter.name, alone.swarm.signed.ledger_id)
    policy = members_policy(log, [("site-0", alone.identity.cosign_key.public)], 1)
    assert len(policy.check(parse(path.read_bytes())).cosigners) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [left.name for left in path.parent.iterdir()] == ["checkpoint"]


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_run_goes_on(alone: Site) -> None:
    (alone.folder / "public" / "checkpoint").mkdir(parents=True)
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert "checkpoint" in alone.told("publish_failed")[0]


# --- local questions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlSocket]:
    made = ControlSocket(tmp_path / "run" / "c")
    yield made
    made.close()


def call(path: Path, data: bytes = b"") -> socket.socket:
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(WAIT_S)
    caller.connect(str(path))
    caller.sendall(data)
    return caller


def asked(control: ControlSocket) -> Sequence[Asked]:
    """Let it accept who is there, then read what they ask."""
    return [*control.questions(), *control.questions()]


def read_all(caller: socket.socket) -> bytes:
    with caller:
        return b"".join(iter(lambda: caller.recv(65536), b""))


def test_a_question_gets_one_line_of_json_and_then_the_line_is_closed(control: ControlSocket, tmp_path: Path) -> None:
    caller = call(tmp_path / "run" / "c", b'{"question": "status"}\n')
    (question,) = asked(control)
    assert question.question == "status"
    control.answer(Answer(question.ticket, {"height": 3, "words": "ein Wort"}))
    assert read_all(caller) == b'{"height": 3, "words": "ein Wort"}\n'


def test_only_this_user_may_ask(control: ControlSocket, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "run" / "c").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_several_callers_each_get_their_own_answer(control: ControlSocket, tmp_path: Path) -> None:
    callers = [call(tmp_path / "run" / "c", b'{"question": "q%d"}' % k) for k in range(3)]
    questions: list[Asked] = []
    while len(questions) < 3:
        questions += control.questions()
    assert len({question.ticket for question in questions}) == 3
    for question in reversed(questions):
        control.answer(Answer(question.ticket, {"to": question.question}))
    assert [json.loads(read_all(caller)) for caller in callers] == [{"to": f"q{k}"} for k in range(3)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\xff\xfe\x00",
        b"null",
        b"[1]",
        b'"question"',
        b"{}",
        b'{"question"',
        b"GET / HTTP/1.1\r\n\r\n",
        b"[" * 4000,
        b'{"question": "' + b"x" * 2 * QUESTION_BYTES_MAX + b'"}',
    ],
)
def test_garbage_is_hung_up_on_and_the_next_caller_is_answered(
    control: ControlSocket, tmp_path: Path, garbage: bytes
) -> None:
    vandal = call(tmp_path / "run" / "c", garbage)
    assert asked(control) == []
    # What was not read of a long question makes the kernel say so in its own way.
    with vandal, contextlib.suppress(ConnectionResetError):
        assert vandal.recv(1) == b""
    honest = call(tmp_path / "run" / "c", b'{"question": "status"}')
    (question,) = asked(control)
    control.answer(Answer(question.ticket, {}))
    assert read_all(honest) == b"{}\n"


def test_callers_that_hang_up_before_asking_or_before_the_answer_are_nobodys_problem(
    control: ControlSocket, tmp_path: Path
) -> None:
    call(tmp_path / "run" / "c").close()
    assert asked(control) == []
    call(tmp_path / "run" / "c", b'{"question": "status"}').close()
    (question,) = asked(control)
    control.answer(Answer(question.ticket, {"long": "x" * 1_000_000}))
    control.answer(Answer(question.ticket, {}))
    assert control.questions() == []


def test_the_socket_of_a_process_that_was_killed_is_replaced_and_its_own_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "c"
    path.parent.mkdir()
    path.write_text("left behind")
    control = ControlSocket(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    waiting = call(path, b'{"question": "status"}')
    assert len(asked(control)) == 1
    control.close()
    assert not path.exists()
    assert read_all(waiting) == b"", "who still waits is hung up on"


def test_a_running_node_answers_status_over_its_socket(among_three: Site) -> None:
    callers: list[socket.socket] = []

    def turn() -> None:
        if not callers and among_three.transport.turns > 3:
            callers.append(call(among_three.control, b'{"question": "status"}\n'))

    among_three.turn = turn
    among_three.trainer.waiting = "waits for its script"
    among_three.run(until=lambda: among_three.transport.turns > 10)
    status = json.loads(read_all(callers[0]))
    assert status["swarm"] == "test-swarm"
    assert status["waiting"] == "waits for its script"
    assert [member["name"] for member in status["members"]] == ["site-0", "site-1", "site-2"]


# --- resting ------------------------------------------------------------------------------------------------------------


def test_a_pause_is_remembered_before_it_is_confirmed_and_ends_with_resume(alone: Site) -> None:
    callers: list[socket.socket] = []
    while_paused: list[tuple[int, bool]] = []

    def turn() -> None:
        if alone.transport.turns == 1:
            callers.append(call(alone.control, b'{"question": "pause"}\n'))
        if alone.paused.exists() and not while_paused and alone.told("paused"):
            alone.trainer.asked.clear()
            while_paused.append((alone.transport.turns, True))
        if while_paused and alone.transport.turns == while_paused[0][0] + 40:
            assert not {"train", "evaluate"} & {*alone.trainer.asked}
            callers.append(call(alone.control, b'{"question": "status"}\n'))
            callers.append(call(alone.control, b'{"question": "resume"}\n'))

    alone.turn = turn
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert "abandon" in alone.trainer.life
    assert json.loads(read_all(callers[0])) == {"paused": True, "changed": True}
    status = json.loads(read_all(callers[1]))
    assert (status["phase"], status["resting"][:13]) == ("paused", "it was paused")
    assert json.loads(read_all(callers[2])) == {"paused": False, "changed": True}
    assert not alone.paused.exists()
    assert alone.told("resumed")


def test_a_site_that_was_paused_when_it_stopped_starts_paused(alone: Site) -> None:
    alone.paused.write_text("")
    alone.run(until=lambda: alone.transport.turns > 60)
    assert "train" not in alone.trainer.asked
    assert "describe" in alone.trainer.asked, "without its model it could not serve it"
    assert alone.node.status(alone.clock.time)["phase"] == "paused"


def test_a_pause_that_cannot_be_remembered_is_refused(alone: Site) -> None:
    (alone.folder / "no").touch()
    alone.paused = alone.folder / "no" / "paused"
    callers: list[socket.socket] = []

    def turn() -> None:
        if alone.transport.turns == 1:
            callers.append(call(alone.control, b'{"question": "pause"}\n'))

    alone.turn = turn
    ended = alone.run()
    assert ended is not None
    assert "couldn't" in json.loads(read_all(callers[0]))["error"]


class Weight(Ballast):
    """Ballast on a disk whose room the story says."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.folder / "ballast", 100)
        self.site, self.room, self.there = site, 1000, False
        self.released = 0

    @property
    def held(self) -> bool:
        return self.there

    def take(self) -> bool:
        if not self.there and self.room >= 200:
            self.there, self.room = True, self.room - 100
        return self.there

    def release(self) -> bool:
        if not self.there:
            return False
        self.there, self.room, self.site.disk.full = False, self.room + 100, False
        self.released += 1
        return True

    def free(self) -> int:
        return self.room


def test_training_stops_before_the_disk_is_full_and_begins_again_by_itself(alone: Site) -> None:
    weight = alone.ballast = Weight(alone)
    short_at: list[int] = []

    def turn() -> None:
        if alone.transport.turns == 2:
            weight.room = 50
        if alone.told("disk_short") and not short_at:
            short_at.append(alone.transport.turns)
            assert alone.store.spare == 100
        if short_at and alone.transport.turns == short_at[0] + 30:
            assert weight.released == 0, "there was room for what the ledger had to write"
            assert alone.node.status(alone.clock.time)["phase"] == "paused"
            weight.room = 1000

    alone.turn = turn
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert short_at
    assert "abandon" in alone.trainer.life
    assert alone.told("disk_room") == ["there is room on the disk again: going on"]
    assert alone.store.spare == 0


def test_on_a_full_disk_the_ledger_goes_on_in_the_room_that_was_kept_for_it(alone: Site) -> None:
    weight = alone.ballast = Weight(alone)
    alone.disk.full = True
    seen: list[tuple[bool, bool]] = []

    def turn() -> None:
        if weight.released and not seen:
            seen.append((weight.there, alone.store.spare == 100))
            weight.room = 50
        if seen and alone.told("disk_short") and alone.transport.turns > 40:
            weight.room = 1000

    alone.turn = turn
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert seen == [(False, True)]
    assert weight.released == 1
    assert weight.there, "it is made again"
    assert alone.told("ballast_released")
    assert not alone.told("disk_full"), "nothing was held up"


def test_when_the_ballast_is_used_up_too_everything_waits_as_without_it(alone: Site) -> None:
    weight = alone.ballast = Weight(alone)
    fill(alone, seconds=5.0)
    ease = alone.turn

    def turn() -> None:
        if weight.released == 1 and not alone.told("disk_full"):
            alone.disk.full, weight.room = True, 0
        ease()
        if alone.told("disk_space"):
            weight.room = 1000

    class Useless(Weight):
        def release(self) -> bool:
            released = super().release()
            self.site.disk.full = True
            self.room = 0
            return released

    weight = alone.ballast = Useless(alone)
    alone.turn = turn
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert alone.told("disk_full")
    assert alone.told("disk_space")


def test_what_came_of_a_blob_and_from_whom_is_told_and_what_this_site_made_is_not(
    among_three: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = among_three
    runtime = site.runtime()
    monkeypatch.setattr(site.store, "keep", lambda _: None)
    other = next(node for node in runtime._node.peers.members if node != runtime._node.peers.me)
    blob = digest("theirs")
    runtime._sender = other
    runtime._perform(deque([Keep(blob, 100, 0, b"abc"), Keep(blob, 100, 3, b"de")]))
    runtime._sender = None
    runtime._perform(deque([Keep(digest("own"), 100, 0, b"abc")]))
    runtime._tell_moved([], runtime._arrivals.rest(), 1.0)
    assert site.told("received") == [f"received 5 bytes from {runtime._node.peers.members[other].name}"]


def test_a_piece_of_a_model_that_finds_no_room_holds_up_nothing_and_is_fetched_again(
    among_three: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = among_three
    weight = site.ballast = Weight(site)
    runtime = site.runtime()
    lost, kept = digest("lost"), digest("kept")
    tried: list[Digest] = []

    def keep(effect: Keep) -> None:
        tried.append(effect.digest)
        if effect.digest == lost:
            raise DiskFull("couldn't store a received model: No space left on device")

    monkeypatch.setattr(site.store, "keep", keep)
    effects: list[Effect] = [
        Keep(lost, 100, 0, b"a"),
        Keep(kept, 100, 0, b"b"),
        Keep(lost, 100, 50, b"c"),
        Seal(lost, 100, ()),
        Report("after", "and what came after it"),
    ]
    runtime._perform(deque(effects))
    assert tried == [lost, kept]
    assert site.told("after")
    assert site.told("disk_short")
    waiting = list(runtime._events)
    assert waiting[0] == StoreFailed(lost, "couldn't store a received model: No space left on device", lost=True)
    assert isinstance(waiting[1], Resting)
    assert waiting[1].frugal
    assert weight.released == 0, "half a model is no reason to give the ledger's room away"
    assert not runtime._held


def test_the_same_bytes_made_again_are_not_removed_in_the_name_of_the_first(among_three: Site) -> None:
    site = among_three
    runtime = site.runtime()
    path = site.store.new_file()
    stored = site.store.write_file(path, 4, [b"none"])
    site.store.adopt(path, stored)
    runtime._events.append(stored)
    runtime._perform(deque([Forget((stored.digest,))]))
    assert site.store.path(stored.digest).exists(), "the node will hear that it has it"
    runtime._events.clear()
    runtime._perform(deque([Forget((stored.digest,))]))
    assert not site.store.path(stored.digest).exists()


# --- small parts --------------------------------------------------------------------------------------------------------


def test_free_space_is_that_of_the_disk_the_folder_is_on(tmp_path: Path) -> None:
    assert free_bytes(tmp_path)() > 0


# --- keys in waiting ------------------------------------------------------------------------------------------------


def test_a_site_that_nobody_talks_to_tries_the_keys_it_has_in_waiting_and_then_its_own_again(tmp_path: Path) -> None:
    site = Site(tmp_path, make_swarm(3, rounds=1))
    site.successor = identity(77)
    site.run(until=lambda: len(site.transport.keys) == 3)
    mine, next_ = site.identity.curve_public, identity(77).curve_public
    assert site.transport.keys == [next_, mine, next_]


def test_a_site_without_keys_in_waiting_stays_who_it_is_however_lonely(tmp_path: Path) -> None:
    site = Site(tmp_path, make_swarm(3, rounds=1))
    site.run(until=lambda: site.clock.now() > EPOCH_S + 60)
    assert site.transport.keys == []


def test_the_transport_is_told_of_the_neighbours_that_the_ledger_names(tmp_path: Path) -> None:
    swarm = make_swarm(3, rounds=1)
    site = Site(tmp_path, swarm)
    site.run(until=lambda: site.transport.turns > 2)
    assert [peer.node for peer in site.transport.peers] == [who.node for who in swarm.identities[1:]]
    assert [peer.curve_key for peer in site.transport.peers] == [who.curve_public for who in swarm.identities[1:]]


# --- a ledger that was there before -----------------------------------------------------------------------------------


def test_the_state_is_kept_when_the_node_stops_and_is_the_one_its_block_names(alone: Site) -> None:
    alone.run()
    kept = SnapshotFile(alone.folder / "snapshot").load()
    assert kept == alone.node.snapshot()
    block = max((record for record in alone.durable() if record.kind == RECORD_BLOCK), key=lambda record: record.height)
    header = Header.decode(codec.decode(block.payload, FinalBlock, limit=1 << 20).block.header)
    assert kept is not None
    assert (header.height, header.state_hash) == (kept.height, snapshot.digest(kept.state))


def test_a_state_that_cannot_be_kept_is_told_and_the_run_goes_on(alone: Site) -> None:
    (alone.folder / "snapshot").mkdir()
    ended = alone.run()
    assert ended is not None
    assert ended.outcome == "DONE"
    assert "couldn't keep a snapshot" in alone.told("store_failed")[0]


def test_a_node_that_never_had_a_block_keeps_nothing(among_three: Site) -> None:
    among_three.run(until=among_three.settled)
    assert not (among_three.folder / "snapshot").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_final_blocks_go_out_as_the_journal_has_them(among_three: Site, damaged: bool) -> None:
    site = among_three
    signed, payloads, _ = make_ledger(members=3, rounds=3)
    assert signed.ledger_id == site.swarm.signed.ledger_id
    journal = Journal(site.disk, ledger_id=signed.ledger_id, segment_bytes=1 << 16)
    journal.open()
    for height, payload in enumerate(payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    neighbour = site.swarm.identities[1].node
    ask = Received(neighbour, wire.encode(m.GetBlocks(2, 4)))
    steps: Iterator[list[Item]] = iter([greeting(site.swarm, 1), [ask]])

    def turn() -> None:
        items = next(steps, [])
        if damaged and items == [ask]:
            data = site.disk.read("blocks/00000000.seg", 0, 1 << 16)
            site.disk.flip("blocks/00000000.seg", data.find(payloads[1]) + 9, 1)
        site.transport.items += items

    site.turn = turn
    site.run(until=lambda: bool(site.told("journal")) or ("sent", "BlockRange") in site.happened)
    sent = [(to, data) for to, message, data in site.frames if message == m.BlockRange(2)]
    if damaged:
        assert sent == []
        assert "couldn't read block 2" in site.told("journal")[0]
    else:
        assert sent == [(neighbour, joined(payloads[1:4]))]


# --- training alone -----------------------------------------------------------------------------------------------


def test_a_site_trains_alone_when_the_run_is_done_and_ends_when_that_is_done_too(alone: Site) -> None:
    alone.baseline = FakeAlone(polls=40)
    finished = alone.run(linger_s=0.0)
    assert finished is not None
    assert finished.outcome == "DONE"
    assert alone.baseline.life == ["begin 2", "end"]
    names = [name for kind, name in alone.happened if kind == "said"]
    assert names.index("done") < names.index("alone_began") < names.index("alone_done")


def test_a_baseline_that_fails_is_not_tried_for_ever(alone: Site) -> None:
    alone.baseline = FakeAlone(fails=True)
    assert alone.run(linger_s=0.0) is not None
    assert alone.baseline.life == ["begin 2", "end"]


def test_a_site_that_rests_does_not_train_alone_either_and_goes_on_afterwards(alone: Site) -> None:
    baseline = alone.baseline = FakeAlone(polls=1_000)
    callers: list[socket.socket] = []

    def turn() -> None:
        if baseline.life == ["begin 2"] and not callers:
            callers.append(call(alone.control, b'{"question": "pause"}\n'))
        elif baseline.life == ["begin 2", "stop"] and len(callers) < 2:
            callers.append(call(alone.control, b'{"question": "resume"}\n'))

    alone.turn = turn
    alone.run(until=lambda: baseline.life == ["begin 2", "stop", "begin 2"])
    assert baseline.life == ["begin 2", "stop", "begin 2", "stop"], "and it ends with the loop"
    assert [json.loads(read_all(caller))["changed"] for caller in callers] == [True, True]


def test_scores_of_too_few_cases_stay_and_what_cannot_be_remembered_stays_too(tmp_path: Path) -> None:
    swarm = make_swarm(1, rounds=1, min_cell=4)
    (tmp_path / "file").touch()
    for name, groups, memory in (
        ("few", (3, 9), tmp_path / "few-told"),
        ("enough", (4, 9), tmp_path / "enough-told"),
        ("full", (4, 9), tmp_path / "file" / "told"),
    ):
        site = Site(tmp_path / name, swarm)
        site.disclosed = Disclosed(memory, least=4)
        site.trainer.groups = groups
        site.run(linger_s=0.0)
        blocks = [record.payload for record in site.durable() if record.kind == RECORD_BLOCK]
        *_, found = audit(blocks, swarm.signed)
        (scored,) = found.rounds[1].evaluations.values()
        assert scored.samples == (13 if name == "enough" else 0), name
        assert bool(scored.metrics) == (name == "enough")
