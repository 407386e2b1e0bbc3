"""Record how this version of the protocol speaks, for the versions after it to be held to.

    PYTHONPATH=. python scripts/record_protocol.py tests/vectors/protocol-1.0.json

To be run once, when a minor version is published, on the code as it is published; the file is never edited afterwards.
It holds, of every message kind, its number, its name, its largest frame and the shape of its fields, spelled out down
to integers and bytes, so that a reader of the recording needs none of the classes that exist later. And it holds
frames: one made by hand of every kind, and those that two sites of a small simulated swarm said to each other when they
first met, in order, both ways.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import inspect
from typing_extensions import override

from gossip import wire
from swarm.machine import NodeId
from tests.builders import make_swarm
from tests.gossip.test_wire import EXAMPLES
from topologies.families import complete
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

Shape = str | list[Any]

FRAMES = 60
"""Of the meeting, each way: the greeting, a round of agreement, and some of a model."""


def shape(info: inspect.Type) -> Shape:
    """Return a type as its fields: "int", "bytes", "str", "bool", ["many", shape], or ["each", shape, shape, ...]."""
    match info:
        case inspect.IntType():
            return "int"
        case inspect.BytesType():
            return "bytes"
        case inspect.StrType():
            return "str"
        case inspect.BoolType():
            return "bool"
        case inspect.VarTupleType(item_type=item):
            return ["many", shape(item)]
        case inspect.TupleType(item_types=items):
            return ["each", *(shape(item) for item in items)]
        case inspect.StructType(array_like=True, fields=fields):
            return ["each", *(shape(field.type) for field in fields)]
        case _:
            raise TypeError(f"no shape for {info}")


class _Meeting(Checker):
    """Writes down what two members say to each other."""

    def __init__(self, pair: Sequence[bytes]) -> None:
        self.pair = pair
        self.said: dict[int, list[str]] = {0: [], 1: []}

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if node in self.said and to == self.pair[1 - node] and len(self.said[node]) < FRAMES:
            self.said[node].append(frame.hex())


def meeting() -> dict[str, list[str]]:
    """Return what member 0 and member 1 of `make_swarm(4)` said to each other at first."""
    swarm = make_swarm(4)
    ids = [who.node for who in swarm.identities]
    heard = _Meeting(ids[:2])
    world = World(
        seed=1,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=incarnation),
        topology=complete(4),
        learner=QuadraticTask(seed=1, samples=(100,) * 4, bound=100.0),
        ids=ids,
        blobs=[swarm.initial],
        checkers=[heard],
        ledger_id=swarm.signed.ledger_id,
    )
    world.run(lambda _: all(len(frames) == FRAMES for frames in heard.said.values()), end_s=60.0)
    return {f"site-{node} to site-{1 - node}": frames for node, frames in heard.said.items()}


def main() -> None:
    """Write the recording."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("path", type=Path)
    path = options.parse_args().path
    by_kind = {wire.encode(example)[1]: wire.encode(example) for example in EXAMPLES}
    recorded = {
        "made by": "scripts/record_protocol.py, on the code of this version",
        "wire version": wire.WIRE_VERSION,
        "kinds": {
            str(number): {
                "name": type_.__name__,
                "bytes_max": limit,
                "shape": shape(inspect.type_info(type_)),
                "example": by_kind[number].hex(),
            }
            for number, (type_, limit) in wire._KINDS.items()  # noqa: SLF001 - a recording of exactly that
        },
        "swarm": "make_swarm(4) of tests/builders.py",
        "meeting": meeting(),
    }
    with path.open("x", encoding="utf-8") as file:
        json.dump(recorded, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
