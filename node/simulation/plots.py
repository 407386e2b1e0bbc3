"""SHELL. The report's pictures as PNG, for slides and papers: the only file that imports matplotlib, which is optional.

They show what `node.simulation.findings` holds, as the page does, in the same colours, dashes and marks. The page needs
none of them: its drawings are its own.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from node.simulation.charts import PLAIN_POWER_MAX, Axis, Series, apart
from node.simulation.diagrams import NAMED_MAX, SIZE, Network, Plan, by_load, link_width, often_class
from node.simulation.findings import MEASURES, Candidate, Findings, Spread, axis_of, duration_words
from node.simulation.report_words import goal_words
from topologies.traffic import megabytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = (
    "There are no PNG files beside this page, as matplotlib is not installed: "
    "pip install 'swarm-node[simulate]', and simulate again."
)

NETWORKS_MAX = 12
"""Networks drawn into one picture."""

BANDS_MAX = 2
"""Lines with a band each; of more, only the first has one, as bands over bands are mud."""

DOTS_PER_INCH = 130

COLOURS = ("#0b5fa5", "#b3490a", "#00735c", "#8a3f8f", "#6b5600", "#a3195b", "#2b6f77", "#4a4a4a")
"""Those of `node.svg` on white: told apart with any colour vision, and by dashes and marks without colour."""

_DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1.4, 2),
    (7, 2, 1.4, 2),
    (9, 3),
    (3, 3),
    (7, 2, 1.4, 2, 1.4, 2),
    (1, 3.5),
)
_MARKS = ("o", "s", "^", "D", "v", "P", "|", "_")
_PLAIN, _INK, _DIM, _BAD = "#c9d0d6", "#1b1f24", "#50585f", "#a3161f"
_OFTEN = (1.0, 0.62, 0.34)


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plots(folder: Path, findings: Findings) -> tuple[str, ...]:
    """Write the PNG files into a folder that exists, and return their names.

    Raises:
        ImportError: matplotlib is not installed; ask `available`.
        OSError: The folder cannot be written to.
    """
    if not findings.candidates:
        return ()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes here; the page has it right.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        return _written(folder, findings)


def _written(folder: Path, findings: Findings) -> tuple[str, ...]:
    drawn = [
        ("comparison.png", _comparison(findings)),
        ("accuracy.png", _learning(findings, _accuracy_axis(), lambda one: one.accuracy, goal=findings.target)),
        ("consensus.png", _consensus(findings)),
        ("sites.png", _sites(findings)),
        ("networks.png", _networks(findings)),
        ("spectrum.png", _spectra(findings)),
        ("holdings.png", _holdings(findings)),
    ]
    names = []
    for name, figure in drawn:
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier result in this folder, which it would contradict
        else:
            # Without the program's version in it, the same result gives the same bytes.
            figure.savefig(folder / name, dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
            names.append(name)
    return tuple(names)


def _figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)  # the one canvas that needs no screen; a figure of its own has no global state
    return figure


def _tidy(axes: Axes, *, grid: str = "both") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_DIM)
    axes.tick_params(colors=_DIM, labelsize=9)
    axes.xaxis.label.set_color(_DIM)
    axes.yaxis.label.set_color(_DIM)
    if grid:
        axes.grid(visible=True, axis=grid, color=_PLAIN, linewidth=0.5)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


# --- comparison -------------------------------------------------------------------------------------------------


def _comparison(findings: Findings) -> Figure:
    """What each topology reaches, and what it takes: bars from zero, accuracies as dots with the spread over sites."""
    shown = findings.candidates[::-1]
    figure = _figure(11, 1.5 + 0.34 * len(shown))
    accuracy, sent, time = figure.subplots(1, 3, sharey=True)
    at = list(range(len(shown)))
    colours = [COLOURS[0] if one.name == findings.chosen else _DIM for one in shown]
    for y, one, colour in zip(at, shown, colours, strict=True):
        low, mean, high = (100 * value for value in (one.before[0], one.accuracy.mean[-1], one.before[1]))
        accuracy.plot([low, high], [y, y], color=colour, linewidth=1.8)
        accuracy.plot([mean], [y], "o", color=colour, markersize=6)
    accuracy.set_title("Accuracy: final model (dot), sites (line)", fontsize=10, loc="left")
    accuracy.set_xlabel("%")
    accuracy.set_yticks(at, [_plain(one.name) for one in shown])
    goal = findings.target if any(one.reached for one in shown) else None
    to = ", all rounds" if goal is None else f" to {goal_words(goal)}"
    _bars(sent, shown, findings, "bytes", megabytes)
    sent.set_title(f"Sent per site{to}", fontsize=10, loc="left")
    _bars(time, shown, findings, "seconds", duration_words)
    time.set_title(f"Predicted time{to}", fontsize=10, loc="left")
    _tidy(accuracy, grid="x")
    for label, one in zip(accuracy.get_yticklabels(), shown, strict=True):
        label.set_color(_INK)
        label.set_fontweight("bold" if one.name == findings.chosen else "normal")
    accuracy.set_ylim(-0.6, len(shown) - 0.4)
    return figure


def _bars(
    axes: Axes, shown: Sequence[Candidate], findings: Findings, measure: str, words: Callable[[float], str]
) -> None:
    goal = findings.target if any(one.reached for one in shown) else None
    values = [_spent(one, goal, measure) for one in shown]
    most = max((value for value in values if value is not None), default=1.0) or 1.0
    for y, (one, value) in enumerate(zip(shown, values, strict=True)):
        colour = COLOURS[0] if one.name == findings.chosen else _PLAIN
        axes.barh(y, value or 0.0, height=0.62, color=colour)
        said = "not reached" if value is None else words(value)
        axes.text((value or 0.0) + 0.02 * most, y, said, va="center", fontsize=9, color=_INK)
    axes.set_xlim(0, 1.3 * most)
    axes.set_xticks([])
    _tidy(axes, grid="")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False, labelleft=False)


def _spent(one: Candidate, target: float | None, measure: str) -> float | None:
    if target is None:
        return one.along(measure)[-1]
    return None if one.reached is None else float(getattr(one.reached, measure))


# --- curves -----------------------------------------------------------------------------------------------------


def _accuracy_axis() -> Axis:
    return Axis(label="accuracy, %", factor=100, bottom=0, top=100)


def _consensus(findings: Findings) -> Figure | None:
    if findings.mixing == "exact" or not any(one.distance.mean for one in findings.candidates):
        return None
    return _learning(findings, Axis(label="consensus distance", scale="log"), lambda one: one.distance, goal=None)


def _learning(findings: Findings, y: Axis, spread: Callable[[Candidate], Spread], *, goal: float | None) -> Figure:
    """Three panels: against rounds, predicted time and bytes; the spread as a band, names at the ends."""
    told = [one for one in findings.candidates if spread(one).mean]
    figure = _figure(15, 4.6, layout=None)  # with margins of its own, as names stand outside the panels
    longest = max(len(one.name) for one in told)
    name_width = min(0.14, 0.02 + 0.0072 * longest)
    figure.subplots_adjust(left=0.05, right=1 - name_width, bottom=0.13, top=0.9, wspace=3.4 * name_width)
    for axes, measure in zip(figure.subplots(1, 3, sharey=True), MEASURES, strict=True):
        x = axis_of(measure, told)
        lines = [one.series(measure, spread(one)) for one in told]
        for i, line in enumerate(lines):
            _line(axes, i, line, x, y, band=i == 0 or len(lines) <= BANDS_MAX)
        axes.set_xscale(x.scale)
        axes.set_yscale("symlog" if y.scale == "log" and _has_zero(lines) else y.scale, **_threshold(lines, y))
        axes.set_xlabel(x.label)
        if goal is not None:
            axes.axhline(goal * y.factor, color=_INK, linewidth=1, dashes=(5, 4))
            axes.text(0.01, goal * y.factor, f" target {goal_words(goal)}", color=_INK, fontsize=8.5, ha="left",
                      va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip
        _tidy(axes)
        axes.minorticks_off()
        _say_powers(axes)
        _name_ends(axes, lines, x, y)
    figure.axes[0].set_ylabel(y.label)
    title = f"{_plain(findings.title)}. {_band_words(told, over_sites=goal is not None)}"
    figure.suptitle(title, fontsize=10, color=_DIM, x=0.01, ha="left")
    return figure


def _say_powers(axes: Axes) -> None:
    """Mark logarithmic axes as the page does: 0.001 and 100, and powers of ten where numbers would be long."""
    from matplotlib.ticker import FuncFormatter

    ends = ((axes.xaxis, axes.get_xlim(), axes.get_xscale()), (axes.yaxis, axes.get_ylim(), axes.get_yscale()))
    for axis, (low, high), scale in ends:
        if scale == "log" and all(abs(math.log10(end)) < PLAIN_POWER_MAX + 1 for end in (low, high)):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _band_words(told: Sequence[Candidate], *, over_sites: bool) -> str:
    if not over_sites and all(len(one.seeds) == 1 for one in told):
        return ""
    which = "Bands run" if len(told) <= BANDS_MAX else f"The band, of {_plain(told[0].name)} alone, runs"
    return f"{which} from the {'worst site to the best' if over_sites else 'least seed to the most'}."


def _line(axes: Axes, index: int, line: Series, x: Axis, y: Axis, *, band: bool) -> None:
    colour = COLOURS[index % len(COLOURS)]
    at = np.array(line.x) * x.factor
    low, mean, high = (np.array(values) * y.factor for values in (line.low, line.mean, line.high))
    if band:
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    every = max(1, -(-len(at) // 6))
    dashes = _DASHES[index % len(_DASHES)]
    (drawn,) = axes.plot(
        at, mean, color=colour, linewidth=1.7, marker=_MARKS[index % len(_MARKS)], markersize=4.5,
        markevery=(index % every, every),
    )  # fmt: skip
    if dashes:
        drawn.set_dashes(dashes)


def _has_zero(lines: Sequence[Series]) -> bool:
    return any(value <= 0 for line in lines for value in line.mean)


def _threshold(lines: Sequence[Series], y: Axis) -> dict[str, float]:
    """Where a scale with zeros turns from logarithmic to linear: just below the least distance that is none."""
    positive = [value for line in lines for value in line.mean if value > 0]
    if y.scale != "log" or not _has_zero(lines) or not positive:
        return {}
    least = max(min(positive), max(positive) / 10.0**y.decades)
    return {"linthresh": 10.0 ** math.floor(math.log10(least))}


def _name_ends(axes: Axes, lines: Sequence[Series], x: Axis, y: Axis) -> None:
    """Write each line's name at the right of the panel, apart from the others, tied to the line's end."""
    axes.get_xlim(), axes.get_ylim()  # only now are the scales what they will be
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform((line.x[-1] * x.factor, line.mean[-1] * y.factor)) for line in lines]
    heights = apart([float(end[1]) for end in ends], 0.058, 0.0, 1.0)
    for i, (line, end, height) in enumerate(zip(lines, ends, heights, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot([end[0], 1.02], [end[1], height], color=_PLAIN, linewidth=0.8, clip_on=False, zorder=0,
                  transform=axes.transAxes)  # fmt: skip
        axes.text(1.03, height, _plain(line.name), transform=axes.transAxes, va="center", fontsize=9,
                  fontweight="bold", color=colour)  # fmt: skip


def _sites(findings: Findings) -> Figure | None:
    told = [one for one in findings.candidates if one.peers][::-1]
    if not told:
        return None
    figure = _figure(9, 1.2 + 0.5 * len(told))
    axes = figure.subplots()
    for y, one in enumerate(told):
        ordered = sorted((100 * accuracy, name) for name, accuracy in one.peers)
        shifts = [0.22 * (((i * 3) % 5) - 2) / 2 for i in range(len(ordered))]
        axes.scatter(
            [value for value, _ in ordered], [y + shift for shift in shifts], s=22, alpha=0.5, color=COLOURS[0]
        )
        mean = sum(value for value, _ in ordered) / len(ordered)
        axes.plot([mean, mean], [y - 0.3, y + 0.3], color=_INK, linewidth=2)
        if ordered[-1][0] - ordered[0][0] >= 0.05:
            worst, name = ordered[0]
            axes.scatter([worst], [y + shifts[0]], s=52, facecolors="none", edgecolors=_BAD, linewidths=1.6)
            axes.annotate(f"{_plain(name)} {worst:.1f}", (worst, y - 0.3), fontsize=8, color=_DIM, ha="left", va="top")
    axes.set_yticks(range(len(told)), [_plain(one.name) for one in told])
    axes.set_ylim(-0.7, len(told) - 0.5)
    axes.set_xlabel(f"accuracy of each site after round {told[-1].peers_round}, %; the stroke is the mean")
    _tidy(axes, grid="x")
    return figure


# --- networks, spectra, holdings --------------------------------------------------------------------------------


def _networks(findings: Findings) -> Figure | None:
    nets = [
        (one.name, one.structure.network)
        for one in findings.candidates
        if one.structure is not None and one.structure.network is not None
    ][:NETWORKS_MAX]
    if not nets:
        return None
    columns = 2 if len(nets) == 4 else min(3, len(nets))
    rows = -(-len(nets) // columns)
    figure = _figure(5 * columns, 4.9 * rows)
    for axes, (name, net) in zip(np.atleast_1d(figure.subplots(rows, columns)).ravel(), nets, strict=False):
        _network(axes, net)
        least, most = min(net.load.values()), max(net.load.values())
        words = megabytes(most) if most - least <= 1e-9 * most else f"{megabytes(least)} to {megabytes(most)}"
        axes.set_title(f"{_plain(name)}: {len(net.load)} links, each {words} a round", fontsize=10, color=_INK)
    for axes in figure.axes:
        axes.set_axis_off()
    text = (
        "Width: bytes a round. Strong: used in every round; paler: less often. Dashed: the only way. "
        "Square: gateway. Diamond: single point of failure."
    )
    figure.supxlabel(text, fontsize=9, color=_DIM)
    return figure


def _network(axes: Axes, net: Network) -> None:
    """On the same paper as the page's drawing of it."""
    from matplotlib import patheffects

    plan = Plan.of(net)
    most = max(net.load.values())
    for link in by_load(net):
        lone = link in net.bridges
        xs, ys = zip(*(plan.places[end] for end in link), strict=True)
        axes.plot(
            xs, ys, color=_BAD if lone else COLOURS[0], linestyle="--" if lone else "-", zorder=1,
            linewidth=0.75 * link_width(net.load[link], most, len(net.load)),
            alpha=_OFTEN[often_class(net.often[link])],
        )  # fmt: skip
    for member, (x, y) in enumerate(plan.places):
        alone, gateway = member in net.alone, member in net.gateways
        colour = _BAD if alone else COLOURS[0]
        axes.scatter(
            [x], [y], s=(1.45 * plan.radius) ** 2, marker="D" if alone else "s" if gateway else "o", zorder=2,
            facecolors=colour if alone or gateway else "white", edgecolors=colour, linewidths=1.5,
        )  # fmt: skip
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    sides = {"start": "left", "middle": "center", "end": "right"}
    for name in plan.names:
        axes.text(name.x, name.y, _plain(name.text), fontsize=8.5, ha=sides[name.anchor], va="center", color=_INK,
                  zorder=3, path_effects=halo)  # fmt: skip
    axes.set_xlim(0, SIZE)
    axes.set_ylim(plan.height, 0)
    axes.set_aspect("equal")


def _spectra(findings: Findings) -> Figure | None:
    told = [
        (one.name, one.structure.eigen)
        for one in findings.candidates
        if findings.mixing != "exact" and one.structure is not None and one.structure.eigen is not None
    ][:NETWORKS_MAX]
    if not told:
        return None
    columns = min(4, len(told))
    rows = -(-len(told) // columns)
    figure = _figure(3.6 * columns, 4.5 * rows + 0.3)
    circle = np.linspace(0, 2 * math.pi, 200)
    for axes, (name, eigen) in zip(np.atleast_1d(figure.subplots(rows, columns)).ravel(), told, strict=False):
        axes.plot(np.cos(circle), np.sin(circle), color=_DIM, linewidth=0.9)
        axes.plot(eigen.second * np.cos(circle), eigen.second * np.sin(circle), "--", color=COLOURS[1], linewidth=1.2)
        values = np.array(eigen.eigenvalues)
        axes.scatter(values.real, values.imag, s=22, alpha=0.6, color=COLOURS[0])
        axes.set_title(
            f"{_plain(name)}: SLEM {eigen.second:.3f}\na round leaves {eigen.predicted:.3f} predicted, "
            f"{eigen.measured:.3f} measured",
            fontsize=9, color=_INK,
        )  # fmt: skip
        axes.set_aspect("equal")
    for axes in figure.axes:
        axes.set_axis_off()
    figure.supxlabel("Eigenvalues of the mixing matrix in the unit disk; dashed: SLEM", fontsize=9, color=_DIM)
    return figure


def _holdings(findings: Findings) -> Figure | None:
    held = findings.holdings
    if held is None:
        return None
    n, labels = held.counts.shape
    width = min(14.0, 3 + 0.3 * n)
    figure = _figure(width, min(9.0, 1.6 + 0.3 * labels))
    largest = min(200.0, (72 * (width - 2) / n) ** 2)  # square points: as wide as a site has room
    axes = figure.subplots()
    peers, label = np.nonzero(held.counts)
    size = held.counts[peers, label] / max(1, int(held.counts.max()))
    axes.scatter(peers, label, s=largest * size, color=COLOURS[0])
    axes.set_yticks(range(labels), [_plain(one) for one in held.labels])
    if n <= NAMED_MAX:
        axes.set_xticks(range(n), [_plain(name) for name in findings.sites], rotation=45, ha="right")
    axes.set_ylabel("label")
    axes.set_xlabel("site; the area of a dot is its number of examples")
    axes.invert_yaxis()
    _tidy(axes)
    return figure


def _plain(text: str) -> str:
    """Return text that matplotlib draws as it is: a dollar sign would begin a formula."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
