"""Checking a ledger from the outside: everything is recomputed, nothing is believed.

The trust root is the charter. Every block must extend the one before it, be covered by a finalize certificate of a
quorum of the members, and contain only what the state before it allows; every entry's signature is checked and every
derived entry recomputed. The audit holds one state and one block at a time, so it works on a ledger of any length, and
it never needs a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, FINALIZE, FinalBlock, Header
from swarm.ledger.state import Closed, Noted, Placed, Signatures, State, apply_block, genesis
from swarm.machine import NodeId


@dataclass(frozen=True, slots=True)
class Failure:
    """The first thing that does not hold, at which block height."""

    height: int
    text: str


@dataclass(slots=True)
class RoundView:
    """One round as the log tells it."""

    number: int
    contributions: dict[NodeId, Placed] = field(default_factory=dict)
    closed: Closed | None = None
    closed_ms: int = 0
    commit: e.RoundCommit | None = None
    committed_ms: int = 0
    height: int = 0
    evaluations: dict[NodeId, e.Evaluation] = field(default_factory=dict)


@dataclass(slots=True)
class Audit:
    """What an audit found. `failure` is None for a ledger that holds; `covered` counts blocks under a certificate."""

    state: State
    blocks: int = 0
    entries: int = 1
    certificates: int = 0
    covered: int = 0
    rounds: dict[int, RoundView] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def uncovered(self) -> int:
        """Blocks at the end that no certificate covers yet."""
        return self.blocks - self.covered


def audit(payloads: Iterable[bytes], signed: SignedCharter, *, trusting: bool = False) -> Iterator[Audit]:
    """Check a ledger block by block, yielding the audit after each; stop at the first failure.

    `payloads` are the records of the ledger in order. `trusting` skips signatures, for looking rather than checking.
    """
    signatures = Signatures()
    signatures.trusting = trusting
    result = Audit(genesis(signed))
    keys = [card.vote_key for card in signed.charter.members]
    ledger_id, quorum = result.state.ledger_id, signed.charter.quorum
    tip: Header | None = None
    yield result
    for payload in payloads:
        height = result.state.height + 1
        try:
            final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
            header = final.block.opened()
            _check_link(header, tip, ledger_id)
            noted: list[Noted] = []
            result.state = apply_block(result.state, header, final.block.leaves, signatures, noted)
            for certificate in final.certificate:
                if certificate.kind != FINALIZE or certificate.block != header.hash:
                    raise Reject(f"couldn't accept block {header.height}: its certificate is for something else")
                if not trusting:
                    certificate.check(ledger_id, keys, quorum)
                result.certificates += 1
                result.covered = result.blocks + 1
        except Reject as reason:
            result.failure = Failure(height, reason.message)
            yield result
            return
        result.blocks += 1
        result.entries += header.count
        tip = header
        _note(result, header, noted)
        yield result


def _check_link(header: Header, tip: Header | None, ledger_id: bytes) -> None:
    parent, view = (ledger_id, 0) if tip is None else (tip.hash, tip.view)
    if header.parent_hash != parent or header.parent_view != view or header.view <= view:
        raise Reject(f"couldn't accept block {header.height}: it does not extend the block before it")


def _note(result: Audit, header: Header, noted: Sequence[Noted]) -> None:
    """Gather what a block, now checked, says about rounds: what counts, whatever else a member may have written."""
    state = result.state
    for index, entry, body in noted:
        author = NodeId(entry.author)
        match body:
            case e.Contribution():
                placed = state.contributions.get((body.round, author))
                if placed is not None and placed.index == index:
                    _round(result, body.round).contributions[author] = placed
            case e.Evaluation():
                if body.round in result.rounds and body.round <= state.committed.round:
                    result.rounds[body.round].evaluations[author] = body
            case e.RoundClose():
                view = _round(result, body.round)
                # A close is the last entry of its block, so this is the one.
                view.closed, view.closed_ms = state.close, header.time_ms
            case e.RoundCommit():
                view = _round(result, body.round)
                view.commit, view.committed_ms, view.height = body, header.time_ms, header.height
            case _:
                pass


def _round(result: Audit, number: int) -> RoundView:
    return result.rounds.setdefault(number, RoundView(number))


def weights(view: RoundView) -> Mapping[NodeId, float]:
    """Return each included member's share of a round's mean, 0 to 1."""
    if view.closed is None:
        return {}
    total = sum(weight for _, weight in view.closed.body.included)
    pairs = zip(view.closed.terms, view.closed.body.included, strict=True)
    return {placed.author: weight / total for placed, (_, weight) in pairs}
