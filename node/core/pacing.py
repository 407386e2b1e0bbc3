"""What this site sees of the others' pace, and whom the open round goes on without (`swarm.pace` has the rule).

It counts by this site's own clock, from when it learnt that a round is open, and only what it has seen since it
started: a site that has just started, or is behind, gives nobody up for being slow, and the charter's patience and
deadline decide. A member's own heartbeats say how far it is; what others say of it could make a liar's word drop an
honest site, and is not taken. No time to be woken at follows from this: a node looks again with each of its heartbeats.
"""

from __future__ import annotations

import statistics
from collections import deque

from gossip.peers import Peers
from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.replica import Replica
from swarm.machine import NodeId
from swarm.masking.statements import Keys
from swarm.pace import allowance, given_up, left_s, worth
from swarm.round import Phase

ROUNDS_REMEMBERED = 5
"""Of each member: its median forgets a change of speed after three rounds, and a hiccup at once."""


class Pacing:
    """Times of one site's rounds. Seconds on its own clock."""

    def __init__(self, charter: Charter, replica: Replica, peers: Peers) -> None:
        self._charter, self._replica, self._peers = charter, replica, peers
        self._opened: dict[int, float] = {}
        self._in: dict[NodeId, float] = {}  # to the round that it can be in, as `_in_round` has it
        self._in_round: dict[NodeId, int] = {}
        self._took: dict[NodeId, deque[float]] = {}
        self._samples: dict[NodeId, int] = {}
        self._worked: dict[NodeId, int] = {}  # where updates are masked: the round whose time was taken last

    def committed(self, now: float) -> None:
        """Learn that a round has just been committed, in a block of which this site hears as it becomes final."""
        head = self._replica.head
        self._opened[head.round] = now
        self._opened = {r: at for r, at in self._opened.items() if r >= head.round - self._charter.staleness}

    def offered(self, author: NodeId, body: e.Contribution, now: float) -> None:
        """Learn of a contribution as it comes."""
        if not self._charter.pace or self._charter.masks:
            return
        began = self._opened.get(body.round)
        if began is not None and body.attempt == 1:
            self._took.setdefault(author, deque(maxlen=ROUNDS_REMEMBERED)).append(max(0.0, now - began))
        number = self._replica.head.destined(author, body)
        if number is not None:
            self._in[author], self._in_round[author] = now, number
        self._samples[author] = body.samples

    def posted(self, author: NodeId, keys: Keys, now: float) -> None:
        """Learn of keys as they come: where updates are masked, they are what says that a member has trained."""
        head = self._replica.head
        if not self._charter.pace or keys.base_digest not in head.bases:
            return
        work = keys.round - head.bases.index(keys.base_digest)
        began = self._opened.get(work)
        if began is not None and self._worked.get(author, 0) < work:
            self._worked[author] = work
            self._took.setdefault(author, deque(maxlen=ROUNDS_REMEMBERED)).append(max(0.0, now - began))
        self._in[author], self._in_round[author] = now, keys.round
        self._samples[author] = keys.samples

    def outpaced(self, node: NodeId, round_: int, now: float) -> bool:
        """Whether a round, if it is the open one, goes on without a member for being slow."""
        opened = self._opened.get(round_)
        if (
            not self._charter.pace
            or opened is None
            or round_ != self._replica.head.round
            or self._too_late(node, round_)
        ):
            return False
        floor_s, until_s = self._peers.absence_s(), self._until(node, round_, opened)
        return until_s is not None and given_up(now - opened, until_s, floor_s, self._left(node, now))

    def _until(self, node: NodeId, round_: int, opened: float) -> float | None:
        """Return how long to wait for a member, in seconds since the round opened; None as long as it takes."""
        members = [seat.node for seat in self._replica.head.terms.members]
        usual = [statistics.median(took) for one in members if (took := self._took.get(one))]
        here = sorted(max(0.0, self._in[one] - opened) for one in members if self._in_round.get(one) == round_)
        most = len(members) // 2
        if len(usual) <= most or len(here) <= most:
            return None
        samples = [self._samples[one] for one in members if one in self._samples]
        cap = self._replica.head.terms.round.weight_cap_ppm
        return allowance(
            usual,
            here[most],
            worth=worth(samples, self._samples.get(node, 0), cap),
            factor=self._charter.pace,
            floor_s=self._peers.absence_s(),
        )

    def _too_late(self, node: NodeId, round_: int) -> bool:
        """Whether what a member is at would not even count late if this round went on without it."""
        member = self._peers.members.get(node)
        at_work = member is not None and member.phase == Phase.TRAINING
        return member is not None and at_work and round_ + 1 - member.round > self._charter.staleness

    def _left(self, node: NodeId, now: float) -> float | None:
        """Return how long a member's training has left at least, if it is at one and its steps say so."""
        member = self._peers.members.get(node)
        work = None if member is None else member.work
        if work is None or work.phase != Phase.TRAINING:
            return None
        return left_s(work.step, work.steps, work.began_step, now - work.began_at)
