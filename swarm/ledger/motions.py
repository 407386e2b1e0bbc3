"""Motions: changes of terms that members have proposed and vote on, as the log has them.

A motion is carried as soon as a quorum of today's members has said yes; whoever moves it says yes by that. It lapses at
its time, in block time. What a vote says last counts, and only members of the epoch at hand are counted, so a motion
survives a change of members without anybody's vote being counted under the wrong rule. (`ledger.md` 1.7.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from swarm import codec
from swarm.charter import Charter
from swarm.errors import Reject
from swarm.invite import open_invite
from swarm.ledger import entry as e
from swarm.machine import NodeId
from swarm.terms import Change, Terms, amended

OPEN_PER_AUTHOR_MAX = 4
"""Open motions of one member. More have no effect: a member cannot fill everybody's state."""

LIFETIME_MS_MAX = 90 * 86_400_000
"""A motion may be open for a quarter of a year at most."""

SKEW_MS_MAX = 86_400_000
"""And for the day by which the clock of whoever moves it may be ahead of the blocks', at most."""


@dataclass(frozen=True, slots=True)
class Motion:
    """An open motion. `index` is its leaf, `id` its entry's id; `votes` has the last word of each who said one.

    `invited` says that a member's invitation, valid when the motion was ordered, came with it.
    """

    index: int
    id: bytes
    author: NodeId
    change: Change
    expires_ms: int
    invited: bool
    votes: Mapping[NodeId, bool]

    def said(self, terms: Terms, word: bool) -> tuple[NodeId, ...]:
        """Return the members that say yes, or no, in member order."""
        return tuple(seat.node for seat in terms.members if self.votes.get(seat.node) is word)


def open_change(body: e.MemberProposal) -> Change:
    """Return the change a proposal is about, checked on its own. Raises `Reject`."""
    change = codec.decode(body.change, Change, limit=e.ENTRY_BYTES_MAX)
    change.check()
    if not 0 < body.expires_ms < 2**62:
        raise Reject("couldn't accept a proposal: its time to lapse is out of range")
    return change


def moved(
    motions: Sequence[Motion],
    body: e.MemberProposal,
    *,
    author: NodeId,
    index: int,
    entry_id: bytes,
    time_ms: int,
    ledger_id: bytes,
    terms: Terms,
) -> tuple[Motion, ...]:
    """Return the open motions with this one added. One too many, or lapsed before it began, has no effect."""
    mine = sum(motion.author == author for motion in motions)
    latest = time_ms + LIFETIME_MS_MAX + SKEW_MS_MAX
    if mine >= OPEN_PER_AUTHOR_MAX or not time_ms < body.expires_ms <= latest:
        return tuple(motions)
    change = open_change(body)
    invited = False
    if body.invite:
        with contextlib.suppress(Reject):
            found = open_invite(body.invite, ledger_id=ledger_id, terms=terms, change=change, now_ms=time_ms)
            invited = found.inviter == author  # Anybody can copy it out of the ledger.
    return (*motions, Motion(index, entry_id, author, change, body.expires_ms, invited, {author: True}))


def voted(motions: Sequence[Motion], body: e.MemberVote, author: NodeId) -> tuple[Motion, ...]:
    """Return the open motions with this vote counted. A vote on none of them has no effect."""
    return tuple(
        replace(motion, votes={**motion.votes, author: body.yes}) if motion.id == body.proposal else motion
        for motion in motions
    )


def open_at(motions: Sequence[Motion], time_ms: int) -> tuple[Motion, ...]:
    """Return those that have not lapsed."""
    return tuple(motion for motion in motions if time_ms <= motion.expires_ms)


def carried(motions: Sequence[Motion], terms: Terms, charter: Charter) -> tuple[Motion, Terms] | None:
    """Return the oldest motion that a quorum wants and that fits the terms of today, and the terms that follow."""
    for motion in motions:
        if len(motion.said(terms, True)) >= terms.quorum:
            try:
                return motion, amended(terms, motion.change, motion.author, charter)
            except Reject:
                continue  # It fitted once; it may again, until it lapses.
    return None
