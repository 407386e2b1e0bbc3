"""Worlds to tell stories in: the real node on a calm network, unless the story says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.builders import Swarm, make_swarm
from topologies.families import complete
from topologies.graph import Topology
from topologies.world.checkers import Checker, PersistBeforeSend
from topologies.world.clock import EPOCH_S
from topologies.world.faults import FaultPlan
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World


def tell(
    members: int,
    *,
    seed: int = 1,
    rounds: int = 3,
    behaviours: Mapping[int, Behaviour] | None = None,
    plan: FaultPlan | None = None,
    network: NetworkProfile | None = None,
    topology: Topology | None = None,
    swarm: Swarm | None = None,
    strangers: Mapping[int, Swarm] | None = None,
    checkers: Sequence[Checker] = (),
) -> World:
    """Return a world of `members` real nodes. `strangers` run with another swarm's terms but the same keys."""
    swarm = swarm or make_swarm(members, rounds=rounds)
    graph = topology or complete(members)
    world = World(
        seed=seed,
        make=lambda member, incarnation: (
            (strangers or {}).get(member, swarm).node(member, now=EPOCH_S + world.now, seed=seed * 1000 + incarnation)
        ),
        topology=graph,
        plan=plan,
        network=network,
        learner=QuadraticTask(
            seed=seed,
            samples=tuple(100 * (i + 1) for i in range(members)),
            bound=swarm.charter.clip_norm,
            behaviours=behaviours or {},
        ),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        rule=swarm.charter.rule_of(exchanging=False),
        checkers=[Agreement(), HonestOnTheWire(), PersistBeforeSend(), *checkers],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def done(world: World, *members: int) -> bool:
    """Whether these members (default: all) have finished."""
    return all(place.finished for place in world.places if not members or place.member in members)


def told(world: World, member: int, event: str) -> list[str]:
    """Return what a member reported under an event's name."""
    return [report.text for _, report in world.place(member).reports if report.event == event]
