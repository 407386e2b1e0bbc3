"""The same scenarios in the simulated world, with the same claims; and that the claims can fail.

`make chaos` plays the long one, `bad-week`, with three seeds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from swarm.ledger.state import Closed
from swarm.machine import NodeId
from tests.chaos import simulated
from tests.chaos.acceptance import SIMULATED_GRACE_S, SIMULATED_LAG_S
from tests.chaos.judge import Failed, Told, judge
from tests.chaos.stage import Ended, scenario_of, set_up
from tests.chaos.test_chaos import SHORT
from topologies.scenario import Scenario


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Ended]:
    scenario = scenario_of(SHORT)
    return scenario, simulated.play(set_up(scenario, 1, tmp_path_factory.mktemp("day")))


def judged(scenario: Scenario, ended: Ended, undisturbed: float = 0.5) -> Told:
    return judge(scenario, 1, ended, undisturbed=undisturbed, lag_s=SIMULATED_LAG_S, grace_s=SIMULATED_GRACE_S)


def test_the_shortened_form_holds_too(bad_day: tuple[Scenario, Ended]) -> None:
    assert judged(*bad_day).rounds == bad_day[0].learning.rounds


def test_a_site_that_is_missing_for_no_reason_is_noticed(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    with pytest.raises(Failed, match="for no reason"):
        calm = tuple(replace(site, slowdown=1.0) for site in scenario.sites)
        judged(replace(scenario, mishaps=(), sites=calm), ended)


def test_a_site_that_is_in_a_mean_while_it_was_out_of_reach_is_noticed(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    away = replace(scenario.mishaps[-1], kind="freeze", at_s=0.0, for_s=1e6, groups=(("university",),))
    with pytest.raises(Failed, match="was out of reach"):
        judged(replace(scenario, mishaps=(*scenario.mishaps, away)), ended)


def test_a_straggler_whose_work_is_in_no_mean_is_noticed(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    view = ended.audits[0]
    city = view.state.terms.members[1].node
    idle = {
        number: replace(one, closed=one.closed and _without(one.closed, city)) for number, one in view.rounds.items()
    }
    audits = [replace(view, rounds=idle), *ended.audits[1:]]
    with pytest.raises(Failed, match="accounts for|the work of city is in 0 means"):
        judged(scenario, replace(ended, audits=audits))


def _without(closed: Closed, author: NodeId) -> Closed:
    return msgspec.structs.replace(closed, terms=tuple(one for one in closed.terms if one.author != author))


def test_a_stale_charter_that_nobody_mentions_is_noticed(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    with pytest.raises(Failed, match="county had a stale charter and did not say so"):
        judged(scenario, replace(ended, said={**ended.said, "county": ("all is well",)}))


def test_a_point_of_accuracy_may_be_lost_and_no_more(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    judged(scenario, ended, ended.accuracy + 0.009)
    with pytest.raises(Failed, match="more than a point below"):
        judged(scenario, ended, ended.accuracy + 0.011)


def test_a_run_that_ends_before_its_misfortunes_proves_nothing(bad_day: tuple[Scenario, Ended]) -> None:
    scenario, ended = bad_day
    clock = next(one for one in scenario.mishaps if one.kind == "wrong-clock")
    later = replace(scenario, mishaps=(*scenario.mishaps, replace(clock, at_s=9999.0)))
    with pytest.raises(Failed, match="the misfortunes last 9999 s"):
        judged(later, ended)


def test_without_the_bound_on_updates_the_poisoner_ruins_the_model(tmp_path: Path) -> None:
    scenario = scenario_of(SHORT)
    honest = simulated.play(set_up(scenario.undisturbed, 1, tmp_path / "honest")).accuracy
    alone = tuple(replace(site, slowdown=1.0, stale_charter_s=0.0) for site in scenario.sites)
    poisoned = replace(scenario, sites=alone, mishaps=())
    bounded = simulated.play(set_up(poisoned, 1, tmp_path / "bounded")).accuracy
    loose = replace(poisoned, terms=replace(poisoned.terms, clip_norm=1024.0))
    ruined = simulated.play(set_up(loose, 1, tmp_path / "loose")).accuracy
    assert bounded >= honest - 0.01
    assert ruined < honest - 0.05
