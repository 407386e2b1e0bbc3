"""What a site says by itself to proposals, and what it refuses to propose or to vote on."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from node import governance as g
from swarm import codec
from swarm import terms as t
from swarm.errors import Reject
from swarm.identity import Identity
from swarm.invite import Invite, invite
from swarm.ledger import entry as e
from swarm.ledger.motions import Motion
from swarm.ledger.state import State, genesis
from swarm.machine import NodeId
from tests.builders import digest, identity
from tests.swarm.test_terms import NODES, SWARM, card

NOW = 1_750_000_000_000
START = genesis(SWARM.signed)


def motion(change: t.Change, *, author: int = 0, invited: bool = False, index: int = 1) -> Motion:
    votes = {NODES[author]: True}
    return Motion(index, digest(f"motion {index}"), NODES[author], change, NOW + 1, invited, votes)


def with_motions(*motions: Motion) -> State:
    return replace(START, motions=motions)


def ticket(**fields: object) -> Invite:
    given = {"name": "site-4", "expires_ms": NOW + 3 * g.DAY_MS, "guest": digest("guest"), "inviter": NODES[0]} | fields
    return invite(identity(0).id_key, ledger_id=SWARM.signed.ledger_id, **given)  # type: ignore[arg-type]


MOVED = Identity.from_seed(b"\1" * 32, b"\2" * 32)
SAME = dataclasses.replace(identity(0), curve_public=MOVED.curve_public, curve_secret=MOVED.curve_secret)


@pytest.mark.parametrize(
    ("change", "invited", "by_itself"),
    [
        (t.add(card(4)), False, {g.ALL}),
        (t.add(card(4)), True, {g.ALL, g.INVITED}),
        (t.remove(NODES[2]), False, {g.ALL}),
        (t.remove(NODES[0]), False, {g.ALL, g.INVITED, g.ASK}),  # Its author leaves.
        (t.rotate(NODES[0], card(0, who=SAME)), False, {g.ALL, g.INVITED, g.ASK}),
        (t.rotate(NODES[0], card(0, who=identity(77))), False, {g.ALL}),
        (t.repolicy(replace(START.terms.round, rounds=9)), False, {g.ALL}),
    ],
)
def test_the_standing_rule_says_yes_to_these_and_leaves_the_rest_to_people(
    change: t.Change, invited: bool, by_itself: set[str]
) -> None:
    state = with_motions(motion(change, invited=invited))
    agreed = {rule for rule in (g.ASK, g.INVITED, g.ALL) if g.standing_votes(state, NODES[1], [], rule)}
    assert agreed == by_itself


def test_nothing_is_said_twice() -> None:
    one = motion(t.remove(NODES[0]))
    assert not g.standing_votes(with_motions(one), NODES[0], [], g.ALL), "its author has said yes"
    pending = [e.MemberVote(one.id, False)]
    assert not g.standing_votes(with_motions(one), NODES[1], pending, g.ALL), "people have said no"
    (said,) = g.standing_votes(with_motions(one), NODES[1], [], g.ALL)
    assert said.body == e.MemberVote(one.id, True)


def test_a_proposal_has_its_time_and_its_invitation() -> None:
    said = g.propose(START, NODES[0], t.add(card(4)), b"ticket", 30, NOW)
    assert said.kind == e.MEMBER_PROPOSAL
    assert said.body == e.MemberProposal(codec.encode(t.add(card(4))), NOW + 30 * g.DAY_MS, b"ticket")


@pytest.mark.parametrize(
    ("change", "days", "why"),
    [
        (t.add(card(4)), 0, "it may be 1 to 90"),
        (t.add(card(4)), 91, "it may be 1 to 90"),
        (t.add(card(1)), 30, "it is a member already"),
        (t.rotate(NODES[1], card(1, who=identity(7))), 30, "only its own"),
        (t.remove(NODES[3]), 30, "site-3 leaves: it has been proposed already"),
    ],
)
def test_what_could_not_take_effect_is_not_proposed(change: t.Change, days: int, why: str) -> None:
    state = with_motions(motion(t.remove(NODES[3]), author=1))
    with pytest.raises(Reject, match=why):
        g.propose(state, NODES[0], change, b"", days, NOW)


def test_votes_name_a_proposal_by_the_beginning_of_its_id() -> None:
    one = motion(t.remove(NODES[3]))
    state = with_motions(one, motion(t.remove(NODES[2]), index=2))
    assert g.vote(state, one.id.hex()[:8].upper(), False).body == e.MemberVote(one.id, False)
    with pytest.raises(Reject, match="0 open proposals begin like that"):
        g.vote(state, "00000000", True)
    with pytest.raises(Reject, match="at least 4 digits"):
        g.vote(state, one.id.hex()[:3], True)


def welcomed(state: State = START, found: Invite | None = None, pending: list[e.MemberProposal] | None = None) -> tuple:
    return g.welcome(state, NODES[0], found or ticket(), card(4), pending or [], NOW)


def test_a_guest_is_proposed_once_and_told_how_it_stands() -> None:
    word, _, say = welcomed()
    assert word == "voting"
    assert say is not None
    assert isinstance(say.body, e.MemberProposal)
    assert say.body.expires_ms == NOW + 3 * g.DAY_MS
    assert welcomed(pending=[say.body]) == ("voting", "the members are being asked", None)
    asked = with_motions(motion(t.add(card(4))))
    assert welcomed(asked) == ("voting", "1 of 3 members needed have said yes, 0 no", None)
    joined = replace(START, terms=t.amended(START.terms, t.add(card(4)), NODES[0], SWARM.charter))
    assert welcomed(joined)[::2] == ("member", None)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "site-5"}, "for another swarm or another site"),
        ({"expires_ms": NOW - 1}, "it has expired"),
        ({"inviter": NodeId(identity(9).node)}, "is not a member"),
    ],
)
def test_a_guest_without_a_good_invitation_is_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(Reject, match=why):
        welcomed(found=ticket(**fields))


def test_an_invitation_that_ends_today_still_gives_the_members_a_day() -> None:
    _, _, say = welcomed(found=ticket(expires_ms=NOW + 1))
    assert say is not None
    assert isinstance(say.body, e.MemberProposal)
    assert say.body.expires_ms == NOW + g.DAY_MS


def test_open_motions_are_told_with_who_said_what() -> None:
    one = dataclasses.replace(motion(t.add(card(4))), votes={NODES[0]: True, NODES[2]: False, identity(9).node: True})
    (row,) = g.motions(with_motions(one))
    assert (row["text"], row["by"], row["yes"], row["no"], row["needed"]) == (
        "site-4 joins", "site-0", ["site-0"], ["site-2"], 3,
    )  # fmt: skip
