"""This site's part in the consensus of the epoch at hand, and what becomes of what consensus wants."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from gossip.peers import Peers
from node.core.myself import Myself
from swarm import identity
from swarm.identity import Verify
from swarm.ledger.block import Block, Certificate, FinalBlock, Vote
from swarm.ledger.consensus import Consensus, Durable, Note, Output, Status, Timing, ToAll, ToOne
from swarm.ledger.replica import Replica
from swarm.machine import Effect, NodeId, Persist, Report, Send

AGREEMENT = (m.Propose, m.CastVote, m.Certify, m.Standing)
"""The messages that only members of an epoch have to say anything with."""


class Agreement:
    """The consensus of one epoch after another. `terms` are those it was convened under."""

    def __init__(
        self,
        who: Myself,
        replica: Replica,
        engine: Engine,
        peers: Peers,
        rng: random.Random,
        *,
        ledger_id: bytes,
        timing: Timing,
        verify: Verify = identity.verify,
    ) -> None:
        self._who, self._replica, self._engine, self._peers = who, replica, engine, peers
        self._rng, self._ledger_id, self._timing, self._verify = rng, ledger_id, timing, verify
        self.convene()

    def convene(self) -> None:
        """Begin the agreement of the epoch that the ledger has reached."""
        head = self._replica.head
        self._who.take_keys()
        self.terms = head.terms
        self.consensus = Consensus(
            ledger_id=self._ledger_id,
            epoch=head.terms.epoch,
            vote_keys=head.terms.vote_keys,
            me=self._who.index if self._who.speaks else None,
            sign=self._who.identity.vote_key.sign,
            application=self._replica,
            rng=self._rng,
            timing=self._timing,
            seed=int.from_bytes(self._ledger_id[:4], "big"),
            root=head.root,
            verify=self._verify,
        )

    def member(self, node: NodeId) -> int:
        """Return the index of a member. It is an error of ours to ask it of anybody else."""
        index = self._who.terms.index(node)
        assert index is not None, "only members are asked about agreement"
        return index

    def hear(self, sender: NodeId, message: m.Message, frame: bytes, now: float) -> list[Effect]:
        """Take in one of the messages of agreement, and pass on what was worth it. Raises `Reject`."""
        match message:
            case m.Propose():
                outputs = self.consensus.on_proposal(message.block, self.member(sender), now)
                return self.obey(outputs) + self._pass_on(frame, message.block.proposer, sender)
            case m.CastVote():
                outputs = self.consensus.on_vote(message.vote, self.member(sender), now)
                return self.obey(outputs) + self._pass_on(frame, message.vote.signer, sender)
            case m.Certify():
                return self.obey(self.consensus.on_certificate(message.certificate, self.member(sender), now))
            case m.Standing():
                return self.obey(self.consensus.on_status(message.status, self.member(sender), now))
            case _:
                raise AssertionError("only messages of agreement come here")

    def _pass_on(self, frame: bytes, origin: int, sender: NodeId) -> list[Effect]:
        """Pass on what the consensus has just verified, and nothing else: not even whose it is is known before."""
        return self._engine.relay(frame, self.terms.members[origin].node, sender) if self.consensus.fresh else []

    def obey(self, outputs: Sequence[Output]) -> list[Effect]:
        """Turn what consensus wants into effects, in its order."""
        effects: list[Effect] = []
        for output in outputs:
            match output:
                case Durable():
                    effects.append(Persist(output.records))
                case ToAll():
                    effects += self._engine.broadcast(_message(output.message))
                case ToOne():
                    node = self.terms.members[output.to].node
                    if self._engine.knows(node) and self._peers.members[node].welcome:
                        effects.append(Send(node, wire.encode(_message(output.message))))
                case Note():
                    effects.append(Report(output.event, output.text, level=output.level))
        return effects


def _message(said: Block | Vote | Certificate | Status | FinalBlock) -> m.Message:
    """Wrap what consensus says as a message."""
    match said:
        case Block():
            return m.Propose(said)
        case Vote():
            return m.CastVote(said)
        case Certificate():
            return m.Certify(said)
        case Status():
            return m.Standing(said)
        case FinalBlock():
            return m.Blocks((said,))
