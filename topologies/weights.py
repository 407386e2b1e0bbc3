"""Mixing matrices: how much each member trusts each neighbour's model in one gossip exchange.

A mixing matrix W is symmetric and doubly stochastic and is zero where there is no link, so x <- W x keeps the mean of
all models and each member needs its neighbours' models only. Its spectral gap says how fast the models agree; which
rule makes it largest depends on the graph, and what each member must know grows from its own degree to everything:

==================  =========================================  ============================================
rule                what a member must know                    when
==================  =========================================  ============================================
metropolis_hastings degrees of its neighbours                  the default: unbiased, local, needs no tuning
lazy                the same                                   where an eigenvalue near -1 would do harm (D2)
max_degree          the largest degree in the swarm            nearly regular graphs
best_constant       two eigenvalues of the graph               a fixed graph; weights may be negative
fastest_mixing      the whole graph                            a fixed graph of up to `FASTEST_NODES_MAX`
uniform             its own degree                             **biased** on irregular graphs: for comparison only
==================  =========================================  ============================================

Links of one direction cannot have symmetric weights; they have column-stochastic ones (`column_stochastic`), which keep
the total, and the ratio of two totals is exact all the same: `ratio_consensus` is how gossip reaches FedAvg's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.graph import Edge, Topology, reached
from topologies.mixing import Mixing

FASTEST_NODES_MAX = 128
"""Most members for `fastest_mixing`: each of its steps takes the eigenvectors of an (n, n) matrix."""

FASTEST_STEPS = 1000
"""Steps of the subgradient method, which converges as 1/sqrt(steps). This many come within 4 % of the known largest
gaps of paths, stars and barbells of 20 members in a second, and take a quarter of a minute for 128."""


def metropolis_hastings(topology: Topology) -> NDArray[np.float64]:
    """The Metropolis-Hastings weights, shape (n, n): w_ij = 1 / (1 + max(d_i, d_j)) on edges, the rest on w_ii.

    They need each member to know only its neighbours' degrees (Xiao, Boyd & Kim, "Distributed average consensus with
    least-mean-square deviation", 2007, equation 13). The diagonal is positive, so no eigenvalue is -1.
    """
    low, high = _ends(topology)
    degree = _degrees(topology)
    return _symmetric(topology, 1.0 / (1 + np.maximum(degree[low], degree[high])))


def lazy(w_NN: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
    """(I + W) / 2, shape (n, n): all eigenvalues of a symmetric W move into [0, 1], at half the gap or more.

    Levin, Peres & Wilmer, "Markov Chains and Mixing Times" (2009), section 1.3. D2 needs the least
    eigenvalue above -1/3.
    """
    return (np.eye(len(w_NN)) + w_NN) / 2


def max_degree(topology: Topology) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_max) on edges, the rest on w_ii: I - L / (1 + d_max), L the Laplacian; shape (n, n).

    The maximum-degree weights of Xiao & Boyd, "Fast linear iterations for distributed averaging" (Systems & Control
    Letters 53, 2004), with one added so that the diagonal is positive on every graph.
    """
    return _symmetric(topology, np.full(len(topology.edges), 1.0 / (1 + _degrees(topology).max())))


def best_constant(topology: Topology) -> NDArray[np.float64]:
    """I - a L with a = 2 / (l_1 + l_{n-1}), the extremes of L's eigenvalues that are not zero; shape (n, n).

    The best of all weights that are the same on every edge (Xiao & Boyd, 2004). Not a Markov chain: members of high
    degree may weigh themselves negatively. The mean is kept all the same, and no other constant is faster.
    """
    if topology.n == 1:
        return np.ones((1, 1))
    eigenvalues = np.linalg.eigvalsh(laplacian(topology))
    return _symmetric(topology, np.full(len(topology.edges), 2.0 / (eigenvalues[1] + eigenvalues[-1])))


def uniform(topology: Topology) -> NDArray[np.float64]:
    """w_ij = 1 / (1 + d_i) for i itself and each neighbour; shape (n, n). Rows sum to 1, columns need not.

    **Biased on irregular graphs**: members agree on sum_i (1 + d_i) x_i / sum_i (1 + d_i), not on the mean, because a
    random walk stays with the well connected (Levin, Peres & Wilmer, 2009). Doubly stochastic exactly when
    all degrees are equal. Here to be compared with.
    """
    low, high = _ends(topology)
    w_NN = np.eye(topology.n)  # noqa: N806 - shape suffix
    w_NN[low, high] = w_NN[high, low] = 1.0
    shares: NDArray[np.float64] = w_NN / w_NN.sum(axis=1, keepdims=True)
    return shares


def fastest_mixing(topology: Topology, steps: int = FASTEST_STEPS) -> NDArray[np.float64]:
    """The symmetric non-negative weights on these links with (nearly) the largest spectral gap; shape (n, n).

    Boyd, Diaconis & Xiao, "Fastest Mixing Markov Chain on a Graph" (SIAM Review 46(4), 2004): a projected
    subgradient method on the edge weights p. With u the unit eigenvector of the eigenvalue of largest modulus but one,
    the subgradient of edge (i, j) is -(u_i - u_j)^2 where that eigenvalue is positive and +(u_i - u_j)^2 where it is
    negative. The best of all steps is returned, so it is never slower than `metropolis_hastings`
    or `best_constant` where that has no negative weight.

    Raises:
        UsageError: If the topology has more than `FASTEST_NODES_MAX` members.
    """
    if topology.n > FASTEST_NODES_MAX:
        raise UsageError(
            f"couldn't optimise the weights of {topology.n} members: it is offered up to {FASTEST_NODES_MAX}",
            hint="Use best_constant, or a topology that mixes fast under metropolis_hastings.",
        )
    if topology.n <= 2:
        return np.full((topology.n, topology.n), 1.0 / topology.n)
    low, high = _ends(topology)
    incident = [np.flatnonzero((low == node) | (high == node)) for node in range(topology.n)]
    p_E, best_E, least = _quickest_start(topology, low, high)  # noqa: N806 - shape suffix
    for step in range(1, steps + 1):
        slope_E, size = _subgradient(_symmetric(topology, p_E), low, high)  # noqa: N806 - shape suffix
        if size < least:
            least, best_E = size, p_E.copy()  # noqa: N806 - shape suffix
        norm = float(np.linalg.norm(slope_E))
        if norm == 0:
            break  # no edge can change the eigenvalue: the optimum
        p_E = _projected(p_E - slope_E / (norm * STEP_SCALE * np.sqrt(step)), incident)  # noqa: N806 - shape suffix
    return _symmetric(topology, best_E)


STEP_SCALE = 4.0
"""The first step of `fastest_mixing` moves the weights by 1/4 in norm, the k-th by 1/(4 sqrt k): diminishing and not
summable, which is what convergence asks for (Shor, "Minimization Methods for Non-Differentiable Functions", 1985)."""

Rule = Callable[[Topology], NDArray[np.float64]]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "metropolis_hastings": metropolis_hastings,
        "lazy": lambda topology: lazy(metropolis_hastings(topology)),
        "max_degree": max_degree,
        "best_constant": best_constant,
        "fastest_mixing": fastest_mixing,
        "uniform": uniform,
    }
)
"""The rules by the names a scenario file uses."""


def weigh(topology: Topology, rule: str = "metropolis_hastings") -> NDArray[np.float64]:
    """The mixing matrix of `topology` by the rule of that name, shape (n, n).

    Raises:
        UsageError: If there is no such rule.
    """
    if rule not in RULES:
        raise UsageError(
            f"couldn't weigh the links: there is no rule named {rule!r}", hint=f"Use one of {', '.join(sorted(RULES))}."
        )
    return RULES[rule](topology)


def laplacian(topology: Topology) -> NDArray[np.float64]:
    """L = D - A, shape (n, n): degrees on the diagonal, -1 on links."""
    low, high = _ends(topology)
    l_NN = np.diag(_degrees(topology).astype(np.float64))  # noqa: N806 - shape suffix
    l_NN[low, high] = l_NN[high, low] = -1.0
    return l_NN


def column_stochastic(n: int, arcs: Iterable[Edge]) -> Mixing:
    """Weights for links of one direction: every member splits itself equally between itself and those it sends to.

    `arcs` are (source, target). W[target, source] = 1 / (1 + out-degree of source): each member needs to know only how
    many it sends to. Columns sum to 1, so push-sum (Kempe, Dobra & Gehrke, "Gossip-based computation of aggregate
    information", FOCS 2003) reaches the exact mean if every member can be reached
    from every other.

    Raises:
        UsageError: If an arc is out of range, or somebody cannot be reached along the arcs.
    """
    outward: list[list[int]] = [[] for _ in range(n)]
    inward: list[list[int]] = [[] for _ in range(n)]
    for source, target in sorted(set(arcs)):
        if not (0 <= source < n and 0 <= target < n) or source == target:
            raise UsageError(
                f"couldn't weigh the links: {source}->{target} is no link between two of the members 0 to {n - 1}",
                hint="Count members from 0, and leave out links to oneself.",
            )
        outward[source].append(target)
        inward[target].append(source)
    for way, verb in ((outward, "be reached from"), (inward, "reach")):
        seen = reached(way)
        if not all(seen):
            raise UsageError(
                f"couldn't weigh the links: member {seen.index(False)} cannot {verb} member 0 along their directions",
                hint="Add a link back; push-sum needs every member to reach every other.",
            )
    return Mixing(
        n, [sorted((source, 1.0 / (1 + len(outward[source]))) for source in (node, *inward[node])) for node in range(n)]
    )


def ratio_consensus(
    mixings: Iterable[Mixing],
    x_ND: NDArray[np.float64],  # noqa: N803 - shape suffix
    samples: Sequence[float],
) -> NDArray[np.float64]:
    """Every member's estimate of the sample-weighted mean after these rounds, shape (n, D).

    Gossip on the pairs [n_i x_i, n_i], divided at the end (push-sum; Kempe, Dobra & Gehrke, 2003; Benezit et al.,
    "Weighted gossip", ISIT 2010). Both halves keep their totals under any column-stochastic W, and each member's shares
    of the two tend to the same fraction of them, so the ratio tends to sum_i n_i x_i / sum_i n_i: exactly the mean of
    FedAvg (McMahan et al., 2017). After a finite-time schedule it *is* that mean. Multiplying neighbours' weights by
    n_j instead is not: rules that do so are off by 13 % of the spread on an irregular graph.

    Args:
        mixings: Rounds, each column stochastic, or all of an all-or-nothing schedule with one state a member.
        x_ND: One vector of D numbers for each member.
        samples: How many samples stand behind each, none negative and not all zero.

    Raises:
        UsageError: If the sizes differ or the samples are not such counts.
    """
    weights = np.asarray(samples, dtype=np.float64)
    if weights.shape != (len(x_ND),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise UsageError(
            f"couldn't weigh {len(x_ND)} members by samples: the counts are {list(samples)}",
            hint="Give one count for each member, none negative and not all zero.",
        )
    weights = weights / weights.mean()  # so that the products stay near the size of x in any precision
    pair = np.concatenate([weights[:, None] * x_ND, weights[:, None]], axis=1)
    for mixing in mixings:
        if mixing.slots != len(x_ND):
            raise UsageError(f"couldn't mix {len(x_ND)} members: a round is for {mixing.slots}")
        pair = mixing.apply(pair)
    with np.errstate(divide="ignore", invalid="ignore"):  # a member that has heard of no sample yet knows nothing: NaN
        ratio: NDArray[np.float64] = pair[:, :-1] / pair[:, -1:]
    return ratio


def spectral_gap(w_NN: NDArray[np.float64]) -> float:  # noqa: N803 - shape suffix
    """1 - max(|lambda_2|, |lambda_n|) of a symmetric mixing matrix, within [0, 1] up to rounding.

    One exchange multiplies the squared distance of the models from their mean by at most (1 - gap)^2 (Boyd et al.,
    "Randomized Gossip Algorithms", 2006). A single member agrees with itself at once: gap 1. `topologies.spectrum` does
    the same for schedules, for links of one direction and for thousands of members.
    """
    eigenvalues = np.linalg.eigvalsh(w_NN)
    if eigenvalues.size == 1:
        return 1.0
    return float(1.0 - max(abs(eigenvalues[0]), abs(eigenvalues[-2])))


def _ends(topology: Topology) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return topology.ends[:, 0], topology.ends[:, 1]


def _degrees(topology: Topology) -> NDArray[np.int64]:
    return topology.degrees


def _symmetric(topology: Topology, p_E: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
    """The matrix with these weights on the edges and what is left of each row on its diagonal."""
    low, high = _ends(topology)
    w_NN = np.zeros((topology.n, topology.n))  # noqa: N806 - shape suffix
    w_NN[low, high] = w_NN[high, low] = p_E
    np.fill_diagonal(w_NN, 1.0 - w_NN.sum(axis=1))
    return w_NN


def _quickest_start(
    topology: Topology, low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Where the subgradient method begins: the better of two simple rules, and the modulus to beat."""
    starts = [metropolis_hastings(topology)]
    if (np.diag(constant := best_constant(topology)) >= 0).all():
        starts.append(constant)
    size, w_NN = min(((1 - spectral_gap(w), w) for w in starts), key=lambda pair: pair[0])  # noqa: N806 - shape suffix
    return w_NN[low, high].copy(), w_NN[low, high].copy(), size


def _subgradient(
    w_NN: NDArray[np.float64],  # noqa: N803 - shape suffix
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float]:
    """A subgradient of the second largest modulus in the edge weights, shape (edges,), and that modulus."""
    eigenvalues, vectors = np.linalg.eigh(w_NN)
    if eigenvalues[-2] >= -eigenvalues[0]:
        return -((vectors[low, -2] - vectors[high, -2]) ** 2), float(eigenvalues[-2])
    return (vectors[low, 0] - vectors[high, 0]) ** 2, float(-eigenvalues[0])


def _projected(
    p_E: NDArray[np.float64],  # noqa: N803 - shape suffix
    incident: Sequence[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Back into the feasible set: no weight negative, no member giving away more than all of itself.

    Member by member, the excess is taken off its edges equally until it is gone (Boyd, Diaconis & Xiao, 2004): the
    projection on one constraint after the other. It only ever lowers weights, so earlier members stay feasible.
    """
    p_E = np.maximum(p_E, 0.0)  # noqa: N806 - shape suffix
    for edges in incident:
        mine = p_E[edges]
        if mine.sum() > 1:
            falling = np.sort(mine)[::-1]  # the projection on a simplex: Held, Wolfe & Crowder, 1974
            level = (np.cumsum(falling) - 1) / np.arange(1, len(falling) + 1)
            p_E[edges] = np.maximum(mine - level[np.flatnonzero(falling > level)[-1]], 0.0)
    return p_E
