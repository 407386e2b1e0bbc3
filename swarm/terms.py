"""Who is a member and how rounds go, from one epoch to the next.

The charter's members and round policy are the terms of epoch 0. A *change* that a quorum of the members has voted for
gives the terms of the next: one member joins, leaves, or takes new keys or another address, or the policy of rounds is
another one. A member keeps its id whatever keys it takes, and its place in the ledger's feeds when it leaves and comes
back. Everything here is a value and a pure function: `swarm.ledger.state` says when a change takes effect.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from functools import cached_property

import msgspec

from swarm import codec
from swarm.charter import Card, Charter, RoundPolicy, check_edges, check_policy, tolerance_text
from swarm.errors import Reject, UsageError
from swarm.ledger.block import MEMBERS_MAX, faults, quorum
from swarm.machine import NodeId

# Kinds of change are in the ledger for ever: add, never renumber.
ADD = 1
REMOVE = 2
ROTATE = 3
POLICY = 4

RELAYS_MAX = 8
"""Relays of one pair: of a hundred that would do, the first eight being gone at once is not what holds the pair up."""

CHANGES = {ADD: "add", REMOVE: "remove", ROTATE: "rotate", POLICY: "policy"}


class Seat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member in one epoch. `node` comes from the first identity key it ever had, `card` has those of today."""

    node: NodeId
    card: Card

    @property
    def name(self) -> str:
        """What people call it."""
        return self.card.name

    @property
    def id_key(self) -> bytes:
        """Signs its entries."""
        return self.card.id_key

    @property
    def vote_key(self) -> bytes:
        """Signs its votes and proposals."""
        return self.card.vote_key

    @property
    def cosign_key(self) -> bytes:
        """Signs checkpoints for the world outside."""
        return self.card.cosign_key

    @property
    def curve_key(self) -> bytes:
        """Its transport key."""
        return self.card.curve_key

    @property
    def endpoint(self) -> str:
        """Where it can be reached; empty if it only dials out."""
        return self.card.endpoint


class Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One change of terms, as proposed. What a kind does not use is empty.

    `node` is the member to remove or to give new keys. `card` is the newcomer's, or the member's new one. `links` names
    the members a newcomer has links to where not everybody is linked to everybody; without any it is whoever proposes
    it. `policy` replaces the policy of rounds.
    """

    kind: int
    node: bytes
    card: tuple[Card, ...]
    links: tuple[bytes, ...]
    policy: tuple[RoundPolicy, ...]

    def check(self) -> None:
        """Raise `Reject` unless the change is well formed and its card proven; says nothing about the terms."""
        named = "couldn't accept a change of terms"
        shape = {ADD: (0, 1, 0), REMOVE: (32, 0, 0), ROTATE: (32, 1, 0), POLICY: (0, 0, 1)}.get(self.kind)
        if shape != (len(self.node), len(self.card), len(self.policy)) or (self.links and self.kind != ADD):
            raise Reject(f"{named}: it is of no known kind, or not of its kind's shape")
        if any(len(node) != 32 for node in self.links) or len({*self.links}) != len(self.links):
            raise Reject(f"{named}: its links are not different members")
        try:
            for card in self.card:
                card.check()
        except UsageError as error:
            raise Reject(f"{named}: {error.message}") from None


def add(card: Card, links: Iterable[NodeId] = ()) -> Change:
    """Return the change by which a site joins."""
    return Change(ADD, b"", (card,), tuple(links), ())


def remove(node: NodeId) -> Change:
    """Return the change by which a member leaves, or is made to."""
    return Change(REMOVE, node, (), (), ())


def rotate(node: NodeId, card: Card) -> Change:
    """Return the change by which a member takes new keys or another address. Only it can propose that."""
    return Change(ROTATE, node, (card,), (), ())


def repolicy(policy: RoundPolicy) -> Change:
    """Return the change to another policy of rounds."""
    return Change(POLICY, b"", (), (), (policy,))


class Terms(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The terms of one epoch. `edges` lists links as ascending index pairs; empty means everyone with everyone."""

    epoch: int
    members: tuple[Seat, ...]
    edges: tuple[tuple[int, int], ...]
    round: RoundPolicy

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes."""
        return codec.encode(self)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: what an epoch's entry in the ledger names."""
        return hashlib.sha256(b"swarm-ledger/terms/v1\0" + self.encoded).digest()

    @cached_property
    def quorum(self) -> int:
        """Members whose agreement makes something final."""
        return quorum(len(self.members))

    @cached_property
    def vote_keys(self) -> tuple[bytes, ...]:
        """The vote key of each member, in member order."""
        return tuple(seat.vote_key for seat in self.members)

    def index(self, node: NodeId) -> int | None:
        """Return a member's index, or None."""
        return self._indices.get(node)

    def name(self, node: NodeId) -> str:
        """Return a member's name; of anybody else the beginning of its id."""
        index = self.index(node)
        return node.hex()[:8] if index is None else self.members[index].name

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Return the indices a member has links to, ascending. Two of which neither can be dialled have no link.

        What they say to each other has to be passed on by others, whatever the terms list.
        """
        return self._linked[index]

    def relayed(self, index: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return whom a member is linked to by the terms though neither can be dialled, each with who can relay.

        Those are the members with an endpoint that both have a link to. Their order is the same at both ends and
        another for each pair (`relay_rank`), and of many only the first `RELAYS_MAX` are there.
        """
        found = []
        for other in self.further(index):
            pair = self.members[index].node, self.members[other].node
            ranked = sorted(self._relays(index, other), key=lambda relay: relay_rank(*pair, self.members[relay].node))
            found.append((other, tuple(ranked[:RELAYS_MAX])))
        return tuple(found)

    def further(self, index: int) -> tuple[int, ...]:
        """Return the indices of those that a member is linked to through a relay only, ascending."""
        return self._further[index]

    def _relays(self, a: int, b: int) -> set[int]:
        """Return who can relay between two members that only dial out, and so are linked to nobody else who does."""
        return {*self._linked[a]} & {*self._linked[b]}

    def dials(self, index: int, other: int) -> bool:
        """Whether `index` opens the connection to `other`: whoever cannot be reached dials, else the higher index."""
        mine, theirs = self.members[index].endpoint, self.members[other].endpoint
        if bool(mine) != bool(theirs):
            return not mine
        return index > other

    def fault_tolerance(self) -> str:
        """Say in words what the number of members can bear."""
        return tolerance_text(len(self.members))

    @cached_property
    def _linked(self) -> tuple[tuple[int, ...], ...]:
        """The links that can be opened, by member: asked of every member by every member, so worked out once."""
        linked: list[list[int]] = [[] for _ in self.members]
        for a, b in self.edges or itertools.combinations(range(len(self.members)), 2):
            if self.members[a].endpoint or self.members[b].endpoint:
                linked[a].append(b)
                linked[b].append(a)
        return tuple(tuple(sorted(row)) for row in linked)

    @cached_property
    def _further(self) -> tuple[tuple[int, ...], ...]:
        """The links that need a relay and have one, by member."""
        further: list[list[int]] = [[] for _ in self.members]
        hidden = [i for i, seat in enumerate(self.members) if not seat.endpoint]
        if not self.edges and len(hidden) < len(self.members):
            pairs: Iterable[tuple[int, int]] = itertools.combinations(hidden, 2)
        else:
            pairs = [(a, b) for a, b in self.edges if {a, b} <= {*hidden} and self._relays(a, b)]
        for a, b in pairs:
            further[a].append(b)
            further[b].append(a)
        return tuple(tuple(sorted(row)) for row in further)

    @cached_property
    def _indices(self) -> dict[NodeId, int]:
        return {seat.node: i for i, seat in enumerate(self.members)}


def relay_rank(a: NodeId, b: NodeId, relay: NodeId) -> bytes:
    """Return what orders the relays of a pair of members, whichever of the two is named first.

    Rendezvous hashing (Thaler & Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996): pairs spread over the
    relays, and when a relay goes only its own pairs move.
    """
    return hashlib.sha256(b"".join((*sorted((a, b)), relay))).digest()


def founding(charter: Charter) -> Terms:
    """Return the terms of epoch 0."""
    return Terms(0, tuple(Seat(card.node, card) for card in charter.members), charter.edges, charter.round)


def amended(terms: Terms, change: Change, proposer: NodeId, charter: Charter) -> Terms:
    """Return the next epoch's terms. Raises `Reject` in words when the change does not fit the terms of today."""
    if change.kind == ADD:
        after = _joined(terms, change, proposer)
    elif change.kind == REMOVE:
        after = _left(terms, NodeId(change.node))
    elif change.kind == ROTATE:
        after = _rotated(terms, change, proposer)
    else:
        after = msgspec.structs.replace(terms, round=change.policy[0])
    after = msgspec.structs.replace(after, epoch=terms.epoch + 1)
    _check(after, terms, charter)
    return after


def describe(change: Change, terms: Terms) -> str:
    """Say in words what a change does."""
    if change.kind == ADD:
        return f"{change.card[0].name} joins"
    if change.kind == REMOVE:
        return f"{terms.name(NodeId(change.node))} leaves"
    if change.kind == ROTATE:
        what = "takes a new transport key or address" if same_identity(change, terms) else "takes new keys"
        return f"{terms.name(NodeId(change.node))} {what}"
    after, before = change.policy[0], terms.round
    changed = [name for name in after.__struct_fields__ if getattr(after, name) != getattr(before, name)]
    words = ", ".join(f"{name} becomes {getattr(after, name)} (was {getattr(before, name)})" for name in changed)
    return words or "the policy of rounds stays as it is"


def same_identity(change: Change, terms: Terms) -> bool:
    """Whether a rotation leaves the signing keys as they are, so that its author's signature vouches for all of it."""
    index = terms.index(NodeId(change.node))
    if change.kind != ROTATE or index is None:
        return False
    before, after = terms.members[index].card, change.card[0]
    return (before.id_key, before.vote_key, before.cosign_key) == (after.id_key, after.vote_key, after.cosign_key)


def _joined(terms: Terms, change: Change, proposer: NodeId) -> Terms:
    card = change.card[0]
    if terms.index(card.node) is not None:
        raise Reject(f"couldn't admit {card.name}: it is a member already")
    newcomer = len(terms.members)
    edges = terms.edges
    if edges:
        links = [terms.index(NodeId(node)) for node in change.links or (proposer,)]
        if None in links:
            raise Reject(f"couldn't admit {card.name}: one of its links is to somebody who is not a member")
        edges = tuple(sorted((*edges, *((i, newcomer) for i in links if i is not None))))
    return msgspec.structs.replace(terms, members=(*terms.members, Seat(card.node, card)), edges=edges)


def _left(terms: Terms, node: NodeId) -> Terms:
    """Close the gap. Where links are listed, the neighbours of the one who leaves are linked to each other in a row."""
    gone = terms.index(node)
    if gone is None:
        raise Reject(f"couldn't remove {node.hex()[:8]}: it is not a member")
    edges = {(a, b) for a, b in terms.edges if gone not in (a, b)}
    if terms.edges:
        row = sorted(a + b - gone for a, b in terms.edges if gone in (a, b))
        edges |= set(itertools.pairwise(row))
    closed = tuple(sorted((a - (a > gone), b - (b > gone)) for a, b in edges))
    return msgspec.structs.replace(terms, members=terms.members[:gone] + terms.members[gone + 1 :], edges=closed)


def _rotated(terms: Terms, change: Change, proposer: NodeId) -> Terms:
    index = terms.index(NodeId(change.node))
    if index is None or change.node != proposer:
        raise Reject("couldn't change a member's keys: only a member can, and only its own")
    seat = terms.members[index]
    if change.card[0].name != seat.name:
        raise Reject(f"couldn't change the keys of {seat.name}: its new card has another name")
    seats = (*terms.members[:index], Seat(seat.node, change.card[0]), *terms.members[index + 1 :])
    return msgspec.structs.replace(terms, members=seats)


def _check(after: Terms, before: Terms, charter: Charter) -> None:
    """Raise `Reject` unless the new terms can stand, as a charter's would have to."""
    named = "couldn't change the terms"
    n = len(after.members)
    if not 1 <= n <= MEMBERS_MAX:
        raise Reject(f"{named}: {n} members, 1 to {MEMBERS_MAX} are possible")
    if charter.ledger.require_byzantine and faults(n) < 1:
        raise Reject(f"{named}: {n} members cannot outvote a liar and the charter requires that they can")
    for what in ("name", "id_key", "vote_key", "cosign_key", "curve_key"):
        values = [getattr(seat, what) for seat in after.members]
        if len({*values}) != n:
            raise Reject(f"{named}: two members would have the same {what.replace('_', ' ')}")
    for what in ("mixing", "outer", "clip_norm_milli"):
        if getattr(after.round, what) != getattr(before.round, what):
            raise Reject(f"{named}: {what}, how updates are mixed, is for the charter alone to say")
    try:
        check_policy(after.round, n, charter.rule, masked=charter.masks > 0, salted=charter.salt > 0)
        check_edges(after.edges, [seat.card for seat in after.members])
    except UsageError as error:
        raise Reject(f"{named}: {error.message}") from None
