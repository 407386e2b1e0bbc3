"""Schedules that end: after a stated number of rounds every member holds the exact mean.

Nothing is approximated in them, so their weights are fractions and `Schedule.check` proves the product in exact
arithmetic. For any number of members: Base-(k+1) (any k links at a time), CECA (one send, one receive, the fewest
rounds) and fold (the classic all-reduce). For powers of two also one-peer exponential and one-peer hypercube.

The first two of these heal: a Base-(k+1) or hypercube round whose pairs skip together is still an ordinary gossip
round. CECA and fold are all or nothing (`Promise.PRODUCT`): stop half-way and what members hold is no average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from swarm.errors import UsageError
from topologies.graph import NODES_MAX, Topology, nearest_sizes
from topologies.mixing import Promise, RatioRow, Schedule, log2_ceil

ONE = Fraction(1)

_TAKEZAWA = "Takezawa et al., Beyond Exponential Graph, NeurIPS 2023, arXiv 2305.11420"

_Round = dict[int, RatioRow]
"""The rows of the members that do something in a round; all others keep what they hold."""


def base(n: int, k: int = 1, *, lean: bool = False) -> Schedule:
    """Base-(k+1): the exact mean of any n members, each talking to at most k others a round.

    Takezawa, Sato, Bao, Niwa & Yamada, "Beyond Exponential Graph: Communication-Efficient Topologies for Decentralized
    Learning via Finite-time Convergence" (NeurIPS 2023, arXiv 2305.11420), algorithms 1 to 3. At most
    2 log_{k+1}(n) + 2 rounds (their theorem 1), symmetric and doubly stochastic throughout.

    Args:
        n: Members.
        k: Most partners of a member in one round, from 1 to n - 1; Base-2 is k = 1.
        lean: Leave out the exchanges between members that already agree. They change nothing when the rounds follow one
            another with no training in between (exact averaging), and cost copies; with a gradient step between rounds
            they help, so the paper has them.

    Raises:
        UsageError: If k is out of range.
    """
    _size(n, "Base-(k+1) schedule")
    if k < 1 or (n > 1 and k > n - 1):
        raise UsageError(
            f"couldn't make a Base-(k+1) schedule of {n} members: {k} partners a round is impossible",
            hint=f"Choose k from 1 to {max(1, n - 1)}.",
        )
    return _in_rounds(f"base{k + 1}", n, _base(range(n), k, lean=lean), _TAKEZAWA)


def hyper_hypercube(n: int, k: int = 1) -> Schedule:
    """k-peer Hyper-Hypercube: n = n_1 n_2 ... n_L with factors of at most k + 1, one digit averaged a round.

    Takezawa et al. (2023), algorithm 1. With k = 1 and n = 2^p it is the one-peer hypercube.

    Raises:
        UsageError: If n has a prime factor above k + 1; `base` takes any n.
    """
    _size(n, "hyper-hypercube")
    if _rough(n, k) != 1:
        raise UsageError(
            f"couldn't make a hyper-hypercube of {n} members with {k} partners a round: "
            f"{n} has a prime factor above {k + 1}",
            hint=f"Use {nearest_sizes(n, lambda m: _rough(m, k) == 1)} members, or base{k + 1}, which takes any.",
        )
    return _in_rounds(f"hyper_hypercube{k + 1}", n, _hyper(range(n), k), f"{_TAKEZAWA}, algorithm 1")


def one_peer_hypercube(n: int) -> Schedule:
    """Round t pairs every member with the one whose index differs in bit t: exact after log2 n rounds.

    The recursive doubling of all-reduce (Thakur, Rabenseifner & Gropp, 2005), as a gossip schedule.

    Raises:
        UsageError: If n is not a power of two.
    """
    _size(n, "one-peer hypercube")
    if n & (n - 1):
        raise UsageError(
            f"couldn't make a one-peer hypercube of {n} members: it needs a power of two",
            hint=f"Use {nearest_sizes(n, lambda m: m & (m - 1) == 0)} members, or base2, which takes any number.",
        )
    bits = log2_ceil(n)

    def rule(t: int, node: int) -> RatioRow:
        return _even(sorted((node, node ^ (1 << t)))) if bits else ((node, ONE),)

    return Schedule(
        name="one_peer_hypercube",
        n=n,
        reference="Thakur, Rabenseifner & Gropp, Optimization of Collective Communication Operations in MPICH, 2005",
        period=max(1, bits),
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=bits,
        rule=rule,
        union=lambda: Topology.from_edges(n, ((i, i ^ (1 << b)) for i in range(n) for b in range(bits))),
    )


def one_peer_exponential(n: int) -> Schedule:
    """Round t: member i sends to i + 2^t (mod n), t modulo ceil(log2 n); all weights 1/2.

    Ying, Yuan, Chen, Hu, Pan & Yin, "Exponential Graph is Provably Efficient for Decentralized Deep Training" (NeurIPS
    2021). Directed, doubly stochastic; exact after log2 n rounds if n is a power of two, and only then.
    """
    _size(n, "one-peer exponential schedule")
    hops = log2_ceil(n)

    def rule(t: int, node: int) -> RatioRow:
        return _even(sorted((node, (node - (1 << t)) % n))) if hops else ((node, ONE),)

    return Schedule(
        name="one_peer_exponential",
        n=n,
        reference="Ying et al., Exponential Graph is Provably Efficient, NeurIPS 2021, arXiv 2110.13363",
        period=max(1, hops),
        promise=Promise.DOUBLY,
        symmetric=n <= 2,
        exact_after=hops if n & (n - 1) == 0 else None,
        rule=rule,
        union=lambda: Topology.from_edges(n, (_edge(i, (i + (1 << t)) % n) for i in range(n) for t in range(hops))),
        sent=lambda t, node: ((node + (1 << t)) % n,) if hops else (),
    )


def ceca(n: int) -> Schedule:
    """CECA: one vector sent and one received a round, exact for any n after ceil(log2 n) rounds, the fewest possible.

    After Ding, Jin, Chen & Yuan, "DSGD-CECA: Decentralized SGD with Communication-Optimal Exact Consensus Algorithm"
    (ICML 2023, arXiv 2306.00256). Member i carries two means over the s members that end with it: P with itself, Q
    without. Sizes go 1 = s_0 < s_1 < ... < n with s = ceil(next / 2). Where next = 2s it receives P from i - s, where
    next = 2s - 1 it receives Q from i - s + 1; either way it adds what it received to both. As means over windows of
    growing size (r the size of what arrives), with P and Q the states 0 and 1::

        P <- (s P + r R) / next        Q <- ((s - 1) Q + r R) / (next - 1)

    All or nothing: a lost message leaves a hole in somebody's window, and the mean is wrong for everybody after. In
    fixed-point sums every weight counts as one: P <- P + R, Q <- Q + R, starting from P = x, Q = 0.
    """
    _size(n, "CECA schedule")
    windows = [n]
    while windows[-1] > 1:
        windows.append((windows[-1] + 1) // 2)
    steps = tuple(zip(windows[:0:-1], windows[-2::-1], strict=True))  # (s, next), from (1, 2) up to (.., n)

    def rule(t: int, slot: int) -> RatioRow:
        if not steps:
            return ((slot, ONE),)
        state, node = divmod(slot, n)
        size, after = steps[t]
        without = after % 2  # next = 2s - 1: Q travels, the window without its owner
        source = (node - size + without) % n + without * n
        received = size - without
        total = after - state
        row = [(slot, Fraction(size - state, total)), (source, Fraction(received, total))]
        return tuple(sorted(one for one in row if one[1]))

    return Schedule(
        name="ceca",
        n=n,
        reference="Ding et al., DSGD-CECA, ICML 2023, arXiv 2306.00256",
        period=max(1, len(steps)),
        promise=Promise.PRODUCT,
        symmetric=False,
        exact_after=len(steps),
        rule=rule,
        union=lambda: Topology.from_edges(
            n, (_edge(i, (i - size + after % 2) % n) for size, after in steps for i in range(n))
        ),
        states=2,
        sent=lambda t, node: ((node + steps[t][0] - steps[t][1] % 2) % n,) if steps else (),
    )


def fold(n: int) -> Schedule:
    """Fold: n - m members add themselves to others, these m (a power of two) double recursively and tell the rest.

    m is the largest power of two up to n. The all-reduce of Thakur, Rabenseifner & Gropp (2005): log2 m rounds, and two
    more unless n = m. The order of additions is the same for everybody, so even floating-point results are the same
    bytes. All or nothing. In fixed-point sums every weight counts as one, and the last round replaces instead of
    adding.
    """
    _size(n, "fold schedule")
    bits = n.bit_length() - 1
    core = 1 << bits
    rest = n - core
    ends = bool(rest)
    count = bits + 2 * ends

    def rule(t: int, node: int) -> RatioRow:
        if ends and t == 0:
            share = Fraction(core, n)  # so that the mean of the core's values is the mean of everybody's
            if node < rest:
                return ((node, share), (core + node, share))
            return ((node, share if node < core else ONE),)
        if ends and t == count - 1:
            return ((node - core if node >= core else node, ONE),)
        if node >= core or not bits:
            return ((node, ONE),)
        return _even(sorted((node, node ^ (1 << (t - ends)))))

    return Schedule(
        name="fold",
        n=n,
        reference="Thakur, Rabenseifner & Gropp, Optimization of Collective Communication Operations in MPICH, 2005",
        period=max(1, count),
        promise=Promise.PRODUCT,
        symmetric=False,
        exact_after=count,
        rule=rule,
        union=lambda: Topology.from_edges(
            n,
            [(i, i ^ (1 << b)) for i in range(core) for b in range(bits)] + [(i, core + i) for i in range(rest)],
        ),
        sent=_sent_by_fold(core, rest, count),
    )


def _in_rounds(name: str, n: int, rounds: Sequence[_Round], reference: str) -> Schedule:
    """The symmetric schedule of these rounds, whose product is the mean."""
    return Schedule(
        name=name,
        n=n,
        reference=reference,
        period=max(1, len(rounds)),
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=len(rounds),
        rule=lambda t, node: rounds[t].get(node, ((node, ONE),)) if rounds else ((node, ONE),),
        union=lambda: Topology.from_edges(n, (_edge(a, b) for one in rounds for a in one for b, _ in one[a] if a != b)),
    )


def _sent_by_fold(core: int, rest: int, count: int) -> Callable[[int, int], tuple[int, ...]]:
    """Who hears from a member in each round of `fold`, without asking the others."""

    def sent(t: int, node: int) -> tuple[int, ...]:
        if rest and t == 0:
            return (node - core,) if node >= core else ()
        if rest and t == count - 1:
            return (core + node,) if node < rest else ()
        return (node ^ (1 << (t - bool(rest))),) if node < core and count else ()

    return sent


def _base(nodes: Sequence[int], k: int, *, lean: bool) -> list[_Round]:
    """Algorithm 3: smooth x rough. Equal blocks of the rough part average at once, then one member of each."""
    rough = _rough(len(nodes), k)
    simple = _simple(nodes, k, lean=lean)
    blocks = [nodes[start : start + rough] for start in range(0, len(nodes), rough)]
    product = _side_by_side([_simple(block, k, lean=lean) for block in blocks])
    product += _side_by_side([_hyper(column, k) for column in zip(*blocks, strict=True)])
    return simple if len(simple) < len(product) else product


def _simple(nodes: Sequence[int], k: int, *, lean: bool) -> list[_Round]:
    """Algorithm 2, on n = a_1 (k+1)^p_1 + a_2 (k+1)^p_2 + ... with falling powers: parts of a_l equal blocks.

    Every part averages itself. Then part after part puts itself right with all smaller ones: each of their members
    meets one member of every block of it, weighted so that they take on the mean of all of them, and so that the mean
    of each block of it becomes that mean too. Averaging each block by itself finishes the part.
    """
    n = len(nodes)
    if _rough(n, k) == 1:
        return _hyper(nodes, k)
    parts = _parts(nodes, k)
    flat = [[node for block in part for node in block] for part in parts]
    gather = len(_hyper(flat[0], k))
    rounds: list[_Round] = [{} for _ in range(gather + 1 + len(_hyper(parts[0][0], k)))]
    last = len(parts) - 1
    for index, part in enumerate(parts):
        _lay(rounds[:gather], _hyper(flat[index], k), lean=lean)
        if index < last:
            _meet(rounds[gather + index], part, [node for later in flat[index + 1 :] for node in later], k, lean=lean)
        if index == last and lean:
            continue  # the smallest part was put right by all before it and is done
        blocks = part if len(part[0]) > 1 else [flat[index]]
        _lay(
            rounds[gather + index + (index < last) :], _side_by_side([_hyper(block, k) for block in blocks]), lean=lean
        )
    return rounds


def _parts(nodes: Sequence[int], k: int) -> list[list[Sequence[int]]]:
    """The digits of n in base k+1 as blocks of members, largest power first; digits of zero have no part."""
    size = 1
    while size * (k + 1) <= len(nodes):
        size *= k + 1
    parts: list[list[Sequence[int]]] = []
    start = 0
    while start < len(nodes):
        count = (len(nodes) - start) // size
        if count:
            parts.append([nodes[start + i * size : start + (i + 1) * size] for i in range(count)])
            start += count * size
        size //= k + 1
    return parts


def _meet(one: _Round, part: Sequence[Sequence[int]], later: Sequence[int], k: int, *, lean: bool) -> None:
    """The round in which each of `later` meets one member of every block of `part`.

    There are fewer of them than members in a block, the sum of all smaller digits being less than the next power.
    """
    size = sum(map(len, part))
    weight = Fraction(size, (size + len(later)) * len(part))
    for i, node in enumerate(later):
        partners = [block[len(block) - 1 - i] for block in part]
        one[node] = tuple(sorted([(node, 1 - weight * len(part)), *((partner, weight) for partner in partners)]))
        for partner in partners:
            one[partner] = tuple(sorted([(partner, 1 - weight), (node, weight)]))
    if lean:
        return
    idle = [node for block in part for node in block if node not in one]
    for start in range(0, len(idle), k + 1):
        group = idle[start : start + k + 1]
        one.update((node, _even(group)) for node in group)


def _hyper(nodes: Sequence[int], k: int) -> list[_Round]:
    """Algorithm 1 on a smooth number of members: round l averages those whose indices differ in digit l only."""
    rounds: list[_Round] = []
    stride = 1
    for factor in _factors(len(nodes), k + 1) or ():
        one: _Round = {}
        for first in range(len(nodes)):
            if first // stride % factor == 0:
                group = sorted(nodes[first + digit * stride] for digit in range(factor))
                one.update((node, _even(group)) for node in group)
        rounds.append(one)
        stride *= factor
    return rounds


def _lay(rounds: Sequence[_Round], track: Sequence[_Round], *, lean: bool) -> None:
    """Play `track` on these rounds; when it ends before they do, again from its start (which then changes nothing)."""
    for t, one in enumerate(rounds):
        if track and (t < len(track) or not lean):
            one.update(track[t % len(track)])


def _side_by_side(tracks: Sequence[Sequence[_Round]]) -> list[_Round]:
    """Equally long tracks of disjoint members, at the same time."""
    return [{node: row for one in turn for node, row in one.items()} for turn in zip(*tracks, strict=True)]


def _even(group: Sequence[int]) -> RatioRow:
    """Equal shares of a sorted group."""
    share = Fraction(1, len(group))
    return tuple((node, share) for node in group)


@lru_cache(maxsize=4 * NODES_MAX)
def _factors(n: int, limit: int) -> tuple[int, ...] | None:
    """The fewest factors of 2 to `limit` with product n, of these the smallest sum (copies); None if there are none."""
    if n == 1:
        return ()
    options = [
        (factor, *rest)
        for factor in range(2, min(n, limit) + 1)
        if n % factor == 0 and (rest := _factors(n // factor, limit)) is not None
    ]
    return min(options, key=lambda option: (len(option), sum(option), option), default=None)


def _rough(n: int, k: int) -> int:
    """What is left of n without its prime factors up to k + 1."""
    for factor in range(2, min(n, k + 1) + 1):
        while n % factor == 0:
            n //= factor
    return n


def _edge(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _size(n: int, what: str) -> None:
    if not 1 <= n <= NODES_MAX:
        raise UsageError(
            f"couldn't make a {what} of {n} members: it must have 1 to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )
