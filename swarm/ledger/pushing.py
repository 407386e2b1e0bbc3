"""Gossip over links that go one way: push-sum, whose masses the ledger keeps.

A member j has a model x_j and a mass m_j, which says how much that model counts. In a round it gives a part of its mass
to each of its targets, and the rest stays: with g_ji given to i, m_i' = m_i - sum_k g_ik + sum_j g_ji, and its model is
the mean of what it then holds, x_i' = ((m_i - sum_k g_ik) x_i + sum_j g_ji x_j) / m_i' (Kempe, Dobra & Gehrke 2003,
"Gossip-Based Computation of Aggregate Information", protocol push-sum; with training in between Assran et al. 2019,
"Stochastic Gradient Push"). No sum over the swarm changes, neither of m nor of m x, whatever the graph is; so on any
strongly connected one the models come to the mean weighted by the masses that members came with, their numbers of
samples.

A message that is lost takes its share with it where only the sender knows that it sent (Hadjicostis, Vaidya &
Dominguez-Garcia 2016 make up for it later by running sums). Here everybody knows what arrived: j names its targets, i
the models that it holds, both in the log before the round closes. A gift is made if both did; else it stays with the
giver. Masses are integers, computed from the log alone by whoever reads it. Who was in a round and has not attested
what it made of it when the round is over has its gifts yet to take (`swarm.ledger.exchange.Due`): it does so, and
attests, before it takes part in another one. Until then they are on their way.

A giver with d targets gives i the part min(1, w_i / w_j) / (d + 1), w being what members came with. The factor is the
rule of Metropolis et al. 1953 for a walk with the distribution w: with equal w there is none. It keeps the mass of a
large site from running out into small ones, so that m_i / w_i stays near 1 where the graph gives each as much as it
takes. Training enters by w, not by m: an update counts as w_i u_i, so a member whose mass is m_i takes w_i / m_i times
the step (`step`). So the weighted mean of all models moves as in FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.ledger.exchange import Exchange, Mass
from swarm.machine import NodeId

UNIT = 1 << 20
"""A mass of 1. Weights sum to at most 2**20, so masses fit into 40 bits, and a share rounds off a millionth at most."""

STEP_MAX = 4.0
"""Longest step: a member that has given nearly all its mass away would else take steps of any length."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A closed round: masses before and after it, and by receiver and giver what was given and has arrived.

    Both sums of masses are the same. `before` has those who come with theirs in this round, `gifts` are in `UNIT`s.
    """

    before: Mapping[NodeId, Mass]
    after: Mapping[NodeId, Mass]
    gifts: Mapping[NodeId, Mapping[NodeId, int]]

    def amounts(self, node: NodeId) -> dict[NodeId, int]:
        """Return of whose models a member's next one is made, and how much of each, in units; they sum to its mass."""
        got = self.gifts.get(node, {})
        return {**got, node: self.after[node].held - sum(got.values())}

    def row(self, node: NodeId) -> dict[NodeId, float]:
        """Return the same as shares, which sum to 1."""
        return {giver: amount / self.after[node].held for giver, amount in self.amounts(node).items()}

    def rest(self, node: NodeId) -> float:
        """Return how much of its next model is what rounding took off its own one: mass before to mass after.

        A model is given away as it travels, rounded; what rounding took stays with its owner, and so the mean does.
        """
        return self.before[node].held / self.after[node].held


def settle(exchange: Exchange, included: Mapping[NodeId, int], weights: Mapping[NodeId, int]) -> Settled:
    """Return what a closed round did. `included` has the leaf index of each contribution in it, `weights` its weight.

    Who is in a round for the first time comes with its weight there.
    """
    fresh = {node: Mass(weight, weight * UNIT) for node, weight in weights.items() if node not in exchange.masses}
    before = {**exchange.masses, **fresh}
    held = {node: mass.held for node, mass in before.items()}
    gifts: dict[NodeId, dict[NodeId, int]] = {}
    for giver, index in sorted(included.items()):
        targets, mass = exchange.targets.get(giver, ()), before[giver]
        for target in map(NodeId, targets):
            if target != giver and target in included and index in exchange.receipts.get(target, ()):
                part = min(before[target].weight, mass.weight)
                given = mass.held * part // (mass.weight * (len(targets) + 1))
                gifts.setdefault(target, {})[giver] = given
                held[giver] -= given
                held[target] += given
    after = {node: Mass(mass.weight, held[node]) for node, mass in before.items()}
    return Settled(before, after, gifts)


def step(mass: Mass | None) -> float:
    """Return by what a member's training is multiplied, above 0 to `STEP_MAX`; 1 before it has been in a round."""
    return 1.0 if mass is None else min(STEP_MAX, mass.weight * UNIT / mass.held)
