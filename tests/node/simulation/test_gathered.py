"""Attackers and rules at learning speed, and the same swarm of real nodes in the simulated world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.simulation.compare import Comparison
from node.simulation.gathered import Gathering
from node.simulation.results import Result, Speed
from swarm.errors import UsageError
from swarm.mixing.rules import parse as parse_rule
from topologies.scenario import Learning, Scenario, plain
from topologies.scenario import parse as parse_scenario
from topologies.world.attacks import parse


def scenario(nodes: int = 7, **learning: object) -> Scenario:
    usual: dict[str, object] = {
        "mixing": "exact",
        "rounds": 3,
        "learning_rate": 0.3,
        "model": "linear",
        "tested": 1,
    }
    return replace(plain(nodes), topologies=("complete",), learning=Learning(**(usual | learning)))  # type: ignore[arg-type]


def played(chosen: Scenario, folder: Path, speed: Speed = "learning") -> Result:
    comparison = Comparison(chosen, (speed,), folder, workers=1)
    for _ in comparison.play():
        pass
    return comparison.result()


def accuracy(result: Result) -> float:
    last = result.runs[0].rounds[-1].average_accuracy
    assert last is not None
    return last


def test_an_attacked_mean_by_hand() -> None:
    base = np.zeros(2, np.float32)
    updates = [np.array(row, np.float32) for row in ([1, 2], [3, 2], [2, 2], [2, 2], [9, 9])]
    gathering = Gathering((1,) * 5, attack=parse("sign-flip:2"), attackers=(4,))
    assert gathering.next_model(base, [u.copy() for u in updates], 1).tolist() == pytest.approx([-2, -2])
    ruled = Gathering((1,) * 5, rule=parse_rule("trimmed:1"), attack=parse("sign-flip:2"), attackers=(4,))
    assert ruled.next_model(base, [u.copy() for u in updates], 1).tolist() == pytest.approx([5 / 3, 2])
    assert ruled.told[4] == 0
    clipped = Gathering((1,) * 5, bound=1.0, attack=parse("scaling"), attackers=(4,))
    clipped.next_model(base, updates, 1)
    assert all(float(np.linalg.norm(update)) <= 1.0001 for update in updates)


def test_replays_are_of_the_last_change() -> None:
    base = np.zeros(1, np.float32)
    gathering = Gathering((1, 1), attack=parse("free-replay"), attackers=(1,))
    first = gathering.next_model(base, [np.ones(1, np.float32), np.ones(1, np.float32)], 1)
    assert first.tolist() == [0.5]
    second = gathering.next_model(first, [np.ones(1, np.float32), np.ones(1, np.float32)], 2)
    assert second.tolist() == [0.5 + (1 + 0.5) / 2]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_of_seven_ruin_the_mean_and_not_a_rule(seed: int, tmp_path: Path) -> None:
    attack: dict[str, object] = {"attack": "sign-flip:10", "attackers": 2, "seeds": (seed,)}
    clean = accuracy(played(scenario(seeds=(seed,)), tmp_path / "clean"))
    mean = accuracy(played(scenario(**attack), tmp_path / "mean"))
    ruled = accuracy(played(scenario(**attack, rule="nnm:2+trimmed:2"), tmp_path / "ruled"))
    assert mean < 0.3 < clean - 0.1
    assert ruled > clean - 0.1


def test_without_attackers_gathering_changes_nothing_but_rounding(tmp_path: Path) -> None:
    """A rule with nobody to leave out is the mean of sites alike: equal shares, so that both say the same."""
    plain_, gathered = played(scenario(), tmp_path / "a"), played(scenario(rule="geomedian"), tmp_path / "b")
    assert accuracy(plain_) == pytest.approx(accuracy(gathered), abs=0.05)


@pytest.mark.parametrize("attack", ["sign-flip:3", "label-flip"])
def test_real_nodes_under_a_rule_come_to_what_learning_speed_does(attack: str, tmp_path: Path) -> None:
    chosen = scenario(5, rounds=2, rule="trimmed:1", attack=attack, attackers=1)
    quick = played(chosen, tmp_path / "learning")
    nodes = played(chosen, tmp_path / "protocol", "protocol")
    assert nodes.runs[0].complete
    assert accuracy(nodes) == pytest.approx(accuracy(quick), abs=0.02)


def test_dissent_keeps_models_of_a_ring_apart(tmp_path: Path) -> None:
    def apart(**more: object) -> float:
        chosen = replace(scenario(6, mixing="gossip", rounds=5, tested=0, **more), topologies=("ring",))
        distance = played(chosen, tmp_path / str(len(more))).runs[0].rounds[-2].consensus_distance
        assert distance is not None
        return distance

    assert apart(attack="dissensus", attackers=1) > 1.2 * apart()


def test_the_notes_say_who_attacks(tmp_path: Path) -> None:
    result = played(scenario(rounds=1, attack="label-flip", attackers=2), tmp_path)
    assert any(note.startswith("site-5, site-6 attack by label-flip") for note in result.notes)


@pytest.mark.parametrize(
    ("learning", "words"),
    [
        ({"attack": "ipm", "attackers": 0}, "nobody attacks"),
        ({"attackers": 2}, "no attack"),
        ({"attack": "ipm", "attackers": 7}, "all 7 sites would attack"),
        ({"attack": "dissensus", "attackers": 1}, "is for gossip"),
        ({"attack": "sign-flip", "attackers": 1, "mixing": "gossip"}, "in gossip models travel"),
        ({"rule": "median", "mixing": "gossip"}, "it is for exact mixing"),
        ({"rule": "median", "route": "fold"}, "nobody sees whole updates"),
        ({"rule": "median", "codec": "sign"}, "cannot be compared"),
        ({"rule": "krum:1"}, "everybody's"),
        ({"rule": "multikrum:3"}, "takes 9 updates"),
    ],
)
def test_what_cannot_be_is_refused_in_words(learning: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        scenario(**learning)
    assert words in caught.value.message
    assert caught.value.hint


def test_forgers_are_for_learning_speed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at protocol speed"):
        Comparison(scenario(attack="alie", attackers=1), ("protocol",), tmp_path)


def test_a_scenario_file_says_who_attacks_and_by_which_rule_they_are_borne() -> None:
    text = (
        'name = "one"\nnodes = 9\n[learning]\nmixing = "exact"\nrule = "trimmed:2"\nattack = "ipm:5"\nattackers = 2\n'
    )
    chosen = parse_scenario(text, "one.toml")
    assert (chosen.learning.rule, chosen.learning.attack, chosen.attackers) == ("trimmed:2", "ipm:5", (7, 8))
    assert chosen.fewest == 5
