"""Terms and changes of them: what follows from each change, and what no change may bring about."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from swarm import codec
from swarm import terms as t
from swarm.charter import Card, make_card
from swarm.errors import Reject
from swarm.identity import Identity
from swarm.ledger.block import quorum
from swarm.machine import NodeId
from tests.builders import Swarm, changed, identity, make_swarm

SWARM = make_swarm(4)
TERMS = t.founding(SWARM.charter)
NODES = [who.node for who in SWARM.identities]


def card(number: int, *, who: Identity | None = None, name: str = "") -> Card:
    return make_card(
        who or identity(number), name=name or f"site-{number}", endpoint=f"tcp://127.0.0.1:{17000 + number}"
    )


def after(change: t.Change, *, by: int = 0, terms: t.Terms = TERMS, swarm: Swarm = SWARM) -> t.Terms:
    change.check()
    return t.amended(terms, change, NODES[by], swarm.charter)


def ring(n: int) -> t.Terms:
    edges = tuple(sorted((min(i, (i + 1) % n), max(i, (i + 1) % n)) for i in range(n)))
    return replace(t.founding(make_swarm(n).charter), edges=edges)


# --- the beginning ------------------------------------------------------------------------------------------------


def test_the_charter_gives_the_terms_of_epoch_0() -> None:
    assert (TERMS.epoch, TERMS.quorum, TERMS.edges) == (0, 3, ())
    assert [seat.node for seat in TERMS.members] == NODES
    assert TERMS.round == SWARM.charter.round
    assert TERMS.vote_keys == tuple(who.vote_key.public for who in SWARM.identities)


def test_the_digest_is_of_the_canonical_bytes_behind_a_domain() -> None:
    assert TERMS.digest == hashlib.sha256(b"swarm-ledger/terms/v1\0" + codec.encode(TERMS)).digest()
    assert replace(TERMS, epoch=1).digest != TERMS.digest


# --- joining ------------------------------------------------------------------------------------------------------


def test_a_newcomer_is_appended_and_the_quorum_follows_from_the_number() -> None:
    terms = after(t.add(card(4)))
    assert [seat.name for seat in terms.members] == [f"site-{i}" for i in range(5)]
    assert (terms.epoch, terms.quorum) == (1, quorum(5))
    assert terms.members[:4] == TERMS.members


def test_a_newcomer_is_linked_to_whom_it_names_else_to_whoever_proposed_it() -> None:
    terms = ring(4)
    assert after(t.add(card(4)), by=2, terms=terms).edges == (*sorted([*terms.edges, (2, 4)]),)
    named = after(t.add(card(4), [NODES[3], NODES[1]]), by=2, terms=terms)
    assert named.neighbours(4) == (1, 3)
    with pytest.raises(Reject, match="one of its links is to somebody who is not a member"):
        after(t.add(card(4), [identity(9).node]), terms=terms)


@pytest.mark.parametrize(
    ("who", "name", "why"),
    [
        (1, "", "it is a member already"),
        (4, "site-1", "two members would have the same name"),
    ],
)
def test_nobody_joins_twice_or_under_a_name_that_is_taken(who: int, name: str, why: str) -> None:
    with pytest.raises(Reject, match=why):
        after(t.add(card(who, name=name)))


# --- leaving ------------------------------------------------------------------------------------------------------


def test_who_leaves_closes_the_gap() -> None:
    terms = after(t.remove(NODES[1]), by=3)
    assert [seat.node for seat in terms.members] == [NODES[0], NODES[2], NODES[3]]
    assert terms.quorum == 2
    assert terms.index(NODES[1]) is None
    assert terms.name(NODES[1]) == NODES[1].hex()[:8]


@pytest.mark.parametrize("gone", range(5))
def test_a_ring_stays_whole_when_one_of_it_leaves(gone: int) -> None:
    swarm = make_swarm(5)
    change = t.remove(swarm.identities[gone].node)
    terms = t.amended(ring(5), change, swarm.identities[0].node, swarm.charter)
    assert all(len(terms.neighbours(i)) == 2 for i in range(4))
    seen, place = {0}, 0
    for _ in range(3):
        place = next(i for i in terms.neighbours(place) if i not in seen)
        seen.add(place)
    assert seen == {0, 1, 2, 3}


def test_only_a_member_can_be_removed_and_never_the_last() -> None:
    with pytest.raises(Reject, match="it is not a member"):
        after(t.remove(identity(9).node))
    alone = make_swarm(1)
    with pytest.raises(Reject, match="0 members, 1 to 1000 are possible"):
        t.amended(t.founding(alone.charter), t.remove(NODES[0]), NODES[0], alone.charter)


def test_a_swarm_that_must_outvote_a_liar_keeps_four_members() -> None:
    strict = changed(SWARM, ledger=replace(SWARM.charter.ledger, require_byzantine=True))
    with pytest.raises(Reject, match="3 members cannot outvote a liar"):
        t.amended(TERMS, t.remove(NODES[1]), NODES[0], strict)


def test_a_round_may_not_need_more_members_than_there_are() -> None:
    needy = replace(TERMS, round=replace(TERMS.round, min_contributions=4))
    with pytest.raises(Reject, match="couldn't change the terms"):
        after(t.remove(NODES[1]), terms=needy)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_new_keys_keep_the_id_the_place_and_the_name() -> None:
    terms = after(t.rotate(NODES[2], card(2, who=identity(77))), by=2)
    assert terms.members[2].node == NODES[2]
    assert terms.members[2].id_key == identity(77).id_key.public
    assert terms.index(identity(77).node) is None


@pytest.mark.parametrize(
    ("change", "by", "why"),
    [
        (t.rotate(NODES[2], card(2, who=identity(77))), 1, "only a member can, and only its own"),
        (t.rotate(NODES[2], card(2, who=identity(77), name="other")), 2, "its new card has another name"),
        (t.rotate(NODES[2], card(2, who=identity(1))), 2, "two members would have the same id key"),
    ],
)
def test_keys_are_changed_by_their_owner_alone_and_for_keys_of_its_own(change: t.Change, by: int, why: str) -> None:
    with pytest.raises(Reject, match=why):
        after(change, by=by)


def test_a_transport_key_or_an_address_is_not_another_identity() -> None:
    moved = make_card(identity(2), name="site-2", endpoint="tcp://elsewhere:1")
    assert t.same_identity(t.rotate(NODES[2], moved), TERMS)
    assert not t.same_identity(t.rotate(NODES[2], card(2, who=identity(77))), TERMS)
    assert not t.same_identity(t.rotate(identity(9).node, moved), TERMS)
    assert not t.same_identity(t.remove(NODES[2]), TERMS)


# --- policy -------------------------------------------------------------------------------------------------------


def test_rounds_and_patience_can_be_changed_and_mixing_cannot() -> None:
    policy = TERMS.round
    assert after(t.repolicy(replace(policy, rounds=9, patience_ms=500))).round.rounds == 9
    for field, value in (("clip_norm_milli", 1), ("mixing", "gossip"), ("outer", "sgd")):
        with pytest.raises(Reject, match="for the charter alone to say"):
            after(t.repolicy(replace(policy, **{field: value})))
    with pytest.raises(Reject, match="couldn't change the terms"):
        after(t.repolicy(replace(policy, rounds=0)))


# --- changes by themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        t.Change(0, b"", (), (), ()),
        t.Change(5, b"", (card(4),), (), ()),
        t.Change(t.ADD, NODES[0], (card(4),), (), ()),
        t.Change(t.ADD, b"", (card(4), card(5)), (), ()),
        t.Change(t.REMOVE, NODES[0][:31], (), (), ()),
        t.Change(t.REMOVE, NODES[0], (), (NODES[1],), ()),
        t.Change(t.ROTATE, NODES[0], (), (), ()),
        t.Change(t.POLICY, b"", (), (), ()),
        t.Change(t.ADD, b"", (card(4),), (NODES[0], NODES[0]), ()),
        t.Change(t.ADD, b"", (replace(card(4), endpoint="tcp://thief:1"),), (), ()),
    ],
)
def test_a_change_out_of_shape_or_with_a_card_that_is_not_proven_is_refused(change: t.Change) -> None:
    with pytest.raises(Reject):
        change.check()


def test_a_change_is_told_in_words_a_voter_can_decide_by() -> None:
    assert t.describe(t.add(card(4)), TERMS) == "site-4 joins"
    assert t.describe(t.remove(NODES[1]), TERMS) == "site-1 leaves"
    assert t.describe(t.rotate(NODES[1], card(1, who=identity(7))), TERMS) == "site-1 takes new keys"
    words = t.describe(t.repolicy(replace(TERMS.round, rounds=9, patience_ms=5)), TERMS)
    assert words == "rounds becomes 9 (was 3), patience_ms becomes 5 (was 8000)"


def test_whoever_cannot_be_reached_dials() -> None:
    hidden = Card("x", *(b"%d" % i * 32 for i in range(4)), "", (), ())
    terms = replace(TERMS, members=(*TERMS.members, t.Seat(NodeId(bytes(32)), hidden)))
    assert terms.dials(4, 0)
    assert not terms.dials(0, 4)
    assert terms.dials(1, 0)
    assert not terms.dials(0, 1)
