"""Vouching for the head of the log before the world outside: cosigned checkpoints (ledger.md 1.9)."""

from __future__ import annotations

import random

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from node.core.myself import Myself
from swarm.ledger.cosign import Cosigners
from swarm.ledger.tiles import CHECKPOINT
from swarm.machine import Effect, NodeId, Publish, Report, Send


class Vouching:
    """The traffic of cosignatures; what they are and when they are due is `swarm.ledger.cosign`'s."""

    def __init__(self, who: Myself, engine: Engine, cosigners: Cosigners, rng: random.Random) -> None:
        self._who, self._engine, self._cosigners, self._rng = who, engine, cosigners, rng

    def follow_terms(self) -> None:
        """Know the members' keys of the epoch at hand."""
        terms = self._who.terms
        keys = [(seat.name, seat.cosign_key) for seat in terms.members]
        self._cosigners.update(self._who.identity.cosign_key, keys, terms.quorum)

    def hear(self, sender: NodeId, message: m.Cosign, frame: bytes) -> list[Effect]:
        """Take in a cosignature and pass it on."""
        if not self._cosigners.admit(message.cosignature):
            return []
        signer = message.cosignature.key
        origin = next((seat.node for seat in self._who.terms.members if seat.cosign_key == signer), sender)
        return self._engine.relay(frame, origin, sender)

    def step(self, now: float) -> list[Effect]:
        """Sign what is due, remind a neighbour of what it may lack, and publish what a quorum vouches for."""
        effects: list[Effect] = []
        made = self._cosigners.sign(now)
        if made is not None:
            effects += self._engine.broadcast(m.Cosign(made))
        reminder = self._cosigners.remind(now)
        if reminder and (welcome := self._engine.welcome()):
            to = self._rng.choice(welcome)
            effects += [Send(to, wire.encode(m.Cosign(held))) for held in reminder]
        note = self._cosigners.publish()
        if note is not None:
            effects.append(Publish(CHECKPOINT, note))
        for found in self._cosigners.contradictions():
            text = f"two heads of one log: {found.text}"
            effects.append(Report("cosignatures_contradict", text, {"peer": found.member}, level="error"))
        return effects
