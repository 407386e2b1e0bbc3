"""Folders as nodes leave them behind: a charter, a ledger, and the checkpoint that the members cosigned."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from node.storage import RealDisk
from swarm import charter as c
from swarm.ledger.journal import Journal
from swarm.ledger.tiles import CHECKPOINT
from swarm.machine import RECORD_BLOCK, Record
from tests.builders import Swarm, make_swarm
from topologies.families import complete
from topologies.world.clock import EPOCH_S
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

SETTLED_S = 15.0
"""Virtual seconds after the end of a run in which its last block is cosigned."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves: the swarm, the blocks in order, and member 0's checkpoints, oldest first."""

    swarm: Swarm
    payloads: tuple[bytes, ...]
    checkpoints: tuple[bytes, ...]


def calm_world(swarm: Swarm) -> World:
    """Return a world in which nothing goes wrong and all sites have as much data."""
    members = len(swarm.identities)
    world = World(
        seed=1,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=incarnation),
        topology=complete(members),
        learner=QuadraticTask(seed=1, samples=(100,) * members, bound=100.0),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


@functools.cache
def calm_run(*, members: int = 4, rounds: int = 3) -> Left:
    """Let real nodes learn in a calm world until the end of their log is cosigned by all."""
    swarm = make_swarm(members, rounds=rounds)
    world = calm_world(swarm)
    place = world.place(0)
    seen: list[bytes] = []

    def look(w: World) -> bool:
        note = place.published.get(CHECKPOINT)
        if note is not None and note not in seen:
            seen.append(note)
        return all(p.finished for p in w.places)

    assert world.run(look)
    ended = world.now
    world.run(lambda w: bool(look(w) and w.now > ended + SETTLED_S))
    assert place.journal is not None
    payloads = tuple(record.payload for record in place.journal.open().records if record.kind == RECORD_BLOCK)
    return Left(swarm, payloads, tuple(seen))


def write_site(folder: Path, left: Left, *, blocks: int | None = None, checkpoint: bytes | None = None) -> Path:
    """Write a site's folder with the first `blocks` blocks, or all, and a published checkpoint."""
    folder.mkdir(parents=True)
    (folder / "charter.toml").write_text(c.to_toml(left.swarm.signed))
    disk = RealDisk(folder / "ledger")
    journal = Journal(disk, ledger_id=left.swarm.signed.ledger_id, segment_bytes=1 << 17)
    journal.open()
    for height, payload in enumerate(left.payloads[:blocks], 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    disk.close()
    if checkpoint is not None:
        (folder / "ledger" / CHECKPOINT).write_bytes(checkpoint)
    return folder
