"""How long a round takes among sites that are not alike: reckoned from their machines, their lines and a schedule.

`topologies.traffic` costs a network whose members are all alike, which is what one knows at first; a `Scenario` knows
more. A model goes from a to b when a has trained; it then needs the latency between them and as long as the narrowest
of three takes for what it has to carry: a's uplink all that a sends in this round, b's downlink all that b receives,
the link between them this one model. The round ends when the last model has arrived, so the slowest pair of each
matching counts and not the mean. Then the members agree in the ledger on who has exchanged with whom, which takes
`AGREEMENT_HOPS` messages one after the other, each as slow as the links of a quorum, and in gossip
they gather contributions into a block first, before anybody fetches them.

What it leaves out (loss, faults, queues between control messages and models) is what the simulated world is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.ledger.block import quorum
from swarm.ledger.replica import GATHER_S
from swarm.routes import OWNERS, SHARDED, Fold, Route
from topologies.graph import Edge
from topologies.mixing import Mixing
from topologies.scenario import Scenario

AGREEMENT_HOPS = 7
"""Messages after each other from the last model's arrival to the next round: the entry that says so, a proposal and two
votes on it, the attestation, and two more before training's result is in a block. Fitted to the real node in the
simulated world: rounds of 5 to 12 sites that are 0 to 200 ms apart take 7 to 8 latencies more than models need."""

ASKING_HOPS = 2
"""Messages before a part of a mean begins to travel: that it is made, and that somebody asks for it."""

AGREEMENT_S = 0.02
"""What agreement takes besides: writing to disk at every member, a dozen times some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange among sites.

    Attributes:
        seconds: From the beginning of training to the arrival of the last model.
        sent: Copies each member sends, shape (n,).
    """

    seconds: float
    sent: NDArray[np.float64]


class Pace:
    """The rounds of one scenario.

    Args:
        scenario: Its sites and links.
        steps: Optimizer steps each member takes in a round, shape (n,).
        copy_bytes: One model as it travels.
    """

    def __init__(self, scenario: Scenario, steps: Sequence[int], copy_bytes: float) -> None:
        assert len(steps) == scenario.n, "steps for every site"
        self._bytes = copy_bytes
        self._common_s = scenario.latency_s + scenario.jitter_s
        self._delay_s = np.array([site.latency_s for site in scenario.sites])
        self._up = np.array([site.uplink_bytes_s for site in scenario.sites])
        self._down = np.array([site.downlink_bytes_s for site in scenario.sites])
        self._slow = scenario.slow
        self.training_s: NDArray[np.float64] = np.array(
            [site.pace_s * count for site, count in zip(scenario.sites, steps, strict=True)]
        )
        self.agreement_s = AGREEMENT_S + AGREEMENT_HOPS * self._quorum_latency(scenario.n)

    def latency(self, a: int, b: int) -> float:
        """Seconds one message takes from a to b, as short as it may be."""
        further = self._slow.get((min(a, b), max(a, b)), (0.0, 0.0))[1]
        return float(self._common_s + self._delay_s[a] + self._delay_s[b] + further)

    def exchange(self, edges: Sequence[Edge], ready_s: NDArray[np.float64] | None = None) -> Exchange:
        """Send a model over every directed edge (source, target), each when its maker is ready: when it has trained."""
        n = len(self._delay_s)
        ready = self.training_s if ready_s is None else ready_s
        ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
        source, target = ends[:, 0], ends[:, 1]
        sent, received = np.bincount(source, minlength=n), np.bincount(target, minlength=n)
        seconds = float(ready.max())
        if len(ends):
            carry = np.maximum(sent[source] / self._up[source], received[target] / self._down[target]) * self._bytes
            delay = self._common_s + self._delay_s[source] + self._delay_s[target]
            for pair, (bandwidth, further) in self._slow.items():
                on = np.flatnonzero((ends.min(axis=1) == pair[0]) & (ends.max(axis=1) == pair[1]))
                carry[on] = np.maximum(carry[on], self._bytes / bandwidth)
                delay[on] += further
            seconds = max(seconds, float((ready[source] + carry + delay).max()))
        return Exchange(seconds=seconds, sent=sent.astype(np.float64))

    def round(self, mixing: Mixing) -> Exchange:
        """A round of gossip: training, gathering, exchange, agreement."""
        done = self.exchange(mixing.edges, self._gathered())
        return Exchange(seconds=done.seconds + self.agreement_s, sent=done.sent)

    def _gathered(self) -> NDArray[np.float64]:
        """When every member's contribution is in a block, from which its partners learn what to fetch.

        A block waits `GATHER_S` for company from the first entry that would go into it. What the members say about the
        round before starts the first such wait when training begins; who comes later waits anew. When the last
        contribution is there, nobody waits any more.
        """
        ready = np.empty_like(self.training_s)
        flush, last = GATHER_S, float(self.training_s.max())
        for member in np.argsort(self.training_s, kind="stable").tolist():
            if self.training_s[member] > flush:
                flush = self.training_s[member] + GATHER_S
            ready[member] = min(flush, last)
        return ready

    def spread(self, links: Sequence[Edge], *, last: bool = False) -> Exchange:
        """A round of exact mixing: every update reaches everybody over these links, (low, high).

        Everybody needs n - 1 copies. Over a link that is not the only way to somebody they come from several sides, so
        a member receives each once and hands on, on average, as many as it gets, in proportion to its links. After the
        `last` round what sites say about the result is gathered into a block once more.
        """
        n = len(self._delay_s)
        ends = np.array(links, dtype=np.int64).reshape(-1, 2)
        degree = np.bincount(ends.reshape(-1), minlength=n).astype(np.float64)
        sent = n * (n - 1) * degree / degree.sum() if n > 1 else np.zeros(n)
        hops = _eccentricity(n, ends)
        carry = np.maximum(sent / self._up, (n - 1) / self._down) * self._bytes
        worst = max((self.latency(a, b) for a, b in links), default=0.0)
        there = set(links)
        each = n * (n - 1) / degree.sum() if n > 1 else 0.0  # copies over a link in one direction
        narrow = max((each * self._bytes / self._slow[link][0] for link in self._slow if link in there), default=0.0)
        seconds = float(self.training_s.max()) + max(float(carry.max()), narrow) + hops * worst
        return Exchange(seconds=seconds + self.agreement_s + GATHER_S * last, sent=sent)

    def routed(self, route: Route, part_bytes: float, *, last: bool = False) -> Exchange:
        """A round of exact mixing whose mean is computed in parts (`swarm.routes`), everybody linked to everybody.

        `part_bytes` is what has a model's length on the way back: all averaged slices of a model together, or a sum. A
        step begins when everybody has done the one before. Nothing waits for a block on the way, as what a member says
        of its parts reaches the others before that. Sums are taken from all who have them alike; where many ask the
        same one, as they may on the fold route, it takes longer.
        """
        n = len(self._delay_s)
        update, part = np.full(n, self._bytes), np.full(n, part_bytes)
        steps: list[tuple[NDArray[np.float64], NDArray[np.float64]]]  # bytes sent and received in each
        if route.name == SHARDED:
            owners = min(OWNERS, n)
            mine, others = owners * (n - 1) / n * update, (n - owners) / n * part
            steps = [(mine, mine), (others, others)]
        else:
            steps = self._folded(Fold(n), part)
        worst = max((self.latency(a, b) for a in range(n) for b in range(a)), default=0.0)
        seconds, sent = float(self.training_s.max()), np.zeros(n)
        for number, (out, into) in enumerate(steps):
            each = float(out.sum()) / max(1, n * (n - 1))  # over a link in one direction, on average
            narrow = max((each / bandwidth for bandwidth, _ in self._slow.values()), default=0.0)
            carry = max(float(np.maximum(out / self._up, into / self._down).max()), narrow)
            seconds += carry + worst * (1 + ASKING_HOPS * (number > 0))
            sent += out
        return Exchange(seconds=seconds + self.agreement_s + GATHER_S * last, sent=sent / self._bytes)

    def _folded(self, fold: Fold, part: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Updates at the first step, sums at the others, the last one to those who do not pair up."""
        n = fold.members
        out, into = np.zeros(n), np.zeros(n)
        for index in range(fold.folded if fold.steps else 0):
            for other in fold.covered(fold.group(index, 1)):
                into[index] += other != index
                out[other] += other != index
        pairing = np.arange(n) < fold.folded
        steps = [(out * self._bytes, into * self._bytes)] if fold.steps else []
        steps += [(pairing * part, pairing * part)] * max(fold.steps - 1, 0)
        left = n - fold.folded
        if left:
            steps.append((pairing * part * left / fold.folded, ~pairing * part))
        return steps

    def _quorum_latency(self, n: int) -> float:
        """The latency within which a member in the middle hears from a quorum: half the sites are as near as that."""
        if n == 1:
            return 0.0
        ordered = np.sort(self._delay_s)
        return float(self._common_s + np.median(ordered) + ordered[min(n, quorum(n)) - 1])


def _eccentricity(n: int, ends: NDArray[np.int64]) -> int:
    """Hops from the member that is least in the middle to the one furthest from it, bounded by twice any other's.

    A breadth-first search from member 0 and one from the last it reaches: exact on trees, at least half elsewhere.
    """
    adjacent: list[list[int]] = [[] for _ in range(n)]
    for low, high in ends.tolist():
        adjacent[low].append(high)
        adjacent[high].append(low)
    start, depth = 0, 0
    for _ in range(2):
        level = {start: 0}
        queue = [start]
        for node in queue:
            for other in adjacent[node]:
                if other not in level:
                    level[other] = level[node] + 1
                    queue.append(other)
        start = queue[-1]
        depth = level[start]
    return depth
