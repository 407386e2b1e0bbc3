"""What a site says to changes of terms: its standing rule, and what its people ask for.

Pure, and without a memory of its own: which motions are open and what this site has said to them is in the ledger and
in its feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from swarm import codec
from swarm.charter import Card
from swarm.errors import Reject
from swarm.invite import Invite, open_invite
from swarm.ledger import entry as e
from swarm.ledger.motions import LIFETIME_MS_MAX, Motion, open_at
from swarm.ledger.participation import rounds_words
from swarm.ledger.state import State
from swarm.machine import NodeId
from swarm.round import Say
from swarm.terms import REMOVE, Change, add, amended, describe, same_identity

ASK, INVITED, ALL = "ask", "invited", "all"
"""A site's standing rule: leave every vote to its people, say yes to whom a member has invited, or to everything."""

DAY_MS = 86_400_000

PREFIX_DIGITS_MIN = 4
"""Fewest hexadecimal digits that name a proposal: few are open at a time."""


def standing_votes(state: State, me: NodeId, pending: Iterable[msgspec.Struct], approve: str) -> list[Say]:
    """Return the votes this site casts without asking anybody.

    Always yes: a member that leaves of its own will, and one that takes a new address or transport key, which its
    identity vouches for.
    """
    said = {body.proposal for body in pending if isinstance(body, e.MemberVote)}
    return [
        Say(e.MEMBER_VOTE, e.MemberVote(motion.id, True))
        for motion in state.motions
        if me not in motion.votes and motion.id not in said and _agreeable(motion, state, approve)
    ]


def _agreeable(motion: Motion, state: State, approve: str) -> bool:
    change = motion.change
    if approve == ALL or same_identity(change, state.terms):
        return True
    if change.kind == REMOVE:
        return change.node == motion.author
    return approve == INVITED and motion.invited


def propose(state: State, me: NodeId, change: Change, invite: bytes, days: int, now_ms: int) -> Say:
    """Return the entry that moves a change. Raises `Reject` in words when it could not take effect today."""
    change.check()
    if not 1 <= days <= LIFETIME_MS_MAX // DAY_MS:
        raise Reject(f"couldn't propose that for {days} days: it may be 1 to {LIFETIME_MS_MAX // DAY_MS}")
    amended(state.terms, change, me, state.signed.charter)
    if any(motion.change == change for motion in open_at(state.motions, now_ms)):
        raise Reject(f"couldn't propose that {describe(change, state.terms)}: it has been proposed already")
    return Say(e.MEMBER_PROPOSAL, e.MemberProposal(codec.encode(change), now_ms + days * DAY_MS, invite))


def welcome(
    state: State, me: NodeId, invite: Invite, card: Card, pending: Iterable[msgspec.Struct], now_ms: int
) -> tuple[str, str, Say | None]:
    """Return how a guest's wish to join stands, in one word and in many, and what to say to the others about it.

    Raises:
        Reject: its invitation is over or for another site, or its card cannot stand beside those of today.
    """
    terms, change = state.terms, add(card)
    index = terms.index(card.node)
    if index is not None:
        return "member", f"{card.name} is a member since epoch {terms.epoch} or before", None
    change.check()
    open_invite(invite.encode(), ledger_id=state.ledger_id, terms=terms, change=change, now_ms=now_ms)
    for motion in state.motions:
        if motion.change == change:
            yes, no = (len(motion.said(terms, word)) for word in (True, False))
            return "voting", f"{yes} of {terms.quorum} members needed have said yes, {no} no", None
    asked = codec.encode(change)
    if any(isinstance(body, e.MemberProposal) and body.change == asked for body in pending):
        return "voting", "the members are being asked", None
    days = max(1, min((invite.expires_ms - now_ms) // DAY_MS, LIFETIME_MS_MAX // DAY_MS))
    return "voting", "the members are being asked", propose(state, me, change, invite.encode(), days, now_ms)


def vote(state: State, prefix: str, yes: bool) -> Say:
    """Return the vote on the one motion whose id begins like this. Raises `Reject` when there is no such one."""
    found = [motion for motion in state.motions if motion.id.hex().startswith(prefix.lower())]
    if len(prefix) < PREFIX_DIGITS_MIN:
        raise Reject(f"couldn't vote on {prefix!r}: name it by at least {PREFIX_DIGITS_MIN} digits of its id")
    if len(found) != 1:
        raise Reject(f"couldn't vote on {prefix!r}: {len(found)} open proposals begin like that; see `swarm members`")
    return Say(e.MEMBER_VOTE, e.MemberVote(found[0].id, yes))


def latest_round(state: State) -> int:
    """Return the latest round that has work, or may have it: the open one, or the last of a run that is over."""
    return min(state.round, state.last)


def no_rounds(state: State, first: int, last: int) -> str:
    """Say why the work of these rounds cannot be taken back; empty if it can."""
    latest = latest_round(state)
    if 1 <= first <= last <= latest:
        return ""
    there, asked = rounds_words(1, latest), rounds_words(first, last)
    return f"couldn't withdraw the work of {asked}: what there is so far is {there}"


def withdraw(state: State, first: int, last: int) -> Say:
    """Return the entry by which this site takes back its work of some rounds; a `last` of 0 is the latest there is.

    Raises:
        Reject: there are no such rounds yet.
    """
    last = last or latest_round(state)
    if why := no_rounds(state, first, last):
        raise Reject(why)
    return Say(e.ANNOTATION, e.Annotation(e.WITHDRAWAL, first, last))


def motions(state: State) -> Sequence[dict[str, object]]:
    """Return the open motions for people: what is asked, who asks, who has said what, until when."""
    terms = state.terms
    return [
        {
            "id": motion.id.hex(),
            "text": describe(motion.change, terms),
            "by": terms.name(motion.author),
            "yes": [terms.name(node) for node in motion.said(terms, True)],
            "no": [terms.name(node) for node in motion.said(terms, False)],
            "needed": terms.quorum,
            "invited": motion.invited,
            "expires_ms": motion.expires_ms,
        }
        for motion in state.motions
    ]
