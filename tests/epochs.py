"""A ledger whose members change, as four founders, a newcomer and the votes of all of them make it.

Epoch 0 has the founders, site-0 to site-3. In epoch 1 site-4 has joined, in epoch 2 site-2 has taken new keys of every
kind, in epoch 3 site-1 is gone, by the votes of three and against its own.
"""

from __future__ import annotations

import dataclasses
import functools

from node import governance
from swarm import codec
from swarm import terms as t
from swarm.charter import SignedCharter
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header, entries_hash, justify_hash
from swarm.machine import RECORD_BLOCK
from tests.builders import certify, identity, make_swarm
from tests.simulation.test_membership import card, changing, committed, finished, head, in_epoch, propose

FRESH = 77
"""The number of the identity that site-2 takes."""

ROUNDS = 10


@functools.cache
def changing_ledger(edges: tuple[tuple[int, int], ...] = ()) -> tuple[SignedCharter, tuple[bytes, ...]]:
    """Return the charter and the block records of site-0. The founders are linked by `edges`, or everyone is."""
    fresh = {2: identity(FRESH)}
    world = changing(4, newcomers=1, rounds=ROUNDS, approve=governance.ASK, successors=fresh, edges=edges)
    assert world.run(lambda w: committed(w, 0, 1), end_s=100)
    for who, change, yes, no in (
        (0, t.add(card(4)), (1, 3), (2,)),
        (2, t.rotate(identity(2).node, card(2, identity(FRESH))), (0, 1, 3), ()),
        (0, t.remove(identity(1).node), (2, 3, 4), (1,)),
    ):
        propose(world, who, change)
        assert world.run(lambda w: all(head(w, m).motions for m in range(4)), end_s=200)
        name = head(world, who).motions[0].id.hex()
        for voter in no:
            world.ask(voter, f"vote {name} no")
            assert world.run(lambda w: len(head(w, 0).motions[0].votes) == 2, end_s=200)
        for voter in yes:
            world.ask(voter, f"vote {name} yes")
        epoch = head(world, 0).terms.epoch + 1
        assert world.run(in_epoch(epoch, *((0, 1, 2, 3) if epoch == 1 else (0, 2, 3, 4))), end_s=200)
    assert world.run(finished(0, 2, 3, 4), end_s=300)
    journal = world.place(0).journal
    assert journal is not None
    payloads = tuple(record.payload for record in journal.open().records if record.kind == RECORD_BLOCK)
    return make_swarm(4, rounds=ROUNDS, edges=edges).signed, payloads


def opened(payload: bytes) -> FinalBlock:
    """Return the record of a block."""
    return codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)


def empty_child(header: Header) -> Header:
    """Return the header of an empty block of the same epoch, in the next view."""
    fields = {"view": header.view + 1, "height": header.height + 1, "time_ms": header.time_ms + 1}
    fields |= {"parent_view": header.view, "first_index": header.size, "count": 0}
    hashes = {"parent_hash": header.hash, "entries_hash": entries_hash(()), "justify_hash": justify_hash(())}
    return dataclasses.replace(header, **fields, **hashes)


def covered_ledger() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """Return the same ledger, but for the end of epoch 0: its last block is final through two empty ones above it."""
    signed, payloads = changing_ledger()
    last = next(i for i, payload in enumerate(payloads) if opened(payload).block.opened().epoch == 1) - 1
    block = opened(payloads[last]).block
    child = empty_child(block.opened())
    grandchild = empty_child(child)
    certificate = certify(make_swarm(4, rounds=ROUNDS), grandchild)
    record = codec.encode(FinalBlock(block, (certificate,), (child.encode(), grandchild.encode())))
    return signed, (*payloads[:last], record, *payloads[last + 1 :])
