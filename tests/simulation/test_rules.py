"""Rounds that are averaged by a rule, with the real node in the simulated world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from node.bulk import BulkWorker
from node.storage import BlobStore as Store
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit, weights
from swarm.machine import Digest, Event, Mix, Mixed
from swarm.mixing.rules import parse
from tests.builders import Swarm, make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_routes import CrashAt, alike, blocks, said
from topologies.world.faults import Crash, Fault, FaultOptions, generate
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.world import World

ELEMENTS = 512
SAMPLES = (100, 900, 50, 100, 500)
HARSH = NetworkProfile(loss=0.05, duplication=0.02)
RULES = ("median", "trimmed:1", "geomedian", "multikrum:1", "nnm:1+trimmed:1")


def task(n: int = 5, **more: object) -> QuadraticTask:
    usual: dict[str, object] = {"seed": 5, "elements": ELEMENTS, "bound": 50.0, "steps": 2, "rate": 0.2, "spread": 0.2}
    return QuadraticTask(samples=SAMPLES[:n], **(usual | more))  # type: ignore[arg-type]


def swarm_of(rule: str, n: int = 5, *, rounds: int = 3, fewest: int = 5) -> Swarm:
    return make_swarm(
        n,
        rounds=rounds,
        elements=ELEMENTS,
        clip_norm_milli=50_000,
        rule=rule,
        min_contributions=fewest,
        patience_ms=3_000,
    )


def ran(
    rule: str,
    *,
    fewest: int = 5,
    rounds: int = 3,
    seed: int = 1,
    learner: QuadraticTask | None = None,
    faults: Sequence[Fault] = (),
    checkers: Sequence[CrashAt] = (),
    network: NetworkProfile | None = None,
    prepare: Callable[[World], None] = lambda _: None,
) -> World:
    swarm = swarm_of(rule, rounds=rounds, fewest=fewest)
    world = gossiping(swarm, learner or task(), seed=seed, faults=faults, checkers=checkers, network=network)
    prepare(world)
    assert world.run(all_done), [head(world, member).status(world.now) for member in range(5)]
    return world


def ledger_of(rule: str) -> tuple[SignedCharter, list[bytes]]:
    """Return the charter and the blocks of a run in which one poisons, and another tells weights that are not so."""
    learner = task(behaviours={4: Behaviour.POISONER})
    world = ran(rule, learner=learner, prepare=tells_wrong_weights(1))
    return head(world, 0).replica.head.signed, blocks(world)


def tells_wrong_weights(member: int) -> Callable[[World], None]:
    """Let one member average as all others do, and attest that its own update got all the weight."""

    def prepare(world: World) -> None:
        store = world.place(member).blobs
        honest = store.mix

        def mix(effect: Mix) -> Callable[[], Sequence[Event]]:
            work = honest(effect)

            def lying() -> Sequence[Event]:
                events = work()
                return [
                    dataclasses.replace(event, weights=(0,) * (len(event.weights) - 1) + (1,))
                    if isinstance(event, Mixed)
                    else event
                    for event in events
                ]

            return lying

        store.mix = mix  # type: ignore[method-assign]

    return prepare


def audited(world: World) -> Audit:
    *_, result = audit(blocks(world), head(world, 0).replica.head.signed)
    assert result.failure is None, result.failure
    return result


def attests(world: World) -> list[e.Attest]:
    return said(world, e.ATTEST, e.Attest)


@pytest.mark.parametrize("rule", ["median", "nnm:1+geomedian"])
def test_all_end_with_the_same_bytes_whatever_is_lost_on_the_way(rule: str) -> None:
    calm = ran(rule)
    harsh = ran(rule, seed=7, network=HARSH, checkers=[CrashAt(2, Mix, down_s=2.0)])
    assert alike(calm)
    assert alike(harsh)
    assert np.array_equal(merged(calm, 0), merged(harsh, 0)), "in whichever order updates arrived"


@pytest.mark.parametrize("rule", ["trimmed:1", "multikrum:1", "nnm:1+trimmed:1"])
def test_weights_are_a_fact_on_the_ledger(rule: str) -> None:
    world = ran(rule, learner=task(behaviours={4: Behaviour.POISONER}))
    result = audited(world)
    for view in result.rounds.values():
        assert view.closed is not None
        assert [weight for _, weight in view.closed.body.included] == [1] * 5, "no sample count is believed"
        shares = weights(view)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert shares[view.closed.terms[-1].author] < 0.05, "the poisoner's, after three steps of 1,000 times its own"
    assert {len(body.used) for body in attests(world)} == {5}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_poisoner_moves_the_mean_and_hardly_a_rule(seed: int) -> None:
    liar = task(seed=seed, elements=64, behaviours={4: Behaviour.POISONER})
    best = liar.optimum(range(4))

    def away(rule: str) -> float:
        swarm = make_swarm(5, rounds=4, elements=64, clip_norm_milli=50_000, rule=rule, min_contributions=5)
        world = gossiping(swarm, liar)
        assert world.run(all_done)
        return float(np.linalg.norm(merged(world, 0) - best))

    assert away("trimmed:1") < away("") / 4


def test_who_tells_other_weights_is_outvoted_and_told_apart_on_the_ledger() -> None:
    world = ran("trimmed:1", prepare=tells_wrong_weights(1))
    result = audited(world)
    for view in result.rounds.values():
        assert view.commit is not None
        assert view.commit.attests == 4, "of five: what it agrees on is model and weights"
        assert sum(view.mixed.values()) > 1
    wrong = [body for body in attests(world) if [weight for *_, weight in body.used] == [0, 0, 0, 0, 1]]
    assert len(wrong) == 3
    assert alike(world)


def test_two_who_tell_other_weights_can_stop_five_but_not_deceive_them() -> None:
    swarm = swarm_of("trimmed:1")
    world = gossiping(swarm, task())
    for member in (1, 2):
        tells_wrong_weights(member)(world)
    world.run(all_done, end_s=world.now + 60)
    assert head(world, 0).replica.head.committed.round == 0, "three are no quorum of five"


def test_a_round_without_somebody_goes_by_the_rule_all_the_same() -> None:
    world = ran("trimmed:1", fewest=3, faults=[Crash(at_s=0.75, slot=3, down_s=60.0)], rounds=4)
    first = said(world, e.ROUND_CLOSE, e.RoundClose)[0]
    assert len(first.included) == 4
    assert alike(world)


def test_what_is_unusable_is_left_out_with_its_reason() -> None:
    world = ran("trimmed:1", fewest=3, learner=task(behaviours={4: Behaviour.OVERSIZE}))
    told = [report.text for _, report in world.place(0).reports if report.event == "round_closed"]
    assert told
    assert all("without site-4 (unusable)" in text for text in told)


def test_who_is_unlike_the_others_is_named_and_stays_in() -> None:
    world = ran("", learner=task(behaviours={4: Behaviour.POISONER}))
    warned = [report for _, report in world.place(0).reports if report.event == "unlike"]
    assert warned
    assert all(report.level == "warning" and "site-4" in report.text for report in warned)
    assert "times the median" in warned[0].text
    assert all(len(close.included) == 5 for close in said(world, e.ROUND_CLOSE, e.RoundClose))
    likeness = head(world, 0).status(world.now)["likeness"]
    assert isinstance(likeness, dict)
    assert [site["name"] for site in likeness["sites"] if site["unlike"]] == ["site-4"]


@pytest.mark.parametrize("seed", [1, 2])
def test_rules_hold_while_all_sorts_of_things_go_wrong(seed: int) -> None:
    options = FaultOptions(heal_s=40.0, crash_every_s=8.0, partition_every_s=12.0)
    faults = generate(seed, members=5, options=options).faults
    world = ran("nnm:1+geomedian", fewest=3, rounds=4, seed=seed, network=HARSH, faults=faults)
    assert alike(world)
    audited(world)


@pytest.mark.parametrize("rule", RULES)
def test_the_networked_worker_makes_the_same_bytes(rule: str, tmp_path: object) -> None:
    assert hasattr(tmp_path, "joinpath")
    rng = np.random.default_rng(3)
    elements = 20_000
    updates = [rng.normal(0.01 * i, 0.01, elements).astype(np.float32) for i in range(5)]
    base = rng.normal(0, 1, elements).astype(np.float32)
    simulated = gossiping(make_swarm(5, rule=rule, min_contributions=5), task()).place(0).blobs
    store = Store(tmp_path.joinpath("blobs"))
    names = [Digest(simulated.put(vector.tobytes()).digest) for vector in (base, *updates)]
    for vector in (base, *updates):
        path = store.new_file()
        path.write_bytes(vector.tobytes())
        store.add_file(path)
    effect = Mix(1, names[0], tuple((name, 1) for name in names[1:]))
    worker = BulkWorker(store, elements=elements, bound=100.0, wake=lambda: None, rule=parse(rule))
    worker.submit_mix(effect)
    worker.close()
    ours, theirs = worker.take()[-1], simulated.mix(effect)()[-1]
    assert isinstance(ours, Mixed)
    assert isinstance(theirs, Mixed)
    assert (ours.model, ours.weights, ours.likeness) == (theirs.model, theirs.weights, theirs.likeness)
    assert ours.model is not None
