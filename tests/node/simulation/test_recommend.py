"""Recommendations: learning first, then who is missed, then time, then bytes; and every figure is in the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.simulation.recommend import _fraction, lines, recommend
from node.simulation.results import Facts, Holdings, Loss, PeerScore, Resilience, Result, Round, Run
from swarm.errors import UsageError

NAMES = ("a", "b", "c", "d")
FACTS = Facts(
    reference="",
    links=4,
    degree_min=2,
    degree_max=2,
    diameter=2,
    hops_mean=1.3,
    period=1,
    gap=0.5,
    exact_after=None,
    rounds_to_thousandth=9,
    copies_mean=2.0,
    copies_max=2.0,
    model_bytes=100,
    training_s=1.0,
    round_s=2.0,
    final_s=3.0,
)
WHOLE = Resilience(single_points=(), bridges=(), one=(), worst_two=None)


def made(
    topology: str,
    accuracies: tuple[float, ...],
    *,
    round_s: float = 1.0,
    node_bytes: int = 100,
    seed: int = 1,
    single: tuple[int, ...] = (),
) -> Run:
    rounds = tuple(
        Round(
            number=number,
            virtual_s=number * round_s,
            bytes_total=number * 4 * node_bytes,
            bytes_busiest=number * node_bytes,
            consensus_distance=0.5,
            average_accuracy=accuracy,
            average_loss=1.0,
            peers=(
                PeerScore(peer=0, accuracy=accuracy - 0.1, loss=1),
                PeerScore(peer=1, accuracy=accuracy + 0.1, loss=2),
            ),
        )
        for number, accuracy in enumerate(accuracies, 1)
    )
    lost = Resilience(
        single_points=single,
        bridges=(),
        one=(Loss(members=(0,), cut_off=(1, 2), gap=0.0),) if single else (),
        worst_two=None,
    )
    return Run(
        topology=topology,
        seed=seed,
        schedule_seed=seed,
        speed="learning",
        facts=FACTS,
        resilience=lost if single else WHOLE,
        rounds=rounds,
        links=(),
        complete=True,
        model="",
    )


def order(*runs: Run, target: float | None = None) -> list[str]:
    found = recommend(runs, NAMES, target)
    assert found is not None
    return [one.topology for one in found.table]


def test_what_does_not_learn_as_well_comes_last_however_quick_and_cheap() -> None:
    poor = made("poor", (0.5, 0.6), round_s=0.1, node_bytes=1)
    assert order(poor, made("good", (0.5, 0.9))) == ["good", "poor"]


def test_a_single_point_of_failure_comes_after_those_without() -> None:
    star = made("star", (0.9, 0.9), round_s=0.5, single=(0,))
    assert order(star, made("ring", (0.9, 0.9))) == ["ring", "star"]
    found = recommend([star, made("ring", (0.9, 0.9))], NAMES, None)
    assert found is not None
    assert found.table[1].remark == "hangs on a"
    assert found.table[1].survives_any_two is False


def test_time_to_the_target_decides_and_bytes_where_times_are_alike() -> None:
    quick, slow = made("quick", (0.8, 0.9), node_bytes=900), made("slow", (0.8, 0.9), round_s=3.0)
    assert order(slow, quick) == ["quick", "slow"]
    alike = made("alike", (0.8, 0.9), round_s=1.1, node_bytes=100)
    assert order(quick, alike, slow)[0] == "alike"


def test_the_target_is_a_point_below_the_best_unless_it_is_given() -> None:
    early, late = made("early", (0.5, 0.7, 0.895)), made("late", (0.2, 0.88, 0.9), round_s=1.0)
    found = recommend([early, late], NAMES, None)
    assert found is not None
    assert found.target == pytest.approx(0.89)
    assert [one.target_round for one in found.table] == [3, 3]
    asked = recommend([early, late], NAMES, 0.85)
    assert asked is not None
    assert (asked.topology, asked.table[0].target_s) == ("late", 2.0)


def test_figures_are_means_over_seeds_and_the_worst_site_is_the_worst_of_any() -> None:
    found = recommend([made("ring", (0.5, 0.8)), made("ring", (0.5, 0.9), round_s=3.0, seed=2)], NAMES, 0.75)
    assert found is not None
    (one,) = found.table
    assert one.accuracy == pytest.approx(0.85)
    assert one.accuracy_worst == pytest.approx(0.7)
    assert (one.total_s, one.round_s, one.bytes_node_round, one.bytes_busiest) == (4.0, 2.0, 100.0, 200.0)
    assert one.spread == pytest.approx(0.2)


def test_a_target_that_one_seed_misses_is_not_reached() -> None:
    found = recommend([made("ring", (0.5, 0.8)), made("ring", (0.5, 0.6), seed=2)], NAMES, 0.75)
    assert found is not None
    assert found.table[0].target_s is None
    assert found.sentence == (
        "ring does not reach 75 % with every seed: it came to 70.0 % on average and reached 75 % with 1 of 2 seeds. "
        "More rounds may do, or a lower target."
    )
    assert found.table[0].remark == ""


def test_who_came_nearest_is_said_without_contradicting_itself() -> None:
    runs = [made(name, (0.5, last), seed=seed) for name, last in (("a", 0.7), ("b", 0.6)) for seed in (1, 2)]
    runs[0] = made("a", (0.5, 0.9), seed=1)  # 80 % on average, above the target, and yet not with every seed
    found = recommend(runs, NAMES, 0.78)
    assert found is not None
    assert found.sentence == (
        "None of the 2 reaches 78 % with every seed; a is nearest: it came to 80.0 % on average and reached 78 % with "
        "1 of 2 seeds. More rounds may do, or a lower target."
    )
    assert found.table[1].remark == "does not reach 78 % with every seed"
    alone = recommend([made("a", (0.5,)), made("b", (0.4,))], NAMES, 0.78)
    assert alone is not None
    assert alone.sentence.startswith("None of the 2 reaches 78 %; a is nearest: it came to 50.0 %. ")
    star = recommend([made("star", (0.6,), single=(0,)), made("ring", (0.5,))], NAMES, 0.78)
    assert star is not None
    assert "of those that hang on no single site, ring is nearest: it came to 50.0 %" in star.sentence


def test_rounds_times_and_shares_are_said_as_people_say_them() -> None:
    quick, cheap = made("quick", (0.9, 0.9), node_bytes=500), made("cheap", (0.9, 0.9), round_s=1.1, node_bytes=100)
    late = made("late", (0.5, 0.9), round_s=2.0, node_bytes=20)
    found = recommend([quick, cheap, late], NAMES, 0.85)
    assert found is not None
    assert found.sentence == "Take cheap: it reaches 85 % in 1.1 s."
    assert found.reasons[:4] == (
        "Accuracy: 90.0 % after the last round, when all models become one; 85 % after 1 round.",
        "Time: 1.1 s to 85 %; late needs 3.6 times as long.",
        "Little quicker: quick takes 1 s. Within 15 % times count as the same, and bytes decide.",
        "Traffic: 100 B a node and round, a fifth of what quick sends; its busiest node sends 200 B in the whole run.",
    )
    assert found.reasons[4] == (
        "If traffic matters more than time: late sends 20 B a node and round and comes to 85 % only in the last round, "
        "when all models become one, 3.6 times as late."
    )
    assert [_fraction(times) for times in (1.1, 1.66, 2.06, 3.0, 7.0, 33.0)] == [
        "91 %", "60 %", "half", "a third", "14 %", "3 %",
    ]  # fmt: skip


def test_runs_that_were_cut_short_are_not_compared() -> None:
    half = replace(made("ring", (0.9,)), complete=False)
    assert recommend([half], NAMES, None) is None
    assert order(half, made("star", (0.5,), single=(0,))) == ["star"]


def test_protocol_runs_are_believed_before_reckoned_ones() -> None:
    lived = replace(made("ring", (0.9, 0.9), round_s=9.0), speed="protocol")
    found = recommend([made("ring", (0.9, 0.9)), lived], NAMES, None)
    assert found is not None
    assert (found.speed, found.table[0].total_s) == ("protocol", 18.0)


def test_a_result_comes_back_from_its_folder_as_it_was_and_speaks(tmp_path: Path) -> None:
    runs = (made("ring", (0.5, 0.9)), made("star", (0.5, 0.9), single=(0,)))
    result = Result(
        scenario={"name": "x"},
        names=NAMES,
        parameters=25,
        holdings=Holdings(labels=("0", "1"), counts=((1, 2),) * 4),
        runs=runs,
        recommendation=recommend(runs, NAMES, None),
    )
    result.write(tmp_path)
    assert Result.load(tmp_path) == result
    told = "\n".join(lines(result))
    assert "* ring" in told
    assert "Take ring: it reaches 89 % in 2 s." in told
    assert "1 single point" in told
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="couldn't read"):
        Result.load(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        Result.load(tmp_path / "nowhere")


def test_a_round_says_how_far_its_peers_are_apart() -> None:
    one = made("ring", (0.5,)).rounds[0]
    assert (one.accuracy_mean, one.accuracy_min, one.accuracy_max) == (0.5, 0.4, 0.6)
    assert one.accuracy_std == pytest.approx(0.1)
    assert one.loss_mean == 1.5
    untested = replace(one, peers=())
    assert (untested.accuracy_mean, untested.accuracy_std, untested.loss_mean) == (None, None, None)
