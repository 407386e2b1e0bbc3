"""One simulated process, as the world and its checkers see it, and the counters of a run.

Values only: who it is, what it owns, what it has said, and how far it is with the effects of its last event. What
happens to it is the world's business. It survives its crashes; the machine inside does not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from gossip.relay import Passages
from swarm.ledger.journal import Journal, Opened
from swarm.machine import Answer, Effect, Event, Finished, Machine, NodeId, Report
from topologies.world.blobs import BlobStore
from topologies.world.clock import Clock
from topologies.world.disk import SimulatedDisk
from topologies.world.faults import Crash

Connections = tuple[tuple[int, int, int], ...]
"""The processes at the other end of a link: (slot, incarnation, epoch of the connection) each. Empty means down."""

SENT_MAX = 512
"""Messages of which a process may send copies."""


@dataclass(slots=True, kw_only=True)
class Stats:
    """What happened so far. `frames` were sent by machines; copies to twins and repeats are counted on arrival."""

    events: int = 0
    frames: int = 0
    frame_bytes: int = 0
    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    unroutable: int = 0
    persists: int = 0
    crashes: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """One process: what it owns, what it has said, and how far it is with the effects of its last event."""

    slot: int
    member: int
    twin: int
    id: NodeId
    name: str
    disk: SimulatedDisk
    blobs: BlobStore
    clock: Clock = field(default_factory=Clock)
    machine: Machine | None = None
    incarnation: int = -1
    journal: Journal | None = None
    opened: Opened | None = None
    reports: list[tuple[float, Report]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    finished: Finished | None = None
    published: dict[str, bytes] = field(default_factory=dict)
    """What is published last under each name. A power failure spares it: the real shell replaces whole files."""

    snapshot: tuple[int, bytes] | None = None
    """The height and the state that the machine last had kept. A power failure may take it."""

    guarded: bytes = field(default=b"", repr=False)
    """The secret that the machine last had kept, which a power failure spares."""

    unaudited: bool = False
    """Whether the machine believes blocks that it has not had checked."""

    links: dict[NodeId, Connections] = field(default_factory=dict)
    """Per neighbour, the connections this process believes in."""

    suspected: dict[NodeId, tuple[int, Connections]] = field(default_factory=dict)
    """Per neighbour whose link is not what this process believes: the scheduler step since when, and what it is."""

    peers: dict[NodeId, tuple[Place, ...]] = field(default_factory=dict)
    reached: set[NodeId] = field(default_factory=set)
    """Whom this process has said it talks to."""

    passages: Passages | None = None
    """Its links through relays, and what it forwards; None where nobody relays."""

    passages_at: float = math.inf
    """When those are to be looked at again."""

    inbox: deque[Event] = field(default_factory=deque)
    effects: Sequence[Effect] = ()
    cursor: int = 0
    syncing: bool = False
    """Busy with a sync, so that events wait."""

    holding: bool = False
    """The sync cannot begin for want of space; `syncing` is set as well."""

    frozen: bool = False
    """Standing still: events wait, and a sync that is over is not noticed."""

    wake_at: float = math.inf
    wake_unix_s: float = math.inf
    training: int = 0
    fuse: int = -1
    """Effects that may still be begun before `crash` strikes; -1 means no crash is armed."""

    crash: Crash | None = None
    recovery_crashes: int = 0
    mute_until: float = 0.0
    """Until then nothing that it sends arrives, though its links stand."""

    garbled: float = 0.0
    garbled_until: float = 0.0
    """Until then each message that it sends is damaged with that chance."""

    sent: deque[tuple[NodeId, bytes]] = field(default_factory=lambda: deque(maxlen=SENT_MAX))
    """What it sent last and to whom, without the bytes of blobs; kept only where the plan has it sent again."""

    backup: SimulatedDisk | None = None
    """The last copy that was made of its disk."""


def member_id(member: int) -> NodeId:
    """The identity of a member where a scenario needs no keys."""
    return NodeId(sha256(b"simulated member %d" % member).digest())
