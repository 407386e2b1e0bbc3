"""Scenarios: what is written down is what is played, and what cannot be is refused in words."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest

from swarm.errors import UsageError
from swarm.routes import Route
from topologies.scenario import Churn, Learning, Scenario, Site, parse, plain
from topologies.world.faults import ClockJump, Crash, Freeze, OneWayCut, Partition, SlowLink
from topologies.world.learner import Behaviour

SMALL = """
name = "small"
[defaults]
uplink_mbit_s = 8
latency_ms = 5
[[site]]
name = "a"
[[site]]
name = "b"
downlink_mbit_s = 16
outbound_only = true
[[site]]
name = "c"
count = 2
behaviour = "nan"
"""


def changed(text: str) -> Scenario:
    return parse(SMALL + text, "small.toml")


def test_units_are_bytes_and_seconds_and_defaults_reach_every_site() -> None:
    a, b, c, d = parse(SMALL, "small.toml").sites
    assert (a.uplink_bytes_s, a.latency_s) == (1e6, 0.005)
    assert (b.uplink_bytes_s, b.downlink_bytes_s, b.outbound_only) == (1e6, 2e6, True)
    assert (c.name, d.name, c.behaviour) == ("c-1", "c-2", "nan")


def test_liars_are_named_to_the_world_and_do_not_count_as_honest() -> None:
    scenario = parse(SMALL, "small.toml")
    assert scenario.behaviours == {2: Behaviour.NAN, 3: Behaviour.NAN}
    assert scenario.honest == (0, 1)
    assert not scenario.uneventful


def test_two_sites_that_nobody_can_dial_have_no_link() -> None:
    scenario = Scenario(
        name="hidden", sites=tuple(Site(name=name, outbound_only=name != "open") for name in ("open", "x", "y"))
    )
    assert scenario.links.edges == ((0, 1), (0, 2))
    with pytest.raises(UsageError, match="nobody can be dialled"):
        _ = Scenario(name="dark", sites=tuple(Site(name=n, outbound_only=True) for n in "xyz")).links


def test_every_kind_of_mishap_becomes_the_fault_of_its_name() -> None:
    plan = changed(
        """
[[fault]]
kind = "outage"
sites = ["a", "b"]
at_s = 3
for_s = 4
[[fault]]
kind = "cut-off"
sites = ["b"]
at_s = 1
for_s = 2
[[fault]]
kind = "partition"
groups = [["a", "b"], ["c-1"]]
at_s = 5
[[fault]]
kind = "one-way"
from = ["a"]
to = ["c-2"]
at_s = 6
[[fault]]
kind = "slow"
between = ["a", "b"]
mbit_s = 8
latency_ms = 500
at_s = 7
[[fault]]
kind = "wrong-clock"
sites = ["a"]
at_s = 8
forward_s = -9
[[fault]]
kind = "restarts"
sites = ["b", "a"]
at_s = 9
every_s = 5
for_s = 1
[[fault]]
kind = "flapping"
groups = [["a"]]
at_s = 10
every_s = 2
for_s = 5
[[fault]]
kind = "freeze"
sites = ["b"]
at_s = 11
for_s = 3
"""
    ).plan(1)
    assert plan.faults == (
        Partition(at_s=1, groups=((1,),), duration_s=2),
        Crash(at_s=3, slot=0, down_s=4),
        Crash(at_s=3, slot=1, down_s=4),
        Partition(at_s=5, groups=((0, 1), (2,))),
        OneWayCut(at_s=6, sources=(0,), targets=(3,)),
        SlowLink(at_s=7, a=0, b=1, bandwidth_bytes_s=1e6, delay_s=0.5),
        ClockJump(at_s=8, slot=0, offset_s=-9),
        Crash(at_s=9, slot=1, down_s=1),
        Partition(at_s=10, groups=((0,),), duration_s=1),
        Freeze(at_s=11, slot=1, duration_s=3),
        Partition(at_s=12, groups=((0,),), duration_s=1),
        Crash(at_s=14, slot=0, down_s=1),
    )


def test_a_straggler_takes_its_factor_as_long_for_a_step() -> None:
    scenario = changed('[[site]]\nname = "d"\nstep_ms = 50\nslowdown = 20\n')
    assert [site.pace_s for site in scenario.sites[-2:]] == [scenario.sites[-2].step_s, 1.0]
    assert not scenario.uneventful


def test_a_stale_charter_is_replaced_at_its_time_by_people_who_begin_anew_or_never() -> None:
    scenario = changed('[[site]]\nname = "d"\nstale_charter_s = 30\n[[site]]\nname = "e"\nstale_charter_s = inf\n')
    assert scenario.plan(1).faults == (Crash(at_s=30, slot=4, down_s=1, anew=True),)


def test_on_an_undisturbed_day_the_same_sites_learn_the_same_and_nothing_goes_wrong() -> None:
    text = '[[site]]\nname = "d"\nslowdown = 20\nbehaviour = "poisoner"\nprotocol = "1.0"\nstale_charter_s = 3\n'
    scenario = changed(f'{text}[[fault]]\nkind = "outage"\nsites = ["a"]\nat_s = 1\nfor_s = 1\n[network]\nloss = 0.1\n')
    quiet = scenario.undisturbed
    assert not scenario.uneventful
    assert quiet.uneventful
    assert not quiet.plan(1).faults
    assert (quiet.names, quiet.learning, quiet.terms) == (scenario.names, scenario.learning, scenario.terms)


def test_a_scenario_told_in_twice_the_time_is_the_same_story() -> None:
    scenario = changed(
        '[[fault]]\nkind = "restarts"\nsites = ["a", "b"]\nat_s = 1\nfor_s = 2\nevery_s = 3\n'
        '[[site]]\nname = "d"\nstep_ms = 10\nstale_charter_s = 7\n[churn]\nevery_s = 5\ndown_s = 2\nuntil_s = 10\n'
    )
    slow = scenario.scaled(2.0)
    assert [
        (fault.at_s, fault.down_s) for fault in replace(slow, churn=None).plan(1).faults if isinstance(fault, Crash)
    ] == [
        (2.0, 4.0),
        (8.0, 4.0),
        (14.0, 1.0),
    ]
    assert (slow.sites[-1].step_s, slow.terms.patience_s) == (0.02, 2 * scenario.terms.patience_s)
    assert slow.churn == Churn(every_s=10, down_s=4, until_s=20)
    assert slow.latency_s == scenario.latency_s


def test_churn_is_drawn_from_the_seed_and_ends() -> None:
    scenario = changed("[churn]\nevery_s = 5\ndown_s = 2\nuntil_s = 100\n")
    assert scenario.churn == Churn(every_s=5, down_s=2, until_s=100)
    faults = scenario.plan(1).faults
    assert faults == scenario.plan(1).faults != scenario.plan(2).faults
    assert all(isinstance(fault, Crash) and fault.at_s < 100 for fault in faults)
    assert len(faults) > 5


def test_a_worse_line_is_known_by_its_two_ends_in_order() -> None:
    scenario = changed('[[link]]\nbetween = ["b", "a"]\nmbit_s = 8\nlatency_ms = 40\n')
    assert scenario.slow == {(0, 1): (1e6, 0.04)}


def test_what_a_charter_says_of_the_way_to_the_mean_can_be_said_here() -> None:
    scenario = changed(
        '[learning]\nmixing = "exact"\nroute = "sharded:3"\ncodec = "topk:50"\n[swarm]\nweight_cap = 0.4\nstaleness = 3\nrelay = true\n'
    )
    assert scenario.route == Route("sharded", 3)
    assert (scenario.learning.codec, scenario.terms.weight_cap_ppm) == ("topk:50", 400_000)
    assert scenario.terms.staleness == 3
    assert scenario.terms.relay
    assert parse(SMALL, "small.toml").route is None


def test_links_of_ones_own_are_pairs_of_sites_and_may_go_one_way() -> None:
    graph = parse('graph = [["b", "a"], ["a", "c-1"], ["a", "b"]]\n' + SMALL, "small.toml")
    assert (graph.graph, graph.arcs) == (((0, 1), (0, 2)), ())
    arcs = parse('topologies = ["own"]\narcs = [["b", "a"], ["a", "b"], ["c-2", "a"]]\n' + SMALL, "small.toml")
    assert (arcs.graph, arcs.arcs) == ((), ((0, 1), (1, 0), (3, 0)))


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ('graph = [["a", "d"]]', "graph: there is no site named 'd'"),
        ('graph = [["a", "a"]]', "graph: ['a', 'a'] are not two sites"),
        ('arcs = [["a", "b", "c-1"]]', "arcs: ['a', 'b', 'c-1'] are not two sites"),
        ('graph = [["a", "b"]]\narcs = [["a", "b"]]', "arcs: there is a graph of your own too"),
    ],
)
def test_links_that_cannot_be_are_refused(before: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(before + SMALL, "small.toml")
    assert says in refused.value.message


def test_links_that_go_one_way_are_for_gossip() -> None:
    with pytest.raises(UsageError, match="arcs: links that go one way are for gossip"):
        parse(f'arcs = [["a", "b"]]{SMALL}[learning]\nmixing = "exact"\n', "small.toml")


@pytest.mark.parametrize(
    ("more", "says", "hint"),
    [
        ("[learning]\nsalt = 32\n", "learning.salt: 32 is neither", "true or false"),
        (
            "[learning]\nmixing = 'exact'\nsalt = true\n[swarm]\nmin_contributions = 1\n",
            "learning.salt: a round may close with one update",
            "2 at least",
        ),
        ("[learning]\nround = 3\n", "learning.round: there is no such key", "did you mean rounds?"),
        ("[learning]\nrounds = 0\n", "learning.rounds: 0 is not between 1 and 10000", "in that range"),
        ("[learning]\nrounds = true\n", "learning.rounds: True is not a whole number", "digits"),
        ("[learning]\nseeds = [1, 1]\n", "are not 1 to 100 different numbers", "[1, 2, 3]"),
        ("[learning]\nmixing = 'mean'\n", "'mean' is no way to mix", "gossip"),
        ("[network]\nloss = 0.9\n", "network.loss: 0.9 is not between 0 and 0.5", "in that range"),
        ("[network]\nlatency_ms = nan\n", "network.latency_ms: nan is not a number", "2.5"),
        ("[[site]]\nname = 'a'\n", "there are two sites named 'a'", "name of its own"),
        ("[[site]]\nname = 'd'\nbehaviour = 'rude'\n", "site 4.behaviour: 'rude' is none", "honest"),
        ("[[site]]\nname = 'd e'\n", "'d e' is no name", "letters"),
        ("[[fault]]\nkind = 'flood'\nat_s = 1\n", "'flood' is nothing that can go wrong", "outage"),
        ("[[fault]]\nkind = 'outage'\nsites = ['bb']\nat_s = 1\nfor_s = 1\n", "no site named 'bb'", "did you mean b?"),
        ("[[fault]]\nkind = 'outage'\nsites = ['b']\nat_s = 1\n", "fault 1: it has no for_s", "add for_s"),
        ("[[fault]]\nkind = 'restarts'\nsites = ['b']\nat_s = 1\nfor_s = 1\n", "it has no every_s", "add every_s"),
        ("[[site]]\nname = 'd'\nprotocol = 'new'\n", "site 4.protocol: 'new' is no version", '"1.0"'),
        ("[[site]]\nname = 'd'\nslowdown = 0.5\n", "site 4.slowdown: 0.5 is not between", "in that range"),
        ("[[fault]]\nkind = 'partition'\ngroups = [['a'], ['a']]\nat_s = 1\n", "in two of them", "once"),
        ("[[link]]\nbetween = ['a', 'a']\n", "are not two sites", "berlin"),
        ("[learning]\nroute = 'fold'\n", "learning.route: it is for exact mixing", "mixing"),
        ("[learning]\nmixing = 'exact'\nroute = 'star'\n", "learning.route: 'star' is none for 4 sites", "sharded"),
        ("[learning]\nmixing = 'exact'\ncodec = 'randk:5'\n", "models do not travel as randk:5", "topk"),
        ("[swarm]\nstaleness = 1001\n", "swarm.staleness: 1001 is not between 0 and 1000", "in that range"),
        ("[swarm]\nweight_cap = 0\n", "swarm.weight_cap: 0 is not between 1e-06 and 1", "in that range"),
        ("nodes = 7\n", "unexpected", ""),
    ],
)
def test_what_cannot_be_is_refused_with_the_key_and_what_would_do(more: str, says: str, hint: str) -> None:
    if more.startswith("nodes"):
        text, says, hint = f"nodes = 7\n{SMALL}", "nodes: it is 7, and 4 sites are described", "leave nodes out"
    else:
        text = SMALL + more
    with pytest.raises(UsageError) as refused:
        parse(text, "small.toml")
    assert refused.value.message.startswith("couldn't use small.toml: ")
    assert says in refused.value.message
    assert hint in refused.value.hint


def test_a_file_that_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"couldn't read x.toml: .*line 1"):
        parse("name = \nx = 1", "x.toml")


@pytest.mark.parametrize(("topologies", "says"), [(("Ring",), "no name"), (("own",), "no graph"), ((), "there are 0")])
def test_topologies_are_names_and_own_needs_a_graph(topologies: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Scenario(name="x", sites=plain(3).sites, topologies=topologies)


def test_sites_alike_are_numbered_and_at_least_two() -> None:
    assert plain(3).names == ("site-0", "site-1", "site-2")
    assert plain(3).uneventful
    with pytest.raises(UsageError, match="1 is not between 2 and 4096"):
        plain(1)


def test_without_loss_links_are_like_tcp_and_with_it_every_message_is_on_its_own() -> None:
    assert plain(2).profile.fifo
    lossy = Scenario(name="x", sites=plain(2).sites, loss=0.1, latency_s=0.01, jitter_s=0.02).profile
    assert (lossy.fifo, lossy.loss, lossy.delay_s_min, lossy.delay_s_mean) == (False, 0.1, 0.01, 0.03)


def test_every_packaged_scenario_is_one_and_says_what_it_is_about() -> None:
    files = [f for f in (resources.files("topologies") / "presets").iterdir() if f.name.endswith(".toml")]
    found = {scenario.name: scenario for file in files for scenario in [parse(file.read_text(), file.name)]}
    assert sorted(found) == ["bad-week", "fifty-banks", "five-hospitals", "outage", "slow-vpn", "thousand-devices"]
    assert [found[name].n for name in sorted(found)] == [8, 50, 5, 6, 8, 1000]
    assert all(scenario.summary for scenario in found.values())
    assert len(found["outage"].mishaps) == 4
    assert found["slow-vpn"].sites[7].outbound_only


def test_learning_has_limits_of_its_own() -> None:
    for wrong in ({"batch": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}, {"target_accuracy": 1.5}, {"seeds": ()}):
        with pytest.raises(UsageError):
            Learning(**wrong)  # type: ignore[arg-type]
