"""What leaves a site goes through its gate: written down first, let out by people where they asked for it, or not at all.

Driven by the real loop, node, journal and store of `tests.node.test_runtime`, in a swarm of one that needs nobody else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.egress import record as r
from node.egress.gate import Gate, Out
from node.egress.policy import Policy
from node.egress.waiting import Decision, Waiting
from node.masked import Masks
from node.spending import Rounds, Spending, charge
from node.storage import BlobStore
from node.trainer import TrainDone
from swarm import codec
from swarm.errors import StoreError
from swarm.ledger import entry as e
from swarm.ledger.disk import DiskFull
from swarm.ledger.journal import Journal
from swarm.ledger.state import State
from swarm.machine import RECORD_ENTRY, Adopt, Digest, Finished, NodeId, Record, Report, Train, Trained
from swarm.masking.statements import Keys
from swarm.privacy.accounting import Budget
from tests.builders import make_swarm
from tests.node.test_runtime import EPOCH_S, FakeTrainer, Site


def gated(folder: Path, policy: Policy, *, before: Site | None = None, rounds: int = 2, members: int = 1) -> Site:
    """Return a site whose process starts now, with what another process has left of it."""
    swarm = make_swarm(members, rounds=rounds) if before is None else before.swarm
    site = Site(folder, swarm, disk=None if before is None else before.disk)
    site.gate = Gate(
        policy,
        r.Record(folder / "egress" / "log"),
        waiting_of(folder, site.store),
        site.store,
        swarm.signed,
        swarm.identities[0].node,
        clock=site.clock,
        state=lambda: site.node.replica.head,
        tell=lambda fact: site._report(fact, site.clock.now()),
        budget=Budget(3.0, 1e-5),
        spending=Spending(folder / "spent"),
    )
    return site


def waiting_of(folder: Path, store: BlobStore) -> Waiting:
    return Waiting(folder / "egress", store.beside("waiting"))


def decide(site: Site, *, yes: bool = True, reason: str = "") -> None:
    place = waiting_of(site.folder, site.store)
    offer = place.offer()
    assert offer is not None
    place.decide(Decision(update=offer.update, yes=yes, reason=reason, by="ada", time_ms=int(EPOCH_S * 1000)))


def kinds(site: Site) -> list[str]:
    return [line.what for line in r.Record(site.folder / "egress" / "log").lines()]


def said(site: Site) -> list[r.Said]:
    """What this site has said that its data went into, as a process that starts now finds it."""
    words = {e.CONTRIBUTION: r.CONTRIBUTION, e.EVALUATION: r.EVALUATION}
    bodies = {e.CONTRIBUTION: e.Contribution, e.EVALUATION: e.Evaluation}
    found = []
    for one in site.durable():
        if one.kind == RECORD_ENTRY:
            entry = e.decode_entry(one.payload)
            if entry.kind in words:
                body = codec.decode(entry.body, bodies[entry.kind], limit=e.ENTRY_BYTES_MAX)
                digest = body.update_digest.hex() if entry.kind == e.CONTRIBUTION else ""
                found.append(r.Said(entry.seq, entry.id.hex(), words[entry.kind], body.round, digest))
    return found


def holds(site: Site) -> bool:
    lines = r.Record(site.folder / "egress" / "log").lines()
    told = r.compare(lines, site.swarm.signed.ledger_id.hex()[:16], said(site))
    return told.holds and told.agreed > 0


# --- what was spent and is forgotten ----------------------------------------------------------------------------------


def journal_of(site: Site) -> Journal:
    journal = Journal(site.disk, ledger_id=site.swarm.signed.ledger_id, segment_bytes=1 << 16)
    journal.open()
    return journal


class PrivateTrainer(FakeTrainer):
    """Trains privately and notes what it costs first, as the real one does; the record of one round is lost later."""

    def __init__(self, site: Site, lost: int) -> None:
        super().__init__()
        self._spending, self._lost = Spending(site.folder / "spent"), lost
        self._ledger = site.swarm.signed.ledger_id.hex()[:16]

    def train(self, round_: int, model: Path, update: Path, *, rounds: int = 0, correction: Path | None = None) -> None:
        if round_ != self._lost:
            one = charge(ledger=self._ledger, round_=round_, records=90, rate=0.1, noise=2.0, steps=10)
            self._spending.append(one)
        super().train(round_, model, update, rounds=rounds, correction=correction)
        self.events[-1] = dataclasses.replace(cast("TrainDone", self.events[-1]), privacy=(900 + round_, 5))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_record_that_lacks_a_round_of_the_ledger_ends_training_and_not_the_site(tmp_path: Path, lost: int) -> None:
    """As where both were restored from one old backup: the ledger hears from the others what the record lacks."""
    site = gated(tmp_path, Policy(), rounds=3)
    site.trainer = PrivateTrainer(site, lost)
    assert site.gate is not None
    site.gate._private = Rounds(
        lambda first, last, bytes_max: journal_of(site).blocks(first, last, bytes_max),
        site.swarm.identities[0].node,
    )
    finished = site.run(until=lambda: r.REFUSED in kinds(site))
    if not lost:
        assert finished is not None
        assert finished.outcome == "DONE"
        return
    lines = r.Record(tmp_path / "egress" / "log").lines()
    told = [(line.round, line.what) for line in lines if line.what in (r.CONTRIBUTION, r.REFUSED)]
    assert told == [(1, r.CONTRIBUTION), (2, r.REFUSED)]
    why = str(next(line for line in lines if line.what == r.REFUSED).rest["why"])
    assert why.startswith("the ledger has round 1 as trained privately here, and privacy/spent does not")
    assert why.endswith("[SWARM-PRIVACY-RECORD]")


# --- what is written down ---------------------------------------------------------------------------------------------


def test_all_that_leaves_is_in_the_record_and_agrees_with_what_was_said(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy())
    finished = site.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    lines = r.Record(tmp_path / "egress" / "log").lines()
    assert sorted(line.what for line in lines) == sorted([r.UPDATE, r.CONTRIBUTION, r.MODEL, r.EVALUATION] * 2)
    first = next(line for line in lines if line.what == r.CONTRIBUTION)
    assert (first.round, first.rest["samples"], first.rest["metrics"]) == (1, 10, {"loss": 0.5})
    assert first.rest["norm"] == pytest.approx(32**0.5)  # Each of 32 parameters moved by 1.
    update = next(line for line in lines if line.what == r.UPDATE)
    assert (update.rest["digest"], update.rest["bytes"]) == (first.rest["digest"], 128)
    assert holds(site)


def test_nothing_is_said_that_could_not_be_written_down_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = gated(tmp_path, Policy())
    add = r.Record.add

    def refuse(self: r.Record, what: str, **rest: object) -> r.Line:
        if what == r.CONTRIBUTION:
            raise StoreError("couldn't write")
        return add(self, what, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(r.Record, "add", refuse)
    with pytest.raises(StoreError, match="couldn't write"):
        site.run()
    assert said(site) == []


def test_a_full_disk_holds_up_what_would_be_said_and_it_is_said_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = gated(tmp_path, Policy())
    add, tries = r.Record.add, []

    def full(self: r.Record, what: str, **rest: object) -> r.Line:
        if what == r.EVALUATION and len(tries) < 2:
            tries.append(what)
            raise DiskFull("couldn't write to egress/log: No space left on device")
        return add(self, what, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(r.Record, "add", full)
    finished = site.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert len(tries) == 2
    assert holds(site)


def test_a_process_that_starts_again_writes_nothing_twice(tmp_path: Path) -> None:
    first = gated(tmp_path, Policy())
    first.run()
    before = kinds(first)
    again = gated(tmp_path, Policy(), before=first)
    again.run()
    assert kinds(again) == before


@pytest.mark.parametrize("stop", range(1, 9))
def test_killed_at_any_line_of_the_record_it_goes_on_and_the_record_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    class Killed(BaseException):
        pass

    add, count = r.Record.add, [0]

    def kill(self: r.Record, what: str, **rest: object) -> r.Line:
        count[0] += 1
        line = add(self, what, **rest)  # type: ignore[arg-type]
        if count[0] == stop:
            raise Killed
        return line

    site = gated(tmp_path, Policy())
    with monkeypatch.context() as patch:
        patch.setattr(r.Record, "add", kill)
        with pytest.raises(Killed):
            site.run()
    again = gated(tmp_path, Policy(), before=site)
    finished = again.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert holds(again)


def test_a_record_that_was_changed_stops_the_site(tmp_path: Path) -> None:
    gated(tmp_path, Policy()).run()
    log = tmp_path / "egress" / "log"
    log.write_bytes(log.read_bytes().replace(b'"samples": 10', b'"samples": 11', 1))
    with pytest.raises(StoreError, match="couldn't tell what has left this site") as caught:
        gated(tmp_path, Policy())
    assert caught.value.identifier == r.DAMAGED


# --- people -----------------------------------------------------------------------------------------------------------


def run_until_it_waits(site: Site) -> None:
    site.run(until=lambda: bool(site.told("approval_wanted")) and site.settled())


def test_an_update_that_waits_is_no_blob_and_nothing_is_said_of_it(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    offer = waiting_of(tmp_path, site.store).offer()
    assert offer is not None
    assert (offer.round, offer.size, offer.samples, offer.told) == (1, 128, 10, {"loss": 0.5})
    assert not (tmp_path / "blobs" / offer.update).exists()
    assert said(site) == []
    assert site.snapshots[-1]["waiting"] == "the update of round 1 waits to be let out: `swarm approve` shows it"
    assert kinds(site) == [r.WAITING]


def test_let_out_by_people_each_update_goes_its_way(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    rounds: list[int] = []

    def person() -> None:
        offer = waiting_of(tmp_path, site.store).offer()
        if offer is not None and offer.round not in rounds:
            rounds.append(offer.round)
            decide(site)

    site.turn = person
    finished = site.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert rounds == [1, 2]
    own = [r.WAITING, r.APPROVED, r.UPDATE, r.CONTRIBUTION]
    assert [kind for kind in kinds(site) if kind in own] == own * 2
    assert holds(site)
    assert site.trainer.asked.count("train") == 2


def test_with_first_people_are_asked_once_in_a_swarm(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="first"))
    run_until_it_waits(site)
    decide(site)
    again = gated(tmp_path, Policy(approve="first"), before=site)
    finished = again.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert kinds(again).count(r.WAITING) == kinds(again).count(r.APPROVED) == 1


def test_what_waits_is_there_after_a_restart_and_is_not_trained_again(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    before = waiting_of(tmp_path, site.store).offer()
    again = gated(tmp_path, Policy(approve="every"), before=site)
    run_until_it_waits(again)
    assert waiting_of(tmp_path, again.store).offer() == before
    assert "train" not in again.trainer.asked


def test_what_people_said_while_no_node_ran_holds(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"), rounds=1)
    run_until_it_waits(site)
    decide(site)
    again = gated(tmp_path, Policy(approve="every"), before=site)
    finished = again.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert "train" not in again.trainer.asked
    assert holds(again)


def test_bytes_that_are_not_whole_any_more_are_trained_again(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    (only,) = (tmp_path / "blobs" / "waiting").iterdir()
    only.write_bytes(bytes(128))
    again = gated(tmp_path, Policy(approve="every"), before=site)
    run_until_it_waits(again)
    assert again.trainer.asked.count("train") == 1
    assert kinds(again) == [r.WAITING, r.LAPSED, r.WAITING]


def test_a_word_on_another_update_changes_nothing(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    text = (tmp_path / "egress" / "waiting.json").read_text()
    decide(site)
    offer = waiting_of(tmp_path, site.store).offer()
    assert offer is not None
    decision = tmp_path / "egress" / "decision.json"
    decision.write_text(decision.read_text().replace(offer.update, "00" * 32))
    again = gated(tmp_path, Policy(approve="every"), before=site)
    run_until_it_waits(again)
    assert (tmp_path / "egress" / "waiting.json").read_text() == text
    assert said(again) == []


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[" * 10_000, b"\xff", b'{"update": 1}'])
def test_garbage_where_a_word_should_be_is_no_word(tmp_path: Path, garbage: bytes) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    (tmp_path / "egress" / "decision.json").write_bytes(garbage)
    assert waiting_of(tmp_path, site.store).decision() is None
    (tmp_path / "egress" / "waiting.json").write_bytes(garbage)
    assert waiting_of(tmp_path, site.store).offer() is None


def test_a_rejected_update_never_leaves_and_the_round_is_not_trained_again(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"))
    run_until_it_waits(site)
    decide(site, yes=False, reason="the ethics board meets on Friday")
    again = gated(tmp_path, Policy(approve="every"), before=site)
    again.run(until=lambda: bool(again.told("training_refused")) and again.settled())
    assert again.told("training_refused") == [
        "round 1 is not trained here: its people did not let it out: the ethics board meets on Friday"
    ]
    assert kinds(again) == [r.WAITING, r.REJECTED]
    assert said(again) == []
    assert list((tmp_path / "blobs" / "waiting").iterdir()) == []


@pytest.mark.parametrize("stop", range(1, 9))
def test_killed_anywhere_between_a_word_and_the_ledger_it_leaves_once_and_as_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """A kill between any two things that are written: lines, links, entries."""

    class Killed(BaseException):
        pass

    site = gated(tmp_path, Policy(approve="every"), rounds=1)
    run_until_it_waits(site)
    offer = waiting_of(tmp_path, site.store).offer()
    assert offer is not None
    decide(site)
    count = [0]

    def counted(plain: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **rest: object) -> object:
            count[0] += 1
            if count[0] == stop:
                raise Killed
            return plain(*arguments, **rest)

        return call

    killed = gated(tmp_path, Policy(approve="every"), before=site)
    with monkeypatch.context() as patch:
        for owner, name in ((r.Record, "add"), (Waiting, "copies"), (Waiting, "clear"), (BlobStore, "adopt")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        with pytest.raises(Killed):
            killed.run(until=lambda: count[0] >= stop + 1)
            raise Killed
    again = gated(tmp_path, Policy(approve="every"), before=killed)
    finished = again.run()
    assert finished is not None
    assert finished.outcome == "DONE"
    assert "train" not in again.trainer.asked
    assert {one.digest for one in said(again) if one.what == r.CONTRIBUTION} == {offer.update}
    assert holds(again)


def test_a_pause_leaves_what_waits_as_it_is(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy(approve="every"), rounds=1)
    run_until_it_waits(site)
    decide(site)
    paused = gated(tmp_path, Policy(approve="every"), before=site)
    paused.paused.write_text("")
    paused.run(until=lambda: paused.transport.turns > 50)
    assert said(paused) == []
    paused.paused.unlink()
    again = gated(tmp_path, Policy(approve="every"), before=paused)
    finished = again.run()
    assert finished is not None
    assert finished.outcome == "DONE"


# --- without a run: a gate and what it is asked -----------------------------------------------------------------------


class Door:
    """A gate beside a state that the test makes up."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        *,
        counts: bool = True,
        members: int = 3,
        masks: str = "",
        salt: str = "",
        site_noise: str = "",
        agreed_cell: int = 0,
        own_cell: int = 0,
    ) -> None:
        swarm = make_swarm(
            members,
            masks=masks,
            salt=salt,
            site_noise=site_noise,
            min_cell=agreed_cell,
            min_contributions=3 if masks else 2 if salt else 1,
        )
        self.store = BlobStore(folder / "blobs")
        self.counts = counts
        terms = SimpleNamespace(members=swarm.signed.charter.members)
        state = SimpleNamespace(
            terms=terms, last=9, height=1, contributions={}, destined=lambda *_: 1 if self.counts else None
        )
        self.told: list[Report] = []
        self.spending = Spending(folder / "spent")
        self.record = r.Record(folder / "egress" / "log")
        self.ledger = swarm.signed.ledger_id.hex()[:16]
        self.gate = Gate(
            policy,
            self.record,
            waiting_of(folder, self.store),
            self.store,
            swarm.signed,
            swarm.identities[0].node,
            clock=Site(folder / "clock", swarm).clock,
            state=lambda: cast("State", state),
            tell=self.told.append,
            budget=Budget(3.0, 1e-5),
            spending=self.spending,
            min_cell=own_cell,
        )

    def offer(self, round_: int = 1, size: int = 128) -> object:
        """Have an update made, and return what the gate says."""
        asked = Train(round_, Digest(bytes(32)))
        refusal = self.gate.refusal(asked)
        if refusal is not None:
            return refusal
        assert not self.gate.resumes(asked)
        path = self.store.new_file()
        path.write_bytes(bytes([round_]) * size)
        stored = self.store.hash_file(path)
        trained = Trained(round_, stored.digest, size, samples=4, metrics={"loss": 1.0, "nan": float("nan")})
        return self.gate.offered(((path, stored),), trained, 2.0)


def say(door: Door, kind: int, body: object) -> None:
    """Have the site say something, as the loop does before it is durable."""
    swarm = make_swarm(3)
    who = swarm.identities[0]
    place = {"ledger_id": swarm.signed.ledger_id, "author": who.node, "prev": bytes(32), "ts_ms": 1}
    entry = e.sign_entry(who.id_key, kind=kind, seq=3, body=body, **place)  # type: ignore[arg-type]
    door.gate.saying([Record(RECORD_ENTRY, 3, entry.encode())])


def refused(answer: object) -> str:
    """Return why, of an answer that says that nothing may leave."""
    found = answer[0] if isinstance(answer, list) else answer
    assert isinstance(found, Trained)
    assert found.update is None
    assert found.refused
    return found.error


def test_no_more_rounds_leave_than_the_site_allows_over_all_swarms(tmp_path: Path) -> None:
    record = r.Record(tmp_path / "egress" / "log")
    record.add(r.UPDATE, time_ms=1, ledger="ab" * 8, round_=7, digest="00", bytes=1)
    door = Door(tmp_path, Policy(rounds=2))
    assert door.offer(1) is None
    assert door.offer(1) is None  # The same round once more, after a crash, say.
    assert refused(door.offer(2)) == (
        "updates of 2 rounds have left this site, which are all that may [SWARM-EGRESS-LIMIT]"
    )
    assert [line.what for line in record.lines()] == [r.UPDATE] * 2 + [r.REFUSED]


def test_who_may_not_see_updates_stops_them_before_they_are_trained(tmp_path: Path) -> None:
    names = [card.name for card in make_swarm(3).signed.charter.members]
    door = Door(tmp_path, Policy(peers=(names[1],)))
    assert refused(door.offer()).startswith(f"{names[2]} would see this site's updates, and may not")
    assert Door(tmp_path, Policy(peers=tuple(names[1:]))).offer() is None
    by_id = make_swarm(3).identities
    assert Door(tmp_path, Policy(peers=tuple(one.node.hex()[:16] for one in by_id[1:]))).offer() is None


def test_a_larger_update_than_the_site_allows_does_not_leave(tmp_path: Path) -> None:
    door = Door(tmp_path, Policy(update_bytes=127))
    assert refused(door.offer()).startswith("the update has 128 bytes, this site lets out 127")
    assert list(door.store.listing()[0]) == []
    assert [*(tmp_path / "blobs").glob("new-*")] == []


@pytest.mark.parametrize(
    ("policy", "noise", "why"),
    [
        (Policy(noise=1.0), None, "was not trained privately"),
        (Policy(noise=1.0), 0.9, "with noise 0.9, this site asks for 1 at least"),
        (Policy(noise=1.0), 1.0, ""),
        (Policy(epsilon_round=0.01), 1.0, "the round cost epsilon"),
        (Policy(epsilon_round=50.0), 1.0, ""),
        (Policy(epsilon_round=50.0), None, "was not trained privately"),
    ],
)
def test_less_noise_or_more_epsilon_than_a_round_may_cost_does_not_leave(
    tmp_path: Path, policy: Policy, noise: float | None, why: str
) -> None:
    door = Door(tmp_path, policy)
    for round_, ledger in ((1, door.ledger), (1, "cd" * 8), (2, door.ledger)):
        if noise is not None:
            level = noise if (round_, ledger) == (1, door.ledger) else 0.1
            door.spending.append(charge(ledger=ledger, round_=round_, records=90, rate=0.1, noise=level, steps=10))
    answer = door.offer()
    assert answer is None if not why else why in refused(answer)


def test_an_update_that_comes_without_files_passes_the_same_gate(tmp_path: Path) -> None:
    """Its bytes are kept elsewhere until they take the form in which they leave: that is written down then."""
    door, asked = Door(tmp_path, Policy(approve="every")), Train(1, Digest(bytes(32)))
    assert not door.gate.resumes(asked)
    trained = Trained(1, Digest(b"\1" * 32), 128, samples=4)
    assert door.gate.offered((), trained, 1.5) == []
    place = waiting_of(tmp_path, door.store)
    offer = place.offer()
    assert offer is not None
    assert offer.pieces == ()
    place.decide(Decision(update=offer.update, yes=True, reason="", by="ada", time_ms=1))
    out = door.gate.turn()
    assert isinstance(out, Out)
    assert (out.files, out.trained) == ((), trained)
    say(door, e.MASK_KEYS, Keys(1, 1, 0, bytes(32), 4, b"\3" * 32, b"\4" * 32))
    door.gate.releasing(Adopt(Digest(b"\2" * 32), 130, 1))
    assert place.offer() is not None, "if it were lost now, it would be let out again without a question"
    body = e.Contribution(1, 1, 0, bytes(32), b"\2" * 32, 130, 4, (), (0, 0, 0), bytes(32), bytes(32))
    say(door, e.CONTRIBUTION, body)
    door.gate.releasing(Adopt(Digest(b"\2" * 32), 130, 1))  # As after a crash.
    lines = door.record.lines()
    assert [line.what for line in lines] == [r.WAITING, r.APPROVED, r.MASK_KEYS, r.UPDATE, r.CONTRIBUTION]
    assert [lines[2].rest["samples"], lines[4].rest["samples"]] == [4, 4]
    assert lines[3].rest["digest"] == lines[4].rest["digest"] == "02" * 32
    assert [lines[number].rest["norm"] for number in (0, 3, 4)] == [1.5, 1.5, 1.5], "as it was before the masks"
    # Nothing lapses of what has left, and the next waits in its turn.
    assert not door.gate.resumes(Train(2, Digest(bytes(32))))
    assert place.offer() is None
    assert len(door.record.lines()) == len(lines)


def test_who_must_not_see_a_digest_cannot_have_its_bytes_before_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked update goes into the store once it is masked, and from then on neighbours are told that it is there."""
    door = Door(tmp_path, Policy())

    def full(self: r.Record, what: str, **rest: object) -> r.Line:
        raise StoreError("couldn't write")

    monkeypatch.setattr(r.Record, "add", full)
    with pytest.raises(StoreError, match="couldn't write"):
        door.gate.releasing(Adopt(Digest(b"\2" * 32), 130, 1))


def test_what_will_be_masked_waits_through_a_restart_where_masks_are_put_on(tmp_path: Path) -> None:
    door, asked = Door(tmp_path, Policy(approve="every")), Train(1, Digest(bytes(32)))
    assert not door.gate.resumes(asked)
    path = door.store.new_file()
    path.write_bytes(bytes(128))
    kept = Masks(door.store, elements=32, bound=1.0).set_aside(path)
    assert door.gate.offered((), Trained(1, kept.digest, 128, samples=4), 1.5) == []
    again = Door(tmp_path, Policy(approve="every"))
    assert again.gate.resumes(asked), "it is not trained again"
    assert [line.what for line in again.record.lines()] == [r.WAITING]
    (door.store.beside("aside") / kept.digest.hex()).write_bytes(bytes(127) + b"\1")
    damaged = Door(tmp_path, Policy(approve="every"))
    assert not damaged.gate.resumes(asked)
    assert [line.what for line in damaged.record.lines()] == [r.WAITING, r.LAPSED]


def test_what_was_under_way_when_the_site_began_to_rest_is_let_go_of(tmp_path: Path) -> None:
    door = Door(tmp_path, Policy(approve="every"))
    for asked in (None, Train(2, Digest(bytes(32)))):
        assert not door.gate.resumes(Train(1, Digest(bytes(32))))
        door.gate.rest()
        if asked is not None:
            assert not door.gate.resumes(asked)
        path = door.store.new_file()
        path.write_bytes(bytes(128))
        stored = door.store.hash_file(path)
        assert door.gate.offered(((path, stored),), Trained(1, stored.digest, 128, samples=4), 1.0) == []
        assert not path.exists()
    assert waiting_of(tmp_path, door.store).offer() is None
    assert door.record.lines() == []


@pytest.mark.parametrize(("limit", "leaves"), [(255, False), (256, True)])
def test_what_counts_is_the_size_under_masks(tmp_path: Path, limit: int, leaves: bool) -> None:
    door = Door(tmp_path, Policy(update_bytes=limit), masks="pairwise:64")
    answer = door.gate.offered((), Trained(1, Digest(b"\1" * 32), 128, samples=4), 1.0)
    assert answer is None if leaves else "the update has 256 bytes" in refused(answer)


def test_without_files_it_is_made_again_after_a_restart(tmp_path: Path) -> None:
    door = Door(tmp_path, Policy(approve="every"))
    assert not door.gate.resumes(Train(1, Digest(bytes(32))))
    assert door.gate.offered((), Trained(1, Digest(b"\1" * 32), 128, samples=4), 0.0) == []
    again = Door(tmp_path, Policy(approve="every"))
    assert not again.gate.resumes(Train(1, Digest(bytes(32))))
    assert [line.what for line in again.record.lines()] == [r.WAITING, r.LAPSED]


def test_the_bulk_worker_lets_no_update_past_its_outlet(tmp_path: Path) -> None:
    site = gated(tmp_path, Policy())
    seen: list[object] = []
    site.bulk.outlet = lambda files, event, norm: seen.append((files, event, norm)) or []  # type: ignore[func-returns-value]
    trained = Trained(1, Digest(b"\1" * 32), 128)
    site.bulk._done.extend([trained, Trained(2, None, error="no")])
    assert site.bulk.take() == [Trained(2, None, error="no")]
    assert seen == [((), trained, 0.0)]


def test_what_waits_lapses_when_nothing_can_come_of_it_any_more(tmp_path: Path) -> None:
    door = Door(tmp_path, Policy(approve="every"))
    assert door.offer() == []
    assert door.gate.turn() is None
    door.counts = False
    why = refused(door.gate.turn())
    assert why == "its update waited for this site's people until its round closed without it"
    assert [line.what for line in door.record.lines()] == [r.WAITING, r.LAPSED]
    assert door.gate.words == ""
    assert door.gate.turn() is None


@pytest.mark.parametrize("approved", [False, True])
def test_what_waits_for_a_round_that_the_site_has_left_behind_lapses_whatever_was_said(
    tmp_path: Path, approved: bool
) -> None:
    """After a restart the machine trains the round that is open, and knows nothing of an earlier one."""
    assert Door(tmp_path, Policy(approve="every")).offer(1) == []
    door = Door(tmp_path, Policy(approve="every"))
    place = waiting_of(tmp_path, door.store)
    offer = place.offer()
    assert offer is not None
    if approved:
        place.decide(Decision(update=offer.update, yes=True, reason="", by="ada", time_ms=1))
    assert door.offer(3) == []
    lines = door.record.lines()
    assert [(line.what, line.round) for line in lines] == [(r.WAITING, 1), (r.LAPSED, 1), (r.WAITING, 3)]
    assert lines[1].rest["why"] == "this site had gone on to round 3"
    assert door.gate.turn() is None


def test_a_member_who_joined_while_it_waited_keeps_it_here(tmp_path: Path) -> None:
    names = [card.name for card in make_swarm(4).signed.charter.members]
    door = Door(tmp_path, Policy(approve="every", peers=tuple(names[1:3])))
    assert door.offer() == []
    door.gate._state().terms.members = make_swarm(4).signed.charter.members  # type: ignore[misc]
    place = waiting_of(tmp_path, door.store)
    offer = place.offer()
    assert offer is not None
    place.decide(Decision(update=offer.update, yes=True, reason="", by="ada", time_ms=1))
    assert names[3] in refused(door.gate.turn())


def test_scores_are_told_once_people_have_let_something_out(tmp_path: Path) -> None:
    for approve, told in (("no", [True, True]), ("first", [True, True]), ("every", [True, False])):
        folder = tmp_path / approve
        before = Door(folder, Policy(approve=approve)).gate
        assert before.tells(1) is (approve == "no")
        ledger = before._ledger
        r.Record(folder / "egress" / "log").add(
            r.APPROVED, time_ms=1, ledger=ledger, round_=1, digest="00", by="ada", reason=""
        )
        after = Door(folder, Policy(approve=approve)).gate
        assert [after.tells(1), after.tells(2)] == told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"loss": 1.0}),
        ({"salt": "32"}, {}),
        ({"agreed_cell": 4}, {"loss": 1.0}),
        ({"agreed_cell": 5}, {}),
        ({"own_cell": 4}, {"loss": 1.0}),
        ({"own_cell": 5}, {}),
        ({"own_cell": 5, "agreed_cell": 2}, {}),
        ({"masks": "pairwise", "site_noise": "0.04:1000:1e-5"}, {}),
    ],
)
def test_people_are_shown_the_metrics_that_will_be_told_and_no_others(
    tmp_path: Path, options: dict[str, Any], told: dict[str, float]
) -> None:
    """Of four samples: what the round does with them and what people see of it are one question to the charter."""
    door = Door(tmp_path, Policy(approve="every"), **options)
    assert door.offer(size=160 if "salt" in options else 128) == []
    offer = waiting_of(tmp_path, door.store).offer()
    assert offer is not None
    assert offer.samples == 4
    assert offer.told == told


def test_another_swarms_approval_is_none_of_this_one(tmp_path: Path) -> None:
    record = r.Record(tmp_path / "egress" / "log")
    record.add(r.APPROVED, time_ms=1, ledger="ab" * 8, round_=1, digest="00", by="ada", reason="")
    assert Door(tmp_path, Policy(approve="first")).offer() == []


def test_only_own_entries_are_recorded_and_each_once(tmp_path: Path) -> None:
    swarm = make_swarm(3)
    door = Door(tmp_path, Policy())
    body = e.Evaluation(1, bytes(32), 7, ((0, 250_000),))
    for member in (0, 1, 0):
        who = swarm.identities[member]
        entry = e.sign_entry(
            who.id_key,
            ledger_id=swarm.signed.ledger_id,
            author=NodeId(who.node),
            kind=e.EVALUATION,
            seq=3,
            prev=bytes(32),
            ts_ms=1,
            body=body,
        )
        door.gate.saying([Record(RECORD_ENTRY, 3, entry.encode())])
    (line,) = door.record.lines()
    assert line.rest["metrics"] == {swarm.signed.charter.metrics[0]: 0.25}
    assert (line.rest["seq"], line.rest["samples"], line.round) == (3, 7, 1)


def test_a_rejection_is_finished_business(tmp_path: Path) -> None:
    assert dataclasses.asdict(Policy())["approve"] == "no"
    door = Door(tmp_path, Policy(approve="every"))
    assert door.offer() == []
    place = waiting_of(tmp_path, door.store)
    offer = place.offer()
    assert offer is not None
    place.decide(Decision(update=offer.update, yes=False, reason="", by="ada", time_ms=1))
    assert refused(door.gate.turn()) == "its people did not let it out"
    assert place.offer() is None
    assert place.decision() is None
    assert not isinstance(door.gate.turn(), Finished)
