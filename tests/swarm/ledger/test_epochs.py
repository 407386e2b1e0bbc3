"""The rules of epochs, by blocks that keep them and blocks that break them in one place.

Four members; site-4 is to join, by the votes of the first three.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm import codec
from swarm import terms as t
from swarm.errors import Reject
from swarm.identity import Identity
from swarm.ledger import entry as e
from swarm.ledger.audit import EpochView, audit, member_names
from swarm.ledger.block import Block, FinalBlock, Header, Root, entries_hash, justify_hash
from swarm.ledger.state import (
    PAST_TERMS_MAX,
    Head,
    Signatures,
    State,
    activate,
    apply_authored,
    apply_block,
    apply_derived,
    begin_block,
    due_epoch,
    genesis,
    open_authored,
)
from tests.builders import certify, contribution, digest, identity, make_swarm
from tests.epochs import ROUNDS, changing_ledger, covered_ledger, empty_child, opened
from tests.swarm.test_terms import NODES, SWARM, card

START = genesis(SWARM.signed)
T0 = START.time_ms
DAY_MS = 86_400_000


class Writer:
    """Writes the next entry of anybody's feed, signed with whatever key is asked for."""

    def __init__(self) -> None:
        self.ends: dict[int, tuple[int, bytes]] = {}

    def write(self, author: int, kind: int, body: msgspec.Struct, *, key: Identity | None = None) -> bytes:
        ledger_id = SWARM.signed.ledger_id
        seq, prev = self.ends.get(author, (0, ledger_id))
        entry = e.sign_entry(
            (key or identity(author)).id_key,
            ledger_id=ledger_id,
            author=identity(author).node,
            kind=kind,
            seq=seq,
            prev=prev,
            ts_ms=T0,
            body=body,
        )
        self.ends[author] = (seq + 1, entry.id)
        return entry.encode()

    def propose(self, author: int, change: t.Change, *, expires_ms: int = T0 + DAY_MS) -> bytes:
        return self.write(author, e.MEMBER_PROPOSAL, e.MemberProposal(codec.encode(change), expires_ms, b""))

    def vote(self, author: int, proposal: bytes, yes: bool = True) -> bytes:
        return self.write(author, e.MEMBER_VOTE, e.MemberVote(e.decode_entry(proposal).id, yes))

    def contribute(self, author: int, **more: int) -> bytes:
        return self.write(author, e.CONTRIBUTION, contribution(SWARM, min(author, 3), **more))


def authored(state: State, leaves: Sequence[bytes]) -> State:
    for leaf in leaves:
        state = apply_authored(state, open_authored(state, e.decode_entry(leaf), leaf, Signatures()))
    return state


def header_of(before: State, after: State, leaves: Sequence[bytes], epoch: int) -> Header:
    height = before.height + 1
    after = replace(after, height=height)
    return Header(
        epoch, height, height, digest("parent"), before.height, after.time_ms, before.size, len(leaves), after.size,
        after.frontier.root(), entries_hash(leaves), after.digest(), justify_hash(()),
    )  # fmt: skip


def block(
    before: State, leaves: Sequence[bytes], *, epoch: int | None = None, time_ms: int = 0, end: bool = True
) -> tuple[State, Header, list[bytes]]:
    """Return what a proposer makes of these authored entries; without `end` it leaves out an epoch that is due."""
    epoch = (before.coming or before.terms).epoch if epoch is None else epoch
    parent = Root(digest("parent"), before.height, before.height)
    state = authored(begin_block(before, epoch, time_ms or before.time_ms + 1, parent), leaves)
    leaves = [*leaves]
    due = due_epoch(state)
    if due is not None and end:
        leaves.append(
            e.derived_entry(
                ledger_id=state.ledger_id, kind=e.EPOCH, index=state.size, ts_ms=state.time_ms, body=due[0]
            ).encode()
        )
        state = apply_derived(state, e.EPOCH, due[0], state.time_ms)
    return state, header_of(before, state, leaves, epoch), leaves


def accepted(before: State, leaves: Sequence[bytes], **more: int) -> State:
    _, header, made = block(before, leaves, **more)  # type: ignore[arg-type]
    return apply_block(before, header, made, Signatures())


def ending(change: t.Change, *, by: int = 0, before: State = START, pens: Writer | None = None) -> State:
    """Return the state after a block in which a change is proposed and three say yes."""
    pens = pens or Writer()
    proposal = pens.propose(by, change)
    voters = [i for i in range(4) if i != by][:2]
    return accepted(before, [proposal, *(pens.vote(i, proposal) for i in voters)])


# --- the end of an epoch ------------------------------------------------------------------------------------------


def test_the_block_in_which_the_quorum_is_reached_ends_with_the_epoch() -> None:
    state = ending(t.add(card(4)))
    assert state.coming is not None
    assert [seat.name for seat in state.coming.members] == [f"site-{i}" for i in range(5)]
    assert (state.terms.epoch, state.coming.epoch, state.motions) == (0, 1, ())


def test_an_epoch_that_is_due_is_not_a_choice() -> None:
    pens = Writer()
    proposal = pens.propose(0, t.add(card(4)))
    leaves = [proposal, pens.vote(1, proposal), pens.vote(2, proposal)]
    _, header, made = block(START, leaves, end=False)
    with pytest.raises(Reject, match="it leaves out the epoch that was voted for"):
        apply_block(START, header, made, Signatures())


@pytest.mark.parametrize(
    "fields",
    [{"epoch": 2}, {"proposal": 2}, {"yes": (NODES[0], NODES[1])}, {"no": (NODES[3],)}, {"terms": bytes(32)}],
)
def test_an_epoch_says_exactly_what_follows_from_the_votes(fields: dict[str, object]) -> None:
    pens = Writer()
    proposal = pens.propose(0, t.add(card(4)))
    leaves = [proposal, pens.vote(1, proposal), pens.vote(2, proposal)]
    _, header, made = block(START, leaves)
    entry = e.decode_entry(made[-1])
    body = replace(codec.decode(entry.body, e.Epoch, limit=1 << 16), **fields)  # type: ignore[arg-type]
    made[-1] = replace(entry, body=codec.encode(body)).encode()
    with pytest.raises(Reject, match="couldn't accept an epoch in block 1: it does not follow from the votes"):
        apply_block(START, header, made, Signatures())


def test_nothing_comes_after_the_epoch_in_its_block() -> None:
    pens = Writer()
    proposal = pens.propose(0, t.add(card(4)))
    _, header, made = block(START, [proposal, pens.vote(1, proposal), pens.vote(2, proposal)])
    with pytest.raises(Reject, match="its entries are out of order"):
        apply_block(START, header, [*made, pens.contribute(3)], Signatures())


def test_nobody_can_begin_an_epoch_alone() -> None:
    pens = Writer()
    state = authored(START, [pens.propose(0, t.add(card(4)))])
    assert due_epoch(state) is None
    body = e.Epoch(1, 1, (NODES[0],), (), bytes(32))
    with pytest.raises(Reject, match="nobody may write a epoch here"):
        authored(state, [pens.write(0, e.EPOCH, body)])


def test_only_empty_blocks_of_the_old_epoch_help_its_last_one() -> None:
    last = ending(t.add(card(4)))
    empty = replace(last, time_ms=last.time_ms + 1)
    after = apply_block(last, header_of(last, empty, [], 0), [], Signatures())
    assert (after.height, after.coming) == (2, last.coming)
    leaf = Writer().contribute(3)
    full = authored(empty, [leaf])
    with pytest.raises(Reject, match="its epoch has ended, it must be empty"):
        apply_block(last, header_of(last, full, [leaf], 0), [leaf], Signatures())


@pytest.mark.parametrize(("coming", "epoch"), [(False, 1), (True, 2)])
def test_no_block_is_of_an_epoch_that_nobody_voted_for(coming: bool, epoch: int) -> None:
    before = ending(t.add(card(4))) if coming else START
    after = replace(before, time_ms=before.time_ms + 1)
    with pytest.raises(Reject, match=f"it is of epoch {epoch}, not 0"):
        apply_block(before, header_of(before, after, [], epoch), [], Signatures())


# --- the beginning of the next ------------------------------------------------------------------------------------


def test_a_newcomer_may_write_from_the_first_block_of_its_epoch_on_and_not_before() -> None:
    pens = Writer()
    leaf = pens.contribute(4)
    with pytest.raises(Reject, match="is not a member"):
        authored(START, [leaf])
    state = accepted(ending(t.add(card(4)), pens=pens), [leaf])
    assert (state.terms.epoch, state.coming) == (1, None)
    assert state.root == Root(digest("parent"), 1, 1)
    assert (1, identity(4).node) in state.contributions


def test_what_a_removed_member_had_under_way_does_not_count_and_its_feed_is_kept() -> None:
    pens = Writer()
    before = accepted(START, [pens.contribute(i) for i in range(4)])
    state = accepted(ending(t.remove(NODES[3]), before=before, pens=pens), [])
    assert {node for _, node in state.contributions} == set(NODES[:3])
    assert state.heads[NODES[3]] == Head(*pens.ends[3])
    ends = dict(pens.ends)
    with pytest.raises(Reject, match="is not a member"):
        authored(state, [pens.contribute(3, attempt=2)])
    pens.ends = ends
    back = accepted(ending(t.add(card(3)), before=state, pens=pens), [pens.contribute(3, attempt=3)])
    assert back.heads[NODES[3]].seq == 2, "it goes on where it stood"


def test_after_a_change_of_keys_only_the_new_one_signs() -> None:
    pens, fresh = Writer(), identity(77)
    state = accepted(ending(t.rotate(NODES[2], card(2, who=fresh)), by=2, pens=pens), [])
    ends = dict(pens.ends)
    old = pens.contribute(2)
    with pytest.raises(Reject, match="its signature does not verify"):
        authored(state, [old])
    pens.ends = ends
    new = pens.write(2, e.CONTRIBUTION, contribution(SWARM, 2), key=fresh)
    assert e.decode_entry(new).id == e.decode_entry(old).id, "the same entry, signed again"
    assert authored(state, [new]).heads[NODES[2]].seq == 2


def test_a_signature_that_was_checked_under_the_old_key_is_not_taken_for_one_of_the_new() -> None:
    pens, signatures = Writer(), Signatures()
    proposal = pens.propose(2, t.rotate(NODES[2], card(2, who=identity(77))))
    old = pens.contribute(2)
    open_authored(START, e.decode_entry(old), old, signatures)
    state = accepted(accepted(START, [proposal, pens.vote(0, proposal), pens.vote(1, proposal)]), [])
    with pytest.raises(Reject, match="its signature does not verify"):
        open_authored(state, e.decode_entry(old), old, signatures)


def test_open_motions_go_on_and_votes_of_former_members_do_not_count() -> None:
    pens = Writer()
    open_ = pens.propose(1, t.add(card(5)))
    before = accepted(START, [open_, pens.vote(3, open_)])
    state = accepted(ending(t.remove(NODES[3]), before=before, pens=pens), [])
    (motion,) = state.motions
    assert motion.said(state.terms, True) == (NODES[1],)
    state = accepted(state, [pens.vote(2, open_)])
    assert state.coming is not None, "two of three are a quorum"
    assert state.coming.members[-1].name == "site-5"


def test_a_motion_lapses_in_block_time_and_a_late_vote_carries_nothing() -> None:
    pens = Writer()
    proposal = pens.propose(0, t.add(card(4)), expires_ms=T0 + 100)
    state = accepted(START, [proposal, pens.vote(1, proposal)])
    at_the_end = accepted(state, [], time_ms=T0 + 100)
    assert len(at_the_end.motions) == 1
    late = accepted(state, [pens.vote(2, proposal)], time_ms=T0 + 101)
    assert (late.motions, late.coming) == ((), None)


def test_the_terms_of_the_last_few_epochs_are_kept_and_no_more() -> None:
    state = START
    for epoch in range(1, PAST_TERMS_MAX + 3):
        coming = replace(state.terms, epoch=epoch)
        state = activate(replace(state, coming=coming), Root(digest("parent"), epoch, epoch))
    assert [terms.epoch for terms in state.past] == [5, 4, 3, 2]
    assert state.terms_of(2) is not None
    assert state.terms_of(1) is None


# --- whole ledgers ------------------------------------------------------------------------------------------------


def judged(payloads: Sequence[bytes]) -> str:
    *_, last = audit(payloads, changing_ledger()[0])
    return "" if last.failure is None else last.failure.text


def ends() -> int:
    """Return the place of the last record of epoch 0."""
    payloads = changing_ledger()[1]
    return next(i for i, payload in enumerate(payloads) if opened(payload).block.opened().epoch == 1) - 1


def test_the_audit_tells_the_epochs_with_their_changes_and_votes() -> None:
    *_, last = audit(changing_ledger()[1], changing_ledger()[0])
    assert last.failure is None
    assert [view.terms.epoch for view in last.epochs] == [0, 1, 2, 3]
    assert [t.CHANGES[view.change.kind] for view in last.epochs if view.change] == ["add", "rotate", "remove"]
    entry = last.epochs[3].entry
    assert entry is not None
    assert entry.no == (NODES[1],)
    assert last.rounds[ROUNDS].contributions.keys() == {identity(i).node for i in (0, 2, 3, 4)}
    assert list(member_names(last.epochs).values()) == [f"site-{i}" for i in range(5)]


def test_a_name_that_another_member_has_taken_since_does_not_hide_who_had_it() -> None:
    *_, last = audit(changing_ledger()[1], changing_ledger()[0])
    view = last.epochs[-1]
    heir = t.Seat(identity(9).node, card(9, name="site-1"))
    epochs = [*last.epochs, replace_terms(view, (*view.terms.members, heir))]
    names = member_names(epochs)
    assert names[identity(9).node] == "site-1"
    assert names[NODES[1]] == f"site-1 ({NODES[1].hex()[:8]})"


def replace_terms(view: EpochView, members: tuple[t.Seat, ...]) -> EpochView:

    return dataclasses.replace(view, terms=replace(view.terms, members=members))


def test_an_epoch_may_be_ended_by_empty_blocks_that_are_not_in_the_ledger() -> None:
    assert judged(covered_ledger()[1]) == ""


@pytest.mark.parametrize("what", ["dropped", "swapped", "full", "elsewhere", "without"])
def test_a_cover_that_does_not_lead_to_its_certificate_proves_nothing(what: str) -> None:
    payloads, place = [*covered_ledger()[1]], ends()
    record = opened(payloads[place])
    child, last = (Header.decode(header) for header in record.cover)
    if what == "dropped":
        record = replace(record, cover=(child.encode(),))
    elif what == "swapped":
        record = replace(record, cover=(last.encode(), child.encode()))
    elif what == "full":
        child = dataclasses.replace(child, count=1)
        last = dataclasses.replace(empty_child(child), count=0)
        record = replace(record, cover=(child.encode(), last.encode()))
        record = replace(record, certificate=(certify(make_swarm(4, rounds=ROUNDS), last),))
    elif what == "elsewhere":
        payloads = [*changing_ledger()[1]]
        other = opened(payloads[1])
        above = empty_child(other.block.opened())
        record = FinalBlock(other.block, (certify(make_swarm(4, rounds=ROUNDS), above),), (above.encode(),))
        place = 1
    else:
        record = replace(record, certificate=())
    payloads[place] = codec.encode(record)
    assert judged(payloads).startswith("couldn't accept block")


def test_an_epoch_begins_only_on_what_is_final() -> None:
    payloads, place = [*changing_ledger()[1]], ends()
    payloads[place] = codec.encode(replace(opened(payloads[place]), certificate=()))
    assert "no certificate ends the epoch before it" in judged(payloads)


def test_an_empty_block_of_an_epoch_that_has_ended_is_no_part_of_the_ledger() -> None:
    payloads, place = changing_ledger()[1], ends()
    child = empty_child(opened(payloads[place]).block.opened())
    stray = FinalBlock(Block(child.encode(), (), (), 0, b""), (certify(make_swarm(4, rounds=ROUNDS), child),))
    assert "the block before it is the last of its epoch" in judged([*payloads[: place + 1], codec.encode(stray)])


def test_a_certificate_of_former_members_finalizes_nothing() -> None:
    payloads = [*changing_ledger()[1]]
    record = opened(payloads[-1])
    header = record.block.opened()
    old = certify(make_swarm(4, rounds=ROUNDS), header, signers=(0, 1, 2))
    payloads[-1] = codec.encode(replace(record, certificate=(old,)))
    assert "the signature of member 1 does not verify" in judged(payloads)
