"""One member's part in masked rounds: what it says, in which order with what is durable, and what it is never talked into."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.state import (
    Signatures,
    State,
    apply_authored,
    apply_derived,
    due_commit,
    genesis,
    make_close,
    make_roster,
    make_void,
    open_authored,
)
from swarm.machine import (
    Adopt,
    BlobRead,
    Deposit,
    Digest,
    Forget,
    Guard,
    Masked,
    MaskUpdate,
    Mixed,
    NodeId,
    ReadBlob,
    Report,
    Train,
    Trained,
    Unmask,
)
from swarm.masked_round import Kept, MaskedRound, read_kept
from swarm.masking import masks
from swarm.masking.masks import Mask
from swarm.masking.ring import Ring
from swarm.masking.statements import Keys, Reveal
from swarm.round import Action, Fetch, Say
from swarm.vector import Vector, blob_digest, leaf_hashes
from tests.builders import CODE, EPOCH_S, Feeds, digest, drawing, make_swarm

ELEMENTS = 8
SWARM = make_swarm(3, elements=ELEMENTS, masks="pairwise:64", min_contributions=3, rounds=2)
NODES = [who.node for who in SWARM.identities]
PATIENCE_S = 8.0
WORDS = {e.MASK_KEYS: Keys, e.MASK_DEAL: e.MaskDeal, e.CONTRIBUTION: e.Contribution, e.MASK_REVEAL: Reveal}


def update(member: int) -> Vector:
    return np.full(ELEMENTS, 1.0 + member, np.float32)


class Table:
    """Three members, one log without a vote, one store for all. Words are ordered as they are said."""

    def __init__(self) -> None:
        self.state = genesis(SWARM.signed)
        self.feeds = Feeds(SWARM)
        self.blobs: dict[Digest, bytes] = {Digest(SWARM.charter.task.initial_model): SWARM.initial}
        self.records = [b"", b"", b""]
        self.masked: dict[Digest, bytes] = {}
        self.rounds = [self.process(member) for member in range(3)]
        self.said: list[tuple[int, msgspec.Struct]] = []
        self.reports: list[Report] = []
        self.forgotten: list[Digest] = []
        self.unmasked: list[Unmask] = []
        self.now = EPOCH_S
        self.deaf: set[int] = set()
        self.check: Callable[[int, Action], None] = lambda _member, _action: None

    def process(self, member: int, seed: int = 1) -> MaskedRound:
        return MaskedRound(
            SWARM.charter,
            NODES[member],
            code_digest=CODE,
            data_digest=bytes(32),
            workshop=self,
            draw=drawing(member, seed),
        )

    # What a round asks: here everything that is said is in the log at once.

    def deals(self) -> Sequence[tuple[NodeId, e.MaskDeal]]:
        return ()

    def reveals(self) -> Sequence[tuple[NodeId, Reveal]]:
        return ()

    def quorate(self, now: float) -> bool:
        return True

    # What happens.

    def act(self, member: int, actions: Sequence[Action]) -> None:
        for action in actions:
            self.check(member, action)
            found = self.rounds[member]
            match action:
                case Say():
                    self.said.append((member, action.body))
                    leaf = self.feeds.write(member, action.body)
                    entry = e.decode_entry(leaf)
                    self.state = apply_authored(self.state, open_authored(self.state, entry, leaf, Signatures()))
                case Guard():
                    self.records[member] = action.data
                case Deposit():
                    self.blobs[blob_digest(len(action.data), leaf_hashes(action.data))] = action.data
                case Adopt():
                    self.blobs[action.digest] = self.masked[action.digest]
                case ReadBlob():
                    self.act(member, found.blob_read(BlobRead(action.digest, self.blobs[action.digest]), self.now))
                case Train():
                    data = update(member).tobytes()
                    trained = Trained(action.round, Digest(hashlib.sha256(data).digest()), len(data), 10 * (member + 1))
                    self.act(member, found.trained(trained, self.state, (), self.now))
                case MaskUpdate():
                    self.act(member, found.masked(self.mask(member, action), self.state, self.now))
                case Unmask():
                    self.unmasked.append(action)
                case Forget():
                    self.forgotten += action.digests
                case Report():
                    self.reports.append(action)
                case _:
                    pass

    def mask(self, member: int, effect: MaskUpdate) -> Masked:
        bits, fraction, total, _ = effect.ring
        ring = Ring(bits=bits, fraction=fraction, weight_total=total)
        words = masks.masked(update(member), ring, effect.weight, [Mask(*one) for one in effect.masks])
        data = ring.pack(words)
        name = blob_digest(len(data), leaf_hashes(data))
        self.masked[name] = data
        return Masked(effect.round, effect.attempt, effect.update, name, len(data))

    def go(self, times: int = 10) -> Table:
        """Everybody does all that can be done."""
        for _ in range(times):
            for member in {0, 1, 2} - self.deaf:
                self.act(member, self.rounds[member].advance(self.state, (), self.blobs.__contains__, self.now))
        return self

    def settle(self, kind: int, body: e.MaskRoster | e.RoundClose | e.RoundCommit | None) -> Table:
        assert body is not None
        self.state = apply_derived(self.state, kind, body, self.state.time_ms + 1)
        return self

    def rostered(self) -> Table:
        return self.go().settle(e.MASK_ROSTER, make_roster(self.state))

    def closed(self) -> Table:
        self.rostered().go()
        return self.settle(e.ROUND_CLOSE, make_close(self.state, [*self.state.contributions.values()], {}))

    def of(self, member: int, kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
        return [body for who, body in self.said if who == member and isinstance(body, kind)]


def test_a_round_is_keys_deals_offers_and_reveals_and_then_a_sum() -> None:
    table = Table().closed().go()
    assert [[type(body) for who, body in table.said if who == member] for member in range(3)] == [
        [Keys, e.MaskDeal, e.Contribution, Reveal]
    ] * 3
    assert len({*table.unmasked}) == 1, "everybody takes the same masks off the same words"
    (effect,) = {*table.unmasked}
    bits, fraction, total, _ = effect.ring
    ring = Ring(bits=bits, fraction=fraction, weight_total=total)
    words = ring.words(ELEMENTS)
    for name in effect.terms:
        masks.add(words, ring.unpack(table.blobs[name], ELEMENTS))
    masks.apply(words, ring, [Mask(*one) for one in effect.masks])
    assert [*ring.sums(words, effect.weight)] == [(10 * 1 + 20 * 2 + 30 * 3) << 32] * ELEMENTS


def test_nothing_is_said_before_the_record_holds_what_it_follows_from() -> None:
    table, seen = Table(), set()

    def check(member: int, action: Action) -> None:
        body = action.body if isinstance(action, Say) else action
        if not isinstance(body, Keys | e.MaskDeal | Adopt | Reveal):
            return
        seen.add(type(body))
        attempt, _, _ = read_kept(table.records[member])
        assert attempt is not None
        match body:
            case Keys():
                assert attempt.keys == (body.mask_key, body.seal_key)
            case e.MaskDeal():
                assert table.rounds[member]._attempt.to_bytes() == attempt.to_bytes()  # type: ignore[union-attr]
            case Adopt():
                assert attempt.offered == body.digest
            case Reveal():
                assert attempt.closed

    table.check = check
    table.closed().go()
    assert seen == {Keys, e.MaskDeal, Adopt, Reveal}


def test_what_was_trained_is_said_to_nobody() -> None:
    table = Table().closed().go()
    plain = {hashlib.sha256(update(member).tobytes()).digest() for member in range(3)}
    named = {body.update_digest for _, body in table.said if isinstance(body, e.Contribution)}
    assert len(named) == 3
    assert not plain & named
    assert not plain & {*table.blobs}
    assert all(one.tobytes() not in data for one in map(update, range(3)) for data in table.blobs.values())


def test_with_the_round_its_secrets_are_gone() -> None:
    table = Table().closed().go()
    assert table.state.close is not None
    for member in range(3):
        mixed = Mixed(1, Digest(digest("model 1")), 32)
        table.act(member, table.rounds[member].mixed(mixed, table.state, table.now))
    table.settle(e.ROUND_COMMIT, due_commit(table.state))
    table.deaf = {1, 2}
    table.go(1)
    assert read_kept(table.records[0])[0] is None if table.records[0] else True
    assert hashlib.sha256(update(0).tobytes()).digest() in table.forgotten


def test_what_was_trained_twice_alike_is_kept_for_the_second_round() -> None:
    """As where nothing is learned any more: the first round's is let go of, and it is the same file."""
    table = Table().closed().go()
    for member in range(3):
        mixed = Mixed(1, Digest(digest("model 1")), 32)
        table.blobs[mixed.model] = SWARM.initial
        table.act(member, table.rounds[member].mixed(mixed, table.state, table.now))
    table.go(1)
    assert [draft.round for draft in read_kept(table.records[0])[2]] == [1, 2]
    table.settle(e.ROUND_COMMIT, due_commit(table.state)).go(1)
    assert [draft.round for draft in read_kept(table.records[0])[2]] == [2]
    assert table.forgotten == []


def test_a_masked_update_that_is_lost_with_what_was_trained_is_asked_of_others() -> None:
    """It cannot be masked again; others may hold it and name it in a close, which takes this member's vote as well."""
    table = Table().rostered().go()
    attempt, work, _ = read_kept(table.records[0])
    assert attempt is not None
    assert attempt.offered is not None
    del table.blobs[attempt.offered]
    table.rounds[0] = table.process(0, seed=2)
    table.act(0, table.rounds[0].resume(codec.encode(Kept(1, attempt.to_bytes(), work, ()))))
    actions = table.rounds[0].advance(table.state, (), table.blobs.__contains__, table.now)
    assert Fetch(attempt.offered, SWARM.charter.masked_bytes, ()) in actions


def test_who_is_shown_two_closes_reveals_for_the_first_alone() -> None:
    """The classic attack, on a ledger that has been forked."""
    table = Table().closed()
    before = table.state
    table.go()
    assert len(table.of(0, Reveal)) == 1
    close = before.close
    assert close is not None
    forked = replace(before, close=replace(close, index=close.index + 1))
    again = table.rounds[0].advance(forked, (), table.blobs.__contains__, table.now)
    assert not any(isinstance(one, Say) and isinstance(one.body, Reveal) for one in again)
    # Nor does the process that follows it.
    later = table.process(0)
    later.resume(table.records[0])
    table.rounds[0] = later
    said = later.advance(forked, (), table.blobs.__contains__, table.now)
    for one in [*said, *said]:
        assert not (isinstance(one, Say) and isinstance(one.body, Reveal))


@pytest.mark.parametrize("until", ["keys", "roster", "offer", "close"])
def test_a_process_that_starts_again_says_the_same_again(until: str) -> None:
    def story(*, restart: bool) -> list[msgspec.Struct]:
        table = Table()
        steps: dict[str, Callable[[], object]] = {
            "keys": table.go,
            "roster": lambda: table.settle(e.MASK_ROSTER, make_roster(table.state)),
            "offer": table.go,
            "close": lambda: table.settle(
                e.ROUND_CLOSE, make_close(table.state, [*table.state.contributions.values()], {})
            ),
        }
        for name, step in steps.items():
            step()
            if restart and name == until:
                table.rounds[1] = table.process(1, seed=2)  # One that would draw other secrets.
                table.act(1, table.rounds[1].resume(table.records[1]))
        return [body for who, body in table.go().said if who == 1]

    assert story(restart=True) == story(restart=False)


def test_who_has_lost_its_record_deals_and_reveals_nothing() -> None:
    table = Table()
    table.go()
    table.rounds[1], table.records[1] = table.process(1, seed=2), b""
    table.settle(e.MASK_ROSTER, make_roster(table.state)).go()
    assert table.of(1, e.MaskDeal) == []
    assert table.of(0, e.Contribution) == [], "nobody masks before all have dealt"
    told = [report.text for report in table.reports if report.event == "mask_sits_out"]
    assert all("keys of this site that it does not hold" in text for text in told)


def test_keys_that_were_lost_before_the_roster_are_posted_anew() -> None:
    table = Table()
    table.go()
    table.rounds[1], table.records[1] = table.process(1, seed=2), b""
    table.go().settle(e.MASK_ROSTER, make_roster(table.state)).go()
    assert len(table.of(1, Keys)) == 2
    assert len(table.of(1, e.Contribution)) == 1


def test_a_sum_that_lacks_shares_is_given_up_after_the_charters_patience_and_no_sooner() -> None:
    table = Table().closed()
    table.deaf = {1, 2}
    table.go()
    first = table.rounds[0]
    assert not first.stuck()
    wake = first.next_wake(table.now)
    assert wake == table.now + PATIENCE_S
    first.watch(table.state, (), table.blobs.__contains__, wake - 0.01)
    assert not first.stuck()
    (report,) = first.watch(table.state, (), table.blobs.__contains__, wake)
    assert isinstance(report, Report)
    assert "it takes 2, and nothing has come for 8 s" in report.text
    assert first.stuck()
    table.deaf = set()
    table.now = wake
    table.go()
    assert not first.stuck(), "once they are there it can be had after all"


def test_a_void_round_ends_with_the_model_before_it_also_for_who_had_a_sum() -> None:
    table = Table().closed().go()
    mixed = Mixed(1, Digest(digest("model 1")), 32)
    table.act(0, table.rounds[0].mixed(mixed, table.state, table.now))
    assert [body.model_digest for body in table.of(0, e.Attest)] == [digest("model 1")]  # type: ignore[attr-defined]
    table.settle(e.ROUND_CLOSE, make_void(table.state)).go(1)
    initial = SWARM.charter.task.initial_model
    assert all(table.of(member, e.Attest)[-1].model_digest == initial for member in range(3))  # type: ignore[attr-defined]
    late = table.rounds[1].mixed(mixed, table.state, table.now)
    assert late == [], "what was being unmasked is of no use any more"


def test_what_was_kept_is_read_back_or_removed() -> None:
    table = Table()
    table.go()
    attempt, work, drafts = read_kept(table.records[0])
    assert attempt is not None
    assert (work, [draft.round for draft in drafts]) == (1, [1])
    for wrong in (b"", b"nonsense", codec.encode(Kept(2, b"", 0, ())), codec.encode(Kept(1, b"x", 0, ()))):
        with pytest.raises(Reject):
            read_kept(wrong)
    fresh = table.process(0)
    actions = fresh.resume(b"nonsense")
    assert Guard(b"") in actions
    assert [one.event for one in actions if isinstance(one, Report)] == ["mask_record"]
    assert fresh.resume(b"") == []


def test_a_blob_that_cannot_be_read_is_asked_for_again_later() -> None:
    table = Table().rostered()
    found = table.rounds[0]
    table.go(2)
    name = next(Digest(body.digest) for _, body in table.said if isinstance(body, e.MaskDeal))
    found._read.clear()
    assert found.blob_read(BlobRead(name, b""), table.now) == []
    actions = found.advance(table.state, (), table.blobs.__contains__, table.now)
    assert not any(isinstance(one, ReadBlob) for one in actions)
    later = found.next_wake(table.now)
    assert later is not None
    assert any(isinstance(one, ReadBlob) for one in found.advance(table.state, (), table.blobs.__contains__, later))


def test_a_state_of_another_charter_has_no_masks() -> None:
    state: State = genesis(make_swarm(3).signed)
    assert state.masking is None
    assert WORDS.keys() == {18, 20, 1, 21}
