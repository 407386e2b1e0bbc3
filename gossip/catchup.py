"""Who is asked for which blocks: a member that was away fetches the ledger from several others at once.

A plan and nothing else: it sends nothing, decodes nothing and knows no clock. Blocks are opaque bytes with a height. It
keeps a window of heights above what is final here, cuts what is missing in it into ranges, asks each range of one peer,
and hands on what has arrived in the order of heights. Its owner, who can tell whether blocks hold, says what came of
them.

What goes wrong costs whoever did it. A peer that does not answer in time is asked less for a while, and its range goes
to another. Blocks that do not hold are thrown away; if all of them came from one peer, that peer has lied and is not
asked again for a while. If they came from several it cannot be told who lied, so the next stretch is asked of one peer
alone, each time another, until it holds: whoever fails alone has lied. The worst a liar can do is to make this member
fetch one window again, once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from swarm.machine import NodeId

FULL, FAST = "full", "fast"
MODES = (FULL, FAST)
"""How a site follows what it missed: with every signature checked, or with one certificate for each stretch, the hashes
that lead to it, and the signatures of entries in the last blocks only. What is left out then, `verify` checks."""

RANGE_BLOCKS = 64
"""Blocks asked for at once: a few hundred kilobytes, which one answer holds. An answer may hold fewer."""

WINDOW_BLOCKS = 1024
WINDOW_BYTES_MAX = 16 << 20
"""How far ahead blocks are fetched: what has arrived and cannot be handed on yet is held in memory."""

ASKED_PER_PEER_MAX = 2
"""Ranges under way with one peer: one being sent while the next is asked for."""

TIMEOUT_S = 5.0
"""How long a peer may take for a range before another is asked as well."""

SLOW_S = 30.0
"""How long a peer that took longer is only asked where nobody else can be."""

LIAR_S = 300.0
"""How long a peer whose blocks did not hold is not asked."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this peer for the blocks of heights `first` to `last`."""

    node: NodeId
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive blocks from height `first` on, all from one peer."""

    node: NodeId
    first: int
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    ask: Ask
    at: float


class CatchUp:
    """See the module. `alone` is set while stretches are asked of one peer each, to find out who lies."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._asked: list[_Asked] = []
        self._got: dict[int, tuple[NodeId, bytes]] = {}
        self._bytes = 0
        self._slow: dict[NodeId, float] = {}
        self._liars: dict[NodeId, float] = {}
        self._moved: tuple[int, float] = (0, 0.0)
        self._alone_until = 0
        self._alone_with: NodeId | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is under way or waits to be handed on."""
        return bool(self._asked or self._got)

    @property
    def alone(self) -> bool:
        """Whether one peer at a time is asked."""
        return self._alone_until > 0

    def asks(self, height: int, tips: Mapping[NodeId, int], now: float) -> list[Ask]:
        """Return what to ask now. `height` is final here, `tips` says how far each peer that can be asked has come."""
        self._expire(height, tips, now)
        free = {node: tip for node, tip in tips.items() if tip > height and now >= self._liars.get(node, 0.0)}
        found: list[Ask] = []
        for first, last in self._gaps(height, max(free.values(), default=height)):
            node = self._choose(first, free, now)
            if node is None or (self.alone and (found or self._asked)):
                break
            ask = Ask(node, first, min(last, free[node]))
            found.append(ask)
            self._asked.append(_Asked(ask, now))
        if self._got and not self._asked and now - self._moved[1] >= TIMEOUT_S:
            # Nobody can be asked for what is missing below what is here: look again after as long.
            self._moved = self._moved[0], now
        return found

    def arrived(self, node: NodeId, first: int, blocks: Sequence[bytes], now: float) -> bool:
        """Take in an answer. Return whether it was asked for: late is not too late, but what nobody asked for is."""
        asked = next((a for a in self._asked if (a.ask.node, a.ask.first) == (node, first)), None)
        if asked is None or not blocks or len(blocks) > asked.ask.last - first + 1:
            return False
        self._asked.remove(asked)
        self._slow.pop(node, None)
        self._moved = (self._moved[0], now)
        for height, block in enumerate(blocks, first):
            if height not in self._got:
                self._got[height] = (node, block)
                self._bytes += len(block)
        return True

    def pieces(self, height: int) -> list[Piece]:
        """Return the blocks that follow `height` without a gap, in order, as their peers sent them."""
        self._forget_below(height + 1)
        found: list[Piece] = []
        at = height + 1
        while at in self._got:
            node = self._got[at][0]
            first, blocks = at, []
            while at in self._got and self._got[at][0] == node:
                blocks.append(self._got[at][1])
                at += 1
            found.append(Piece(node, first, tuple(blocks)))
        return found

    def stuck(self, height: int, now: float) -> bool:
        """Whether blocks that follow `height` are here and of no use, as there is no room for more, or none come."""
        if height + 1 not in self._got or self._asked:
            return False
        full = len(self._got) >= WINDOW_BLOCKS or self._bytes >= WINDOW_BYTES_MAX
        return full or (self._moved[0] == height and now - self._moved[1] >= TIMEOUT_S)

    def failed(self, height: int, nodes: Sequence[NodeId], now: float) -> NodeId | None:
        """Blocks above `height`, from these peers, do not hold. Return who has lied, if that can be told."""
        last = max(self._got, default=height)
        senders = sorted({*nodes})
        liar = senders[0] if len(senders) == 1 else None
        if liar is None:
            self._alone_until = max(self._alone_until, last)
        else:
            self._liars[liar] = now + LIAR_S
        self._alone_with = None
        for at in [at for at, (node, _) in self._got.items() if liar is None or node == liar]:
            self._drop(at)
        self._asked = [asked for asked in self._asked if liar is not None and asked.ask.node != liar]
        return liar

    def lost(self, node: NodeId) -> None:
        """A peer is gone: what it was asked for is asked of others."""
        self._asked = [asked for asked in self._asked if asked.ask.node != node]
        if self._alone_with == node:
            self._alone_with = None

    def next_wake(self) -> float | None:
        """Return when an answer is overdue, or what has come may be of no use."""
        if self._got and not self._asked:
            return self._moved[1] + TIMEOUT_S
        return min((asked.at + TIMEOUT_S for asked in self._asked), default=None)

    # --- parts --------------------------------------------------------------------------------------------------

    def _expire(self, height: int, tips: Mapping[NodeId, int], now: float) -> None:
        """Let go of what is overdue, of peers that are gone, and of what is final by now."""
        self._forget_below(height + 1)
        if height != self._moved[0]:
            self._moved = (height, now)
        if height >= self._alone_until:
            self._alone_until, self._alone_with = 0, None
        kept = []
        for asked in self._asked:
            if now - asked.at >= TIMEOUT_S:
                self._slow[asked.ask.node] = now + SLOW_S
                if self._alone_with == asked.ask.node:
                    self._alone_with = None
            elif asked.ask.node in tips and asked.ask.last > height:
                kept.append(asked)
        self._asked = kept

    def _gaps(self, height: int, target: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the window that have neither arrived nor been asked for, lowest first."""
        if self._bytes >= WINDOW_BYTES_MAX:
            return
        taken = {*self._got}
        for asked in self._asked:
            taken.update(range(asked.ask.first, asked.ask.last + 1))
        end = min(height + WINDOW_BLOCKS, target)
        at = height + 1
        while at <= end:
            if at in taken:
                at += 1
                continue
            first = at
            while at <= end and at not in taken and at < first + RANGE_BLOCKS:
                at += 1
            yield first, at - 1

    def _choose(self, first: int, free: Mapping[NodeId, int], now: float) -> NodeId | None:
        """Return the peer to ask for a range: one with room that is not slow, else one with room."""
        if self.alone and self._alone_with in free:
            return self._alone_with
        load = dict.fromkeys(free, 0)
        for asked in self._asked:
            if asked.ask.node in load:
                load[asked.ask.node] += 1
        able = [node for node, tip in free.items() if tip >= first and load[node] < ASKED_PER_PEER_MAX]
        brisk = [node for node in able if now >= self._slow.get(node, 0.0)] or able
        if not brisk:
            return None
        least = min(load[node] for node in brisk)
        chosen = self._rng.choice([node for node in brisk if load[node] == least])
        if self.alone:
            self._alone_with = chosen
        return chosen

    def _forget_below(self, height: int) -> None:
        for at in [at for at in self._got if at < height]:
            self._drop(at)

    def _drop(self, height: int) -> None:
        self._bytes -= len(self._got.pop(height)[1])
