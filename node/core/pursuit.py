"""Following the blocks that this site missed, and serving those that others missed (ledger.md 1.8).

Whom to ask is planned by `gossip.catchup`; whether blocks hold is told by whoever takes them in, `adopt`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gossip import messages as m
from gossip import wire
from gossip.catchup import FAST, CatchUp
from gossip.engine import Engine
from gossip.peers import Peers
from node.core.telling import blame
from swarm import codec
from swarm.errors import Reject
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header
from swarm.ledger.journal import parted
from swarm.ledger.replica import Replica
from swarm.machine import Audit, Audited, Buffer, Effect, NodeId, Report, Send, SendBlocks

BLOCKS_REPLY_BYTES_MAX = 512 * 1024
"""Final blocks sent in one answer: large enough that the way there and back does not matter."""

FAST_CHECKED_BLOCKS = 256
"""Blocks at the end whose every signature is checked, however fast a site catches up."""

CATCH_UP_AFTER_S = 1.0
"""A ledger that grew within this time is not behind, whatever a heartbeat says."""

SERVED_PER_S_MAX = 256
"""Answers a second to one peer, 128 MiB of blocks: more than anybody can check, and a bound for who asks in vain."""

Adopt = Callable[[Sequence[FinalBlock], bool, float], list[Effect]]
"""(blocks, whether what one certificate leads to may be believed, now)."""


class Pursuit:
    """Catching up, from several neighbours at once.

    `adopt` raises `Reject` if blocks do not hold; `resigned` says why this site follows nobody any more, if so.
    """

    def __init__(
        self,
        replica: Replica,
        engine: Engine,
        peers: Peers,
        rng: random.Random,
        *,
        mode: str,
        now: float,
        adopt: Adopt,
        resigned: Callable[[], str],
    ) -> None:
        self._replica, self._engine, self._peers = replica, engine, peers
        self._mode, self._adopt, self._resigned = mode, adopt, resigned
        self.plan = CatchUp(rng)
        self._grew_at = now
        self._served: dict[NodeId, tuple[int, int]] = {}
        self.unaudited = False
        self._auditing = False

    def grew(self, now: float) -> None:
        """The ledger has grown."""
        self._grew_at = now

    def ask(self, now: float) -> list[Effect]:
        """Ask neighbours that are ahead for the blocks this one lacks."""
        if self._resigned():
            return []
        if now - self._grew_at < CATCH_UP_AFTER_S and not self.plan.busy:
            return []
        height = self._replica.head.height
        tips = {node: self._peers.members[node].final_height for node in self._engine.welcome()}
        # One block behind for a moment is what every member is while votes travel.
        behind = max(tips.values(), default=0) > height and now - self._grew_at >= CATCH_UP_AFTER_S
        if not behind and not self.plan.busy:
            return []
        if self._mode == FAST and tips:
            # What most of them say: a few that claim to be far ahead cannot make this site believe more.
            middle = sorted(tips.values())[(len(tips) - 1) // 2]
            self._replica.trusted_height = max(self._replica.trusted_height, middle - FAST_CHECKED_BLOCKS)
        asks = self.plan.asks(height, tips, now)
        return [Send(ask.node, wire.encode(m.GetBlocks(ask.first, ask.last))) for ask in asks]

    def audit(self, now: float) -> list[Effect]:
        """Once this site has caught up, have checked what it believed on the way."""
        if not self.unaudited or self._auditing or self.plan.busy or now - self._grew_at < CATCH_UP_AFTER_S:
            return []
        self._auditing = True
        return [Audit()]

    def audited(self, event: Audited) -> list[Effect]:
        """Say what came of it. Whoever holds the alarm sounds it if the ledger does not hold."""
        self._auditing = self.unaudited = False
        if event.problem:
            return []
        return [Report("audited", "what was believed while catching up has been checked: the whole ledger holds")]

    def keep_up(self, now: float) -> list[Effect]:
        """See to what is overdue while this site catches up."""
        due = self.plan.next_wake()
        if due is None or now < due or self._resigned():
            return []
        return self._follow(now) + self.ask(now)

    def serve(self, sender: NodeId, message: m.GetBlocks, now: float) -> list[Effect]:
        """Have consecutive final blocks sent from the disk."""
        first, last = message.height, min(message.last, self._replica.head.height)
        second, count = self._served.get(sender, (0, 0))
        count = count + 1 if second == int(now) else 1
        if not 1 <= first <= last or count > SERVED_PER_S_MAX:
            return []
        self._served[sender] = int(now), count
        frame = wire.encode(m.BlockRange(first))
        return [SendBlocks(sender, frame, first, last, BLOCKS_REPLY_BYTES_MAX)]

    def on_range(self, sender: NodeId, message: m.BlockRange, payload: Buffer, now: float) -> list[Effect]:
        """Take in blocks that were asked for, and follow them as far as they follow on what is here."""
        blocks = parted(payload)
        if self.plan.arrived(sender, message.height, blocks, now):
            return self._follow(now) + self.ask(now)
        if message.height > self._replica.head.height + 1:
            return []
        # Too late, or of a height that is final here: it may help, or show that another block is final elsewhere.
        return self._take([_open(height, data) for height, data in enumerate(blocks, message.height)], now)

    def on_blocks(self, blocks: Sequence[FinalBlock], now: float) -> list[Effect]:
        """Take in blocks that somebody thought this site lacks."""
        return self._take(blocks, now) + self.ask(now)

    def _follow(self, now: float) -> list[Effect]:
        """Follow what has arrived. Blocks that no certificate covers wait for those above them, whoever sends these."""
        effects: list[Effect] = []
        if self._resigned():
            return effects
        waiting: list[tuple[NodeId, int, FinalBlock]] = []
        for piece in self.plan.pieces(self._replica.head.height):
            try:
                for height, data in enumerate(piece.blocks, piece.first):
                    waiting.append((piece.node, height, _open(height, data)))
                effects += self._take([final for _, _, final in waiting], now)
            except Reject as reason:
                return effects + self._doubt([*(node for node, _, _ in waiting), piece.node], reason.message, now)
            waiting = [one for one in waiting if one[1] > self._replica.head.height]
        if self.plan.stuck(self._replica.head.height, now):
            effects += self._doubt([node for node, _, _ in waiting], "blocks that nothing certifies", now)
        return effects

    def _take(self, blocks: Sequence[FinalBlock], now: float) -> list[Effect]:
        top = Header.decode(blocks[-1].block.header).height if blocks else 0
        linked = 0 < top <= self._replica.trusted_height
        effects: list[Effect] = []
        if linked and not self.unaudited:
            self.unaudited = True
            effects.append(Audit(later=True))
        effects += self._adopt(blocks, linked, now)
        self._grew_at = min(self._grew_at, now - CATCH_UP_AFTER_S)
        return effects

    def _doubt(self, nodes: Sequence[NodeId], text: str, now: float) -> list[Effect]:
        """Blocks do not hold: throw them away, and charge who sent them if it is known who that was."""
        liar = self.plan.failed(self._replica.head.height, nodes, now)
        if liar is None:
            said = f"blocks from several members do not hold: asking one at a time ({text})"
            return [Report("catch_up_doubt", said, level="warning")]
        return [blame(self._peers, liar, text, now)]


def _open(height: int, data: bytes) -> FinalBlock:
    final = codec.decode(data, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
    if Header.decode(final.block.header).height != height:
        raise Reject(f"couldn't follow block {height}: another was sent in its place")
    return final
