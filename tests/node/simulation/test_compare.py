"""Comparisons: the two speeds agree, what cannot be is refused beforehand, and an interrupt keeps what was done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.simulation.compare import Comparison, Progress, open_topology
from node.simulation.results import Result, Round, Run, Speed
from swarm.errors import UsageError
from swarm.mixing.compress.forms import encoded_bytes
from swarm.mixing.compress.forms import parse as parse_codec
from tests.cases import shortened
from topologies import schedules
from topologies.scenario import Learning, Mishap, Scenario, Site, Terms, plain

TOLERANCE = 1e-4
"""Between the two speeds, per accuracy, loss and relative consensus distance: both compute in float32, in another order
(stacked against alone, float32 against float64 sums when mixing). One example of 359 is 0.0028 of accuracy."""


BOTH: tuple[Speed, ...] = ("learning", "protocol")
TINY = """
from torch import nn

def build_model(): return nn.Linear(64, 1, bias=False)
def load_data(site): return None
def train(model, data, run): return {"samples": 1}
def evaluate(model, data, run): return {"samples": 1}
"""


def small(n: int, *topologies: str, **learning: object) -> Scenario:
    fields = {"model": "linear", "rounds": 4, "learning_rate": 0.2, "batch": 16} | learning
    return replace(plain(n), topologies=topologies, learning=Learning(**fields))  # type: ignore[arg-type]


def played(scenario: Scenario, folder: Path, *speeds: Speed) -> Result:
    comparison = Comparison(scenario, speeds or ("learning",), folder, "swarm simulate")
    assert all(run.complete for run in comparison.play())
    return comparison.result()


def models_agree(one: Run, other: Run) -> bool:
    return all(models_agree_after(a, b) for a, b in zip(one.rounds, other.rounds, strict=True))


def models_agree_after(a: Round, b: Round) -> bool:
    return (
        a.consensus_distance == pytest.approx(b.consensus_distance, rel=TOLERANCE, abs=TOLERANCE)
        and a.average_accuracy == pytest.approx(b.average_accuracy, abs=TOLERANCE)
        and a.average_loss == pytest.approx(b.average_loss, rel=TOLERANCE)
        and [s.peer for s in a.peers] == [s.peer for s in b.peers]
        and np.allclose([s.loss for s in a.peers], [s.loss for s in b.peers], rtol=TOLERANCE)
    )


@pytest.mark.parametrize(
    ("topology", "mixing", "partition"),
    [
        ("ring", "gossip", "power:1"),
        ("base2", "gossip", "dirichlet:1"),
        ("random_matching", "gossip", "iid"),
        ("ring", "exact", "power:1"),
    ],
)
def test_both_speeds_give_the_same_models(tmp_path: Path, topology: str, mixing: str, partition: str) -> None:
    scenario = small(5, topology, mixing=mixing, partition=partition, momentum=0.5, local_epochs=2)
    result = played(scenario, tmp_path, "learning", "protocol")
    learning, protocol = result.runs
    assert (learning.speed, protocol.speed) == ("learning", "protocol")
    assert learning.schedule_seed == protocol.schedule_seed
    assert models_agree(learning, protocol)
    if mixing == "gossip":
        assert max(one.consensus_distance or 0.0 for one in learning.rounds) > 0.01, "or there was nothing to compare"
    assert learning.rounds[-1].consensus_distance == pytest.approx(0.0, abs=1e-4), "the last round makes one model"


@pytest.mark.parametrize(("topology", "correction"), [("ring", "qg:800"), ("base2", "qg:800"), ("base2", "gt")])
def test_both_speeds_give_the_same_models_with_a_correction(tmp_path: Path, topology: str, correction: str) -> None:
    scenario = small(5, topology, partition="power:1", correction=correction, local_epochs=2, rounds=5)
    learning, protocol = played(scenario, tmp_path / "with", "learning", "protocol").runs
    assert models_agree(learning, protocol)
    (without,) = played(small(5, topology, partition="power:1", local_epochs=2, rounds=5), tmp_path / "without").runs
    assert not models_agree(learning, without), "or there was nothing to compare"


@pytest.mark.parametrize(
    ("topology", "codec"),
    shortened(
        2, [("ring", "bf16"), ("exponential", "int4"), ("ring", "topk:100"), ("complete", "sign"), ("ring", "int8")]
    ),
)
def test_both_speeds_give_the_same_models_under_a_codec(tmp_path: Path, topology: str, codec: str) -> None:
    """bf16 nodes round their models in the last round too, which at learning speed are averaged as they are."""
    fields = {"partition": "power:1", "local_epochs": 2, "rounds": 5, "momentum": 0.5}
    learning, protocol = played(small(5, topology, codec=codec, **fields), tmp_path / "with", *BOTH).runs
    assert all(models_agree_after(a, b) for a, b in list(zip(learning.rounds, protocol.rounds, strict=True))[:-1])
    if codec == "bf16":
        assert learning.rounds[-1].average_loss == pytest.approx(protocol.rounds[-1].average_loss, rel=1e-3)
    else:
        assert models_agree(learning, protocol)
    (without,) = played(small(5, topology, **fields), tmp_path / "without").runs
    assert not models_agree(learning, without), "or there was nothing to compare"


@pytest.mark.parametrize(
    ("codec", "share"), shortened(2, [("bf16", 0.5), ("sign", 0.07), ("int8", 0.26), ("int4", 0.16)])
)
def test_bytes_under_a_codec_are_those_of_messages(tmp_path: Path, codec: str, share: float) -> None:
    """Until the last round, in which coarse codecs send models as they are."""
    run = played(small(6, "ring", rounds=3, codec=codec), tmp_path).runs[0]
    model, size = 4 * (64 * 10 + 10), encoded_bytes(parse_codec(codec), 64 * 10 + 10)
    assert run.facts.model_bytes == size < (share + 0.01) * model
    last = size if codec == "bf16" else model
    assert [one.bytes_total for one in run.rounds] == [12 * size, 24 * size, 24 * size + 30 * last]
    assert sum(load.bytes for load in run.links) == run.rounds[-1].bytes_total


@pytest.mark.parametrize(
    ("learning", "words"),
    [
        ({"codec": "int8", "mixing": "exact", "gamma": 0.5}, "learning.gamma"),
        ({"codec": "randk:50"}, "models do not travel as randk:50"),
        ({"gamma": 0.5}, "learning.gamma"),
        ({"codec": "bf16", "gamma": 0.5}, "it is for gossip under a coarse codec"),
        ({"codec": "int8", "gamma": 1.5}, "learning.gamma"),
    ],
)
def test_a_codec_that_gossip_cannot_use_is_refused(learning: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small(4, "ring", **learning)


@pytest.mark.parametrize(
    ("topology", "words"),
    [("base2", "partners change from round to round"), ("static_exponential", "its links go one way")],
)
def test_copies_take_links_that_stay_and_go_both_ways(tmp_path: Path, topology: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Comparison(small(8, topology, codec="int8"), ("learning",), tmp_path)
    Comparison(small(8, topology, codec="bf16"), ("learning",), tmp_path)


@pytest.mark.parametrize("topology", shortened(1, ["one_peer_exponential", "static_exponential", "el_local"]))
def test_both_speeds_give_the_same_models_where_links_go_one_way(tmp_path: Path, topology: str) -> None:
    """Five sites of unequal sizes are no power of two: masses move, and with them how far training goes."""
    scenario = small(5, topology, partition="power:1", local_epochs=2, rounds=6, correction="qg:500")
    learning, protocol = played(scenario, tmp_path, "learning", "protocol").runs
    assert models_agree(learning, protocol)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("route", ["spread", "sharded", "fold"])
def test_both_speeds_go_by_the_route_that_a_scenario_names(tmp_path: Path, route: str) -> None:
    scenario = small(4, "complete", mixing="exact", partition="power:1", route=route, model="mlp:32,32", rounds=3)
    learning, protocol = played(scenario, tmp_path, "learning", "protocol").runs
    assert models_agree(learning, protocol)
    sent = [run.rounds[1].bytes_total - run.rounds[0].bytes_total for run in (learning, protocol)]
    copies = {"spread": 3, "sharded": 1.5 + 0.5, "fold": 1 + 2}[route]
    assert sent[0] == pytest.approx(4 * copies * learning.facts.model_bytes)
    assert sent[0] < sent[1] < sent[0] + 4 * 40_000, "the ledger is in the protocol's bytes"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("outer", ["nesterov:0.9,0.7", "fedadam:0.01"])
def test_both_speeds_take_the_same_steps(tmp_path: Path, outer: str) -> None:
    scenario = small(4, "complete", mixing="exact", partition="power:1", outer=outer, rounds=4)
    learning, protocol = played(scenario, tmp_path / "outer", "learning", "protocol").runs
    assert models_agree(learning, protocol)
    (plain_run,) = played(replace(scenario, learning=replace(scenario.learning, outer="none")), tmp_path / "none").runs
    assert not models_agree(learning, plain_run), "or there was nothing to compare"


def test_an_outer_optimiser_is_for_exact_mixing() -> None:
    with pytest.raises(UsageError, match="learning.outer: it is for exact mixing"):
        small(4, "ring", outer="nesterov")
    with pytest.raises(UsageError, match="'sgd' is not one, known are none"):
        small(4, "complete", mixing="exact", outer="sgd")


@pytest.mark.parametrize("seed", shortened(1, [1, 2, 3]))
def test_both_speeds_stop_after_the_same_round(tmp_path: Path, seed: int) -> None:
    """The ledger's rule by the ledger's arithmetic: real nodes tell it to one another, the other speed computes it."""
    fields = {"mixing": "exact", "rounds": 25, "learning_rate": 0.5, "local_epochs": 2, "seeds": (seed,)}
    stops = small(3, "complete", stop="accuracy:higher:2", **fields)
    found = played(stops, tmp_path, *BOTH)
    fast, real = found.runs
    assert fast.complete
    assert real.complete
    assert [one.number for one in fast.rounds] == [one.number for one in real.rounds]
    last = len(fast.rounds)
    assert 3 <= last < 25
    accuracies = [one.average_accuracy for one in fast.rounds]
    best = max(accuracies)
    assert accuracies.index(best) == last - 3, "two rounds that were no better, and it is over"
    assert models_agree(fast, real)
    words = f"stopped after round {last} by accuracy:higher:2"
    assert [note.partition("speed: ")[2] for note in found.notes if "stopped" in note] == [f"{words}."] * 2


def test_a_rule_that_never_stops_anybody_changes_nothing(tmp_path: Path) -> None:
    fields = {"mixing": "exact", "rounds": 3}
    plainly, stops = (
        played(small(3, "complete", stop=stop, **fields), tmp_path / (stop or "none"), "learning").runs
        for stop in ("", "loss:lower:9")
    )
    assert [run.rounds for run in plainly] == [run.rounds for run in stops]


def test_a_site_takes_less_of_who_is_far_away_where_the_scenario_clips(tmp_path: Path) -> None:
    """Real nodes, by the charter that the scenario makes; at learning speed a round is one matrix."""
    usual, clips = (
        played(small(4, "complete", clip=clip, partition="shards:2", rounds=3), tmp_path / str(clip), "protocol").runs[
            0
        ]
        for clip in (0, 250)
    )
    assert usual.complete
    assert clips.complete
    assert usual.rounds[0].consensus_distance < clips.rounds[0].consensus_distance
    with pytest.raises(UsageError, match="couldn't clip at learning speed"):
        Comparison(small(4, "complete", clip=250), ("learning",), tmp_path)


@pytest.mark.parametrize(
    ("learning", "words"),
    [
        ({"clip": 100, "mixing": "exact"}, "learning.clip: it is for gossip"),
        ({"clip": 501}, "501 is not between 1 and 500"),
        ({"clip": -1}, "-1 is not between 1 and 500"),
        ({"clip": 100, "codec": "int8"}, "under int8 public copies meet"),
        ({"stop": "speed:higher:3"}, "none of the charter's metrics"),
        ({"stop": "accuracy"}, "couldn't read stop = 'accuracy'"),
    ],
)
def test_a_clip_or_a_stop_that_cannot_be_is_refused(learning: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small(4, "ring", **learning)


def test_gossip_is_not_stopped_early_at_learning_speed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="couldn't stop a gossiping swarm early at learning speed"):
        Comparison(small(4, "ring", stop="loss:lower:2"), ("learning",), tmp_path)


def test_routes_change_bytes_and_not_the_model(tmp_path: Path) -> None:
    models = set()
    for route in ("spread", "sharded"):
        scenario = small(4, "complete", mixing="exact", route=route, rounds=2)
        models.add(played(scenario, tmp_path / route, "protocol").runs[0].model)
    assert len(models) == 1


def test_a_salt_is_in_the_bytes_and_in_no_model(tmp_path: Path) -> None:
    """At protocol speed sites draw it and others take it off; at learning speed it is in what is reckoned."""
    plain_runs, salted = (
        played(small(4, "complete", mixing="exact", salt=salt, rounds=2), tmp_path / f"{salt}", "learning", "protocol")
        for salt in (False, True)
    )
    for without, run in zip(plain_runs.runs, salted.runs, strict=True):
        assert run.model == without.model
        assert run.facts.model_bytes == without.facts.model_bytes + 32
        more = run.rounds[-1].bytes_total - without.rounds[-1].bytes_total
        assert more == pytest.approx(4 * 3 * 32 * 2, rel=0.5), "to three others, in two rounds"
    assert any("a salt is in the bytes" in note for note in salted.notes)
    assert not any("salt" in note for note in plain_runs.notes)


def test_a_codec_is_in_the_bytes_of_both_speeds_and_in_the_model_of_one(tmp_path: Path) -> None:
    fields: dict[str, object] = {"mixing": "exact", "model": "mlp:64,64", "rounds": 3}
    plain_run = played(small(4, "complete", **fields), tmp_path / "plain", "protocol").runs[0]
    result = played(small(4, "complete", codec="int8", **fields), tmp_path / "int8", "learning", "protocol")
    learning, protocol = result.runs
    assert learning.facts.model_bytes < plain_run.facts.model_bytes / 3.5
    assert protocol.model != plain_run.model
    saved = plain_run.rounds[-1].bytes_total - protocol.rounds[-1].bytes_total
    assert saved > 0.9 * 3 * 12 * (plain_run.facts.model_bytes - learning.facts.model_bytes)
    assert protocol.rounds[-1].average_loss == pytest.approx(plain_run.rounds[-1].average_loss, rel=0.02)
    assert any("int8 is in the bytes and seconds reckoned" in note for note in result.notes)


@pytest.mark.parametrize("mixing", ["exact", "gossip"])
def test_both_speeds_cap_what_one_site_counts(tmp_path: Path, mixing: str) -> None:
    scenario = replace(small(4, "complete", mixing=mixing, partition="power:2", rounds=3), terms=Terms(weight_cap=0.3))
    learning, protocol = played(scenario, tmp_path / "capped", "learning", "protocol").runs
    assert models_agree(learning, protocol)
    (free,) = played(replace(scenario, terms=Terms()), tmp_path / "free").runs
    assert not models_agree(learning, free), "or there was nothing to compare"


def test_links_of_ones_own_that_go_one_way_are_mixed_alike_at_both_speeds(tmp_path: Path) -> None:
    arcs = ((0, 1), (0, 2), (1, 2), (2, 3), (3, 0))
    scenario = replace(small(4, "ring", partition="power:1", rounds=4), arcs=arcs, topologies=("own",))
    assert not open_topology("own", scenario, 1).symmetric
    learning, protocol = played(scenario, tmp_path, "learning", "protocol").runs
    assert models_agree(learning, protocol)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        (small(4, "ring", mixing="exact", route="sharded"), "over the topology ring: everybody must reach everybody"),
        (small(4, "complete", mixing="exact", route="sharded:200", model="task:TINY"), "couldn't cut a model of"),
    ],
)
def test_a_route_that_cannot_be_gone_is_refused_before_anything_runs(
    tmp_path: Path, scenario: Scenario, says: str
) -> None:
    if scenario.learning.model == "task:TINY":
        tiny = tmp_path / "tiny.py"
        tiny.write_text(TINY)
        scenario = replace(scenario, learning=replace(scenario.learning, model=f"task:{tiny}"))
    with pytest.raises(UsageError, match=says):
        Comparison(scenario, ("protocol",), tmp_path / "out")


def test_a_momentum_of_the_swarm_helps_where_data_differ(tmp_path: Path) -> None:
    """Sixteen sites on a ring, few digits each: how good their own models are before the last round makes one."""
    usual = {"model": "mlp:32", "partition": "dirichlet:0.1", "rounds": 25, "learning_rate": 0.3, "seeds": (1, 2, 3)}
    reached = []
    for correction in ("", "qg"):
        result = played(small(16, "ring", correction=correction, **usual), tmp_path / (correction or "none"))
        reached.append([float(np.mean([s.accuracy for s in run.rounds[-2].peers])) for run in result.runs])
    assert all(with_it > without + 0.05 for without, with_it in zip(*reached, strict=True)), reached


def test_seconds_are_reckoned_nearly_as_the_simulated_world_lives_them(tmp_path: Path) -> None:
    scenario = small(6, "ring", rounds=5)
    far = replace(scenario, sites=tuple(replace(site, latency_s=0.05, step_s=0.05) for site in scenario.sites))
    reckoned, lived = played(far, tmp_path, "learning", "protocol").runs
    between = [run.rounds[3].virtual_s - run.rounds[0].virtual_s for run in (reckoned, lived)]
    assert between[0] == pytest.approx(between[1], rel=0.2)


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        played(small(4, "ring", rounds=2), tmp_path / name, "learning", "protocol").write(tmp_path / name)
    first, second = ((tmp_path / name / "result.json").read_bytes() for name in ("one", "two"))
    assert first == second


def test_gossip_with_exact_weights_on_a_complete_graph_is_fedavg(tmp_path: Path) -> None:
    gossip = played(small(4, "complete", rounds=3), tmp_path).runs[0]
    exact = played(small(4, "complete", rounds=3, mixing="exact"), tmp_path).runs[0]
    for a, b in zip(gossip.rounds, exact.rounds, strict=True):
        assert a.average_loss == pytest.approx(b.average_loss, rel=2e-3), "shares differ by one example at most"


def test_bytes_are_models_over_links_and_add_up(tmp_path: Path) -> None:
    run = played(small(6, "ring", rounds=3), tmp_path).runs[0]
    size = run.facts.model_bytes
    assert size == 4 * (64 * 10 + 10)
    assert [one.bytes_total for one in run.rounds] == [12 * size, 24 * size, (24 + 30) * size]
    assert run.rounds[-1].bytes_busiest == (2 + 2 + 5) * size
    assert sum(load.bytes for load in run.links) == pytest.approx(run.rounds[-1].bytes_total, rel=1e-3)
    assert (run.facts.links, run.facts.degree_max, run.facts.diameter) == (6, 2, 3)


def test_what_is_known_of_a_topology_is_told_with_who_is_missed(tmp_path: Path) -> None:
    star, base, complete = played(small(5, "star", "base2", "complete", rounds=1), tmp_path).runs
    assert star.resilience.single_points == (0,)
    assert star.resilience.one[0].cut_off == (2, 3, 4)
    assert not star.resilience.survives_any_one
    assert base.facts.exact_after == schedules.build("base2", 5).exact_after
    assert complete.resilience.survives_any_one
    assert complete.resilience.survives_any_two


def test_at_protocol_speed_a_round_goes_on_without_a_site_that_is_down_and_it_comes_back(tmp_path: Path) -> None:
    away = Mishap(kind="outage", at_s=1.0, for_s=4.0, groups=(("site-2",),))
    scenario = replace(small(4, "ring", rounds=20), mishaps=(away,), terms=Terms(patience_s=2.0))
    result = played(scenario, tmp_path, "protocol")
    missing = [one.missing for one in result.runs[0].rounds]
    assert sum(missing) >= 1
    assert missing[0] == 0
    assert result.runs[0].rounds[-1].consensus_distance == 0.0, "who comes back ends with the model of the others"
    assert len(result.runs[0].rounds[-1].peers) == 4


def test_a_swarm_below_its_quorum_stands_still_and_the_notes_say_so(tmp_path: Path) -> None:
    cut = Mishap(kind="partition", at_s=3.0, for_s=float("inf"), groups=(("site-0", "site-1"),))
    scenario = replace(small(4, "ring", rounds=30), mishaps=(cut,), terms=Terms(patience_s=1.0))
    comparison = Comparison(scenario, ("protocol",), tmp_path)
    (run,) = comparison.play()
    assert not run.complete
    assert 0 < len(run.rounds) < 30
    (note,) = comparison.result().notes
    assert "needed" in note
    assert comparison.result().recommendation is None


def test_a_liar_is_left_out_and_the_others_learn(tmp_path: Path) -> None:
    scenario = small(5, "complete", rounds=3)
    liar = (*scenario.sites[:4], Site(name="liar", behaviour="nan"))
    result = played(replace(scenario, sites=liar, terms=Terms(patience_s=5.0)), tmp_path, "protocol")
    assert [s.peer for s in result.runs[0].rounds[-1].peers] == [0, 1, 2, 3]
    assert (result.runs[0].rounds[-1].accuracy_mean or 0.0) > 0.5


def test_an_interrupt_keeps_what_was_done(tmp_path: Path) -> None:
    def told(progress: Progress) -> None:
        if progress.topology == "base2" and progress.round.number == 2:
            raise KeyboardInterrupt

    comparison = Comparison(small(4, "ring", "base2"), ("learning",), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(comparison.play(told))
    result = comparison.result(partial=True)
    assert [(run.topology, len(run.rounds), run.complete) for run in result.runs] == [
        ("ring", 4, True),
        ("base2", 2, False),
    ]
    assert result.partial
    assert result.recommendation is not None
    assert result.recommendation.topology == "ring"


@pytest.mark.parametrize(
    ("topology", "says", "hint"),
    [
        ("hypercube", "it needs a power of two", "4 or 8"),
        ("random_regular:3", "5", ""),
        ("fold", "only all its rounds together", "base2"),
        ("nothing", "none named 'nothing'", "ring"),
        ("own", "no graph of your own", "--graph"),
    ],
)
def test_an_impossible_topology_is_refused_before_anything_runs(
    tmp_path: Path, topology: str, says: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Comparison(small(5, topology), ("learning",), tmp_path)
    assert says in refused.value.message
    assert hint in refused.value.hint


def test_a_link_that_neither_end_can_open_is_refused_by_name(tmp_path: Path) -> None:
    scenario = small(4, "ring")
    hidden = tuple(replace(site, outbound_only=site.name in ("site-1", "site-2")) for site in scenario.sites)
    with pytest.raises(UsageError, match="site-1 and site-2 are linked in it, and both are outbound_only"):
        Comparison(replace(scenario, sites=hidden), ("learning",), tmp_path)
    star = replace(scenario, sites=hidden, topologies=("star",), learning=replace(scenario.learning, rounds=2))
    assert played(star, tmp_path, "protocol").runs[0].complete


def test_sites_that_only_dial_out_are_linked_where_others_relay(tmp_path: Path) -> None:
    scenario = small(4, "complete", mixing="exact", route="sharded")
    hidden = tuple(replace(site, outbound_only=site.name in ("site-1", "site-2")) for site in scenario.sites)
    apart = replace(scenario, sites=hidden, learning=replace(scenario.learning, rounds=2))
    with pytest.raises(UsageError, match="both are outbound_only") as refused:
        Comparison(apart, ("protocol",), tmp_path)
    assert "relay = true" in refused.value.hint
    assert played(replace(apart, terms=replace(apart.terms, relay=True)), tmp_path, "protocol").runs[0].complete


def test_too_many_nodes_for_memory_are_refused_with_how_many_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.simulation.shards.free_bytes", lambda: (512 << 20) + (100 << 20))
    with pytest.raises(UsageError) as refused:
        Comparison(small(40, "ring"), ("protocol",), tmp_path)
    assert "couldn't play 40 nodes" in refused.value.message
    assert "take at most 24 nodes" in refused.value.hint


def test_a_graph_of_ones_own_is_mixed_by_metropolis_weights_at_both_speeds(tmp_path: Path) -> None:
    scenario = small(4, "ring", rounds=3)
    own = replace(scenario, graph=((0, 1), (1, 2), (2, 3), (0, 2)), topologies=("own",))
    assert open_topology("own", own, 1).links.edges == ((0, 1), (0, 2), (1, 2), (2, 3))
    learning, protocol = played(own, tmp_path, "learning", "protocol").runs
    assert models_agree(learning, protocol)
