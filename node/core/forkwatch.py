"""Noticing that there are two histories: then this site agrees to nothing more, keeps training and keeps the proof."""

from __future__ import annotations

from collections.abc import Sequence

from gossip import messages as m
from gossip import wire
from node.core.agreement import Agreement
from swarm import codec
from swarm.ledger.block import FinalBlock, Header
from swarm.ledger.forks import Fork, find_fork
from swarm.ledger.replica import Replica
from swarm.machine import Effect, NodeId, Publish, Report, Send

HASHES_KEPT = 4096
"""Final blocks whose hashes are at hand, to notice that a neighbour has another history: 128 KiB."""

FORK_BLOCKS = 64
"""Blocks asked of a neighbour whose history is another: enough to reach back to where they part, as a rule."""

INQUIRE_S = 5.0
"""Between such questions: an answer takes time, and whoever is lying may be asked for ever."""


class ForkWatch:
    """The fork alarm (ledger.md 1.6). `alarm` says what is wrong; `proved` whether certificates show it."""

    def __init__(self, replica: Replica, agreement: Agreement, ledger_id: bytes) -> None:
        self._replica, self._agreement, self._ledger_id = replica, agreement, ledger_id
        self.alarm = ""
        self.proved = False
        self._finals: dict[int, tuple[bytes, int]] = {}
        self._inquired_at = 0.0

    def note(self, header: Header) -> None:
        """Remember a block that is final here."""
        self._finals[header.height] = header.hash, header.epoch
        self._finals.pop(header.height - HASHES_KEPT, None)

    def hash_at(self, height: int) -> bytes:
        """Return the hash of a final block; empty if it is too long ago."""
        return self._finals.get(height, (b"", 0))[0]

    def compare(self, sender: NodeId, beat: m.Heartbeat, now: float) -> list[Effect]:
        """Ask a neighbour with another final block than ours for its blocks: they prove a fork, or it lies."""
        ours = self.hash_at(beat.final_height)
        if not ours or not beat.final_hash or ours == beat.final_hash:
            return []
        return self.inquire(sender, beat.final_height, now)

    def inquire(self, sender: NodeId, height: int, now: float) -> list[Effect]:
        """Ask a neighbour for its blocks up to a height."""
        if now < self._inquired_at + INQUIRE_S or self.proved:
            return []
        self._inquired_at = now
        return [Send(sender, wire.encode(m.GetBlocks(max(1, height - FORK_BLOCKS), height)))]

    def examine(self, blocks: Sequence[FinalBlock]) -> list[Effect]:
        """Look whether blocks prove that the ledger has forked."""
        head = self._replica.head
        overlapping = any(Header.decode(final.block.header).height <= head.height for final in blocks)
        if self.proved or not overlapping:
            return []
        fork = find_fork(blocks, self._finals.get, ledger_id=self._ledger_id, terms_of=head.terms_of)
        if fork is None:
            return []
        return self.sound(f"the ledger has forked: a quorum finalized two blocks at height {fork.height}", fork)

    def sound(self, what: str, fork: Fork | None = None) -> list[Effect]:
        """Stop agreeing for good."""
        self.alarm = self._agreement.consensus.halted = what
        self.proved = fork is not None
        hint = "more members have lied than the swarm tolerates; `swarm ledger forks` names them; found a successor"
        effects: list[Effect] = [Report("fork", f"{what} ({hint})", level="error")]
        if fork is not None:
            effects.append(Publish(f"fork-{fork.height:08d}", codec.encode(fork.theirs)))
        return effects
