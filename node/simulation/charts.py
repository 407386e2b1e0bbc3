"""The charts of a simulation's report, as markup: lines with their spread, rankings, and a dot for every site.

They keep the promises of `node.svg` (text is never markup, no drawing depends on colour, nothing is fetched) and add
one: every line, bar and dot is named where it is, so that no reader has to carry a colour from a legend to a picture.
Here is geometry only; what is worth drawing is decided in `node.simulation.findings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.svg import MARKS, STYLES, Html, h, join, thin, ticks

Scale = Literal["linear", "log"]

POINTS_MAX = 400
"""Points drawn of one line: more than these charts are wide could not be seen."""

DECADES_MAX = 6
"""Powers of ten on a logarithmic axis from its largest value down. What is smaller lies at the bottom, as nothing."""

LOG_FROM = 8
"""Ratio of the largest to the smallest end of lines from which an axis of bytes is logarithmic."""

PLAIN_POWER_MAX = 3
"""An axis is marked with plain numbers as long as they are from 0.001 to 5000."""

_WIDTH, _HEIGHT, _ACROSS = 480, 300, 860
_LEFT, _TOP, _BASE = 54, 12, 44
LETTER, BOLD = 7.0, 8.3
"""Widths of a letter as written and in bold, in units of a drawing: those of the widest of the page's fonts."""

_LABEL_STEP = 14.5
_MARKS_MAX = 6
_NAME_MAX = 22

STYLE = """
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:.5rem 2rem;margin:.5rem 0}
.charts.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:1rem 1.6rem}
.charts.small:has(> :nth-child(4):last-child){grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.charts.small .chart{max-width:22rem}
.charts figure{margin:.4rem 0;min-width:0}
.charts h4,figure h4{margin:.2rem 0 .1rem;font-size:.95rem}
.chart{display:block;width:100%;height:auto;max-width:33rem}
.chart.wide{max-width:56rem}
.scroll .chart.wide{min-width:38rem}
.charts .scroll{margin:0}
.plot .mark{fill:var(--s0)}
.charts .across{grid-column:1/-1}
.chart text{fill:var(--dim);font-size:12.5px}
.chart .end{text-anchor:end}
.chart .middle{text-anchor:middle}
.chart .strong{fill:var(--ink);font-weight:650}
.chart .t0{fill:var(--s0)}.chart .t1{fill:var(--s1)}.chart .t2{fill:var(--s2)}.chart .t3{fill:var(--s3)}
.chart .t4{fill:var(--s4)}.chart .t5{fill:var(--s5)}.chart .t6{fill:var(--s6)}.chart .t7{fill:var(--s7)}
.chart text.named{font-weight:600}
.band{opacity:.2;stroke:none}
.band.s0{fill:var(--s0)}.band.s1{fill:var(--s1)}.band.s2{fill:var(--s2)}.band.s3{fill:var(--s3)}
.band.s4{fill:var(--s4)}.band.s5{fill:var(--s5)}.band.s6{fill:var(--s6)}.band.s7{fill:var(--s7)}
.others{fill:none;stroke:var(--dim);stroke-width:1;opacity:.45}
.leader{fill:none;stroke:var(--dim);stroke-width:.7;opacity:.7}
.goal{fill:none;stroke:var(--ink);stroke-width:1.1;stroke-dasharray:5 4}
.bar-plain{fill:var(--edge)}
.bar-chosen{fill:var(--s0)}
.whisker{fill:none;stroke:var(--dim);stroke-width:1.6}
.whisker.chosen{stroke:var(--s0);stroke-width:2.4}
.dot-plain{fill:var(--dim)}
.dot-chosen{fill:var(--s0)}
.each{fill:var(--s0);fill-opacity:.45;stroke:var(--s0);stroke-width:.7}
.each.worst{fill:none;stroke:var(--bad);stroke-width:1.8}
.median{stroke:var(--ink);stroke-width:2.4}
@media print{.bar-chosen,.bar-plain,.band{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
"""What `node.svg.STYLE` has no words for; every colour comes from there, so that light, dark and paper follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One named line with its spread: equally long, x ascending, low <= mean <= high."""

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis says.

    Attributes:
        label: Its words, the unit among them.
        scale: A logarithmic one has its zero at the bottom, and says so.
        factor: Takes values to the unit that the label names.
        bottom: Where a linear axis ends at the latest, in that unit.
        top: The same upwards.
        decades: Most powers of ten of a logarithmic one.
        whole: Whether only whole numbers are marked, as of rounds.
    """

    label: str
    scale: Scale = "linear"
    factor: float = 1.0
    bottom: float = -math.inf
    top: float = math.inf
    decades: int = DECADES_MAX
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a ranking: a value with the words for it, None where there is none, and its spread, if any."""

    name: str
    value: float | None
    words: str
    low: float | None = None
    high: float | None = None
    chosen: bool = False


def chart(
    lines: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    title: str,
    desc: str,
    bands: bool = False,
    goal: tuple[float, str] | None = None,
    wide: bool = False,
) -> Html:
    """Return lines on common axes, each named at its end; with `bands`, their spreads behind them."""
    size = (_ACROSS if wide else _WIDTH, _HEIGHT)
    frame = _Frame.around(lines, x, y, labels=[line.name for line in lines], bands=bands, goal=goal, size=size)
    parts = [frame.axes()]
    if bands:
        parts += [_band(frame, line, i) for i, line in enumerate(lines)]
    parts += _goal(frame, goal, [point for line in lines for point in _inked(frame, line)])
    for i, line in enumerate(lines):
        parts.append(h("path", d=frame.path(line.x, line.mean), class_=f"line s{i % STYLES}"))
        parts.append(_marks(frame, line, i))
    parts.append(_end_labels(frame, lines))
    return drawing(title, desc, *size, *parts, name="chart wide" if wide else "chart")


def multiple(
    index: int,
    lines: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    desc: str,
    goal: tuple[float, str] | None = None,
) -> Html:
    """Return one line with its spread, the others faint behind it, on the axes that all of them share."""
    frame = _Frame.around(lines, x, y, labels=(), bands=True, goal=goal, size=(340, 220))
    others = (h("path", d=frame.path(line.x, line.mean), class_="others") for i, line in enumerate(lines) if i != index)
    line = lines[index]
    own = h("path", d=frame.path(line.x, line.mean), class_=f"line s{index % STYLES} plain")
    return drawing(
        line.name, desc, 340, 220, frame.axes(), *others, _band(frame, line, index), *_goal(frame, goal, ()), own
    )


def ranking(rows: Sequence[Row], *, title: str, desc: str, bars: bool) -> Html:
    """Return a line for each row: bars from zero, or dots with whiskers on a scale where zero says nothing."""
    width, step = 400, 27
    left = 12 + BOLD * max(len(short(row.name)) for row in rows)
    right = 16 + BOLD * max(len(row.words) for row in rows)
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    low, high = (0.0, max(values, default=1.0)) if bars else _padded(values)
    span = max(20.0, width - left - right)

    def at(value: float) -> float:
        return left + (value - low) / ((high - low) or 1.0) * span

    base = step * len(rows)
    parts: list[Html] = [] if bars else _scale(low, high, at, base)
    for i, row in enumerate(rows):
        y, kind = 14 + i * step, "chosen" if row.chosen else "plain"
        strong = "strong" if row.chosen else ""
        parts.append(h("text", short(row.name), x=0, y=y, dy="0.35em", class_=strong))
        end = left
        if row.value is not None and bars:
            end = max(at(row.value), left + 1.5)
            parts.append(h("path", d=f"M{left:.1f} {y - 8}H{end:.1f}v16H{left:.1f}Z", class_=f"bar-{kind}"))
        elif row.value is not None:
            first, last = (at(row.value if v is None else v) for v in (row.low, row.high))
            parts.append(h("path", d=f"M{left:.1f} {y}H{left + span:.1f}", class_="grid"))
            parts.append(h("path", d=f"M{first:.1f} {y}H{last:.1f}", class_=f"whisker {kind}"))
            parts.append(h("circle", cx=f"{at(row.value):.1f}", cy=y, r=5 if row.chosen else 4, class_=f"dot-{kind}"))
        x_words = end + 7 if bars else left + span + 10
        parts.append(h("text", row.words, x=f"{x_words:.1f}", y=y, dy="0.35em", class_=strong))
    return drawing(title, desc, width, base + (4 if bars else 22), *parts)


def _scale(low: float, high: float, at: Callable[[float], float], base: float) -> list[Html]:
    """Percent below a ranking: without them a small difference looks like a large one."""
    parts = []
    for value in ticks(100 * low, 100 * high, 4):
        x = f"{at(value / 100):.1f}"
        parts.append(h("path", d=f"M{x} 2V{base}", class_="grid"))
        parts.append(h("text", f"{value:.6g} %", x=x, y=base + 14, class_="middle"))
    return parts


def spreads(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, x: Axis, title: str, desc: str) -> Html:
    """Return a row of dots for each (name, (member, value) pairs): everybody is seen, and the worst is named."""
    width, step, left, right = 720, 46, 12 + BOLD * max(len(short(name)) for name, _ in rows), 16
    values = [value * x.factor for _, pairs in rows for _, value in pairs]
    low, high = _padded(values)
    low, high = max(low, x.bottom), min(high, x.top)
    base = 10 + step * len(rows)

    def at(value: float) -> float:
        return left + (value - low) / ((high - low) or 1.0) * (width - left - right)

    parts: list[Html] = []
    for value in ticks(low, high, 8):
        parts.append(h("path", d=f"M{at(value):.1f} 6V{base}", class_="grid"))
        parts.append(h("text", f"{value:.6g}", x=f"{at(value):.1f}", y=base + 16, class_="middle"))
    parts.append(h("text", x.label, x=f"{(left + width - right) / 2:.1f}", y=base + 36, class_="middle"))
    for i, (name, pairs) in enumerate(rows):
        y = 10 + step * (i + 0.38)
        parts.append(h("text", short(name), x=0, y=f"{y:.1f}", dy="0.35em", class_="strong"))
        parts.append(h("path", d=f"M{left:.1f} {y:.1f}H{width - right}", class_="grid"))
        parts += _dots(pairs, x.factor, at, y, width - 4)
    return drawing(title, desc, width, base + 44, *parts, name="chart wide")


# --- geometry ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Values from (x_low, y_low) to (x_high, y_high), in the axes' units, inside the margins of a drawing."""

    x_axis: Axis
    y_axis: Axis
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    y_zero: bool
    width: int
    height: int
    right: float

    @classmethod
    def around(
        cls,
        lines: Sequence[Series],
        x: Axis,
        y: Axis,
        *,
        labels: Sequence[str],
        bands: bool,
        goal: tuple[float, str] | None = None,
        size: tuple[int, int] = (_WIDTH, _HEIGHT),
    ) -> _Frame:
        xs = [value * x.factor for line in lines for value in line.x]
        ys = [
            v * y.factor
            for line in lines
            for part in ((line.low, line.mean, line.high) if bands else (line.mean,))
            for v in part
        ]
        ys += [goal[0] * y.factor] if goal is not None else []  # a goal out of reach is drawn where it is
        x_low, x_high, _ = _bounds(xs, x)
        y_low, y_high, y_zero = _bounds(ys, y)
        right = 16.0 + (BOLD * max(len(short(name)) for name in labels) + 8 if labels else 0)
        return cls(
            x_axis=x, y_axis=y, x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high, y_zero=y_zero,
            width=size[0], height=size[1], right=right,
        )  # fmt: skip

    def x(self, value: float) -> float:
        share = _share(value * self.x_axis.factor, self.x_low, self.x_high, self.x_axis.scale)
        return _LEFT + share * (self.width - _LEFT - self.right)

    def y(self, value: float) -> float:
        share = _share(value * self.y_axis.factor, self.y_low, self.y_high, self.y_axis.scale)
        return self.height - _BASE - share * (self.height - _BASE - _TOP)

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        points = _thinned(xs, ys)
        return "".join(f"{'L' if i else 'M'}{self.x(a):.1f} {self.y(b):.1f}" for i, (a, b) in enumerate(points)) + "h.1"

    def axes(self) -> Html:
        base, end = self.height - _BASE, self.width - self.right
        parts: list[Html] = []
        for value, words in _ticks(self.y_low, self.y_high, self.y_axis.scale, 5, zero=self.y_zero):
            y = f"{self.y(value / self.y_axis.factor):.1f}"
            parts.append(h("path", d=f"M{_LEFT} {y}H{end:.1f}", class_="grid"))
            parts.append(h("text", words, x=_LEFT - 6, y=y, dy="0.35em", class_="end"))
        marked = _ticks(self.x_low, self.x_high, self.x_axis.scale, max(3, self.width // 90))
        for value, words in marked:
            if self.x_axis.whole and abs(value - round(value)) > 1e-9:
                continue
            x = self.x(value / self.x_axis.factor)
            parts.append(h("text", words, x=f"{x:.1f}", y=base + 17, class_="middle"))
            parts.append(h("path", d=f"M{x:.1f} {base}v4", class_="axis"))
        parts.append(h("path", d=f"M{_LEFT} {_TOP}V{base}H{end:.1f}", class_="axis"))
        parts.append(h("text", self.x_axis.label, x=f"{(_LEFT + end) / 2:.1f}", y=self.height - 7, class_="middle"))
        middle = (_TOP + base) / 2
        parts.append(h("text", self.y_axis.label, transform=f"translate(12 {middle:.1f}) rotate(-90)", class_="middle"))
        return join(*parts)


def _bounds(values: Sequence[float], axis: Axis) -> tuple[float, float, bool]:
    """Return the ends of an axis, and whether the lower one of a logarithmic axis stands for nothing."""
    finite = [value for value in values if math.isfinite(value)]
    if axis.scale == "linear":
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        if low == high:
            low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
        return max(low, axis.bottom), min(high, axis.top) if axis.top > low else high, False
    high = max((value for value in finite if value > 0), default=1.0)
    floor = high / 10.0**axis.decades
    low = min(value for value in [*finite, high] if value >= floor)
    low, high = _round_down(low), _round_up(high)
    zero = any(value < floor for value in finite)
    return low / 10 if zero else low, high if high > low else low * 10, zero


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return max(power * factor for factor in (1, 2, 5) if power * factor <= value * (1 + 1e-9))


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return min(power * factor for factor in (1, 2, 5, 10) if power * factor >= value * (1 - 1e-9))


def _share(value: float, low: float, high: float, scale: Scale) -> float:
    if scale == "linear":
        return min(1.0, max(0.0, (value - low) / (high - low)))
    return (math.log10(min(high, max(low, value))) - math.log10(low)) / (math.log10(high) - math.log10(low))


def _ticks(low: float, high: float, scale: Scale, most: int, *, zero: bool = False) -> list[tuple[float, str]]:
    if scale == "linear":
        return [(value, f"{value:.6g}") for value in ticks(low, high, most)]
    bottom = [(low, "\u2248 0")] if zero else []
    least = low * 9 if zero else low
    powers = range(math.floor(math.log10(least) - 1e-9), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    inside = [(f, p) for p in powers for f in factors if _within(f * 10.0**p, least, high)]
    step = 1 if len(factors) > 1 else max(1, math.ceil(len(inside) / most))
    marked = inside[::-1][::step][::-1]
    # One style an axis: 0.001 beside 10\u207b\u2074 looks like two scales.
    plain = all(abs(power) <= PLAIN_POWER_MAX for _, power in marked)
    return bottom + [
        (f * 10.0**p, f"{f * 10.0**p:g}" if plain or p in (0, 1) else scaled_words(f, p)) for f, p in marked
    ]


def _within(value: float, low: float, high: float) -> bool:
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def scaled_words(factor: int, power: int) -> str:
    """Return one digit times a power of ten as people write it: 10\u207b\u2075, 2\u00b710\u207b\u2075."""
    exponent = str(power).translate(
        str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"{factor}\u00b710{exponent}" if factor > 1 else f"10{exponent}"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.05 or (abs(high) or 1.0) * 0.05
    return low - room, high + room


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    kept = thin(list(enumerate(zip(xs, ys, strict=True))), POINTS_MAX)
    return [point for _, point in kept]


def _band(frame: _Frame, line: Series, index: int) -> Html:
    there = _thinned(line.x, line.high)
    back = _thinned(line.x, line.low)[::-1]
    steps = (f"{'L' if i else 'M'}{frame.x(a):.1f} {frame.y(b):.1f}" for i, (a, b) in enumerate([*there, *back]))
    return h("path", d="".join(steps) + "Z", class_=f"band s{index % STYLES}")


def _goal(frame: _Frame, goal: tuple[float, str] | None, ink: Sequence[tuple[float, float]]) -> list[Html]:
    """A dashed line, with its words below or above it, where the fewest points of a line would strike them out."""
    if goal is None:
        return []
    y, end = frame.y(goal[0]), frame.width - frame.right
    line = h("path", d=f"M{_LEFT} {y:.1f}H{end:.1f}", class_="goal")
    if not goal[1]:
        return [line]
    wide = BOLD * len(goal[1])
    room = range(_LEFT + 6, max(_LEFT + 7, int(end - wide)), 20)
    places = [(x, y + dy) for dy in (14.0, -7.0) for x in reversed(room) if _TOP < y + dy < frame.height - _BASE]

    def struck(place: tuple[float, float]) -> int:
        x, base = place
        return sum(x - 3 < a < x + wide + 3 and base - 13 < b < base + 5 for a, b in ink)

    x, base = min(places, key=struck, default=(float(_LEFT + 6), y + 14))
    return [line, h("text", goal[1], x=f"{x:.1f}", y=f"{base:.1f}", class_="strong")]


def _marks(frame: _Frame, line: Series, index: int) -> Html:
    """A few marks on a line; lines begin at different points, so that marks of equal lines do not cover."""
    step = max(1, -(-len(line.x) // _MARKS_MAX))
    points = list(zip(line.x, line.mean, strict=True))[index % step :: step]
    style = index % STYLES
    return join(
        *(
            h(
                "path",
                d=MARKS[style],
                class_=f"mark s{style}",
                transform=f"translate({frame.x(a):.1f} {frame.y(b):.1f})",
            )
            for a, b in points
        )
    )


def _end_labels(frame: _Frame, lines: Sequence[Series]) -> Html:
    """Each line's name: where it ends, if there is room, else at the right and tied to its end by a thin stroke."""
    edge = frame.width - frame.right
    ends = [(frame.x(line.x[-1]), frame.y(line.mean[-1]), i) for i, line in enumerate(lines) if line.x]
    ink = np.array([point for line in lines for point in _inked(frame, line)])
    parts, outside = [], []
    taken: list[tuple[float, float, float, float]] = []
    for x, y, i in ends:
        box = _free_box(x, y, BOLD * len(short(lines[i].name)), ink, taken, frame) if edge - x > 30 else None
        if box is None:
            outside.append((x, y, i))
            continue
        taken.append(box)
        put = {"x": f"{box[0]:.1f}", "y": f"{(box[1] + box[3]) / 2:.1f}", "dy": "0.35em"}
        parts.append(h("text", short(lines[i].name), class_=f"named t{i % STYLES}", **put))
    heights = apart([y for _, y, _ in outside], _LABEL_STEP, _TOP + 4, frame.height - _BASE - 2)
    left = edge + 14
    for (x, y, i), height in zip(outside, heights, strict=True):
        if left - x > 18 or abs(height - y) > 3:
            tie = f"M{x + 3:.1f} {y:.1f}L{left - 8:.1f} {height:.1f}H{left - 3:.1f}"
            parts.append(h("path", d=tie, class_="leader"))
        name, kind = short(lines[i].name), f"named t{i % STYLES}"
        parts.append(h("text", name, x=f"{left:.1f}", y=f"{height:.1f}", dy="0.35em", class_=kind))
    return join(*parts)


def _inked(frame: _Frame, line: Series) -> list[tuple[float, float]]:
    """Points along a line, close enough that no word fits between two of them unseen."""
    at = [(frame.x(a), frame.y(b)) for a, b in _thinned(line.x, line.mean)]
    found = at[:1]
    for (ax, ay), (bx, by) in pairwise(at):
        steps = max(1, math.ceil(math.hypot(bx - ax, by - ay) / 4))
        found += [(ax + (bx - ax) * k / steps, ay + (by - ay) * k / steps) for k in range(1, steps + 1)]
    return found


def _free_box(
    x: float,
    y: float,
    width: float,
    ink: NDArray[np.float64],
    taken: Sequence[tuple[float, float, float, float]],
    frame: _Frame,
) -> tuple[float, float, float, float] | None:
    """Return where a word of this width fits beside, above or below the point: left, top, right, bottom; or None."""
    for dx, dy in ((7, 0), (4, -12), (4, 13), (-width / 2, -14), (-width / 2, 15), (-width - 6, -12), (-width - 6, 13)):
        left, top, right, bottom = x + dx, y + dy - 7, x + dx + width, y + dy + 7
        if left < _LEFT + 3 or right > frame.width - frame.right + 2 or top < 0 or bottom > frame.height - _BASE - 1:
            continue
        struck = (ink[:, 0] > left - 2) & (ink[:, 0] < right + 2) & (ink[:, 1] > top - 1) & (ink[:, 1] < bottom + 1)
        over = any(a < right and left < c and b < bottom and top < d for a, b, c, d in taken)
        if not struck.any() and not over:
            return left, top, right, bottom
    return None


def apart(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return heights near those wanted, at least `step` from each other and within low to high where that is room."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    step = min(step, (high - low) / max(1, len(wanted) - 1))
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], low, placed[-1] + step if placed else low))
    top = high
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = min(placed[place], top)
        top = placed[place] - step
    result = [0.0] * len(wanted)
    for i, height in zip(order, placed, strict=True):
        result[i] = height
    return result


def _dots(
    pairs: Sequence[tuple[str, float]], factor: float, at: Callable[[float], float], y: float, edge: float
) -> list[Html]:
    """Dots shifted up and down in turn, so that equal values are not one dot; the worst is ringed and named."""
    ordered = sorted((value * factor, name) for name, value in pairs)
    (worst, name), best = ordered[0], ordered[-1][0]
    shifts = (0.0, -5.0, 5.0, -2.5, 2.5)
    parts = [
        h("circle", cx=f"{at(value):.1f}", cy=f"{y + shifts[i % 5]:.1f}", r=3.4, class_="each")
        for i, (value, _) in enumerate(ordered)
    ]
    middle = at(sum(value for value, _ in ordered) / len(ordered))
    parts.append(h("path", d=f"M{middle:.1f} {y - 11:.1f}v22", class_="median"))
    alike = best - worst < 0.05
    if not alike:
        parts.append(h("circle", cx=f"{at(worst):.1f}", cy=f"{y:.1f}", r=4.6, class_="each worst"))
    words = f"all {worst:.1f}" if alike else f"{short(name)} {worst:.1f}"
    x = at(worst)
    late = x + LETTER * len(words) > edge
    parts.append(h("text", words, x=f"{x + (4 if late else -4):.1f}", y=f"{y + 22:.1f}", class_="end" if late else ""))
    return parts


def short(name: str, most: int = _NAME_MAX) -> str:
    """Return a name that fits."""
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def drawing(title: str, desc: str, width: float, height: float, *parts: Html, name: str = "chart") -> Html:
    """Return parts as a drawing of this size, with what it shows in words for those who hear it."""
    box = f"0 0 {width:g} {height:g}"
    return h("svg", h("title", title), h("desc", desc), *parts, class_=name, role="img", viewBox=box)
