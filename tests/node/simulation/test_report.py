"""The report of a simulation: the right numbers, drawn where they belong, on a page that stands alone."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from node.simulation import charts, diagrams, plots
from node.simulation.charts import Axis, Row, Series, apart
from node.simulation.diagrams import DRAWN_MAX, NAMED_MAX
from node.simulation.findings import duration_words, findings
from node.simulation.layout import positions
from node.simulation.report import page, write_report
from node.simulation.results import (
    Facts,
    Holdings,
    LinkLoad,
    PeerScore,
    Recommendation,
    Resilience,
    Result,
    Round,
    Run,
    Speed,
    Verdict,
)
from node.simulation.structure import loss_words, structure
from topologies import families, resilience, schedules, spectrum

HOSTILE = "</style><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e"
MODEL_BYTES = 1000


class Page(HTMLParser):
    """Every element of a page, and its visible text by section."""

    VOID = ("meta", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.section = "head"
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.sections.setdefault(self.section, []).append(data)

    def text(self, section: str) -> str:
        return " ".join(" ".join(self.sections.get(section, ())).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def played(accuracies: Sequence[Sequence[float]], distances: Sequence[float], *, a_round: int) -> tuple[Round, ...]:
    """Return rounds of the given accuracies per peer, ten seconds and `a_round` bytes each."""
    return tuple(
        Round(
            number=number,
            virtual_s=10.0 * number,
            bytes_total=a_round * number,
            bytes_busiest=a_round * number // 2,
            consensus_distance=distance,
            average_accuracy=max(peers),
            average_loss=0.5,
            peers=tuple(PeerScore(peer=i, accuracy=accuracy, loss=0.5) for i, accuracy in enumerate(peers)),
        )
        for number, (peers, distance) in enumerate(zip(accuracies, distances, strict=True), start=1)
    )


def run(topology: str, n: int, seed: int, rounds: tuple[Round, ...], speed: Speed = "learning") -> Run:
    name, _, degree = topology.partition(":")
    links = (
        families.star(n) if name == "own" else schedules.build(name, n, degree=int(degree or 3), seed=5).links
    ).edges
    facts = Facts(
        reference="a paper", links=len(links), degree_min=1, degree_max=n - 1, diameter=1, hops_mean=1.0, period=1,
        gap=None, exact_after=None, rounds_to_thousandth=None, copies_mean=1.0, copies_max=1.0, model_bytes=MODEL_BYTES,
        training_s=1.0, round_s=10.0, final_s=10.0,
    )  # fmt: skip
    return Run(
        topology=topology, seed=seed, schedule_seed=5, speed=speed, facts=facts,
        resilience=Resilience(single_points=(), bridges=(), one=(), worst_two=None), rounds=rounds,
        links=tuple(LinkLoad(low=a, high=b, bytes=3 * (1000 + 7 * a)) for a, b in links), complete=True, model="",
    )  # fmt: skip


def verdict(topology: str, remark: str = "") -> Verdict:
    return Verdict(
        topology=topology, accuracy=0.9, accuracy_worst=0.8, spread=0.1, target_round=2.0, target_s=20.0,
        target_bytes=1.0, total_s=30.0, round_s=10.0, bytes_node_round=1.0, bytes_busiest=1.0, consensus_distance=1.0,
        single_points=0, survives_any_two=True, remark=remark,
    )  # fmt: skip


ROUNDS = played([(0.2, 0.4, 0.3, 0.3), (0.5, 0.7, 0.6, 0.6), (0.8,) * 4], (2.0, 1.0, 0.0), a_round=4000)
OTHER_SEED = played([(0.2, 0.4, 0.3, 0.3), (0.7, 0.9, 0.8, 0.8), (0.9,) * 4], (4.0, 3.0, 0.0), a_round=4000)
LATE = played([(0.1, 0.1, 0.1, 0.1), (0.2, 0.3, 0.2, 0.3), (0.65,) * 4], (5.0, 4.0, 0.0), a_round=8000)


def result(names: Sequence[str] = ("a", "b", "c", "d"), *, topologies: Sequence[str] = ("ring", "star")) -> Result:
    """Return four sites on a ring, which learns quickly, and on a star, which does not."""
    n = len(names)
    runs = [
        run(topology, n, seed, rounds)
        for place, topology in enumerate(topologies)
        for seed, rounds in ((1, ROUNDS if place == 0 else LATE), (2, OTHER_SEED if place == 0 else LATE))
    ]
    return Result(
        scenario={"name": "four", "summary": "Four sites", "learning": {"mixing": "gossip", "rounds": 3}, "graph": []},
        names=tuple(names),
        parameters=250,
        holdings=Holdings(labels=("0", "1"), counts=((3, 1),) * n),
        runs=tuple(runs),
        recommendation=Recommendation(
            topology=topologies[0], speed="learning", target=0.6, sentence="Take the first.", reasons=("It learns.",),
            table=tuple(verdict(name, "too late" if place else "") for place, name in enumerate(topologies)),
        ),
        command="swarm simulate --nodes 4",
    )  # fmt: skip


def shown(value: Result) -> Page:
    return Page(page(findings(value)))


# --- numbers --------------------------------------------------------------------------------------------------------


def test_lines_are_means_over_seeds_and_bands_reach_from_the_worst_peer_to_the_best() -> None:
    ring = findings(result()).candidates[0]
    assert ring.accuracy.mean == pytest.approx((0.3, 0.7, 0.85))
    assert ring.accuracy.low == (0.2, 0.5, 0.8)
    assert ring.accuracy.high == (0.4, 0.9, 0.9)
    assert ring.bytes == (1000, 2000, 3000)
    assert ring.bytes_busiest == (2000, 4000, 6000)
    assert ring.seconds == (10, 20, 30)


def test_the_round_that_makes_all_models_one_hides_neither_distances_nor_the_spread_of_sites() -> None:
    ring = findings(result()).candidates[0]
    assert ring.merges
    assert ring.distance.mean == pytest.approx((3.0, 2.0))
    assert (ring.distance.low, ring.distance.high) == ((2.0, 1.0), (4.0, 3.0))
    assert ring.peers_round == 2
    assert dict(ring.peers) == pytest.approx({"a": 0.6, "b": 0.8, "c": 0.7, "d": 0.7})
    assert ring.before == (0.5, 0.9)


def test_a_target_counts_as_reached_only_where_every_seed_reaches_it() -> None:
    value = result()
    ring, star = findings(value).candidates
    assert ring.reached is not None
    assert (ring.reached.rounds, ring.reached.seconds, ring.reached.bytes) == (2.0, 20.0, 2000.0)
    assert star.reached is not None
    assert star.reached.rounds == 3.0
    slow = replace(value.runs[1], rounds=value.runs[1].rounds[:1])
    cut = replace(value, runs=(value.runs[0], slow, *value.runs[2:]))
    assert findings(cut).candidates[0].reached is None


def test_a_run_that_was_interrupted_shortens_its_topology_and_says_so() -> None:
    value = result()
    slow = replace(value.runs[1], rounds=value.runs[1].rounds[:2], complete=False)
    told = findings(replace(value, runs=(value.runs[0], slow, *value.runs[2:]), partial=True))
    assert told.candidates[0].rounds == (1, 2)
    assert "interrupted" in Page(page(told)).text("choice")


def test_predicted_and_measured_rate_of_a_ring_of_four_are_a_third() -> None:
    eigen = structure(schedules.build("ring", 4), ("a", "b", "c", "d"), copy_bytes=1.0).eigen
    assert eigen is not None
    assert sorted(value.real for value in eigen.eigenvalues) == pytest.approx([-1 / 3, 1 / 3, 1 / 3, 1])
    assert eigen.second == pytest.approx(1 / 3)
    assert eigen.predicted == pytest.approx(1 / 3)
    assert eigen.measured == pytest.approx(1 / 3)


def test_rounds_to_agree_are_counted_beyond_what_is_drawn() -> None:
    names = tuple(f"s{i}" for i in range(16))
    ring = structure(schedules.build("ring", 16), names, copy_bytes=1.0)
    predicted = spectrum.predicted_rounds(schedules.build("ring", 16), 1e-3)
    assert len(ring.decay) == 61
    assert ring.near is not None
    assert 60 < ring.near <= predicted == 133
    assert structure(schedules.build("base2", 16), names, copy_bytes=1.0).near == 4


def test_loads_are_those_measured_and_a_link_used_now_and_then_says_how_often() -> None:
    star = findings(result()).candidates[1].structure
    assert star is not None
    assert star.network is not None
    assert star.network.load == {(0, 1): 1000.0, (0, 2): 1000.0, (0, 3): 1000.0}
    base = structure(schedules.build("base2", 8), tuple("abcdefgh"), copy_bytes=10.0).network
    assert base is not None
    assert {round(share, 6) for share in base.often.values()} == {round(1 / 3, 6)}
    assert {round(load, 6) for load in base.load.values()} == {round(20 / 3, 6)}


def test_one_s_own_graph_is_drawn_from_its_links() -> None:
    told = findings(result(topologies=("own",)))
    drawn = told.candidates[0].structure
    assert drawn is not None
    assert drawn.schedule.links == families.star(4)


def test_losses_are_said_in_words() -> None:
    names = ("hub", "b", "c", "d")
    found = resilience.examine(families.star(4))
    assert loss_words(found.one[0], found.gap, names) == "cuts off 2 of the 3 others: c, d"
    assert loss_words(found.links[0], found.gap, names).startswith("cuts off 1 of the 4 sites")
    whole = resilience.examine(families.complete(5))
    assert loss_words(whole.one[0], whole.gap, ("a", "b", "c", "d", "e")).endswith("agree as fast")


@pytest.mark.parametrize(("seconds", "words"), [(0.5, "0.5 s"), (119, "119 s"), (180, "3 min"), (9000, "2.5 h")])
def test_durations_have_the_unit_that_a_person_would_choose(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_first_section_says_what_to_do_and_why() -> None:
    text = shown(result()).text("choice")
    assert text.startswith("Which one, and why Use ring Take the first. It learns.")
    for panel in ("Accuracy of the final model", "Sent per site to 60 %", "Predicted time to 60 %", "Worst loss of"):
        assert panel in text


def test_a_target_that_nobody_reached_is_no_recommendation() -> None:
    value = result()
    assert value.recommendation is not None
    text = shown(replace(value, recommendation=replace(value.recommendation, target=0.99))).text("choice")
    assert "Not there yet; ring came closest" in text
    assert "Use ring" not in text
    assert "Sent per site, all rounds" in text


def test_the_table_has_the_numbers_and_why_not() -> None:
    text = shown(result()).text("compare")
    assert "ring 85.0 % 50.0 to 90.0 % 2 2 kB 20 s 6 kB none" in text
    assert "star 65.0 % 20.0 to 30.0 % 3 6 kB 30 s 12 kB 1 too late" in text


def test_the_star_s_middle_is_a_diamond_and_its_links_are_dashed() -> None:
    value = result(names=("Berlin", "b", "c", "d"))
    shapes = [one.get("class") for name, one in shown(value).elements if name == "path"]
    in_legend = 1
    assert shapes.count("site alone") == 1 + in_legend
    assert shapes.count("bridge") == 3 + in_legend
    assert "cannot lose Berlin" in shown(value).text("networks")
    assert "Berlin: cuts off 2 of the 3 others" in shown(value).text("losses")


def test_the_page_fetches_nothing_runs_nothing_and_allows_only_its_own_style() -> None:
    source = page(findings(result()))
    found = Page(source)
    assert {"script", "link", "img", "iframe", "object", "form"}.isdisjoint(name for name, _ in found.elements)
    for _, attributes in found.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "src", "xlink:href"))
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = (one["content"] for one in found.all("meta") if one.get("http-equiv"))
    assert policy is not None
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_section_named_above_is_there_and_every_drawing_has_words() -> None:
    source = page(findings(result()))
    found = Page(source)
    ids = {one["id"] for one in found.all("section")}
    assert {f"#{id_}" for id_ in ids} <= {one.get("href") for one in found.all("a")}
    for drawing in re.findall(r'<svg [^>]*role="img".*?</svg>', source, re.DOTALL):
        root = ET.fromstring(drawing)
        assert root.findtext("title")
        assert root.find("desc") is None or root.findtext("desc")


def test_a_hostile_name_stays_text() -> None:
    value = result(names=(HOSTILE, "b", "c", "d"))
    value = replace(
        value, scenario={**value.scenario, "summary": HOSTILE, "site": [{"name": HOSTILE}]}, command=HOSTILE
    )
    found = shown(value)
    assert not found.all("script")
    assert not found.all("img")
    assert "<script>alert(1)</script>" in found.text("settings")
    assert "\u202e" not in page(findings(value))


def test_exact_mixing_has_no_spectrum_and_no_distances() -> None:
    value = result()
    found = shown(replace(value, scenario={**value.scenario, "learning": {"mixing": "exact"}}))
    assert not found.text("spectrum")
    assert not found.text("agreement")
    assert found.text("networks")


def test_both_speeds_are_told_apart() -> None:
    value = result()
    real = tuple(replace(one, speed="protocol") for one in value.runs)
    told = findings(replace(value, runs=(*value.runs, *real)))
    assert [one.name for one in told.candidates] == ["ring", "star", "ring (protocol)", "star (protocol)"]
    assert len(re.findall('<svg class="net"', page(told))) == 2, "the links are the same, and drawn once"


def test_nothing_finished_is_still_a_page() -> None:
    value = replace(result(), runs=(), recommendation=None, partial=True)
    text = shown(value).text("choice")
    assert "No recommendation" in text
    assert "interrupted" in text


def test_a_swarm_too_large_to_draw_is_told_in_numbers() -> None:
    n = DRAWN_MAX + 1
    value = result(names=[f"device-{i}" for i in range(n)], topologies=("ring",))
    text = shown(value).text("networks")
    assert f"{n} links, 2 a site" in text
    assert "Too many to draw" in text


def test_the_same_result_gives_the_same_page() -> None:
    assert page(findings(result())) == page(findings(result()))


# --- drawings -------------------------------------------------------------------------------------------------------


def lines_of(*ends: float, x: Sequence[float] = (1.0, 2.0, 3.0)) -> list[Series]:
    ways = [(0.1, (0.1 + end) / 2, end) for end in ends]
    return [Series(name=f"line {i}", x=x, mean=way, low=way, high=way) for i, way in enumerate(ways)]


def inside(drawing: str) -> ET.Element:
    """Return the drawing, having checked that its dots and names lie on the paper."""
    root = ET.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for one in root.iter():
        if one.tag == "circle":
            x, y, r = (float(one.attrib[name]) for name in ("cx", "cy", "r"))
            assert r <= x <= width - r
            assert r <= y <= height - r
        elif one.tag == "text" and "x" in one.attrib:
            wide = charts.LETTER * len(one.text or "")
            shift = {"end": wide, "middle": wide / 2}.get(one.attrib.get("class", "").split(" ")[-1], 0.0)
            start = float(one.attrib["x"]) - (wide if "end" in one.attrib.get("class", "").split() else shift)
            assert start >= -1, one.text
            assert start + wide <= width + 1, one.text
            assert 4 <= float(one.attrib["y"]) <= height - 4, one.text
    return root


def test_names_at_the_ends_of_lines_never_cover_each_other() -> None:
    lines = lines_of(*(0.9 + 0.001 * i for i in range(9)))
    x, y = Axis(label="round"), Axis(label="accuracy")
    root = inside(charts.chart(lines, x=x, y=y, title="t", desc="d"))
    heights = sorted(float(one.attrib["y"]) for one in root.iter("text") if "named" in one.attrib.get("class", ""))
    assert len(heights) == 9
    assert min(np.diff(heights)) > 12


def test_heights_keep_their_order_their_distance_and_the_room() -> None:
    heights = apart([5.0, 5.0, 5.0, 90.0], 10, 0, 100)
    assert heights == [5.0, 15.0, 25.0, 90.0]
    assert max(apart([99.0, 99.0, 99.0], 10, 0, 100)) == 100
    crowded = apart([50.0] * 21, 10, 0, 100)
    assert (min(crowded), max(crowded)) == pytest.approx((0, 100))


def test_nothing_at_all_lies_on_the_bottom_of_a_logarithmic_axis_and_is_named() -> None:
    lines = [*lines_of(3.0), Series(name="none", x=(1.0, 2.0, 3.0), mean=(0.0,) * 3, low=(0.0,) * 3, high=(0.0,) * 3)]
    root = inside(charts.chart(lines, x=Axis(label="x"), y=Axis(label="y", scale="log"), title="t", desc="d"))
    words = {one.text: float(one.attrib["y"]) for one in root.iter("text") if "y" in one.attrib}
    path = [one.attrib["d"] for one in root.iter("path") if one.attrib.get("class") == "line s1"]
    assert float(path[0].split("L")[1].split()[1].removesuffix("h.1")) == words["\u2248 0"]


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        ((5e-4, 1.8), ["0.001", "0.01", "0.1", "1"]),
        ((5e-6, 1.8), ["10\u207b\u2074", "10\u207b\u00b2", "1"]),
        ((0.02, 0.9), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        ((2e-5, 9e-5), ["2\u00b710\u207b\u2075", "5\u00b710\u207b\u2075", "10\u207b\u2074"]),
    ],
)
def test_a_logarithmic_axis_is_marked_in_one_style(values: tuple[float, float], marked: list[str]) -> None:
    line = Series(name="a", x=(1.0, 2.0), mean=values, low=values, high=values)
    y = Axis(label="y", scale="log")
    root = inside(charts.chart([line], x=Axis(label="x"), y=y, title="t", desc="d"))
    found = [one.text for one in root.iter("text") if one.attrib.get("class") == "end" and one.text != "a"]
    assert found == marked


def test_sites_that_differ_in_their_names_alone_are_one_row() -> None:
    row = {"step_s": 0.01, "outbound_only": False}
    alike = replace(result(), scenario={"sites": [{"name": name, **row} for name in "abcd"]})
    assert findings(alike).tables == (("sites", ("name", "step_s", "outbound_only"), (("all 4", "0.01", "no"),)),)
    slow = replace(alike, scenario={"sites": [{"name": "a", **row}, {"name": "b", **row, "step_s": 1.0}]})
    assert [cells[0] for cells in findings(slow).tables[0][2]] == ["a", "b"]


def test_a_goal_out_of_reach_is_drawn_above_the_lines_and_not_on_the_edge_of_what_was_reached() -> None:
    y = Axis(label="accuracy, %", factor=100, bottom=0, top=100)
    root = inside(charts.chart(lines_of(0.3), x=Axis(label="x"), y=y, title="t", desc="d", goal=(0.9, "target 90 %")))
    (goal,) = (one.attrib["d"] for one in root.iter("path") if one.attrib.get("class") == "goal")
    (line,) = (one.attrib["d"] for one in root.iter("path") if one.attrib.get("class") == "line s0")
    height = float(goal.split("H")[0].split()[1])
    last = float(line.split("L")[-1].split()[1].removesuffix("h.1"))
    first = float(line.split("L")[0].split()[1])
    assert (last - height) / (first - last) == pytest.approx((0.9 - 0.3) / (0.3 - 0.1), rel=0.02)


def test_rounds_are_marked_by_whole_numbers_only() -> None:
    axis = Axis(label="round", whole=True)
    root = inside(charts.chart(lines_of(0.3), x=axis, y=Axis(label="y"), title="t", desc="d"))
    base = max(float(one.attrib["y"]) for one in root.iter("text") if one.text in ("1", "2", "3"))
    marked = [one.text for one in root.iter("text") if "y" in one.attrib and float(one.attrib["y"]) == base]
    assert marked == ["1", "2", "3"]


def test_bars_start_at_zero_and_are_as_long_as_their_values() -> None:
    rows = [
        Row(name="a", value=1.0, words="1"),
        Row(name="b", value=4.0, words="4"),
        Row(name="c", value=None, words="no"),
    ]
    root = inside(charts.ranking(rows, title="t", desc="d", bars=True))
    paths = (one.attrib["d"] for one in root.iter("path") if one.attrib.get("class", "").startswith("bar"))
    long = []
    for path in paths:
        first, last = (float(number) for number in re.findall(r"[MH]([\d.]+)", path)[:2])
        long.append(last - first)
    assert long[1] / long[0] == pytest.approx(4, rel=0.02)
    assert len(long) == 2
    assert "no" in [one.text for one in root.iter("text")]


@pytest.mark.parametrize(
    "name", ["ring", "path", "grid", "star", "tree", "clusters", "complete", "exponential", "base2"]
)
@pytest.mark.parametrize("n", [4, 12, 28, 66])  # 66: too many to be named, and for all pairs to be taken away
def test_every_network_fits_on_its_paper(name: str, n: int) -> None:
    names = tuple(f"a hospital with a long name {i}" for i in range(n))
    net = structure(schedules.build(name, n), names, copy_bytes=1.0).network
    assert net is not None
    root = inside(diagrams.network(net, title=name, desc="d"))
    assert len(list(root.iter("text"))) == (2 * n if n <= NAMED_MAX else 0)
    apart_by = np.linalg.norm(net.places[:, None] - net.places[None], axis=2) + 9 * np.eye(n)
    assert apart_by.min() > 0.5 / n, "two members stand on one spot"


@pytest.mark.parametrize("n", [3, 5, 7])
def test_a_polygon_with_a_corner_on_top_has_room_for_its_name(n: int) -> None:
    net = structure(schedules.build("ring", n), tuple(f"site-{i}" for i in range(n)), copy_bytes=1.0).network
    assert net is not None
    marks = [float(one.attrib["cy"]) for one in inside(diagrams.network(net, title="", desc="d")).iter("circle")]
    height = diagrams.Plan.of(net).height
    assert min(marks) == pytest.approx(height - max(marks), abs=0.2), "as much room above as below"


def test_a_grid_is_drawn_as_a_grid() -> None:
    places = positions(families.grid(12))
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    steps = np.array([far[a, b] for a, b in families.grid(12).edges])
    assert steps.max() / steps.min() < 1.2
    assert far.max() > 2.5 * steps.mean()


def test_a_ring_goes_round_in_order_and_a_tree_outward() -> None:
    circle = positions(families.ring(8))
    assert np.linalg.norm(circle, axis=1) == pytest.approx(np.ones(8))
    assert circle[0] == pytest.approx((0, -1))
    star = positions(families.star(9))
    out = np.linalg.norm(star[1:] - star[0], axis=1)
    assert out.max() / out.min() == pytest.approx(1, abs=1e-6)


# --- files ----------------------------------------------------------------------------------------------------------


def test_without_matplotlib_the_page_says_how_to_get_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    write_report(tmp_path, result())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "pip install 'swarm-node[simulate]'" in Page((tmp_path / "report.html").read_text()).text("settings")


def test_the_pictures_are_png_the_page_names_them_and_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the PNG files need the extra 'simulate'")
    value = result(names=("$x_1$", "\u5317\u4eac", "c", "d"))
    (tmp_path / "again").mkdir()
    write_report(tmp_path, value)
    write_report(tmp_path / "again", value)
    text = Page((tmp_path / "report.html").read_text()).text("settings")
    pictures = sorted(tmp_path.glob("*.png"))
    assert {path.stem for path in pictures} == {
        "accuracy", "comparison", "consensus", "holdings", "networks", "sites", "spectrum",
    }  # fmt: skip
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.name in text
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
