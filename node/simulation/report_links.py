"""The parts of a simulation's report that come from the links: networks and loads, rates, traffic, and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from node.report_tables import counted, table_of
from node.simulation import charts, diagrams
from node.simulation.charts import Axis, Series
from node.simulation.findings import Candidate, Findings, duration_words
from node.simulation.report_words import listed_names, name_cell, numbers_of, range_words, scrolling
from node.simulation.structure import DECAY_ROUNDS, NEAR, loss_words
from node.svg import Html, h, join
from topologies import spectrum
from topologies.resilience import Loss
from topologies.traffic import megabytes

LOSSES_LISTED_MAX = 8
"""Losses listed for each topology and kind, the worst first."""

LINKS_LISTED_MAX = 40
"""Links listed for each topology, the busiest first."""

_UNTRIED = "not tried for a swarm of this size"


def networks_section(findings: Findings) -> Html:
    """Return the networks as drawn, their shapes in numbers, and the load of every link."""
    drawn = [candidate for candidate in findings.candidates if candidate.structure is not None]
    if not drawn:
        return Html()
    words = (
        "Every link that a round may use: what firewalls must let through. Width is the mean traffic of a round, to "
        "the scale of each drawing."
    )
    figures, tables = [], []
    for candidate in drawn:
        structure = candidate.structure
        assert structure is not None, "only those are asked for"
        caption = _network_words(candidate)
        if structure.network is None:
            figures.append(h("figure", h("h4", candidate.name), h("p", f"{caption} Too many to draw.")))
            continue
        net = structure.network
        picture = diagrams.network(net, title=candidate.name, desc=caption)
        figures.append(h("figure", h("h4", candidate.name), picture, h("figcaption", caption)))
        busiest = sorted(net.load, key=lambda link: (-net.load[link], link))[:LINKS_LISTED_MAX]
        rows = [
            (
                h("th", f"{net.names[a]} \u2013 {net.names[b]}", scope="row"),
                *numbers_of(megabytes(net.load[a, b]), f"{100 * net.often[a, b]:.0f} %"),
            )
            for a, b in busiest
        ]
        most = f"the busiest {len(rows)} of {structure.links}" if structure.links > len(rows) else f"all {len(rows)}"
        heads = ("Link", "#Bytes a round", "#Rounds in which it is used")
        tables.append(table_of(f"{candidate.name}, {most} links", heads, rows, tall=len(rows) > 16))
    listed = h("details", h("summary", "The load of every link"), *tables) if tables else Html()
    pictures = h("div", *figures, class_="charts")
    return join(h("p", words), _network_legend(drawn), pictures, _shapes(drawn, findings.sites), listed)


def _shapes(drawn: Sequence[Candidate], names: Sequence[str]) -> Html:
    rows = []
    for candidate in drawn:
        structure = candidate.structure
        assert structure is not None, "only those are asked for"
        alone = structure.losses.articulation if structure.losses else ()
        hops, period = structure.hops, structure.schedule.period
        repeats = "drawn anew each round" if period is None else f"every {period}" if period > 1 else "always the same"
        rows.append(
            (
                name_cell(candidate.name),
                *numbers_of(
                    f"{structure.links:,}", range_words(*structure.degree), str(hops.diameter), f"{hops.mean:.2f}"
                ),
                h("td", repeats),
                h("td", listed_names([names[node] for node in alone]) or "none"),
            )
        )
    heads = (
        "Topology",
        "#Links",
        "#Links of a site",
        "#Steps, at most",
        "#Steps, mean",
        "Rounds",
        "Sites it cannot lose",
    )
    return table_of("The shape of each", heads, rows)


def _network_words(candidate: Candidate) -> str:
    structure = candidate.structure
    assert structure is not None, "only those are asked for"
    degree = range_words(*structure.degree)
    parts = [
        f"{counted(structure.links, 'link')}, {degree} a site; at most {counted(structure.hops.diameter, 'step')} apart"
    ]
    net = structure.network
    if net is not None:
        heaviest = max(net.load.values(), default=0.0)
        least = min(net.load.values(), default=0.0)
        same = heaviest - least <= 1e-9 * heaviest
        carried = megabytes(heaviest) if same else f"{megabytes(least)} to {megabytes(heaviest)}"
        parts.append(f"{carried} a round on each link")
        rare = sum(1 for share in net.often.values() if share <= 0.999)
        if rare:
            parts.append(f"{'all' if rare == len(net.often) else rare} of the links in some of the rounds only")
        if net.alone:
            parts.append(f"cannot lose {listed_names([net.names[node] for node in sorted(net.alone)])}")
    return f"{'; '.join(parts)}."


def _network_legend(drawn: Sequence[Candidate]) -> Html:
    """What the strokes and shapes mean; only those that appear."""
    nets = [one.structure.network for one in drawn if one.structure is not None and one.structure.network is not None]
    often = [share for net in nets for share in net.often.values()]
    kinds = (
        ("often0", "used in every round", any(share > 0.999 for share in often)),
        ("often1", "used in at least a third of the rounds", any(1 / 3 - 1e-9 <= share <= 0.999 for share in often)),
        ("often2", "used in fewer rounds", any(share < 1 / 3 - 1e-9 for share in often)),
        ("bridge", "the only way between two parts", any(net.bridges for net in nets)),
    )
    items = [
        h("li", _chip(h("path", d="M2 8H38", class_=kind, stroke_width=3.5)), f" {words}")
        for kind, words, there in kinds
        if there
    ]
    sites = (
        (h("circle", cx=20, cy=8, r=5.5, class_="site"), "site", True),
        (
            h("rect", x=15, y=3, width=10, height=10, class_="site gateway"),
            "gateway: on many of the shortest ways",
            any(net.gateways - net.alone for net in nets),
        ),
        (
            h("path", d="M20 1l7 7l-7 7l-7-7Z", class_="site alone"),
            "single point of failure: without it, others are cut off",
            any(net.alone for net in nets),
        ),
    )
    items += [h("li", _chip(shape), f" {words}") for shape, words, there in sites if there]
    return h("ul", *items, class_="legend") if nets else Html()


def _chip(shape: Html) -> Html:
    return h("svg", shape, class_="chip", viewBox="0 0 40 16", aria_hidden="true", focusable="false")


def spectra_section(findings: Findings) -> Html:
    """Return the eigenvalues, and the rate they predict beside the one measured."""
    known = [candidate for candidate in findings.candidates if candidate.structure is not None]
    if not known or findings.mixing == "exact":
        return Html()  # exact mixing has no rate: every round ends in the mean
    words = (
        "Without training, one exchange multiplies the consensus distance by at most the second largest eigenvalue "
        "modulus of the mixing matrix (SLEM, the dashed circle); 1 minus it is the spectral gap. The hollow dot at 1 "
        "is the agreement itself. The measured rate is that of random vectors, once the slowest of their differences "
        "is what is left. The gap says how fast gossip averages, not how well a model learns: judge that by the curves "
        "above."
    )
    disks = []
    for candidate in known:
        eigen = candidate.structure.eigen if candidate.structure else None
        if eigen is None:
            continue
        caption = f"Eigenvalues {eigen.of}. {_slem_words(eigen.second)}"
        picture = diagrams.unit_disk(eigen.eigenvalues, eigen.second, title=candidate.name, desc=caption)
        disks.append(h("figure", h("h4", candidate.name), picture, h("figcaption", caption)))
    rows = [_spectrum_row(candidate) for candidate in known]
    heads = (
        "Topology",
        "#SLEM",
        "Of",
        "#Predicted, a round",
        "#Measured, a round",
        f"#Rounds to {NEAR:g}, predicted",
        f"#Rounds to {NEAR:g}, measured",
        "Exact mean",
    )
    table = table_of("What a round leaves of the consensus distance", heads, rows)
    return join(h("p", words), _decay(known), table, h("div", *disks, class_="charts small"))


def _slem_words(second: float) -> str:
    return "All but one are 0: exact." if second < 1e-9 else f"SLEM {second:.4f}."


def _decay(known: Sequence[Candidate]) -> Html:
    lines = []
    for candidate in known:
        decay = candidate.structure.decay if candidate.structure else ()
        if len(decay) > 1:
            lines.append(
                Series(name=candidate.name, x=tuple(map(float, range(len(decay)))), mean=decay, low=decay, high=decay)
            )
    if not lines:
        return Html()
    title = "Gossip alone: how much of the disagreement is left"
    desc = "; ".join(f"{line.name}: {line.mean[-1]:.2g} after {counted(len(line.mean) - 1, 'round')}" for line in lines)
    axis = Axis(label="relative consensus distance", scale="log", decades=9)
    picture = charts.chart(
        lines,
        x=Axis(label="exchange", bottom=0, whole=True),
        y=axis,
        title=title,
        desc=f"{desc}.",
        goal=(NEAR, f"{NEAR:g}"),
        wide=True,
    )
    return h("div", h("figure", h("h4", title), scrolling(picture, title), class_="across"), class_="charts")


def _spectrum_row(candidate: Candidate) -> tuple[Html, ...]:
    structure = candidate.structure
    assert structure is not None, "only those are asked for"
    eigen, schedule = structure.eigen, structure.schedule
    exact = schedule.exact_after
    if exact is None and eigen is not None and eigen.predicted <= spectrum.NEGLIGIBLE:
        exact = schedule.period  # not promised, but so it is: everybody with everybody
    measured = str(structure.near) if structure.near is not None else f"more than {DECAY_ROUNDS}"
    if eigen is None:
        predicted = str(exact) if exact is not None else ""
        numbers = ("", "", "", predicted, measured if structure.decay else "")
        of = ""
    else:
        of = eigen.of.removeprefix("of ")
        rounds = exact if exact is not None else _rounds_to_near(eigen.predicted)
        rate = "0 (exact)" if exact is not None else f"{eigen.predicted:.4f}"
        numbers = (
            f"{eigen.second:.4f}",
            rate,
            _measured_words(eigen.measured, exact),
            "never" if rounds is None else str(rounds),
            measured,
        )
    when = "never, only nearer" if exact is None else f"after {counted(exact, 'exchange')}" if exact else "at once"
    slem, *rest = numbers_of(*numbers)
    return (name_cell(candidate.name), slem, h("td", of), *rest, h("td", when))


def _measured_words(rate: float, exact: int | None) -> str:
    """A schedule that is drawn anew each round may meet the exact mean without promising it."""
    return f"{rate:.4f}" if rate else "0 (exact)" if exact is not None else "0 (by chance)"


def _rounds_to_near(rate: float) -> int | None:
    return spectrum.rounds_at(rate, NEAR) if rate < 1 - spectrum.NEGLIGIBLE else None


def traffic_section(findings: Findings) -> Html:
    """Return bytes and time, a round and in all."""
    if not findings.candidates:
        return Html()
    rows = []
    n = len(findings.sites)
    for candidate in findings.candidates:
        rounds = candidate.rounds[-1]
        copies = candidate.structure.copies if candidate.structure else None
        rows.append(
            (
                name_cell(candidate.name),
                *numbers_of(
                    "" if copies is None else f"{copies[0]:.3g}",
                    "" if copies is None else f"{copies[1]:.3g}",
                    megabytes(candidate.bytes[-1] / rounds),
                    megabytes(candidate.bytes_busiest[-1] / rounds),
                    megabytes(candidate.bytes[-1] * n),
                    duration_words(candidate.seconds[-1] / rounds),
                    f"{rounds:,}",
                    duration_words(candidate.seconds[-1]),
                ),
            )
        )
    heads = (
        "Topology",
        "#Copies a site sends in an exchange",
        "#The busiest site",
        "#Bytes a round, per site",
        "#Bytes a round, busiest",
        "#Bytes in all, all sites",
        "#Time a round",
        "#Rounds",
        "#Time in all",
    )
    words = (
        "A round lasts as long as its slowest site and link need, not as long as the mean: the busiest site's line is "
        "what must be paid for. Times are predicted for the links and the computers that the scenario describes. The "
        "last round, in which all models become one, costs more than an exchange, and counts in all but the copies."
    )
    return join(h("p", words), table_of("Traffic and time", heads, rows))


def losses_section(findings: Findings) -> Html:
    """Return what losing any one or two sites, or a link, would do."""
    known = [one for one in findings.candidates if one.structure is not None and one.structure.losses is not None]
    if not known:
        return Html()
    rows = []
    details = []
    for candidate in known:
        structure = candidate.structure
        assert structure is not None, "only those are asked for"
        assert structure.losses is not None, "only those are asked for"
        losses = structure.losses
        cells = (
            _worst(losses.one, losses.gap, findings.sites) or _UNTRIED,
            _worst(losses.two, losses.gap, findings.sites) or _UNTRIED,
            _worst(losses.links, losses.gap, findings.sites) or _only_ways(len(losses.bridges)),
        )
        rows.append((name_cell(candidate.name), *(h("td", cell) for cell in cells)))
        details.append(_loss_table(candidate.name, [*losses.one, *losses.two], losses.gap, findings.sites))
    words = (
        "The worst that can happen, over every site, every two sites and every link. A site that is cut off goes on "
        "learning from its own data alone, or with those it still reaches, until a way is back. Rounds to agree are "
        "compared for Metropolis-Hastings weights on all links together."
    )
    heads = ("Topology", "Any one site", "Any two sites", "Any one link")
    more = h("details", h("summary", "The worst losses of each"), *details)
    return join(h("p", words), table_of("The worst loss", heads, rows), more)


def _worst(losses: Sequence[Loss], gap: float, names: tuple[str, ...]) -> str:
    if not losses:
        return ""
    worst = losses[0]
    alike = sum(1 for loss in losses if loss.severity[0] == worst.severity[0] and math.isclose(loss.gap, worst.gap))
    whole = alike == len(losses) and len(losses) > 1
    who = "whichever it is" if whole else _lost_words(worst, names)
    others = f" (and {counted(alike - 1, 'other')} alike)" if alike > 1 and not whole else ""
    return f"{who}{others}: {loss_words(worst, gap, names, named=not whole)}"


def _only_ways(bridges: int) -> str:
    if not bridges:
        return "no link is the only way to anybody"
    return f"{counted(bridges, 'link')} {'is' if bridges == 1 else 'are'} the only way to somebody"


def _lost_words(loss: Loss, names: tuple[str, ...]) -> str:
    if loss.link is not None:
        return f"{names[loss.link[0]]} \u2013 {names[loss.link[1]]}"
    return " and ".join(names[node] for node in loss.members)


def _loss_table(name: str, losses: Sequence[Loss], gap: float, names: tuple[str, ...]) -> Html:
    ranked = sorted(losses, key=lambda loss: (*loss.severity, len(loss.members), loss.members))[:LOSSES_LISTED_MAX]
    rows = [
        (
            h("th", _lost_words(loss, names), scope="row"),
            h("td", loss_words(loss, gap, names)),
            *numbers_of(str(len(loss.cut_off)), f"{loss.gap:.4f}"),
        )
        for loss in ranked
    ]
    caption = f"{name}, gap {gap:.4f} before any loss"
    return table_of(caption, ("Lost", "What is left", "#Cut off", "#Spectral gap left"), rows)
