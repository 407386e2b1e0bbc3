"""Motions: how they are opened, voted on, carried, and forgotten."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarm import codec
from swarm import terms as t
from swarm.errors import Reject
from swarm.invite import invite
from swarm.ledger import entry as e
from swarm.ledger.motions import (
    LIFETIME_MS_MAX,
    OPEN_PER_AUTHOR_MAX,
    SKEW_MS_MAX,
    Motion,
    carried,
    moved,
    open_at,
    open_change,
    voted,
)
from tests.builders import digest, identity
from tests.swarm.test_terms import NODES, SWARM, TERMS, card

ADD = t.add(card(4))
NOW = 1_000_000


def proposal(change: t.Change = ADD, *, expires_ms: int = NOW + 1, ticket: bytes = b"") -> e.MemberProposal:
    return e.MemberProposal(codec.encode(change), expires_ms, ticket)


def move(motions: tuple[Motion, ...], body: e.MemberProposal, *, author: int = 0, index: int = 1) -> tuple[Motion, ...]:
    return moved(
        motions,
        body,
        author=NODES[author],
        index=index,
        entry_id=digest(f"proposal {index}"),
        time_ms=NOW,
        ledger_id=SWARM.signed.ledger_id,
        terms=TERMS,
    )


def say(motions: tuple[Motion, ...], author: int, yes: bool, index: int = 1) -> tuple[Motion, ...]:
    return voted(motions, e.MemberVote(digest(f"proposal {index}"), yes), NODES[author])


def test_whoever_moves_says_yes_by_it() -> None:
    (motion,) = move((), proposal())
    assert (motion.change, motion.author, motion.votes) == (ADD, NODES[0], {NODES[0]: True})
    assert not motion.invited


def test_the_last_word_counts_and_a_vote_on_nothing_has_no_effect() -> None:
    motions = say(say(move((), proposal()), 1, True), 1, False)
    assert motions[0].said(TERMS, True) == (NODES[0],)
    assert motions[0].said(TERMS, False) == (NODES[1],)
    assert say(motions, 2, True, index=9) == motions


def test_a_quorum_carries_and_one_less_does_not() -> None:
    motions = say(move((), proposal()), 1, True)
    assert carried(motions, TERMS, SWARM.charter) is None
    found = carried(say(motions, 3, True), TERMS, SWARM.charter)
    assert found is not None
    assert [seat.name for seat in found[1].members][-1] == "site-4"


def test_votes_of_those_who_are_not_members_any_more_do_not_count() -> None:
    motions = say(say(move((), proposal()), 1, True), 3, True)
    later = t.amended(TERMS, t.remove(NODES[3]), NODES[0], SWARM.charter)
    assert motions[0].said(later, True) == (NODES[0], NODES[1])
    assert carried(motions, later, SWARM.charter) is not None, "two are a quorum of three"
    later = t.amended(TERMS, t.add(card(5)), NODES[0], SWARM.charter)
    assert carried(motions, later, SWARM.charter) is None, "three are none of five"


def test_the_oldest_that_fits_is_carried_first() -> None:
    twice = move(move((), proposal(t.remove(NODES[3]))), proposal(), author=1, index=2)
    for author in range(4):
        twice = say(say(twice, author, True), author, True, index=2)
    first = carried(twice, TERMS, SWARM.charter)
    assert first is not None
    assert first[0].index == 1
    second = carried(twice, first[1], SWARM.charter)
    assert second is not None
    assert second[0].index == 2, "who is gone cannot be removed again; the next one fits"


def test_one_member_cannot_fill_everybodys_state() -> None:
    motions: tuple[Motion, ...] = ()
    for index in range(OPEN_PER_AUTHOR_MAX + 2):
        motions = move(motions, proposal(t.add(card(10 + index))), index=index)
    assert len(motions) == OPEN_PER_AUTHOR_MAX
    assert len(move(motions, proposal(), author=1, index=99)) == OPEN_PER_AUTHOR_MAX + 1


@pytest.mark.parametrize(
    ("expires_ms", "opens"),
    [(NOW, 0), (NOW + 1, 1), (NOW + LIFETIME_MS_MAX + SKEW_MS_MAX, 1), (NOW + LIFETIME_MS_MAX + SKEW_MS_MAX + 1, 0)],
)
def test_what_lapsed_before_it_began_or_would_stay_for_ever_is_not_opened(expires_ms: int, opens: int) -> None:
    assert len(move((), proposal(expires_ms=expires_ms))) == opens


def test_a_motion_lapses_after_its_last_millisecond() -> None:
    motions = move((), proposal())
    assert open_at(motions, NOW + 1) == motions
    assert open_at(motions, NOW + 2) == ()


def test_an_invitation_counts_if_it_holds_and_a_bad_one_only_not() -> None:
    good = invite(
        identity(1).id_key,
        ledger_id=SWARM.signed.ledger_id,
        inviter=NODES[1],
        name="site-4",
        guest=digest("key"),
        expires_ms=NOW,
    )
    assert move((), proposal(ticket=good.encode()), author=1)[0].invited
    assert not move((), proposal(ticket=good.encode()), author=2)[0].invited, "copied out of the ledger"
    for bad in (replace(good, name="site-5"), replace(good, expires_ms=NOW - 1)):
        (motion,) = move((), proposal(ticket=bad.encode()), author=1)
        assert not motion.invited


@pytest.mark.parametrize("expires_ms", [0, -1, 2**62])
def test_a_proposal_out_of_range_is_refused(expires_ms: int) -> None:
    with pytest.raises(Reject, match="its time to lapse is out of range"):
        open_change(proposal(expires_ms=expires_ms))
    with pytest.raises(Reject):
        open_change(e.MemberProposal(b"\x95", 5, b""))
