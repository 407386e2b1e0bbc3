"""The parts of a simulation's report that come from training: accuracy, agreement, and how every single site fares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import pstdev

from node.report_tables import table_of
from node.simulation import charts
from node.simulation.charts import Axis, Series
from node.simulation.findings import MEASURES, Candidate, Findings, Spread, axis_of
from node.simulation.report_words import (
    goal_words,
    name_cell,
    numbers_of,
    percent,
    range_words,
    scrolling,
    short_number,
)
from node.svg import Html, h, join

MULTIPLES_MAX = 12
"""Topologies with a picture of their own spread; beyond, the table has the worst and the best site."""

ACCURACY = Axis(label="accuracy, %", factor=100, bottom=0, top=100)

_MEASURE_TITLES = {
    "rounds": "Round by round",
    "seconds": "In predicted time",
    "bytes": "By what a site has sent",
}


def learning_section(findings: Findings) -> Html:
    """Return how well it learns: accuracy against rounds, time and bytes, with its spread over sites."""
    candidates = findings.candidates
    if not candidates:
        return Html()
    goal = None if findings.target is None else (findings.target, f"target {goal_words(findings.target)}")
    words = "Mean accuracy of the sites' own models on the same held-out data. Towards the upper left is better."
    parts = [h("p", words), _overview(candidates, ACCURACY, lambda one: one.accuracy, goal)]
    if len(candidates) <= MULTIPLES_MAX:
        parts.append(h("h3", "The spread over sites"))
        seeds = " and seeds" if any(len(candidate.seeds) > 1 for candidate in candidates) else ""
        about = f"The line is the mean; the band runs from the worst site to the best, over all sites{seeds}. "
        parts.append(h("p", f"{about}The other topologies are drawn faintly, to compare."))
        plain = None if findings.target is None else (findings.target, "")
        parts.append(_multiples(candidates, ACCURACY, lambda one: one.accuracy, plain))
    parts.append(_scores(candidates))
    return join(*parts)


def _scores(candidates: Sequence[Candidate]) -> Html:
    merges = any(candidate.merges for candidate in candidates)
    rows = []
    for candidate in candidates:
        accuracy, place = candidate.accuracy, candidate.rounds.index(candidate.peers_round)
        own = [share for _, share in candidate.peers]
        rows.append(
            (
                name_cell(candidate.name),
                *numbers_of(
                    percent(accuracy.mean[-1]),
                    *([percent(accuracy.mean[place])] if merges else []),
                    percent(candidate.before[0]),
                    percent(candidate.before[1]),
                    f"{100 * pstdev(own):.2f}" if own else "",
                    percent(candidate.average[place]) if candidate.average else "",
                    short_number(candidate.distance.mean[-1]) if candidate.distance.mean else "",
                    f"{candidate.rounds[-1]:,}",
                    str(len(candidate.seeds)),
                ),
            )
        )
    heads = (
        "Topology",
        "#Accuracy, last round",
        *(["#Mean of sites, before it"] if merges else []),
        "#Worst site",
        "#Best site",
        "#Standard deviation over sites, points",
        "#Accuracy of the mean model",
        "#Consensus distance",
        "#Rounds",
        "#Seeds",
    )
    before = ": after the last round, and before it makes all models one" if merges else " after the last round"
    return table_of(f"In numbers{before}", heads, rows)


def agreement_section(findings: Findings) -> Html:
    """Return how close the models stay to each other."""
    candidates = [candidate for candidate in findings.candidates if candidate.distance.mean]
    if not candidates or findings.mixing == "exact":
        return Html()  # exact mixing leaves no distance to draw
    words = (
        "Consensus distance: how far the sites' models are from their mean (root mean square over sites, of the vector "
        "of all parameters), after each exchange. Lower is closer; the scale is logarithmic, and what is marked as "
        "nearly 0 means that all sites hold the same model. A last round that makes all models one is left out."
    )
    axis = Axis(label="consensus distance", scale="log")
    parts = [h("p", words), _overview(candidates, axis, lambda one: one.distance, None)]
    if any(len(candidate.seeds) > 1 for candidate in candidates) and len(candidates) <= MULTIPLES_MAX:
        parts.append(h("h3", "The spread over seeds"))
        parts.append(_multiples(candidates, axis, lambda one: one.distance, None))
    return join(*parts)


def _told_apart(candidates: Sequence[Candidate], measure: str) -> bool:
    """Whether anything was spent: without a network there is no time to draw against."""
    return measure == "rounds" or any(candidate.along(measure)[-1] > 0 for candidate in candidates)


def _overview(
    candidates: Sequence[Candidate],
    y: Axis,
    spread: Callable[[Candidate], Spread],
    goal: tuple[float, str] | None,
) -> Html:
    """All topologies against each measure, the rounds across the whole page."""
    figures: list[Html] = []
    for measure in MEASURES:
        if not _told_apart(candidates, measure):
            continue
        lines, title = _lines(candidates, measure, spread), _MEASURE_TITLES[measure]
        desc = "; ".join(f"{line.name} ends at {line.mean[-1]:.4g}" for line in lines) + "."
        x, wide = axis_of(measure, candidates), not figures
        picture = charts.chart(lines, x=x, y=y, title=title, desc=desc, goal=goal, wide=wide)
        drawing = scrolling(picture, title) if wide else picture
        figures.append(h("figure", h("h4", title), drawing, class_="across" if wide else ""))
    return h("div", *figures, class_="charts")


def _multiples(
    candidates: Sequence[Candidate], y: Axis, spread: Callable[[Candidate], Spread], goal: tuple[float, str] | None
) -> Html:
    lines = _lines(candidates, "rounds", spread)
    figures = []
    for i, line in enumerate(lines):
        desc = f"Ends at {line.mean[-1]:.4g}, from {line.low[-1]:.4g} to {line.high[-1]:.4g}."
        picture = charts.multiple(i, lines, x=axis_of("rounds", candidates), y=y, desc=desc, goal=goal)
        figures.append(h("figure", h("h4", line.name), picture))
    return h("div", *figures, class_="charts small")


def _lines(candidates: Sequence[Candidate], measure: str, spread: Callable[[Candidate], Spread]) -> list[Series]:
    return [candidate.series(measure, spread(candidate)) for candidate in candidates]


def sites_section(findings: Findings) -> Html:
    """Return each site's own accuracy at the end."""
    told = [candidate for candidate in findings.candidates if candidate.peers]
    if not told:
        return Html()
    numbers = sorted({one.peers_round for one in told})
    when = f"round {range_words(numbers[0], numbers[-1])}"
    merged = any(one.peers_round < one.rounds[-1] for one in told)
    after = f"{when}, the last before all models become one" if merged else when
    words = (
        f"Accuracy of each site's own model after {after}: one dot a site. The stroke is their mean, and the worst "
        "site is ringed and named. A topology that serves most sites and fails one shows here."
    )
    axis = Axis(label=f"accuracy after {when}, %", factor=100, bottom=0, top=100)
    title = "Accuracy of each site"
    desc = "; ".join(f"{one.name}: {_worst_words(one)}" for one in told) + "."
    picture = charts.spreads([(one.name, one.peers) for one in told], x=axis, title=title, desc=desc)
    names = [name for name, _ in told[0].peers]
    heads = ("Site", *(f"#{one.name}" for one in told))
    each = {one.name: dict(one.peers) for one in told}
    rows = [
        (h("th", name, scope="row"), *numbers_of(*(percent(each[one.name].get(name)) for one in told)))
        for name in names
    ]
    table = h("details", h("summary", "Every number"), table_of("Accuracy by site", heads, rows, tall=len(rows) > 20))
    return join(h("p", words), h("figure", scrolling(picture, title)), table)


def _worst_words(candidate: Candidate) -> str:
    name, accuracy = min(candidate.peers, key=lambda pair: (pair[1], pair[0]))
    return f"the worst is {name} with {percent(accuracy)}"
