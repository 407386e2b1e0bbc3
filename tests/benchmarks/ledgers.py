"""Ledgers to measure on: made by real nodes in the simulated world."""

from __future__ import annotations

from swarm import codec
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.machine import RECORD_BLOCK
from tests.builders import make_swarm
from tests.sites import calm_world


def make_ledger(*, members: int, rounds: int) -> tuple[SignedCharter, list[bytes], int]:
    """Return (charter, block records, signatures in it) of a calm run."""
    swarm = make_swarm(members, rounds=rounds)
    world = calm_world(swarm)
    assert world.run(lambda w: all(place.finished for place in w.places))
    journal = world.place(0).journal
    assert journal is not None
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    signatures = 0
    for payload in payloads:
        final = codec.decode(payload, FinalBlock, limit=1 << 21)
        signatures += sum(len(certificate.signatures) for certificate in final.certificate)
        signatures += sum(e.decode_entry(leaf).author != e.NO_AUTHOR for leaf in final.block.leaves)
    return swarm.signed, payloads, signatures
