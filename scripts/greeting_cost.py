"""What it costs a node to know how long its links take, by the number of its neighbours.

    PYTHONPATH=. python scripts/greeting_cost.py [--neighbours 50 200 500] [--seconds 1800]

One engine as the node drives it, on a clock of its own: a heartbeat a second to all, and greetings to measure by. Every
neighbour answers what it is asked after a fiftieth of a second, and measures this node in its turn, as often as a
neighbour with as many neighbours does. Counted is what goes over this node's links, both ways, in messages and bytes of
frames; timed, in processor time, is all that the engine does for greetings: choosing whom to ask, the question, the
answers that come and those it gives. Beside it stands what making and sending out the heartbeats themselves takes, in
which no row about other members is: in a running node they are larger.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Sequence

import msgspec
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from gossip.peers import HEARTBEAT_S, Peers
from gossip.protocol import PROTOCOL
from swarm.machine import NodeId, Send
from swarm.terms import founding
from tests.builders import CODE, LAYOUT, make_swarm

TRIP_S = 0.02
STEP_S = 0.1
"""Between two ticks of the clock."""


class Timed(Engine):
    """The engine, with a watch on what it does about choosing whom to ask."""

    choosing_s = 0.0

    @override
    def _to_measure(self, welcome: Sequence[NodeId], now: float) -> Sequence[NodeId]:
        begun = time.process_time()
        chosen = super()._to_measure(welcome, now)
        self.choosing_s += time.process_time() - begun
        return chosen


class Counts:
    """What went over the links for one purpose, and the processor time that it took."""

    def __init__(self) -> None:
        self.messages, self.bytes, self.spent_s = 0, 0, 0.0

    def add(self, frame: bytes) -> None:
        """Count a message."""
        self.messages += 1
        self.bytes += len(frame)

    def row(self, seconds: int) -> str:
        """Return it a second, and its share of one core."""
        per_s = self.messages / seconds, self.bytes / seconds / 1000, self.spent_s / seconds
        return f"{per_s[0]:9.2f} {per_s[1]:9.2f} {per_s[2]:9.3%}"


def measured(neighbours: int, seconds: int) -> tuple[Counts, Counts, float]:
    """Return what greetings and heartbeats come to, and after how long a neighbour is measured again, at the median."""
    swarm = make_swarm(neighbours + 1)
    me, terms = swarm.identities[0].node, founding(swarm.charter)
    peers = Peers(terms, me, 0.0)
    mine = m.Hello(PROTOCOL, "swarm-node", (), me, swarm.signed.ledger_id, CODE, LAYOUT, True)
    engine = Timed(terms, me, mine, peers, random.Random(0))
    theirs = {node: msgspec.structs.replace(mine, node=node) for node in engine.neighbours}
    for node, hello in theirs.items():
        engine.link(node, True, "")
        engine.on_hello(node, msgspec.structs.replace(hello, answer=False), 0.0)
    greetings, beats = Counts(), Counts()
    asked: dict[NodeId, list[float]] = {node: [] for node in theirs}
    rng, back = random.Random(1), list[tuple[NodeId, float]]()
    for step in range(round(seconds / STEP_S)):
        now = 1.0 + step * STEP_S
        for node, at in back:
            greetings.spent_s += answered(engine, node, theirs[node], at, greetings)
        back.clear()
        beat = m.Heartbeat(0, int(now * 1000), b"", 0, ())
        begun = time.process_time()
        effects = engine.tick(now, beat, m.FeedHeads(())) if engine.beat_due(now) else []
        spent_s = time.process_time() - begun
        sent = [effect for effect in effects if isinstance(effect, Send)]
        questions = [send for send in sent if wire.kind(send.frame) is m.Hello]
        beats.spent_s += spent_s
        for send in sent:
            (greetings if wire.kind(send.frame) is m.Hello else beats).add(send.frame)
        for send in questions:
            asked[send.to].append(now)
            back.append((send.to, now + TRIP_S))
        if step % round(HEARTBEAT_S / STEP_S) == 0:  # All of them ask somebody, each second; one of them, this node.
            asker = rng.choice(engine.neighbours)
            greetings.spent_s += questioned(engine, asker, theirs[asker], now, greetings)
    greetings.spent_s += engine.choosing_s
    beats.spent_s -= engine.choosing_s
    apart = sorted(later - sooner for times in asked.values() for sooner, later in itertools.pairwise(times))
    return greetings, beats, apart[len(apart) // 2] if apart else float("inf")


def answered(engine: Engine, node: NodeId, hello: m.Hello, at: float, counts: Counts) -> float:
    """Give the engine an answer; return what taking it in cost, from its bytes on."""
    frame = wire.encode(msgspec.structs.replace(hello, answer=False))
    counts.add(frame)
    begun = time.process_time()
    said = wire.decode(frame)
    assert isinstance(said, m.Hello)
    engine.on_hello(node, said, at)
    return time.process_time() - begun


def questioned(engine: Engine, node: NodeId, hello: m.Hello, now: float, counts: Counts) -> float:
    """Have a neighbour measure; return what answering cost."""
    frame = wire.encode(hello)
    counts.add(frame)
    begun = time.process_time()
    said = wire.decode(frame)
    assert isinstance(said, m.Hello)
    _, effects = engine.on_hello(node, said, now)
    spent_s = time.process_time() - begun
    for effect in effects:
        if isinstance(effect, Send):
            counts.add(effect.frame)
    return spent_s


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--neighbours", type=int, nargs="+", default=[50, 200, 500])
    parser.add_argument("--seconds", type=int, default=1800)
    given = parser.parse_args()
    head = f"{'messages':>9} {'KB':>9} {'of a core':>9}"
    print(f"{'':18} {'greetings, a second':>29}  {'heartbeats, a second':>29}  {'each measured':>13}")
    print(f"{'neighbours':18} {head}  {head}  {'every':>13}")
    for count in given.neighbours:
        greetings, beats, every_s = measured(count, given.seconds)
        row = f"{greetings.row(given.seconds)}  {beats.row(given.seconds)}"
        print(f"{count:<18} {row}  {every_s:11.0f} s", flush=True)


if __name__ == "__main__":
    main()
