"""Whoever tries to turn a change of members against the swarm, and whatever fails at its worst moment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import msgspec
import pytest

from gossip import messages as m
from gossip import wire
from node import governance
from node.core.reception import KNOCK_S
from swarm import codec
from swarm import terms as t
from swarm.errors import Reject
from swarm.identity import node_id
from swarm.invite import Invite, invite
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FINALIZE, SKIP, FinalBlock, Header, Vote, vote_message
from swarm.ledger.evidence import SKIPPED_AND_FINALIZED, judge
from swarm.ledger.motions import (
    LIFETIME_MS_MAX,
    OPEN_PER_AUTHOR_MAX,
    SKEW_MS_MAX,
    Motion,
    carried,
    moved,
    open_at,
    voted,
)
from swarm.ledger.replica import Replica
from swarm.ledger.state import PAST_TERMS_MAX
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Asked,
    Digest,
    Effect,
    LinkChanged,
    Persist,
    Received,
    Record,
    Send,
    Trained,
    Woke,
)
from swarm.round import Fetch, Round, Say
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
from topologies.world.world import World

NOW_MS = int(EPOCH_S * 1000)
DAY_MS = 86_400_000


# --- the campaign -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "founders", "twins"), [(6028, 3, 0), (5007, 5, 1)])
def test_a_swarm_that_changes_all_the_time_is_safe_and_live(seed: int, founders: int, twins: int) -> None:
    story = run(seed, founders=founders, twins=twins, rounds=3)
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
    assert move((), joins, 1, invited=invitation())[0].invited
    assert not move((), joins, 2, invited=invitation())[0].invited, "somebody else's"
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
        assert [motion.invited for motion in move((), joins, 1, invited=word, terms=terms)] == [False]
    assert not move((), t.remove(NODES[2]), 1, invited=invitation())[0].invited, "an invitation removes nobody"


def test_a_new_key_of_the_inviter_ends_its_invitations() -> None:
    fresh = amended(TERMS, t.rotate(NODES[1], card(1, identity(77))), NODES[1], SWARM.charter)
    assert not move((), t.add(card(9)), 1, invited=invitation(), terms=fresh)[0].invited


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


@pytest.mark.parametrize("expires_ms", [NOW_MS, NOW_MS - 1, NOW_MS + LIFETIME_MS_MAX + SKEW_MS_MAX + 1])
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


# --- the terms of a turn ------------------------------------------------------------------------------------------


def test_when_fewer_members_make_a_quorum_attests_are_enough_that_were_too_few_before() -> None:
    """Five attest by four; three have when one leaves, and nobody has anything to add."""
    table = Table(make_swarm(5))
    table.contribute(*range(5))
    assert table.agree() == [e.CONTRIBUTION] * 5 + [e.ROUND_CLOSE]
    table.attest(0, 1, 2)
    assert table.agree() == [e.BLOCK_CERT] + [e.ATTEST] * 3
    replica, header = table.replicas[0], table.tip
    assert header is not None
    assert not replica.wants_block(header.hash, EPOCH_S + 60)
    gone = identity(4).node
    coming = amended(replica.head.terms, t.remove(gone), gone, table.swarm.charter)
    state = msgspec.structs.replace(replica.head, coming=coming)
    header = dataclasses.replace(header, state_hash=state.digest())
    replica.resume(state, header)
    assert replica.head.terms.quorum == 3
    assert replica.wants_block(header.hash, EPOCH_S + 60)
    built = replica.build(header.hash, header.view, header.view + 1, (), EPOCH_S + 60)
    assert built is not None
    assert e.ROUND_COMMIT in [e.decode_entry(leaf).kind for leaf in built[1]]


def test_back_in_the_round_it_left_a_site_offers_a_second_attempt_and_not_the_first_again() -> None:
    """The log forgets the contribution when its author leaves; whoever kept it could call a second one a lie."""
    swarm = make_swarm(4)
    round_ = Round(swarm.charter, NODES[0], code_digest=CODE, data_digest=bytes(32))
    first = contribution(swarm, 0)
    round_.said(first)
    state = Replica(swarm.signed, Knowledge()).head
    round_.advance(state, [], lambda _: True, EPOCH_S)
    said = round_.trained(Trained(1, Digest(bytes(32)), 128, 10, {}), state, [], EPOCH_S)
    bodies = [action.body for action in said if isinstance(action, Say)]
    assert [body.attempt for body in bodies if isinstance(body, e.Contribution)] == [first.attempt + 1]


@functools.lru_cache
def history() -> Sequence[FinalBlock]:
    """Return the blocks of a run in which a fifth site joins."""
    world = changing(4, newcomers=1, rounds=3)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    return [
        codec.decode(data, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
        for data in ledger_of(world.place(0), make_swarm(4, rounds=3))
    ]


def header_of(final: FinalBlock) -> Header:
    return Header.decode(final.block.header)


def kept(effects: Sequence[Effect]) -> list[int]:
    """Return the heights of the blocks that become durable."""
    records = [record for effect in effects if isinstance(effect, Persist) for record in effect.records]
    return [record.height for record in records if record.kind == RECORD_BLOCK]


def test_a_lie_about_the_next_epoch_costs_nothing_of_what_became_final_before_it() -> None:
    """Good blocks up to the end of an epoch and a forged one after it, in one message: no hole in the ledger."""
    swarm = make_swarm(4, rounds=3)
    finals = history()
    end = next(i for i, final in enumerate(finals) if header_of(final).epoch == 1)
    forged = msgspec.structs.replace(finals[end].block, signature=bytes(64))
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2, 3)
    desk.effects.clear()
    desk.hear(1, m.Blocks((*finals[:end], msgspec.structs.replace(finals[end], block=forged))))
    assert desk.node.replica.head.terms.epoch == 1
    assert desk.node.replica.head.height == end
    assert kept(desk.effects) == list(range(1, end + 1)), "every block is written, once and in order"
    desk.hear(2, m.Blocks(tuple(finals[end:])))
    assert kept(desk.effects) == list(range(1, len(finals) + 1))


def test_blocks_of_an_epoch_certified_by_the_keys_of_the_one_before_are_nobodys() -> None:
    """A thief with the old keys of all members goes on where they left off."""
    swarm = make_swarm(4, rounds=3)
    finals = history()
    end = next(i for i, final in enumerate(finals) if header_of(final).epoch == 1)
    stolen = header_of(finals[end])
    thief = certify(swarm, stolen, signers=(0, 1, 2))  # a quorum of four, not of five
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2, 3)
    desk.hear(1, m.Blocks((*finals[:end], msgspec.structs.replace(finals[end], certificate=(thief,)))))
    assert desk.node.replica.head.height == end
    for epoch in (0, 2):
        alien = dataclasses.replace(stolen, epoch=epoch)
        block = msgspec.structs.replace(finals[end].block, header=alien.encode())
        desk.hear(1, m.Blocks((FinalBlock(block, (certify(swarm, alien, signers=(0, 1, 2, 3)),)),)))
        assert desk.node.replica.head.height == end
    desk.hear(2, m.Blocks(tuple(finals[end:])))
    assert desk.node.replica.head.height == len(finals)


def test_a_joiner_with_only_the_charter_believes_no_other_swarms_history() -> None:
    """Names, ids and terms are the same; the keys that certify are not those of this charter."""
    swarm, other = make_swarm(4, rounds=3), make_swarm(4, rounds=3, first=40)
    finals = history()
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2, 3)
    first = header_of(finals[0])
    fork = dataclasses.replace(first, time_ms=first.time_ms + 1)
    forged = FinalBlock(
        msgspec.structs.replace(finals[0].block, header=fork.encode()), (certify(other, fork, signers=(0, 1, 2)),)
    )
    desk.hear(1, m.Blocks((forged,)))
    assert desk.node.replica.head.height == 0
    desk.hear(1, m.Blocks(tuple(finals)))
    assert desk.node.replica.head.height == len(finals)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_site_that_has_lost_its_new_keys_follows_in_silence() -> None:
    fresh = identity(77)
    later = {2: fresh}
    world = changing(4, successors=later, rounds=6)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 2, t.rotate(identity(2).node, card(2, fresh)))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    later.clear()
    world.strike(Crash(at_s=0.0, slot=2, down_s=1.0))
    assert world.run(finished(0, 1, 3), end_s=END_S)
    assert world.run(lambda w: head(w, 2).digest() == head(w, 0).digest(), end_s=END_S)
    ticket = world.ask(2, f"propose {codec.encode(t.remove(identity(0).node)).hex()} - 30")
    assert world.run(lambda w: any(a.ticket == ticket for a in w.place(2).answers), end_s=END_S)
    assert "keys" in str(world.place(2).answers[-1].reply["error"])


def test_a_site_that_took_new_keys_and_left_comes_back_as_another_member() -> None:
    """An id follows from the keys a member comes with; the ledger does not remember for ever who had which."""
    fresh = identity(77)
    world = changing(5, successors={4: fresh}, rounds=30)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 4, t.rotate(identity(4).node, card(4, fresh)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    assert head(world, 0).terms.members[4].node == identity(4).node, "new keys, the same member"
    propose(world, 4, t.remove(identity(4).node))
    assert world.run(in_epoch(2, 0, 1, 2, 3, 4), end_s=END_S)
    propose(world, 0, t.add(card(4, fresh)))
    assert world.run(in_epoch(3, 0, 1, 2, 3), end_s=END_S)
    assert head(world, 0).terms.members[4].node == fresh.node
    assert identity(4).node in head(world, 0).heads, "what it said as the member it was stays its own"
    reached = head(world, 0).committed.round
    assert world.run(lambda w: committed(w, 0, reached + 1), end_s=END_S), "and the others go on"


# --- comings and goings -------------------------------------------------------------------------------------------


def test_two_motions_with_a_quorum_in_one_block_take_effect_in_two_epochs() -> None:
    blocks = Blocks()
    world = changing(5, newcomers=1, checkers=[blocks], rounds=10)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(5)))
    propose(world, 1, t.remove(identity(4).node))
    assert world.run(in_epoch(2, 0, 1, 2, 3, 4, 5), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3, 5), end_s=END_S)
    last = audited(blocks, 0, make_swarm(5, rounds=10))
    assert [view.terms.epoch for view in last.epochs] == [0, 1, 2]
    assert {view.change for view in last.epochs[1:]} == {t.add(card(5)), t.remove(identity(4).node)}


def test_a_swarm_shrinks_to_one_by_the_words_of_all_and_grows_again() -> None:
    blocks = Blocks()
    world = changing(4, checkers=[blocks], rounds=12)
    members = [0, 1, 2, 3]
    epoch = 0
    assert not world.run(lambda _: False, end_s=1.0)
    for leaver in (3, 1, 2):
        propose(world, 0 if leaver != 1 else 1, t.remove(identity(leaver).node))
        epoch += 1
        members.remove(leaver)
        assert world.run(in_epoch(epoch, *members), end_s=END_S)
    assert names(head(world, 0)) == ["site-0"]
    alone = head(world, 0).committed.round
    assert world.run(lambda w: committed(w, 0, alone + 2), end_s=END_S), "a swarm of one goes on"
    for joiner in (2, 3):
        propose(world, 0, t.add(card(joiner)))
        epoch += 1
        members.append(joiner)
        assert world.run(in_epoch(epoch, *members), end_s=END_S)
    assert world.run(lambda w: all(head(w, i).complete for i in members), end_s=END_S)
    assert world.run(lambda w: len({head(w, i).digest() for i in members}) == 1, end_s=END_S)
    last = audited(blocks, 0, make_swarm(4, rounds=12))
    assert [len(view.terms.members) for view in last.epochs] == [4, 3, 2, 1, 2, 3]


def test_the_last_member_cannot_leave() -> None:
    world = changing(1, rounds=4)
    assert not world.run(lambda _: False, end_s=1.0)
    propose(world, 0, t.remove(identity(0).node))
    assert world.run(lambda w: bool(w.place(0).answers), end_s=END_S)
    assert "0 members" in str(world.place(0).answers[0].reply["error"])
    assert world.run(finished(0), end_s=END_S)


def test_so_many_cannot_leave_that_no_round_could_close() -> None:
    world = changing(4, rounds=6, min_contributions=4)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.remove(identity(3).node))
    assert world.run(lambda w: bool(w.place(0).answers), end_s=END_S)
    assert "contributions" in str(world.place(0).answers[0].reply["error"])
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)


def test_a_member_removed_against_its_will_in_a_round_it_gave_an_update_to_is_not_in_the_mean() -> None:
    blocks = Blocks()
    world = changing(5, checkers=[blocks], rounds=6)
    gone = identity(4).node

    def offered(world: World) -> bool:
        state = head(world, 0) if world.now > 1.0 else None
        return state is not None and (state.round, gone) in state.contributions and state.close is None

    assert world.run(offered, end_s=END_S)
    propose(world, 0, t.remove(gone))
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    last = audited(blocks, 0, make_swarm(5, rounds=6))
    after = [v for r, v in last.rounds.items() if v.closed_ms > last.epochs[1].time_ms]
    assert after
    for view in after:
        assert view.closed is not None
        assert gone not in [placed.author for placed in view.closed.terms]


def test_a_site_joins_although_a_partition_falls_on_the_turn() -> None:
    for cut in ((0, 1), (4,)):
        plan = FaultPlan(faults=(Partition(at_s=4.0, duration_s=10.0, groups=(cut,)),))
        world = changing(4, newcomers=1, rounds=4, plan=plan)
        assert world.run(lambda w: w.now > 3.9, end_s=END_S)
        propose(world, 0, t.add(card(4)))
        assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S), cut
        assert world.run(lambda w: len({head(w, i).digest() for i in range(5)}) == 1, end_s=END_S), cut


def test_a_guest_that_floods_is_heard_twice_a_second_and_proposed_once() -> None:
    swarm = make_swarm(4)
    guest = identity(9)
    word = codec.decode(
        invite(
            swarm.identities[0].id_key,
            ledger_id=swarm.signed.ledger_id,
            inviter=swarm.identities[0].node,
            name="site-9",
            guest=guest.curve_public,
            expires_ms=NOW_MS + DAY_MS,
        ).encode(),
        Invite,
        limit=1024,
    )
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2, 3)
    desk.give(Asked(1, f"invite {word.encode().hex()}"))
    knock = Received(node_id(guest.curve_public), wire.encode(m.Knock(card(9))))
    desk.effects.clear()
    for _ in range(1000):
        desk.give(knock)
    answers = [x for x in desk.effects if isinstance(x, Send) and x.to == knock.sender]
    assert len(answers) == 1
    for _ in range(10):
        desk.now += KNOCK_S
        desk.give(knock)
        desk.give(Received(knock.sender, b"\xff" * 2000))
        desk.give(Received(knock.sender, wire.encode(m.GetBlocks(1))))
    said = [x for x in desk.effects if isinstance(x, Send) and isinstance(wire.decode(x.frame), m.EntryMessage)]
    leaves = {x.frame for x in said}
    assert len(leaves) == 1, "one motion, however often it knocks"


def test_an_update_that_a_close_names_is_kept_and_fetched_although_its_author_has_left() -> None:
    """Without it nobody who has not averaged yet could attest, and the round would stay open for ever."""
    table = Table(make_swarm(5))
    table.contribute(*range(5))
    table.agree()
    replica = table.replicas[0]
    gone = identity(4).node
    coming = amended(replica.head.terms, t.remove(gone), gone, table.swarm.charter)
    state = msgspec.structs.replace(replica.head, coming=coming)
    assert table.tip is not None
    replica.resume(state, dataclasses.replace(table.tip, state_hash=state.digest()))
    state = replica.head
    assert gone not in [author for _, author in state.contributions]
    named = Digest(contribution(table.swarm, 4).update_digest)
    round_ = Round(table.swarm.charter, NODES[0], code_digest=CODE, data_digest=bytes(32))
    assert named in round_.keep(state)
    actions = round_.advance(state, [], lambda digest: digest != named, EPOCH_S)
    assert named in [action.digest for action in actions if isinstance(action, Fetch)]


def test_a_site_that_may_not_speak_yet_prepares_a_charge_once() -> None:
    desk = Desk(SWARM)
    desk.start()
    for other in (1, 2, 3):
        desk.give(LinkChanged(desk.ids[other], True))
        desk.hear(other, desk.hello(other))
    assert desk.node.consensus.muted
    for kind, block in ((SKIP, bytes(32)), (FINALIZE, b"b" * 32)):
        signature = SWARM.identities[3].vote_key.sign(vote_message(LEDGER_ID, 0, 1, kind, block))
        desk.hear(1, m.CastVote(Vote(0, 1, kind, block, 3, signature)))
    for _ in range(100):
        desk.now += 1.0
        desk.give(Woke())
    for other in (1, 2, 3):
        desk.hear(other, m.Reminder(0, (), (), b""))
    assert not desk.node.consensus.muted
    charges = [p for p in desk.node.replica.own(desk.ids[0]) if isinstance(p.body, e.Evidence)]
    assert len(charges) == 1
    assert not desk.node.status(desk.now)["halted"]


LONG = make_swarm(4, rounds=20)


def with_a_stale_charge() -> Desk:
    """Return a site that starts with a charge in its feed that nobody ordered, after more epochs than it is good for."""
    world = changing(4, rounds=20)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    for epoch in range(1, PAST_TERMS_MAX + 3):
        policy = head(world, 0).terms.round
        propose(world, epoch % 4, t.repolicy(msgspec.structs.replace(policy, rounds=policy.rounds + 1)))
        assert world.run(in_epoch(epoch, 0, 1, 2, 3), end_s=END_S)
    blocks = ledger_of(world.place(0), LONG)
    finals = [codec.decode(data, FinalBlock, limit=2 * BLOCK_BYTES_MAX) for data in blocks]
    heights = [header_of(final).height for final in finals]
    end = head(world, 0).heads[NODES[0]]
    charge = e.sign_entry(
        SWARM.identities[0].id_key,
        ledger_id=LONG.signed.ledger_id,
        author=NODES[0],
        kind=e.EVIDENCE,
        seq=end.seq,
        prev=end.prev,
        ts_ms=NOW_MS,
        body=accusation(LONG, 3, 0),
    )
    desk = Desk(LONG)
    records = [Record(RECORD_BLOCK, height, data) for height, data in zip(heights, blocks, strict=True)]
    desk.now += 1000.0
    desk.start(*records, Record(RECORD_ENTRY, end.seq, charge.encode()))
    desk.link(1, 2, 3)
    for other in (1, 2, 3):
        desk.hear(other, m.Reminder(desk.node.replica.head.terms.epoch, (), (), b""))
    assert not desk.node.consensus.muted
    return desk


def test_a_charge_that_is_too_old_to_be_ordered_is_never_contradicted() -> None:
    desk = with_a_stale_charge()
    assert desk.node.replica.head.terms.epoch == PAST_TERMS_MAX + 2
    for _ in range(20):
        desk.now += 1.0
        desk.give(Woke())
    written = [r for x in desk.effects if isinstance(x, Persist) for r in x.records if r.kind == RECORD_ENTRY]
    assert not written


def test_a_site_whose_charge_is_too_old_to_be_ordered_can_still_write() -> None:
    desk = with_a_stale_charge()
    desk.give(Asked(1, f"propose {codec.encode(t.remove(NODES[3])).hex()} - 30"))
    written = [r for x in desk.effects if isinstance(x, Persist) for r in x.records if r.kind == RECORD_ENTRY]
    assert written


# --- crashes in the middle of a turn ------------------------------------------------------------------------------


def turning(member: int, after_effects: int, change: str) -> tuple[World, bool]:
    """Crash a member after so many effects from where the epoch's last block is next; return whether it got so far."""
    fresh = identity(77)
    changes = {
        "join": (0, t.add(card(3))),
        "leave": (2, t.remove(identity(2).node)),
        "keys": (1, t.rotate(identity(1).node, card(1, fresh))),
    }
    world = changing(3, newcomers=1, rounds=2, successors={1: fresh})
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, *changes[change])
    assert world.run(lambda w: bool(head(w, member).motions) or head(w, member).terms.epoch > 0, end_s=END_S)
    world.strike(Crash(at_s=0.0, slot=member, down_s=0.5, after_effects=after_effects))
    stay = {"join": (0, 1, 2, 3), "leave": (0, 1), "keys": (0, 1, 2)}[change]
    assert world.run(finished(*stay), end_s=END_S), (member, after_effects, change)
    assert world.run(in_epoch(1, *stay), end_s=END_S), "also who stopped at the very end is back"
    assert world.run(lambda w: len({head(w, i).digest() for i in stay}) == 1, end_s=END_S)
    for site in stay:
        *_, found = audit(ledger_of(world.place(site), make_swarm(3, rounds=2)), make_swarm(3, rounds=2).signed)
        assert found.failure is None
        assert not found.state.accused
        assert found.state.terms.epoch == 1
    return world, world.stats.crashes > 0


@pytest.mark.parametrize("change", ["join", "leave", "keys"])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_member_that_stops_between_two_effects_of_a_turn_goes_on_in_the_epoch_it_had_reached(
    member: int, change: str
) -> None:
    """A few gaps here; `python -m tests.simulation.test_membership_attacks` tries them all."""
    crashed = [turning(member, after, change)[1] for after in range(4 + member, 40, 17)]
    assert any(crashed)


def every_gap() -> None:
    """Try every gap between two effects of a turn, for every member and kind of change."""
    for change in ("join", "leave", "keys"):
        for member in range(3):
            tried = sum(turning(member, after, change)[1] for after in range(1, 90))
            print(f"{change}, member {member}: {tried} crashes, all well", flush=True)


if __name__ == "__main__":
    every_gap()
