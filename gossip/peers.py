"""Who is alive, who is moving, who misbehaved.

Two questions are kept apart, because real swarms lost sites by confusing them: *is it there* (any word from it, at
heartbeat pace) and *is it getting anywhere* (its work advanced). A slow site that still moves is never silent. What
neighbours tell about members we have no link to is believed for these two questions only; the worst a lie can do is to
delay a close until the charter's deadline.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gossip.messages import Heartbeat, Progress
from gossip.roundtrip import Echo
from swarm.machine import Contact, NodeId
from swarm.round import Phase
from swarm.terms import Terms

HEARTBEAT_S = 1.0
"""Between heartbeats to each neighbour: 60 bytes a member, and a killed site is noticed within a few."""

ABSENCE_SHARE = 0.25
ABSENCE_S_MIN = 3.0
ABSENCE_S_MAX = 60.0
"""A member nobody has heard for a quarter of the charter's patience counts as absent, within these bounds: three lost
heartbeats are an accident, a minute without any is not."""

ROWS_TOLD_MAX = 4096
ROWS_TOLD_MIN = 16
"""Rows about members in one round of heartbeats, over all links together: all members while up to 64 are all linked to
each other, at 50 bytes a row 200 KB a second. In a larger swarm a heartbeat tells of its sender and of others in turn,
so many at least; a hundred neighbours that each begin elsewhere tell of everybody every second all the same."""

FAULTS_MAX = 20
"""Faults within one window after which a peer is ignored until the window ends."""

FAULT_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a member itself says of what it is doing, since when and which step: others' word on that is not taken."""

    round: int
    phase: int
    began_at: float
    began_step: int
    step: int
    steps: int

    def told(self, row: Progress, at: float) -> Work:
        """Return what it is doing by its next word, of something it did at this time."""
        if (row.round, row.phase) != (self.round, self.phase) or row.step < self.step:
            return Work(row.round, row.phase, at, row.step, row.step, row.steps)
        return replace(self, step=row.step, steps=row.steps)


@dataclass(slots=True)
class Member:
    """What is known of one other member. Times are on this node's clock, in seconds."""

    name: str
    linked: bool = False
    welcome: bool = False
    via: str = ""  # the name of the member through which the link goes; empty if it is direct
    refused: str = ""  # why this node will not work with it
    refuses: str = ""  # why it says that it will not work with this node
    identifier: str = ""  # of the mismatch that `refused` tells of
    greeted_at: float = 0.0
    told: dict[str, tuple[str, float]] = field(default_factory=dict)  # by event, what was reported last, and when
    protocol: tuple[int, int] = (0, 0)  # as it greeted last
    software: str = ""
    capabilities: frozenset[str] = frozenset()
    round: int = 0
    phase: int = 0
    paused: bool = False  # by its own word: a neighbour's could have it left out of a round
    step: int = 0
    steps: int = 0
    moved_at: float = 0.0
    heard_at: float = 0.0
    final_height: int = 0
    clock_offset_ms: int = 0
    disk_free: int = 0
    faults: list[float] = field(default_factory=list)
    work: Work | None = None
    echo: Echo = field(default_factory=Echo)


class Peers:
    """The table of the members, and of this node."""

    def __init__(self, terms: Terms, me: NodeId, now: float, sponsors: Sequence[Contact] = ()) -> None:
        self.me = me
        self.members: dict[NodeId, Member] = {}
        self._sponsors = {contact.node: contact.name for contact in sponsors}
        self._next_row = 0
        self.update(terms, now)

    def update(self, terms: Terms, now: float) -> None:
        """Follow a change of terms. Who stays keeps what is known of it.

        This node is always in the table, and its sponsors are until it is a member itself.
        """
        self._patience_s = terms.round.patience_ms / 1000
        self._absence_s = min(max(self._patience_s * ABSENCE_SHARE, ABSENCE_S_MIN), ABSENCE_S_MAX)
        names = {seat.node: seat.name for seat in terms.members}
        if self.me not in names:
            names = {**self._sponsors, **names, self.me: "this site"}
        before = self.members
        self.members = {
            node: before.get(node) or Member(name, moved_at=now, heard_at=now) for node, name in names.items()
        }
        for node, name in names.items():
            self.members[node].name = name  # Of this site it is not known before it is a member.
        self._order = tuple(self.members)
        self._next_row = self._order.index(self.me) + 1
        self._deadlines = [(0.0, node, moves) for node in self._order if node != self.me for moves in (False, True)]
        self._passed: list[tuple[NodeId, bool]] = []

    def silent(self, node: NodeId, now: float) -> bool:
        """Whether a member is absent, has made no progress for the charter's patience, or says that it is paused."""
        if node == self.me:
            return False
        if self.members[node].paused:
            return True
        # The very sums of `next_silence`: whoever is woken then has to find what it was woken for.
        return now >= self._deadline(node, False) or now >= self._deadline(node, True)

    def absent(self, node: NodeId, now: float) -> bool:
        """Whether nobody has heard of a member lately."""
        return node != self.me and now >= self._deadline(node, False)

    def absence_s(self) -> float:
        """Return after how many seconds without a word a member counts as absent."""
        return self._absence_s

    def next_silence(self, now: float) -> float | None:
        """Return the next time at which some member would become silent if nothing more is heard.

        Asked after every event, so that looking at everybody would be most of a large swarm's work. Deadlines only move
        on; the heap holds each as it was once, and the first is looked at again until it is still what it was.
        """
        heap = self._deadlines
        for passed in [one for one in self._passed if self._deadline(*one) > now]:
            self._passed.remove(passed)
            heapq.heappush(heap, (self._deadline(*passed), *passed))
        while heap:
            end, node, moves = heap[0]
            actual = self._deadline(node, moves)
            if actual != end:
                heapq.heapreplace(heap, (actual, node, moves))
            elif end <= now:
                heapq.heappop(heap)
                self._passed.append((node, moves))
            else:
                return end
        return None

    def _deadline(self, node: NodeId, moves: bool) -> float:
        """When a member is silent for want of any word, or of any progress, unless more is heard."""
        member = self.members[node]
        return member.moved_at + self._patience_s if moves else member.heard_at + self._absence_s

    def heard(self, node: NodeId, now: float) -> None:
        """Any authenticated word of a member shows that it is there."""
        self.members[node].heard_at = now

    def moved(self, node: NodeId, now: float) -> None:
        """A member's own signed work arrived: it is there and getting somewhere."""
        member = self.members.get(node)
        if member is not None:
            member.heard_at = max(member.heard_at, now)
            member.moved_at = max(member.moved_at, now)

    def note_self(self, *, round_: int, phase: int, step: int, steps: int, now: float) -> None:
        """Record what this node is doing, to be told to the others."""
        mine = self.members[self.me]
        doing = (round_, phase, step)
        if doing != (mine.round, mine.phase, mine.step):
            mine.moved_at = now
        mine.round, mine.phase, mine.step, mine.steps, mine.heard_at = round_, phase, step, steps, now

    def on_heartbeat(self, sender: NodeId, beat: Heartbeat, now: float) -> None:
        """Learn from a neighbour about itself and about those it hears of."""
        teller = self.members[sender]
        teller.heard_at = now
        teller.final_height = beat.final_height
        teller.clock_offset_ms = beat.now_ms - int(now * 1000)
        teller.disk_free = beat.disk_free
        teller.paused = any(row.node == sender and row.phase == Phase.PAUSED for row in beat.progress)
        for row in beat.progress:
            member = self.members.get(NodeId(row.node))
            if member is None or row.node == self.me:
                continue
            moved_at = now - max(0, row.moved_ms) / 1000
            if moved_at >= member.moved_at or row.node == sender:
                member.round, member.phase = row.round, row.phase
                member.step, member.steps = row.step, row.steps
            if row.node == sender:
                fresh = Work(row.round, row.phase, moved_at, row.step, row.step, row.steps)
                member.work = fresh if member.work is None else member.work.told(row, moved_at)
            member.moved_at = max(member.moved_at, moved_at)
            member.heard_at = max(member.heard_at, now - max(0, row.heard_ms) / 1000)

    def heartbeat(
        self, now: float, *, final_height: int, final_hash: bytes, disk_free: int, links: int = 1
    ) -> Heartbeat:
        """Return this node's next heartbeat: itself and those it knows of, in member order.

        With so many `links` that all rows over all of them would be too many, only some of the others, in turn.
        """
        rows = tuple(
            Progress(
                node,
                member.round,
                member.phase,
                member.step,
                member.steps,
                max(0, int((now - member.moved_at) * 1000)),
                max(0, int((now - member.heard_at) * 1000)),
            )
            for node, member in self._told(links)
        )
        return Heartbeat(int(now * 1000), final_height, final_hash, disk_free, rows)

    def _told(self, links: int) -> Iterable[tuple[NodeId, Member]]:
        """Whom the next heartbeat tells of."""
        n = len(self._order)
        if n * links <= ROWS_TOLD_MAX:
            return self.members.items()
        count = min(n - 1, max(ROWS_TOLD_MIN, ROWS_TOLD_MAX // links))
        begin, self._next_row = self._next_row, (self._next_row + count) % n
        turn = sorted({self._order.index(self.me), *((begin + i) % n for i in range(count))})
        return [(self._order[i], self.members[self._order[i]]) for i in turn]

    def fault(self, node: NodeId, now: float) -> None:
        """Count a fault of an authenticated peer."""
        member = self.members[node]
        member.faults = [at for at in member.faults if now - at < FAULT_WINDOW_S][-FAULTS_MAX:]
        member.faults.append(now)

    def ignored(self, node: NodeId, now: float) -> bool:
        """Whether a peer has misbehaved so often of late that it is not listened to."""
        member = self.members[node]
        return len(member.faults) > FAULTS_MAX and now - member.faults[0] < FAULT_WINDOW_S
