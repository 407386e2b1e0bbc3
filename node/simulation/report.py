"""What a simulation says, as one page: which topology, and why.

The first screen is for whoever decides: what to do in three sentences, and one picture of what each choice costs. Below
it an engineer finds every number: learning against rounds, time and bytes with the spread over sites, the links and
their loads, the spectrum with the rate it predicts beside the rate measured, what each loss would do, who holds what,
and how it was simulated. The page is a single file that fetches nothing and runs nothing, as the ledger's report is
(`node.report`); where the optional drawing library is installed, the same pictures lie beside it as PNG.

Names of sites come from scenarios that others may have written, so all text is escaped on its way in (`node.svg.h`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from node.report_tables import table_of
from node.simulation import charts, diagrams, plots
from node.simulation.charts import Row
from node.simulation.findings import Findings, duration_words, findings
from node.simulation.picture import holdings_picture
from node.simulation.report_learning import agreement_section, learning_section, sites_section
from node.simulation.report_links import losses_section, networks_section, spectra_section, traffic_section
from node.simulation.report_words import goal_words, name_cell, numbers_of, percent, scrolling
from node.simulation.results import Result
from node.storage import write_file_durably
from node.svg import STYLE, Html, document, h, join, mark
from topologies.traffic import megabytes

_STYLE = (
    STYLE
    + charts.STYLE
    + diagrams.STYLE
    + """
.verdict .why{margin:.35rem 0;font-size:1.05rem}
.chart-words{font-size:.9rem;color:var(--dim)}
.legend .chip{width:2.4rem;height:.9rem;vertical-align:-.1rem}
table thead th,table thead .n{white-space:normal;min-width:4.4rem}
table tbody th{white-space:nowrap;overflow-wrap:normal;max-width:none;padding-right:1.2rem}
table td:not(.n){min-width:11rem}
pre{margin:.6rem 0;padding:.7rem .9rem;overflow:auto;border-radius:.4rem;background:var(--soft)}
pre code{font-size:.88rem}
"""
)


def write_report(folder: Path, result: Result) -> None:
    """Write `report.html` into a folder that exists, and beside it the pictures as PNG where matplotlib is installed.

    Raises:
        OSError: The folder cannot be written to.
    """
    found = findings(result)
    pictures = plots.write_plots(folder, found) if plots.available() else ()
    text = page(found, pictures=pictures, no_pictures="" if plots.available() else plots.MISSING)
    write_file_durably(folder / "report.html", text.encode(), mode=0o644)


def page(findings: Findings, *, pictures: Sequence[str] = (), no_pictures: str = "") -> str:
    """Return the page, a whole HTML document.

    Args:
        findings: What to show.
        pictures: Names of the PNG files that lie beside the page.
        no_pictures: Why there are none, a sentence; empty if there are.
    """
    sections = (
        ("choice", "Which one, and why", _choice(findings)),
        ("compare", "Side by side", _side_by_side(findings)),
        ("learning", "How well it learns", learning_section(findings)),
        ("agreement", "How close the models stay", agreement_section(findings)),
        ("sites", "Every site, not only the mean", sites_section(findings)),
        ("networks", "Who talks to whom", networks_section(findings)),
        ("spectrum", "How fast gossip agrees, by theory", spectra_section(findings)),
        ("traffic", "What it costs", traffic_section(findings)),
        ("losses", "If sites go away", losses_section(findings)),
        ("data", "Who holds what", _data(findings)),
        ("settings", "How this was simulated", _settings(findings, pictures, no_pictures)),
    )
    shown = [section for section in sections if section[2]]
    return document(
        kind="Topology report",
        title=findings.title,
        style=_STYLE,
        skip=("Skip to the recommendation", "choice"),
        about=h("p", findings.about) if findings.about else Html(),
        sections=shown,
        footer="Made from a simulation. This page fetches nothing and runs no program.",
    )


# --- the recommendation -----------------------------------------------------------------------------------------


def _choice(findings: Findings) -> Html:
    if findings.chosen and (findings.target is None or _reached(findings)):
        kind, word = "good", f"Use {findings.chosen}"
    elif findings.chosen:
        kind, word = "unsure", f"Not there yet; {findings.chosen} came closest"
    else:
        kind, word = "unsure", "No recommendation"
    why = (h("p", sentence, class_="why") for sentence in findings.reasons[:3])
    box = h("div", h("p", mark(kind, ""), word, class_="word"), *why, class_=f"verdict {kind}")
    notes = h("ul", *(h("li", note) for note in findings.notes)) if findings.notes else Html()
    if not findings.candidates:
        return join(box, notes)
    others = (h("li", sentence) for sentence in findings.reasons[3:])
    more = join(h("h3", "Further reasons"), h("ul", *others)) if findings.reasons[3:] else Html()
    panels = (h("figure", h("h4", title), picture) for title, picture in _score_card(findings))
    caption = h("p", f"{_chosen_words(findings)}{_seed_words(findings)}", class_="chart-words")
    return join(box, notes, h("div", *panels, class_="charts"), caption, more)


def _reached(findings: Findings) -> bool:
    """Whether any topology had the accuracy that was asked for, with every seed."""
    return any(candidate.reached for candidate in findings.candidates)


def _chosen_words(findings: Findings) -> str:
    return "The recommended one is in colour and stands first. " if findings.chosen else ""


def _seed_words(findings: Findings) -> str:
    seeds = max(len(candidate.seeds) for candidate in findings.candidates)
    merges = any(candidate.merges for candidate in findings.candidates)
    when = ", before the last round makes all models one" if merges else ""
    whiskers = f"whiskers run from the worst site's own model to the best{when}"
    runs = "from one run" if seeds == 1 else f"means of {seeds} runs with different seeds"
    return f"Dots and bars are {runs}; {whiskers}."


def _score_card(findings: Findings) -> list[tuple[str, Html]]:
    """The one picture: what each topology reaches, and what it takes."""
    panels: list[tuple[str, Html] | None] = [_accuracy_panel(findings)]
    goal = (
        f" to {goal_words(findings.target)}" if findings.target is not None and _reached(findings) else ", all rounds"
    )
    panels.append(_spent_panel(findings, f"Sent per site{goal}", "bytes", megabytes))
    panels.append(_spent_panel(findings, f"Predicted time{goal}", "seconds", duration_words))
    return [panel for panel in (*panels, _cut_off_panel(findings)) if panel is not None]


def _accuracy_panel(findings: Findings) -> tuple[str, Html]:
    rows = [
        Row(
            name=candidate.name,
            value=candidate.accuracy.mean[-1],
            low=candidate.before[0],
            high=candidate.before[1],
            words=percent(candidate.accuracy.mean[-1]),
            chosen=candidate.name == findings.chosen,
        )
        for candidate in findings.candidates
    ]
    merges = any(candidate.merges for candidate in findings.candidates)
    title = "Accuracy of the final model" if merges else "Accuracy reached"
    return title, charts.ranking(rows, title=title, desc=_spoken(rows), bars=False)


def _spent_panel(
    findings: Findings, title: str, measure: str, words: Callable[[float], str]
) -> tuple[str, Html] | None:
    rows = []
    for candidate in findings.candidates:
        value: float | None = candidate.along(measure)[-1]
        if findings.target is not None and _reached(findings):
            value = getattr(candidate.reached, measure) if candidate.reached is not None else None
        said = "not reached" if value is None else words(value)
        rows.append(Row(name=candidate.name, value=value, words=said, chosen=candidate.name == findings.chosen))
    if not any(row.value for row in rows):
        return None
    return title, charts.ranking(rows, title=title, desc=_spoken(rows), bars=True)


def _cut_off_panel(findings: Findings) -> tuple[str, Html] | None:
    """How many sites the worst loss cuts off from the others: of two sites where all pairs were tried, else of one."""
    known = [(one, one.structure.losses) for one in findings.candidates if one.structure and one.structure.losses]
    pairs = bool(known) and all(losses.two for _, losses in known)
    rows = []
    for candidate, losses in known:
        listed = losses.two if pairs else losses.one
        if not listed:
            continue
        cut = len(listed[0].cut_off)
        said = f"{cut} cut off" if cut else "nobody cut off"
        rows.append(Row(name=candidate.name, value=cut, words=said, chosen=candidate.name == findings.chosen))
    if not rows:
        return None
    title = f"Worst loss of {'any two sites' if pairs else 'any one site'}"
    return title, charts.ranking(rows, title=title, desc=_spoken(rows), bars=True)


def _spoken(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.name}: {row.words}" for row in rows) + "."


# --- side by side -----------------------------------------------------------------------------------------------


def _side_by_side(findings: Findings) -> Html:
    if not findings.candidates:
        return Html()
    goal = findings.target
    to = "" if goal is None else f" to {goal_words(goal)}"
    remarks = any(candidate.remark for candidate in findings.candidates)
    heads = (
        "Topology",
        "#Accuracy, mean of sites",
        "#Worst to best site",
        *([f"#Rounds{to}"] if to else []),
        f"#Sent per site{to}",
        f"#Predicted time{to}",
        "#Busiest site, all rounds",
        "#Single points of failure",
        *(["Why not this one"] if remarks else []),
    )
    merges = any(candidate.merges for candidate in findings.candidates)
    which = " The worst and the best site are those before the last round makes all models one." if merges else ""
    words = (
        "The recommended one first, the others in order of preference. Accuracies are those after the last round."
        f"{which} The sections below say the same in pictures, and more exactly."
    )
    rows = []
    for candidate in findings.candidates:
        structure, accuracy, found = candidate.structure, candidate.accuracy, candidate.reached
        alone = len(structure.losses.articulation) if structure and structure.losses else None
        if goal is None:
            spent = [megabytes(candidate.bytes[-1]), duration_words(candidate.seconds[-1])]
        elif found is None:
            spent = ["not reached", "", ""]
        else:
            spent = [f"{found.rounds:.1f}".removesuffix(".0"), megabytes(found.bytes), duration_words(found.seconds)]
        numbers = numbers_of(
            percent(accuracy.mean[-1]),
            f"{100 * candidate.before[0]:.1f} to {percent(candidate.before[1])}",
            *spent,
            megabytes(candidate.bytes_busiest[-1]),
            "" if alone is None else str(alone) if alone else "none",
        )
        why = [h("td", candidate.remark)] if remarks else []
        rows.append((name_cell(candidate.name), *numbers, *why))
    return join(h("p", words), table_of("All topologies", heads, rows))


# --- data and settings ------------------------------------------------------------------------------------------


def _data(findings: Findings) -> Html:
    held = findings.holdings
    if held is None:
        return Html()
    title = "Who holds what"
    picture = holdings_picture(held.counts, labels=held.labels, peers=findings.sites, title=title)
    words = (
        "Each site's training examples by label: the area of a dot is their number, and the bars below are all that "
        "the site holds. Unequal bars mean unequal weight in the mean; unlike columns mean that sites pull the model "
        "in different directions between exchanges."
    )
    return join(h("p", words), h("figure", scrolling(picture, title)))


def _settings(findings: Findings, pictures: Sequence[str], no_pictures: str) -> Html:
    rows = [(h("th", name, scope="row"), h("td", value)) for name, value in findings.settings]
    parts = [table_of("Settings", ("What", "Value"), rows)] if rows else []
    for caption, heads, cells in findings.tables:
        listed = [(name_cell(row[0]), *(h("td", text) for text in row[1:])) for row in cells if row]
        parts.append(table_of(caption, heads, listed, tall=len(listed) > 12))
    references = {
        candidate.name: candidate.structure.schedule.reference
        for candidate in findings.candidates
        if candidate.structure
    }
    if references:
        sources = [(name_cell(name), h("td", source)) for name, source in references.items()]
        parts.append(table_of("Where each topology comes from", ("Topology", "Source"), sources))
    if findings.command:
        parts.append(join(h("p", "To make it again:"), h("pre", h("code", findings.command))))
    if pictures:
        parts.append(h("p", f"The pictures lie beside this page as PNG: {', '.join(pictures)}."))
    if no_pictures:
        parts.append(h("p", no_pictures))
    parts.append(h("h3", "What a simulation cannot say"))
    cannot = (
        (
            "How your data behave. Accuracies here are those of the data above, divided as described; the order of the "
            "topologies carries over better than the numbers."
        ),
        (
            "How your network behaves on a bad day. Times follow from the bandwidths, latencies and faults that were "
            "described. Measure the links and put them into the scenario."
        ),
        "Small differences. Where two topologies differ by less than their spread over seeds, they are alike.",
    )
    parts.append(h("ul", *(h("li", text) for text in cannot)))
    return join(*parts)
