"""Whoever tries to turn a change of members against the swarm, and whatever fails at its worst moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest

from gossip import messages as m
from gossip import wire
from node import governance
from node.core import KNOCK_S
from swarm import codec
from swarm import terms as t
from swarm.errors import Reject
from swarm.identity import node_id
from swarm.invite import Invite, invite
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FINALIZE, SKIP, FinalBlock, Header, Root, Vote, vote_message
from swarm.ledger.evidence import SKIPPED_AND_FINALIZED, judge
from swarm.ledger.motions import LIFETIME_MS_MAX, OPEN_PER_AUTHOR_MAX, Motion, carried, moved, open_at, voted
from swarm.ledger.replica import Replica
from swarm.ledger.state import PAST_TERMS_MAX, State
from swarm.machine import RECORD_BLOCK, Effect, NodeId, Persist, Received, Send
from swarm.round import Round, Say
from swarm.terms import Terms, amended, founding
from tests.builders import CODE, Swarm, certify, contribution, identity, make_swarm
from tests.node.test_core import Desk
from tests.simulation.membership_campaign import ledger_of, run
from tests.simulation.test_membership import (
    END_S,
    Blocks,
    audited,
    card,
    changing,
    committed,
    finished,
    head,
    in_epoch,
    names,
    propose,
)
from tests.swarm.ledger.test_replica import Knowledge, Table
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, FaultPlan, Partition
from topologies.world.network import NetworkProfile
from topologies.world.world import World

NOW_MS = int(EPOCH_S * 1000)
DAY_MS = 86_400_000


# --- the campaign -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "twins"), [(2, 0), (1001, 1)])
def test_a_swarm_that_changes_all_the_time_is_safe_and_live(seed: int, twins: int) -> None:
    story = run(seed, twins=twins, rounds=3)
    assert story.epoch >= 2
    assert story.crashes


# --- motions, as values -------------------------------------------------------------------------------------------


SWARM = make_swarm(4)
TERMS = founding(SWARM.charter)
LEDGER_ID = SWARM.signed.ledger_id
NODES = [who.node for who in SWARM.identities]


def move(
    open_motions: Sequence[Motion],
    change: t.Change,
    author: int = 0,
    *,
    expires_ms: int = NOW_MS + DAY_MS,
    invited: bytes = b"",
    terms: Terms = TERMS,
    now_ms: int = NOW_MS,
) -> tuple[Motion, ...]:
    """Return the open motions after one more proposal."""
    number = len(open_motions) + 1
    return moved(
        open_motions,
        e.MemberProposal(codec.encode(change), expires_ms, invited),
        author=NODES[author],
        index=number,
        entry_id=bytes([number]) * 32,
        time_ms=now_ms,
        ledger_id=LEDGER_ID,
        terms=terms,
    )


def say_yes(open_motions: Sequence[Motion], number: int, *authors: int) -> tuple[Motion, ...]:
    for author in authors:
        open_motions = voted(open_motions, e.MemberVote(bytes([number]) * 32, True), NODES[author])
    return tuple(open_motions)


def invitation(name: str = "site-9", *, by: int = 1, ledger_id: bytes = LEDGER_ID, expires_ms: int = 0) -> bytes:
    who = SWARM.identities[by]
    word = invite(
        who.id_key,
        ledger_id=ledger_id,
        inviter=who.node,
        name=name,
        guest=identity(9).curve_public,
        expires_ms=expires_ms or NOW_MS + DAY_MS,
    )
    return word.encode()


def test_an_invitation_counts_only_in_its_swarm_for_its_site_in_its_time_and_from_a_member() -> None:
    joins = t.add(card(9))
    assert move((), joins, invited=invitation())[0].invited
    left = amended(TERMS, t.remove(NODES[1]), NODES[1], SWARM.charter)
    stranger = Invite(LEDGER_ID, identity(8).node, "site-9", bytes(32), NOW_MS + DAY_MS, bytes(64))
    for word, terms in (
        (invitation("site-8"), TERMS),
        (invitation(ledger_id=bytes(32)), TERMS),
        (invitation(expires_ms=NOW_MS - 1), TERMS),
        (invitation(), left),  # signed by a former member
        (stranger.encode(), TERMS),
        (msgspec.structs.replace(codec.decode(invitation(), Invite, limit=1024), inviter=NODES[2]).encode(), TERMS),
        (b"garbage", TERMS),
        (bytes(1025), TERMS),
    ):
        assert [motion.invited for motion in move((), joins, invited=word, terms=terms)] == [False]
    assert not move((), t.remove(NODES[2]), invited=invitation())[0].invited, "an invitation removes nobody"


def test_a_new_key_of_the_inviter_ends_its_invitations() -> None:
    fresh = amended(TERMS, t.rotate(NODES[1], card(1, identity(77))), NODES[1], SWARM.charter)
    assert not move((), t.add(card(9)), invited=invitation(), terms=fresh)[0].invited


def test_a_member_floods_nobody_with_motions() -> None:
    found: tuple[Motion, ...] = ()
    for number in range(20):
        found = move(found, t.add(card(20 + number)), author=0)
    assert len(found) == OPEN_PER_AUTHOR_MAX
    assert len(move(found, t.add(card(50)), author=1)) == OPEN_PER_AUTHOR_MAX + 1, "others are still heard"


def test_a_motion_lapses_and_votes_on_it_have_no_effect() -> None:
    found = move((), t.add(card(9)), expires_ms=NOW_MS + 1)
    assert open_at(found, NOW_MS + 1) == found
    late = say_yes(open_at(found, NOW_MS + 2), 1, 1, 2, 3)
    assert late == ()
    assert carried(late, TERMS, SWARM.charter) is None


@pytest.mark.parametrize("expires_ms", [NOW_MS, NOW_MS - 1, NOW_MS + LIFETIME_MS_MAX + 1])
def test_a_motion_that_lapsed_before_it_began_or_would_stay_for_ever_has_no_effect(expires_ms: int) -> None:
    assert move((), t.add(card(9)), expires_ms=expires_ms) == ()


def test_a_vote_that_stands_before_its_proposal_in_a_block_counts_for_nothing_and_one_after_it_does() -> None:
    before = move(say_yes((), 1, 1, 2), t.add(card(9)))
    assert before[0].votes == {NODES[0]: True}
    assert carried(say_yes(before, 1, 1, 2), TERMS, SWARM.charter) is not None


def test_of_two_motions_with_a_quorum_the_older_comes_first_and_the_other_after_it() -> None:
    found = say_yes(move(move((), t.add(card(9))), t.remove(NODES[3]), author=1), 1, 1, 2)
    found = say_yes(found, 2, 0, 2)
    first = carried(found, TERMS, SWARM.charter)
    assert first is not None
    assert first[0].change == t.add(card(9))
    rest = tuple(motion for motion in found if motion is not first[0])
    assert carried(rest, first[1], SWARM.charter) is None, "three of five are no quorum"
    second = carried(say_yes(rest, 2, 3), first[1], SWARM.charter)
    assert second is not None
    assert [seat.name for seat in second[1].members] == ["site-0", "site-1", "site-2", "site-9"]


def test_former_members_votes_do_not_count() -> None:
    found = say_yes(move((), t.add(card(9))), 1, 3)
    left = amended(TERMS, t.remove(NODES[3]), NODES[3], SWARM.charter)
    assert found[0].said(left, True) == (NODES[0],)
    assert carried(found, left, SWARM.charter) is None


@pytest.mark.parametrize("field", ["name", "id_key", "vote_key", "cosign_key", "curve_key"])
def test_no_two_members_have_a_name_or_a_key_in_common(field: str) -> None:
    taken = getattr(TERMS.members[2], field)
    forged = msgspec.structs.replace(card(9), **{field: taken})
    with pytest.raises(Reject, match="the same|is a member already"):
        amended(TERMS, t.add(forged), NODES[0], SWARM.charter)


def test_old_keys_of_a_member_admit_nobody_else() -> None:
    fresh = amended(TERMS, t.rotate(NODES[1], card(1, identity(77))), NODES[1], SWARM.charter)
    with pytest.raises(Reject, match="is a member already"):
        amended(fresh, t.add(card(1, name="thief")), NODES[0], SWARM.charter)


def test_a_motion_that_no_longer_fits_blocks_nothing() -> None:
    terms = msgspec.structs.replace(TERMS, round=msgspec.structs.replace(TERMS.round, min_contributions=4))
    found = say_yes(move((), t.remove(NODES[3])), 1, 1, 2)
    assert carried(found, terms, SWARM.charter) is None, "three members cannot give four contributions"
    found = say_yes(move(found, t.add(card(9)), author=1), 2, 0, 2)
    now = carried(found, terms, SWARM.charter)
    assert now is not None
    assert now[0].change.kind == t.ADD
    later = carried(say_yes(found[:1], 1, 3), now[1], SWARM.charter)
    assert later is not None, "with a fifth member it fits again"


def test_what_lapsed_can_be_proposed_again_although_no_block_has_swept_it_away() -> None:
    state = Replica(SWARM.signed, Knowledge()).head
    change = t.add(card(9))
    state = msgspec.structs.replace(state, motions=move((), change, expires_ms=NOW_MS + 1))
    with pytest.raises(Reject, match="has been proposed already"):
        governance.propose(state, NODES[1], change, b"", 30, NOW_MS)
    assert governance.propose(state, NODES[1], change, b"", 30, NOW_MS + 2).kind == e.MEMBER_PROPOSAL


# --- evidence across epochs ---------------------------------------------------------------------------------------


def accusation(swarm: Swarm, culprit: int, epoch: int) -> e.Evidence:
    """Return a proof that a member skipped and finalized a view of an epoch, by its vote key of the charter."""
    who, votes = swarm.identities[culprit], []
    for kind, block in ((SKIP, bytes(32)), (FINALIZE, b"b" * 32)):
        signature = who.vote_key.sign(vote_message(swarm.signed.ledger_id, epoch, 5, kind, block))
        votes.append(codec.encode(Vote(epoch, 5, kind, block, culprit, signature)))
    return e.Evidence(SKIPPED_AND_FINALIZED, who.node, *sorted(votes))


def test_a_former_member_is_guilty_of_what_it_did_and_of_nothing_under_keys_it_no_longer_has() -> None:
    left = amended(TERMS, t.remove(NODES[3]), NODES[3], SWARM.charter)
    judge(accusation(SWARM, 3, 0), LEDGER_ID, (left, TERMS))
    with pytest.raises(Reject):
        judge(accusation(SWARM, 3, 1), LEDGER_ID, (left, TERMS))
    rotated = amended(TERMS, t.rotate(NODES[1], card(1, identity(77))), NODES[1], SWARM.charter)
    judge(accusation(SWARM, 1, 0), LEDGER_ID, (rotated, TERMS))
    with pytest.raises(Reject):
        judge(accusation(SWARM, 1, 1), LEDGER_ID, (rotated, TERMS))


def test_nobody_is_accused_under_the_index_of_somebody_else_in_another_epoch() -> None:
    """Without member 0, member 1 has its index: votes signed in one epoch accuse nobody in the other."""
    left = amended(TERMS, t.remove(NODES[0]), NODES[0], SWARM.charter)
    body = accusation(SWARM, 1, 1)  # it signed as number 1, and is number 0 there
    with pytest.raises(Reject):
        judge(body, LEDGER_ID, (left, TERMS))


def test_evidence_is_taken_for_a_few_epochs_and_then_no_more() -> None:
    past = [TERMS]
    for number in range(PAST_TERMS_MAX + 1):
        policy = msgspec.structs.replace(TERMS.round, rounds=10 + number)
        past.insert(0, amended(past[0], t.repolicy(policy), NODES[0], SWARM.charter))
    judge(accusation(SWARM, 3, 0), LEDGER_ID, past)
    with pytest.raises(Reject):
        judge(accusation(SWARM, 3, 0), LEDGER_ID, past[: PAST_TERMS_MAX + 1])
