"""A scenario played in the simulated world, and what is left of it: the reference for the same on real processes."""

from __future__ import annotations

from node.simulation import protocol
from swarm.ledger.audit import audit
from swarm.ledger.journal import BLOCKS, Placed, scan
from tests.chaos.dialects import older
from tests.chaos.judge import Failed
from tests.chaos.stage import Ended, Stage

SETTLE_S = 120.0
"""Virtual seconds after the last round in which everybody, liars too, has the whole ledger."""


def play(stage: Stage) -> Ended:
    """Play it to its end.

    Raises:
        Failed: It does not come to its end.
    """
    scenario, learner, seed = stage.scenario, stage.learner, stage.seed
    links = scenario.links
    founded = protocol.found(scenario, learner, stage.task, schedule="", links=links, seed=seed)
    run = protocol.Play(
        scenario,
        founded,
        learner,
        stage.sites,
        links=links,
        seed=seed,
        score=lambda _: (0.0, 0.0),
        tested=(),
        older=older(),
    )
    over: dict[int, float] = {}
    for number in range(1, scenario.learning.rounds + 1):
        told = run.next_round()
        if told is None:
            raise Failed(f"the simulated run of seed {seed} stands still: {run.why_not()}")
        over[number] = told.virtual_s
    world = run.world
    world.run(lambda w: all(place.finished for place in w.places), end_s=world.now + SETTLE_S)
    audits = []
    for place in world.places:
        found = [one for one in scan(place.disk, BLOCKS, founded.signed.ledger_id) if isinstance(one, Placed)]
        *_, last = audit([one.record.payload for one in found], founded.signed)
        audits.append(last)
    model = run.final_model()
    if model is None:
        raise Failed(f"nobody holds the final model of seed {seed}")
    return Ended(
        audits=audits,
        accuracy=stage.accuracy(model),
        over=over,
        said={
            scenario.names[place.member]: tuple(report.text for _, report in place.reports) for place in world.places
        },
    )
