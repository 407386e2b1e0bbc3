"""Two histories of one ledger: how a fork is recognised, and whom it convicts.

More liars than the swarm tolerates can make two quorums finalize different blocks. The fork is *proved* by a block that
a quorum of its epoch finalized, directly or through a block above it, where this ledger has another; no word of whoever
sent it is believed. It is *accountable* (`ledger.md` 1.5): in the certificates that both histories carry, for finality
and for every view jumped over, at least 2q - n members have signed two statements that no honest member signs both of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import Certificate, FinalBlock, Header, Vote
from swarm.ledger.evidence import from_contradiction
from swarm.ledger.views import Contradiction, contradict
from swarm.terms import Terms


@dataclass(frozen=True, slots=True)
class Fork:
    """The first height at which a peer's certified history is another than ours, and its blocks from there on."""

    height: int
    ours: bytes
    theirs: tuple[FinalBlock, ...]


def find_fork(
    blocks: Sequence[FinalBlock],
    final_at: Callable[[int], tuple[bytes, int] | None],
    *,
    ledger_id: bytes,
    terms_of: Callable[[int], Terms | None],
) -> Fork | None:
    """Return the fork that consecutive blocks of a peer prove, or None when they prove none.

    Args:
        blocks: what the peer says is final, oldest first.
        final_at: hash and epoch of our final block at a height, None where they are not known.
        ledger_id: 32 bytes.
        terms_of: the terms of an epoch, None where they are not known.

    Raises:
        Reject: the blocks do not follow one another, or a certificate among them does not hold.
    """
    chain: list[tuple[FinalBlock, Header]] = []
    covered = 0
    for final in blocks:
        header = final.block.opened()
        if chain and (header.height, header.parent_hash) != (chain[-1][1].height + 1, chain[-1][1].hash):
            raise Reject(f"couldn't compare block {header.height}: it does not extend the one before it")
        terms = terms_of(header.epoch)
        if terms is None:
            break
        chain.append((final, header))
        if final.check(header, ledger_id, terms.vote_keys, terms.quorum):
            covered = len(chain)
    for i, (_, header) in enumerate(chain[:covered]):
        known = final_at(header.height)
        if known is not None and known[0] != header.hash:
            if header.epoch < known[1] and not header.count:
                return None  # An empty block that helped the last one of its epoch to become final: no history.
            return Fork(header.height, known[0], tuple(final for final, _ in chain[i:]))
    return None


def contradictions(histories: Iterable[Sequence[FinalBlock]]) -> Iterator[tuple[int, int, Vote, Vote]]:
    """Yield (epoch, signer, one vote, another) for every pair in the histories' certificates that convicts its signer.

    Certificates are taken as they are: whoever wants proof checks the votes, see `swarm.ledger.evidence`.
    """
    said: dict[tuple[int, int, int], dict[tuple[int, bytes], Vote]] = {}
    for history in histories:
        for certificate in _certificates(history):
            for signer, signature in zip(certificate.signers, certificate.signatures, strict=True):
                vote = Vote(certificate.epoch, certificate.view, certificate.kind, certificate.block, signer, signature)
                place = (certificate.epoch, certificate.view, signer)
                said.setdefault(place, {}).setdefault((vote.kind, vote.block), vote)
    for (epoch, _, signer), votes in sorted(said.items()):
        pairs = [(a, b) for a in votes.values() for b in votes.values() if (a.kind, a.block) < (b.kind, b.block)]
        for first, second in pairs:
            if contradict(first.kind, first.block, second.kind, second.block):
                yield epoch, signer, first, second


def charges(histories: Iterable[Sequence[FinalBlock]], terms_of: Callable[[int], Terms | None]) -> list[e.Evidence]:
    """Return the evidence that histories hold against their members, one for each member and rule."""
    found: dict[tuple[bytes, int], e.Evidence] = {}
    for epoch, signer, first, second in contradictions(histories):
        terms = terms_of(epoch)
        if terms is not None and signer < len(terms.members):
            pair = Contradiction("", signer, first.view, codec.encode(first), codec.encode(second))
            body = from_contradiction(pair, terms)
            if body is not None:
                found.setdefault((body.culprit, body.rule), body)
    return list(found.values())


def _certificates(history: Sequence[FinalBlock]) -> Iterator[Certificate]:
    for final in history:
        yield from final.block.justify
        yield from final.certificate
