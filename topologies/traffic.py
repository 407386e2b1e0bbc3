"""What a schedule costs: bytes on every link and at every member, seconds per round, and which exact route is cheapest.

The model is the one a network engineer does on paper. A round takes a latency and a barrier, and then as long as its
busiest member needs to move its bytes; links are full duplex, so sending and receiving overlap. The slowest member sets
the pace, not the mean, because a round ends when all have what they wait for. Loss, congestion in between and
stragglers are the simulator's to find out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.routes import OWNERS, ROUTES, Fold
from topologies import finite, spectrum
from topologies.graph import Edge, Topology
from topologies.mixing import Schedule

SAMPLED_ROUNDS = 64
"""Rounds averaged for a schedule without a period."""

BASE_PARTNERS_MAX = 4
"""Largest k tried for Base-(k+1): more partners a round than this hardly ever save a round among 3 to 50 members."""

FIXED_POINT_RATIO = 2.0
"""Bytes of an exact partial sum for each byte of float32 model: sums travel as int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What lies between members: all alike, which is what one knows before one has measured.

    Attributes:
        latency_s: One way, at least 0.
        bandwidth_bytes_s: Of one member's uplink and of its downlink, above 0.
        barrier_s: What a round costs besides: waiting for the last to start, hashing, writing; at least 0.

    Raises:
        UsageError: If a value is out of range.
    """

    latency_s: float = 0.03
    bandwidth_bytes_s: float = 12.5e6
    barrier_s: float = 0.1

    def __post_init__(self) -> None:
        finite_values = all(map(math.isfinite, (self.latency_s, self.bandwidth_bytes_s, self.barrier_s)))
        if not finite_values or self.latency_s < 0 or self.barrier_s < 0 or self.bandwidth_bytes_s <= 0:
            raise UsageError(
                f"couldn't cost a network of {self.latency_s} s latency, {self.barrier_s} s barrier and "
                f"{self.bandwidth_bytes_s} bytes a second",
                hint="Give seconds from 0 up and a bandwidth above 0.",
            )

    def seconds(self, rounds: float, serial_bytes: float) -> float:
        """Rounds * (latency + barrier) + serial_bytes / bandwidth."""
        return rounds * (self.latency_s + self.barrier_s) + serial_bytes / self.bandwidth_bytes_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The traffic of some rounds of a schedule, in copies of what a member sends; multiply by its bytes.

    Attributes:
        rounds: How many were counted.
        sent: Copies each member sends, in all of them, shape (n,).
        received: Copies each member receives, shape (n,).
        serial: Over the rounds, the sum of the busiest member's copies: what the clock sees.
        links: Copies over each link that is used, both directions together, by (low, high).
    """

    rounds: int
    sent: NDArray[np.float64]
    received: NDArray[np.float64]
    serial: float
    links: dict[Edge, float]

    @property
    def total(self) -> float:
        """Copies sent by all members in all rounds."""
        return float(self.sent.sum())

    @property
    def mean(self) -> float:
        """Copies sent per member in all rounds."""
        return float(self.sent.mean())

    @property
    def worst(self) -> float:
        """Most copies sent by one member in all rounds."""
        return float(self.sent.max())

    def bytes_per_round(self, copy_bytes: float) -> float:
        """Mean bytes that a member sends in a round."""
        return self.mean * copy_bytes / self.rounds if self.rounds else 0.0

    def link_bytes_per_round(self, copy_bytes: float) -> dict[Edge, float]:
        """Mean bytes a round over each link, both directions together."""
        return {link: copies * copy_bytes / self.rounds for link, copies in self.links.items()}

    def seconds(self, network: Network, copy_bytes: float) -> float:
        """How long all these rounds take, one after the other."""
        return network.seconds(self.rounds, self.serial * copy_bytes)


def load(schedule: Schedule, rounds: int | None = None) -> Load:
    """Count the copies of `rounds` rounds; by default those to the exact mean, else a period, else `SAMPLED_ROUNDS`."""
    count = rounds
    if count is None:
        count = schedule.exact_after if schedule.exact_after is not None else schedule.period or SAMPLED_ROUNDS
    n = schedule.n
    sent, received = np.zeros(n), np.zeros(n)
    links: dict[Edge, float] = {}
    serial = 0.0
    for mixing in schedule.mixings(count):
        edges = mixing.edges
        ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
        out, back = np.bincount(ends[:, 0], minlength=n), np.bincount(ends[:, 1], minlength=n)
        sent, received = sent + out, received + back
        serial += float(max(out.max(), back.max()))
        for a, b in edges:
            link = (a, b) if a < b else (b, a)
            links[link] = links.get(link, 0.0) + 1
    return Load(rounds=count, sent=sent, received=received, serial=serial, links=dict(sorted(links.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipCost:
    """What it takes a gossip schedule to come within a relative consensus distance.

    Attributes:
        rounds: By the spectrum, see `spectrum.predicted_rounds`.
        copies: Sent per member in that many rounds.
        bytes: Sent per member in that many rounds.
        seconds: Until then.
    """

    rounds: int
    copies: float
    bytes: float
    seconds: float


def gossip_cost(schedule: Schedule, distance: float, copy_bytes: float, network: Network) -> GossipCost:
    """Rounds, bytes and seconds until the members are within `distance` of their mean, relative to the start.

    Raises:
        UsageError: As `spectrum.predicted_rounds`.
    """
    rounds = spectrum.predicted_rounds(schedule, distance)
    one = load(schedule)
    turns = rounds / one.rounds if one.rounds else 0.0
    return GossipCost(
        rounds=rounds,
        copies=one.mean * turns,
        bytes=one.mean * turns * copy_bytes,
        seconds=network.seconds(rounds, one.serial * turns * copy_bytes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCost:
    """One way to the exact mean of a round, and what it costs.

    Attributes:
        name: `spread`, `sharded`, `fold`, `ceca` or `base2` to `base5`.
        rounds: Message rounds.
        bytes_mean: Sent per member, mean over members.
        bytes_max: Sent by the busiest member.
        seconds: By the model at the top of this file.
        same_bytes: Whether all members end with the same bytes, so that the ledger can compare digests.
        every_update: Whether every member gets to see every single update, as robust rules and scores need.
        all_or_nothing: Whether a member lost half-way sends the round by spread after all.
        refusal: Why it cannot be used here; empty if it can.
    """

    name: str
    rounds: int
    bytes_mean: float
    bytes_max: float
    seconds: float
    same_bytes: bool
    every_update: bool
    all_or_nothing: bool
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChoice:
    """The cost model's answer.

    Attributes:
        route: The name of the chosen one.
        reason: Why, in a sentence or two.
        table: All that were considered: the chosen first, then by seconds, then those refused.
    """

    route: str
    reason: str
    table: tuple[RouteCost, ...]

    def lines(self) -> tuple[str, ...]:
        """The table as text, the reason last."""
        head = f"{'route':<8} {'rounds':>6} {'sent, mean':>12} {'sent, max':>12} {'seconds':>10}  remark"
        rows = [
            f"{cost.name:<8} {cost.rounds:>6} {megabytes(cost.bytes_mean):>12} {megabytes(cost.bytes_max):>12} "
            f"{cost.seconds:>10.2f}  {_remark(cost, self.route)}".rstrip()
            for cost in self.table
        ]
        return (head, *rows, self.reason)


def choose_exact_route(
    n: int,
    model_bytes: float,
    network: Network | None = None,
    *,
    codec_ratio: float = 1.0,
    average_ratio: float = 1.0,
    sum_ratio: float = FIXED_POINT_RATIO,
    shard_owners: int | None = None,
    needs_every_update: bool = False,
    needs_same_bytes: bool = True,
    offered: Sequence[str] = ROUTES,
    topology: Topology | None = None,
) -> RouteChoice:
    """Cost the routes to the exact mean and choose the quickest that does what is asked.

    Args:
        n: Members.
        model_bytes: Of one model in float32.
        network: Latency, barrier, bandwidth; None for a hospital's 100 Mbit/s at 30 ms.
        codec_ratio: Bytes of an encoded update for each byte of model, above 0.
        average_ratio: The same of an average of slices, on the way *sharded* takes; sums travel as they are.
        sum_ratio: Bytes of a sum for each byte of model, on the way *fold* takes; 2 for int64.
        shard_owners: How many members average each slice in *sharded*, by default as many as do in a node, or all there
            are: two compare digests, so that neither need be trusted.
        needs_every_update: Robust rules, contribution scores and the availability rule see every update: *spread* only.
        needs_same_bytes: The ledger compares digests. False lets Base-(k+1) compete, which heals after losses but has
            fractional weights.
        offered: The routes to choose among; all others are listed with their cost and refused.
        topology: The links there are; None for all. Routes that need others are refused.

    Raises:
        UsageError: If a size is out of range, or no route that is offered does what is asked.
    """
    network = network or Network()
    shard_owners = min(OWNERS, n) if shard_owners is None else shard_owners
    if not 1 <= shard_owners <= n:
        raise UsageError(f"couldn't share out slices to {shard_owners} owners of {n}", hint=f"Choose 1 to {n} owners.")
    if not (model_bytes > 0 and codec_ratio > 0 and sum_ratio > 0 and math.isfinite(model_bytes * sum_ratio)):
        raise UsageError(
            f"couldn't cost the routes of a model of {model_bytes} bytes, ratios {codec_ratio} and {sum_ratio}",
            hint="Give sizes above 0.",
        )
    if topology is not None and topology.n != n:
        raise UsageError(f"couldn't cost the routes of {n} members on links of {topology.n}")
    updates, sums = model_bytes * codec_ratio, model_bytes * sum_ratio
    costs = [
        _spread(n, updates, network, topology),
        _sharded(n, updates, model_bytes * average_ratio, network, topology, shard_owners),
        _folded(n, updates, sums, network, topology),
        _scheduled(finite.ceca(n), sums, network, topology),
    ]
    costs += [_scheduled(one, model_bytes, network, topology) for one in _bases(n)]
    judged = [
        _judged(cost, needs_every_update=needs_every_update, needs_same_bytes=needs_same_bytes, offered=offered)
        for cost in costs
    ]
    fit = sorted((cost for cost in judged if not cost.refusal), key=lambda cost: (cost.seconds, cost.bytes_max))
    if not fit:
        raise UsageError(
            f"couldn't choose a route for {n} members: none of {', '.join(offered) or 'no routes'} does what is asked",
            hint="Offer spread, which every connected topology can take.",
        )
    refused = sorted((cost for cost in judged if cost.refusal), key=lambda cost: cost.seconds)
    return RouteChoice(route=fit[0].name, reason=_reason(fit, refused), table=(*fit, *refused))


def choose_base(n: int, model_bytes: float, network: Network | None = None) -> tuple[Schedule, tuple[RouteCost, ...]]:
    """The Base-(k+1) schedule, k from 1 to 4, that is quickest to the exact mean, and what each of them costs.

    Small k sends less in a round, large k needs fewer rounds: latency against bandwidth, and n's prime factors.

    Raises:
        UsageError: If n is out of range.
    """
    network = network or Network()
    schedules = _bases(n)
    costs = [_scheduled(one, model_bytes, network, None) for one in schedules]
    best = min(range(len(costs)), key=lambda i: (costs[i].seconds, costs[i].bytes_mean, i))
    return schedules[best], tuple(costs)


def megabytes(count: float) -> str:
    """A number of bytes for people: "812 B", "3.2 kB", "86.7 MB", "1.26 GB" (powers of a thousand)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: TB ends the loop")


def _bases(n: int) -> list[Schedule]:
    """Base-2 to Base-5, without the exchanges that change nothing when rounds follow one another."""
    return [finite.base(n, k, lean=True) for k in range(1, min(BASE_PARTNERS_MAX, max(1, n - 1)) + 1)]


def _scheduled(schedule: Schedule, copy_bytes: float, network: Network, topology: Topology | None) -> RouteCost:
    cost = load(schedule)
    base = schedule.name.startswith("base")
    return RouteCost(
        name=schedule.name,
        rounds=cost.rounds,
        bytes_mean=cost.mean * copy_bytes,
        bytes_max=cost.worst * copy_bytes,
        seconds=cost.seconds(network, copy_bytes),
        same_bytes=not base,
        every_update=False,
        all_or_nothing=not base,
        refusal=_missing_link(topology, tuple(cost.links)),
    )


def _spread(n: int, copy_bytes: float, network: Network, topology: Topology | None) -> RouteCost:
    """Every update reaches everybody, along the shortest paths: n - 1 copies in, and out what others ask for."""
    if topology is None:
        sent, rounds = np.full(n, float(n - 1)), int(n > 1)
    else:
        sent, rounds = _relayed(topology)
    serial = max(float(sent.max()), float(n - 1))
    return RouteCost(
        name="spread",
        rounds=rounds,
        bytes_mean=float(sent.mean()) * copy_bytes,
        bytes_max=float(sent.max()) * copy_bytes,
        seconds=network.seconds(rounds, serial * copy_bytes),
        same_bytes=True,
        every_update=True,
        all_or_nothing=False,
    )


def _sharded(
    n: int, update_bytes: float, average_bytes: float, network: Network, topology: Topology | None, owners: int
) -> RouteCost:
    """Of every n-th of the vector `owners` members average all updates, and hand the average to those who are not.

    Reduce-scatter and all-gather by direct exchange (Thakur, Rabenseifner & Gropp, 2005): with one owner, no route
    moves fewer bytes.
    """
    each = owners * (n - 1) / n * update_bytes + (n - owners) / n * average_bytes
    rounds = 2 * int(n > 1)
    return RouteCost(
        name="sharded",
        rounds=rounds,
        bytes_mean=each,
        bytes_max=each,
        seconds=network.seconds(rounds, each),
        same_bytes=True,
        every_update=False,
        all_or_nothing=True,
        refusal=_missing_link(topology, _every_pair(n)),
    )


def _folded(n: int, update_bytes: float, sum_bytes: float, network: Network, topology: Topology | None) -> RouteCost:
    """What `swarm.routes.Fold` moves: updates at the first step, sums at the others, the last one to those left over.

    A step is as long as its busiest member; sums are had from any of those who made them, so all of these send alike.
    """
    fold = Fold(n)
    sent, received = np.zeros(n), np.zeros(n)
    for index in range(fold.folded):
        for other in fold.covered(fold.group(index, 1)) if fold.steps else ():
            received[index] += other != index
            sent[other] += other != index
    serial = max(float(sent.max()), float(received.max())) * update_bytes
    left = n - fold.folded
    each = np.zeros(n)
    each[: fold.folded] = max(fold.steps - 1, 0) + left / fold.folded
    serial += (max(fold.steps - 1, 0) + max(left / fold.folded, int(left > 0))) * sum_bytes
    total = sent * update_bytes + each * sum_bytes
    rounds = fold.steps + int(left > 0)
    return RouteCost(
        name="fold",
        rounds=rounds,
        bytes_mean=float(total.mean()),
        bytes_max=float(total.max()),
        seconds=network.seconds(rounds, serial),
        same_bytes=True,
        every_update=False,
        all_or_nothing=True,
        refusal=_missing_link(topology, _every_pair(n)),
    )


def _every_pair(n: int) -> list[Edge]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def _relayed(topology: Topology) -> tuple[NDArray[np.float64], int]:
    """Copies each member sends when every update travels down a breadth-first tree from its maker, and the diameter.

    A member with several possible parents takes the one that has sent least so far, as asking around would.
    """
    sent = np.zeros(topology.n)
    diameter = 0
    for maker in range(topology.n):
        level = {maker: 0}
        layer = [maker]
        depth = 0
        while layer:
            depth += 1
            parents: dict[int, list[int]] = {}
            for node in layer:
                for other in topology.neighbours(node):
                    if other not in level:
                        parents.setdefault(other, []).append(node)
            for other, options in parents.items():
                level[other] = depth
                sent[min(options, key=lambda option: (sent[option], option))] += 1
            layer = list(parents)
        diameter = max(diameter, depth - 1)
    return sent, diameter


def _missing_link(topology: Topology | None, links: Sequence[Edge]) -> str:
    if topology is None:
        return ""
    there = set(topology.edges)
    missing = [link for link in links if link not in there]
    if not missing:
        return ""
    low, high = missing[0]
    others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
    return f"needs the link {low}-{high}{others}, which the topology lacks"


def _judged(cost: RouteCost, *, needs_every_update: bool, needs_same_bytes: bool, offered: Sequence[str]) -> RouteCost:
    refusal = cost.refusal
    if not refusal and cost.name not in offered:
        refusal = "is not offered, only compared"
    if needs_every_update and not cost.every_update:
        refusal = "hides single updates, which the charter's rules must see"
    elif needs_same_bytes and not cost.same_bytes:
        refusal = "has fractional weights, so members' bytes would differ"
    return replace(cost, refusal=refusal)


def _reason(fit: Sequence[RouteCost], refused: Sequence[RouteCost]) -> str:
    best = fit[0]
    if len(fit) == 1:
        others = "; ".join(f"{cost.name} {cost.refusal}" for cost in refused[:2])
        return f"{best.name}: the only route that does what is asked ({others})."
    second = fit[1]
    if math.isclose(best.seconds, second.seconds, rel_tol=1e-9):
        pace = f"as quick as {second.name} at {best.seconds:.2f} s"
    else:
        pace = f"{best.seconds:.2f} s against {second.seconds:.2f} s for {second.name}, the next best"
    care = " A member lost half-way sends that round by spread." if best.all_or_nothing else ""
    return (
        f"{best.name}: {pace}; {best.rounds} round{'s' * (best.rounds != 1)} and {megabytes(best.bytes_max)} "
        f"sent by the busiest member.{care}"
    )


def _remark(cost: RouteCost, chosen: str) -> str:
    if cost.refusal:
        return cost.refusal
    return "chosen" if cost.name == chosen else ""
