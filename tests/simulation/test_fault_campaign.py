"""A time-boxed part of the campaign over the whole fault list; `make faults` searches thousands of its seeds."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from gossip import messages as m
from gossip import wire
from swarm.ledger.block import NO_HASH, SKIP, Vote
from tests.simulation import fault_campaign as campaign
from tests.simulation.stories import done, tell
from topologies.world.checkers import Violation

FAR_VOTES = 100_000


@pytest.mark.parametrize("seed", range(1, 7))
def test_whatever_is_drawn_nothing_final_is_lost_and_everybody_finishes(seed: int) -> None:
    # All that could be wrong is claimed inside: one history, no honest contradiction, whole ledgers, an end, a bound.
    story = campaign.run(campaign.draw(seed))
    assert story.height > 0
    assert 0 < story.kept <= campaign.KEPT_MAX


def test_the_same_seed_is_the_same_story() -> None:
    trial = replace(campaign.draw(2), kept=(0, 2, 3, 6), rounds=2)
    assert campaign.run(trial).digest == campaign.run(trial).digest


def test_every_fault_and_every_way_to_mix_is_drawn_sooner_or_later() -> None:
    trials = [campaign.draw(seed) for seed in range(1, 400)]
    kinds = Counter(type(fault).__name__ for trial in trials for fault in trial.faults)
    assert min(kinds.values()) >= 10
    assert len(kinds) == 16
    assert {trial.kind for trial in trials} == {*campaign.KINDS, campaign.MASKED}
    assert {trial.members for trial in trials} == {3, 4, 5, 6, 7}
    assert all(trial.doubtful < 0 or trial.members > 3 for trial in trials), "three tolerate nobody who lies"


def test_a_hundred_thousand_votes_for_views_that_nobody_has_reached_leave_nothing_behind() -> None:
    world = tell(4, rounds=2)
    world.run(10.0)
    before = campaign.kept(world.place(0).machine)
    for number in range(FAR_VOTES):
        vote = Vote(0, 10**6 + number, SKIP, NO_HASH, 3, bytes(64))
        world.utter(3, world.ids[0], wire.encode(m.CastVote(vote)))
    assert world.run(done, end_s=120.0)
    machine = world.place(0).machine
    assert campaign.kept(machine) < 2 * before + 1000


def test_a_story_that_fails_is_shrunk_to_what_makes_it_fail() -> None:
    trial = next(one for one in map(campaign.draw, range(1, 99)) if len(one.kept) > 20 and one.members > 5)
    culprits = set(random.Random(1).sample(trial.kept, 2))
    tried = []

    def fails(one: campaign.Trial) -> bool:
        tried.append(one)
        return culprits <= set(one.kept) and one.members >= 4

    smallest = campaign.shrunk(trial, fails)
    assert set(smallest.kept) == culprits
    assert (smallest.members, smallest.rounds, smallest.kind) == (4, 1, "exact")
    assert len(tried) < 150
    assert f"--keep {min(culprits)},{max(culprits)}" in smallest.command()
    assert f"--first {trial.seed} --seeds 1 --members 4 --rounds 1" in smallest.command()


def test_fewer_members_meet_no_fault_of_those_who_are_not_there() -> None:
    trial = next(one for one in map(campaign.draw, range(1, 99)) if one.members == 7)
    small = replace(trial, members=3)
    assert all(getattr(fault, "slot", 0) < 3 for fault in small.faults)
    assert len(small.faults) < len(trial.faults)


def test_a_failure_is_known_again_by_its_first_words() -> None:
    one = Violation("not done by 812 s: n1 down (seed 3, at 812.0 s)\ntrace")
    other = Violation("not done by 97 s: n2 at block 4, round 1 (seed 3, at 97.1 s)\nother trace")
    assert campaign.symptom(one) == campaign.symptom(other) == "Violation: not done"
    assert campaign.symptom(Violation("fork: member 1 finalised another block")) != campaign.symptom(one)


def test_a_failing_seed_prints_the_one_command_that_replays_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trial: campaign.Trial) -> campaign.Story:
        raise Violation(f"fork (seed {trial.seed})")

    monkeypatch.setattr(campaign, "run", broken)
    told = campaign.search(iter([campaign.draw(5)]), time_s=60.0, cores=1)
    assert [one.failure for one in told] == ["Violation: fork (seed 5)"]
    assert "replay: python -m tests.simulation.fault_campaign --first 5 --seeds 1\n" in capsys.readouterr().out
