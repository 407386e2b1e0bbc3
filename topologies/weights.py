"""Mixing matrices: how much each member trusts each neighbour's model in one gossip exchange.

A mixing matrix W is symmetric and doubly stochastic and is zero where there is no link, so x <- W x keeps the mean of
all models and each member needs its neighbours' models only. Its spectral gap says how fast the models agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topologies.graph import Topology


def metropolis_hastings(topology: Topology) -> NDArray[np.float64]:
    """The Metropolis-Hastings weights, shape (n, n): w_ij = 1 / (1 + max(d_i, d_j)) on edges, the rest on w_ii.

    They need each member to know only its neighbours' degrees (Xiao, Boyd & Kim, "Distributed average consensus with
    least-mean-square deviation", 2007, equation 13). The diagonal is positive, so no eigenvalue is -1.
    """
    w_NN = np.zeros((topology.n, topology.n))  # noqa: N806 - shape suffix
    for a, b in topology.edges:
        w_NN[a, b] = w_NN[b, a] = 1.0 / (1 + max(topology.degree(a), topology.degree(b)))
    np.fill_diagonal(w_NN, 1.0 - w_NN.sum(axis=1))
    return w_NN


def spectral_gap(w_NN: NDArray[np.float64]) -> float:  # noqa: N803 - shape suffix
    """1 - max(|lambda_2|, |lambda_n|) of a symmetric mixing matrix, within [0, 1] up to rounding.

    One exchange multiplies the squared distance of the models from their mean by at most (1 - gap)^2 (Boyd et al.,
    "Randomized Gossip Algorithms", 2006). A single member agrees with itself at once: gap 1.
    """
    eigenvalues = np.linalg.eigvalsh(w_NN)
    if eigenvalues.size == 1:
        return 1.0
    return float(1.0 - max(abs(eigenvalues[0]), abs(eigenvalues[-2])))
