"""Checkers: truths about the whole swarm, asserted after every event of a simulated run.

A checker sees what no member can see, all of them at once, and stops the run at the first event after which its truth
does not hold; the seed replays it. Derive from `Checker`, override the hooks that matter (the world calls no others, so
the rest cost nothing) and object with `world.fail(sentence)`. Members are indices; `twin` is 0, or 1 for the second
process of a member that runs twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from swarm.machine import Effect, Event, NodeId, Record

if TYPE_CHECKING:
    from topologies.world.world import World


class Violation(AssertionError):
    """A truth about the swarm did not hold. The message ends with the last lines of the trace."""


class Checker:
    """Objects to nothing. Hooks are called in the order of the checkers given to the world."""

    def on_start(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        """A process started; `records` were read back from its disk. Its machine has not seen them yet."""

    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        """A machine handled `event`. Its effects were obeyed as far as the first sync that takes time, or a crash."""

    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        """`records` became durable."""

    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        """`frame` left the process. It may yet be lost."""

    def on_crash(self, world: World, node: int, twin: int) -> None:
        """A process stopped without warning; its disk shows what survived."""

    def at_end(self, world: World) -> None:
        """The run is over (`World.end`)."""


class PersistBeforeSend(Checker):
    """Nothing leaves a process while it has data that a power cut would take (the Ready contract).

    The world obeys effects in order, so this holds by construction; it is asserted because everything rests on it.
    """

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if world.place(node, twin).disk.pending:
            world.fail(f"member {node} sent a frame while its disk had unsynced writes")


class PersistedIsReadBack(Checker):
    """Whatever became durable is read back by every later start, kind by kind and in order (invariant I14).

    Records that were in flight at a crash may follow; from then on they are as durable as the others (I15).
    """

    def __init__(self) -> None:
        self._durable: dict[tuple[int, int], dict[int, list[Record]]] = {}

    @override
    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        known = self._durable.setdefault((node, twin), {})
        for record in records:
            known.setdefault(record.kind, []).append(record)

    @override
    def on_start(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        read: dict[int, list[Record]] = {}
        for record in records:
            read.setdefault(record.kind, []).append(record)
        for kind, known in self._durable.get((node, twin), {}).items():
            found = read.get(kind, [])
            if found[: len(known)] != known:
                world.fail(f"member {node} persisted {len(known)} records of kind {kind} and read back {len(found)}")
        self._durable[node, twin] = read
