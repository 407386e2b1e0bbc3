"""Claims that the bank of bugs showed to be missing: without them, a bug in it would have lived."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from node.storage import RealDisk
from swarm import codec
from swarm.errors import Reject, StoreError
from swarm.identity import DOMAIN_ENTRY, derive
from swarm.ledger import evidence as ev
from swarm.ledger.audit import audit
from swarm.ledger.block import (
    FINALIZE,
    NOTARIZE,
    SKIP,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Vote,
    propose_message,
    vote_message,
)
from swarm.ledger.consensus import Valid
from swarm.ledger.disk import DiskFull
from swarm.ledger.entry import (
    BLOCK_CERT,
    CONTRIBUTION,
    EPOCH,
    MEMBER_PROPOSAL,
    MEMBER_VOTE,
    BlockCert,
    Evidence,
    MemberProposal,
    MemberVote,
    decode_entry,
    sign_entry,
    verify_entry,
)
from swarm.ledger.journal import BLOCKS, Finding, Journal, Placed, scan
from swarm.ledger.merkle import leaf_hash
from swarm.ledger.replica import Replica
from swarm.ledger.state import State, apply_derived, derived_leaf, due_epoch
from swarm.machine import RECORD_BLOCK, RECORD_ENTRY, RECORD_VOTE, Record
from swarm.terms import Terms, founding, remove
from tests.builders import Feeds, certify, contribution, digest, identity, make_swarm
from tests.conformance import curve
from tests.epochs import FRESH, changing_ledger, opened
from tests.swarm.ledger import test_state as states
from tests.swarm.ledger.test_replica import NOW, Knowledge
from topologies.world.disk import SimulatedDisk

SWARM = make_swarm(4)
LEDGER = SWARM.signed.ledger_id
CULPRIT = 2
FIRST = founding(SWARM.charter)
ONE, TWO = digest("one block"), digest("another")
OWNER = digest("ledger")


# --- epochs -------------------------------------------------------------------------------------------------------


def with_new_key() -> Terms:
    """Return the terms of epoch 1, in which the culprit votes with another key."""
    seat = FIRST.members[CULPRIT]
    card = msgspec.structs.replace(seat.card, vote_key=identity(99).vote_key.public)
    members = tuple(msgspec.structs.replace(other, card=card) if other is seat else other for other in FIRST.members)
    return msgspec.structs.replace(FIRST, epoch=1, members=members)


def vote(kind: int, block: bytes, *, epoch: int, number: int = CULPRIT) -> bytes:
    message = vote_message(LEDGER, epoch, 3, kind, block)
    return codec.encode(Vote(epoch, 3, kind, block, CULPRIT, identity(number).vote_key.sign(message)))


def holds(rule: int, pair: Sequence[bytes], terms: Sequence[Terms]) -> bool:
    try:
        ev.judge(Evidence(rule, FIRST.members[CULPRIT].node, *sorted(pair)), LEDGER, terms)
    except Reject:
        return False
    return True


def header(*, epoch: int = 0, view: int = 3, height: int = 1, count: int = 0, parent: Header | None = None) -> Header:
    parent_hash, parent_view = (LEDGER, 0) if parent is None else (parent.hash, parent.view)
    name = digest(f"{epoch} {view} {height}")
    return Header(epoch, view, height, parent_hash, parent_view, height, 1, count, 1, name, name, name, name)


def test_votes_of_two_epochs_contradict_nothing() -> None:
    same_keys = msgspec.structs.replace(FIRST, epoch=1)
    for rule, kinds in [(ev.TWO_NOTARIZED, (NOTARIZE, NOTARIZE)), (ev.TWO_FINALIZED, (FINALIZE, FINALIZE))]:
        for epochs, contradictory in [((0, 0), True), ((1, 1), True), ((0, 1), False), ((1, 0), False)]:
            blocks = zip(kinds, (ONE, TWO), epochs, strict=True)
            pair = [vote(kind, block, epoch=epoch) for kind, block, epoch in blocks]
            assert holds(rule, pair, (same_keys, FIRST)) is contradictory
    pair = [vote(SKIP, bytes(32), epoch=0), vote(FINALIZE, ONE, epoch=1)]
    assert not holds(ev.SKIPPED_AND_FINALIZED, pair, (same_keys, FIRST))


def test_proposals_of_two_epochs_contradict_nothing() -> None:
    same_keys = msgspec.structs.replace(FIRST, epoch=1)

    def proposal(made: Header) -> bytes:
        signature = identity(CULPRIT).vote_key.sign(propose_message(LEDGER, made.encode()))
        return codec.encode(ev.Proposal(made.encode(), signature))

    here, there, other = header(epoch=0), header(epoch=1), header(epoch=0, height=2)
    assert holds(ev.TWO_PROPOSALS, [proposal(here), proposal(other)], (same_keys, FIRST))
    assert not holds(ev.TWO_PROPOSALS, [proposal(here), proposal(there)], (same_keys, FIRST))


def test_votes_are_judged_by_the_keys_of_their_own_epoch() -> None:
    terms = (with_new_key(), FIRST)
    old = [vote(NOTARIZE, block, epoch=0) for block in (ONE, TWO)]
    new = [vote(NOTARIZE, block, epoch=1, number=99) for block in (ONE, TWO)]
    stolen = [vote(NOTARIZE, block, epoch=1) for block in (ONE, TWO)]
    assert holds(ev.TWO_NOTARIZED, old, terms), "what the old key signed in its time still counts"
    assert holds(ev.TWO_NOTARIZED, new, terms)
    assert not holds(ev.TWO_NOTARIZED, stolen, terms), "an old key that got out can frame nobody in a new epoch"
    assert not holds(ev.TWO_NOTARIZED, old, terms[:1]), "votes of an epoch that is long past cannot be judged"


def test_a_signer_that_signs_one_message_twice_contradicts_nothing() -> None:
    """Ed25519 signers choose a nonce; one who chooses another makes another valid signature of the same bytes."""
    author, seed = FIRST.members[CULPRIT].node, derive(hashlib.sha256(b"id%d" % CULPRIT).digest(), b"swarm/id/v1")
    entry = sign_entry(
        identity(CULPRIT).id_key,
        ledger_id=LEDGER,
        author=author,
        kind=CONTRIBUTION,
        seq=5,
        prev=bytes(32),
        ts_ms=1,
        body=contribution(SWARM, CULPRIT),
    )
    secret, _ = curve.expanded(seed)
    key, message = curve.public_key(seed), DOMAIN_ENTRY + LEDGER + entry.signed_bytes()
    r = curve.compressed(curve.times(7, curve.BASE))
    s = (7 + curve.challenge(r, key, message) * secret) % curve.L
    again = msgspec.structs.replace(entry, signature=r + s.to_bytes(32, "little"))
    verify_entry(again, key, LEDGER)
    assert again.signature != entry.signature
    assert not holds(ev.TWO_ENTRIES, [entry.encode(), again.encode()], (FIRST,))


def test_only_empty_blocks_cover_the_last_one_of_an_epoch() -> None:
    last = header(view=3)
    for count in (0, 1):
        cover = header(view=4, height=2, count=count, parent=last)
        final = FinalBlock(Block(last.encode(), (), (), 3, b""), (certify(SWARM, cover),), (cover.encode(),))
        if count:
            with pytest.raises(Reject, match="does not follow from it"):
                final.check(last, LEDGER, FIRST.vote_keys, FIRST.quorum)
        else:
            assert final.check(last, LEDGER, FIRST.vote_keys, FIRST.quorum)


def carried() -> tuple[State, State, list[bytes]]:
    """Return the first state, the one after a quorum has voted for a member to leave, and the leaves between."""
    before = states.START
    time_ms = before.time_ms + 5
    after, leaves = msgspec.structs.replace(before, time_ms=time_ms), []
    change = codec.encode(remove(FIRST.members[3].node))
    said: list[tuple[int, msgspec.Struct]] = [(MEMBER_PROPOSAL, MemberProposal(change, time_ms + 1000, b""))]
    for author in range(3):
        kind, body = said[-1]
        seat = FIRST.members[author].node
        entry = sign_entry(
            identity(author).id_key,
            ledger_id=LEDGER,
            author=seat,
            kind=kind,
            seq=0,
            prev=LEDGER,
            ts_ms=time_ms,
            body=body,
        )
        if kind == MEMBER_PROPOSAL:
            said.append((MEMBER_VOTE, MemberVote(entry.id, yes=True)))
        leaves.append(entry.encode())
        after = states.said(after, leaves[-1])
    return before, after, leaves


def test_an_epoch_that_is_voted_for_begins_with_the_next_block_and_no_other_begins() -> None:
    before, after, leaves = carried()
    time_ms = after.time_ms
    due = due_epoch(after)
    assert due is not None
    epoch, terms = due
    assert (epoch.epoch, len(terms.members)) == (1, 3)
    with pytest.raises(Reject, match="leaves out the epoch"):
        states.accept(before, after, leaves, time_ms)
    for wrong in [
        msgspec.structs.replace(epoch, terms=digest("other terms")),
        msgspec.structs.replace(epoch, yes=epoch.yes[:2]),
        msgspec.structs.replace(epoch, epoch=2),
    ]:
        leaf = derived_leaf(after, EPOCH, wrong, time_ms)
        ended = apply_derived(after, EPOCH, epoch, time_ms)
        bent = msgspec.structs.replace(ended, frontier=after.frontier.append(leaf_hash(leaf)))
        with pytest.raises(Reject, match="does not follow from the votes"):
            states.accept(before, bent, [*leaves, leaf], time_ms)
    good = derived_leaf(after, EPOCH, epoch, time_ms)
    assert states.accept(before, apply_derived(after, EPOCH, epoch, time_ms), [*leaves, good], time_ms).coming == terms


def test_behind_the_last_block_of_an_epoch_only_empty_ones_of_it_follow() -> None:
    before, after, leaves = carried()
    due = due_epoch(after)
    assert due is not None
    good = derived_leaf(after, EPOCH, due[0], after.time_ms)
    ended = states.accept(before, apply_derived(after, EPOCH, due[0], after.time_ms), [*leaves, good], after.time_ms)
    time_ms = ended.time_ms + 1
    assert states.accept(ended, ended, [], time_ms).height == 2
    leaf = Feeds(SWARM).write(3, contribution(SWARM, 3))
    with pytest.raises(Reject, match="must be empty"):
        states.accept(ended, states.said(ended, leaf), [leaf], time_ms)


def around_the_end_of_epoch_2() -> tuple[list[bytes], int, BlockCert]:
    """Return the blocks of a swarm that changed, the place of epoch 3's first, and the certificate that it records.

    The certificate is the only witness that what it names is final: the block itself carries that of other signers. In
    epoch 3 site-1 is gone, and everybody after it has another index.
    """
    payloads = list(changing_ledger()[1])
    first = next(i for i, payload in enumerate(payloads) if opened(payload).block.opened().epoch == 3)
    entry = decode_entry(opened(payloads[first]).block.leaves[0])
    assert entry.kind == BLOCK_CERT
    recorded = codec.decode(entry.body, BlockCert, limit=1 << 16)
    assert recorded.proof.epoch == 2
    last = opened(payloads[first - 1])
    members = [identity(number) for number in (0, 1, FRESH, 3, 4)]
    signers = next(four for four in itertools.combinations(range(5), 4) if four != recorded.proof.signers)
    view, name = recorded.proof.view, recorded.proof.block
    message = vote_message(changing_ledger()[0].ledger_id, 2, view, FINALIZE, name)
    other = Certificate(2, view, FINALIZE, name, signers, tuple(members[i].vote_key.sign(message) for i in signers))
    payloads[first - 1] = codec.encode(FinalBlock(last.block, (other,), last.cover))
    return payloads, first, recorded


def test_a_certificate_on_record_is_judged_by_the_keys_of_its_own_epoch() -> None:
    signed, (payloads, first, recorded) = changing_ledger()[0], around_the_end_of_epoch_2()
    *_, found = audit(payloads, signed)
    assert (found.failure, found.blocks) == (None, len(payloads)), "by an auditor"
    member = Replica(signed, Knowledge())
    for payload in payloads[:first]:
        final = opened(payload)
        member.finalized(final, final.block.opened(), NOW)
    block = opened(payloads[first]).block
    assert member.judge(block, block.opened(), NOW) == Valid(), "and by a member that is asked for its vote"
    with pytest.raises(Reject):
        recorded.proof.check(signed.ledger_id, found.epochs[3].terms.vote_keys, found.epochs[3].terms.quorum)


# --- the disk -----------------------------------------------------------------------------------------------------


def block(height: int) -> Record:
    return Record(RECORD_BLOCK, height, b"block %03d" % height + bytes(200))


def full_journal() -> tuple[SimulatedDisk, Journal, dict[int, Placed]]:
    """Return a journal of twelve blocks of one length in several segments, and where they lie."""
    disk = SimulatedDisk()
    journal = Journal(disk, ledger_id=OWNER, segment_bytes=2048)
    journal.open()
    for height in range(1, 13):
        journal.append([block(height)])
    return disk, journal, {p.record.height: p for p in scan(disk, BLOCKS, OWNER) if isinstance(p, Placed)}


def overwrite(disk: SimulatedDisk, target: Placed, source: Placed) -> None:
    """Put a copy of one record, whole and with a right checksum, in another's place."""
    length = 17 + len(source.record.payload) + 4  # header, payload, checksum
    disk.write(target.path, target.offset, disk.read(source.path, source.offset, length))
    disk.sync(target.path)


def test_a_seal_that_does_not_fit_is_reported() -> None:
    disk, _, places = full_journal()
    assert len(disk.names(BLOCKS)) > 1
    overwrite(disk, places[2], places[3])
    found = [part for part in scan(disk, BLOCKS, OWNER) if isinstance(part, Finding)]
    assert [(f.path, f.verdict) for f in found] == [(places[2].path, "corruption")]
    assert "footer" in found[0].text


def test_what_lies_on_disk_is_believed_and_never_where_it_should_lie() -> None:
    disk, journal, places = full_journal()
    payloads = tuple(block(height).payload for height in range(1, 13))
    assert journal.blocks(1, 12, 1 << 20) == payloads
    overwrite(disk, places[6], places[7])
    with pytest.raises(StoreError, match="couldn't read block 6: .* is damaged"):
        journal.blocks(6, 6, 1 << 20)
    assert journal.blocks(4, 8, 1 << 20) == payloads[3:5], "what is whole before it is still served"
    assert journal.blocks(7, 8, 1 << 20) == payloads[6:8]


def test_a_disk_that_is_full_for_the_last_log_leaves_the_first_unwritten() -> None:
    disk = SimulatedDisk()
    journal = Journal(disk, ledger_id=OWNER, segment_bytes=1 << 15)
    journal.open()
    vote, entry = Record(RECORD_VOTE, 1, b"a vote"), Record(RECORD_ENTRY, 0, b"an entry")
    journal.append([vote])
    disk.full = True
    with pytest.raises(DiskFull):
        journal.append([Record(RECORD_VOTE, 2, b"another"), entry])
    disk.full = False
    assert Journal(disk, ledger_id=OWNER).open().records == (vote,)


def test_a_record_that_was_damaged_after_it_was_found_is_not_served() -> None:
    disk, journal, places = full_journal()
    assert len(journal.blocks(1, 12, 1 << 20)) == 12
    disk.flip(places[6].path, places[6].offset + 100, 0)
    with pytest.raises(StoreError, match="couldn't read block 6: .* is damaged"):
        journal.blocks(6, 6, 1 << 20)


def test_a_sync_that_failed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    disk.make_folder("wal")
    disk.create("wal/a", 4096)
    calls: list[int] = []

    def fails_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails_once)
        with pytest.raises(StoreError, match="couldn't make wal/a durable"):
            disk.sync("wal/a")
    assert len(calls) == 1, "the kernel may have dropped what it could not write, and would call the next one a success"
    disk.close()
