"""Markup and drawings for a page that must stand alone: no script, no font, no library, nothing fetched.

Two promises. Text is never markup: `h` escapes whatever is not already `Html`, so a member whose name is a script tag
appears on the page as a member with an odd name. And no drawing depends on colour: lines differ by dashes and marks,
states by shape, and every drawing has a title and a description for those who hear the page instead of seeing it. What
the drawings mean is not known here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")

_VOID = ("meta", "br")
_BLOCKS = ("section", "table", "tr", "ul", "li", "p", "div", "h2", "h3", "svg", "path", "dl", "dd")

STYLES = 8
"""Styles of line before they repeat: as many as a reader can tell apart in one plot."""

MARKS_PER_LINE_MAX = 12
"""Marks on one line: enough to recognise it between two crossings, few enough not to hide it."""

POINTS_MAX = 1_000
"""Points drawn of one line. A plot is 640 units wide, so that more could not be seen."""

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 44
_PANEL_WIDTH, _PANEL_HEIGHT = 168, 72

_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Steps between dates on an axis, up to a day; beyond, whole days."""

_DATE_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999, the last that a calendar here can name."""

MARKS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0Z",
    "M-3-3h6v6h-6Z",
    "M0-4L4 3h-8Z",
    "M0-4.5L4.5 0L0 4.5L-4.5 0Z",
    "M0 4L4-3h-8Z",
    "M-4-1.2h2.8v-2.8h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8Z",
    "M-2-4h4v8h-4Z",
    "M-4-2h8v4h-8Z",
)
"""Shapes of marks, one for each style of line."""

PALETTE = """
:root{color-scheme:light dark;--ground:#fff;--soft:#f3f5f7;--ink:#1b1f24;--dim:#50585f;--edge:#c9d0d6;--link:#0b4f9e;
--good:#11632c;--good-soft:#e7f4ea;--bad:#a3161f;--bad-soft:#fcebeb;--unsure:#7a4b00;--unsure-soft:#fdf3e0;
--s0:#0b5fa5;--s1:#b3490a;--s2:#00735c;--s3:#8a3f8f;--s4:#6b5600;--s5:#a3195b;--s6:#2b6f77;--s7:#4a4a4a}
@media screen and (prefers-color-scheme:dark){:root{--ground:#14181c;--soft:#1e242a;--ink:#e8ecef;--dim:#a9b3bb;
--edge:#404a53;--link:#8cc1ff;--good:#7ddc98;--good-soft:#12301c;--bad:#ff9a9a;--bad-soft:#3a1719;--unsure:#f4c568;
--unsure-soft:#33270f;--s0:#6cb2ff;--s1:#ff9d5c;--s2:#4fd1a5;--s3:#d79be0;--s4:#e0c34a;--s5:#ff86b5;--s6:#6fd0d8;
--s7:#c8c8c8}}
"""
"""The colours of light and dark, each at least 4.5 to 1 against its ground; on paper always those of light."""

STYLE = (
    PALETTE
    + """*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0 auto;padding:1.5rem 1.25rem 3rem;max-width:66rem;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{margin:0;font-size:1.9rem;line-height:1.2;overflow-wrap:anywhere}
h2{margin:2.75rem 0 .75rem;padding-top:.75rem;border-top:2px solid var(--edge);font-size:1.35rem;line-height:1.25}
h3{margin:1.5rem 0 .5rem;font-size:1.05rem;overflow-wrap:anywhere}
p,figcaption,.verdict,li{max-width:46rem}
p{margin:.5rem 0}
a{color:var(--link)}
ul{margin:.5rem 0;padding-left:1.2rem}
li{margin:.2rem 0}
header .kind{margin:0;color:var(--dim);font-weight:600}
header p{color:var(--dim)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1rem 0 0;padding:0;list-style:none;font-size:.92rem}
nav li{margin:0}
#verdict h2{margin-top:1.25rem}
.verdict{padding:.9rem 1.1rem;border:2px solid;border-left-width:.6rem;border-radius:.4rem;overflow-wrap:anywhere}
.verdict .word{margin:0 0 .4rem;font-size:1.6rem;font-weight:700;line-height:1.2}
.verdict .word .sign{width:1.5rem;height:1.5rem;margin-right:.5rem;vertical-align:-.2rem}
.verdict.good{border-color:var(--good);background:var(--good-soft)}
.verdict.good .word{color:var(--good)}
.verdict.out{border-color:var(--bad);background:var(--bad-soft)}
.verdict.out .word{color:var(--bad)}
.verdict.unsure{border-color:var(--unsure);background:var(--unsure-soft)}
.verdict.unsure .word{color:var(--unsure)}
.glance{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;margin:1.1rem 0}
.glance div{display:flex;flex-direction:column-reverse;justify-content:flex-end;padding:.6rem .8rem;
border-radius:.4rem;background:var(--soft)}
.glance dt{color:var(--dim);font-size:.85rem;line-height:1.3}
.glance dd{margin:0;font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:0 2.5rem;font-size:.95rem}
.scroll{margin:1rem 0;overflow:auto;max-width:100%}
.tall{max-height:34rem}
.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;line-height:1.4}
caption{padding:.2rem 0 .4rem;text-align:left;font-weight:650;white-space:nowrap}
th,td{padding:.35rem .9rem .35rem .2rem;border-bottom:1px solid var(--edge);text-align:left;vertical-align:top}
thead th{color:var(--dim);font-weight:600;vertical-align:bottom;background:var(--ground)}
.tall thead th{position:sticky;top:0}
tbody th{min-width:5.5rem;max-width:15rem;font-weight:600;overflow-wrap:anywhere}
td{min-width:3.2rem;max-width:32rem;overflow-wrap:anywhere}
table.wide{min-width:44rem}
td ul{margin:0;padding:0;list-style:none}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
code{font:.92em/1.5 ui-monospace,"Cascadia Mono",Menlo,Consolas,monospace}
summary{cursor:pointer;color:var(--link)}
.matrix{font-size:.85rem}
.matrix th,.matrix td{padding:.15rem .12rem;text-align:center}
.matrix thead th{font-size:.75rem;font-weight:400}
.matrix thead th span{writing-mode:vertical-rl;white-space:nowrap}
.matrix td{min-width:1.15rem}
.matrix th:first-child{position:sticky;left:0;z-index:1;min-width:5rem;max-width:9rem;padding-right:.6rem;
text-align:left;font-size:.85rem;background:var(--ground)}
.sign{width:.85rem;height:.85rem;vertical-align:-.08rem;overflow:visible;color:var(--ink)}
.sign.in{color:var(--s0)}
.sign.part{color:var(--s0)}
.sign.out,.verdict.out .sign{color:var(--bad)}
.sign.missing,.sign.waiting{color:var(--dim)}
.verdict.good .sign{color:var(--good)}
.verdict.unsure .sign{color:var(--unsure)}
.unseen{position:absolute}
.fill{fill:currentColor}
.ring,.stroke{fill:none;stroke:currentColor;stroke-width:1.5}
.stroke{stroke-width:2.2;stroke-linecap:round}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;padding:0;list-style:none;font-size:.88rem;color:var(--dim)}
figure{margin:1rem 0}
figcaption{color:var(--dim);font-size:.9rem}
figure .scroll{margin:.3rem 0}
.plot{display:block;width:100%;min-width:34rem;max-width:56rem;height:auto}
.plot text{fill:var(--dim);font-size:12px}
.plot .end{text-anchor:end}
.plot .middle{text-anchor:middle}
.grid{stroke:var(--edge);stroke-width:.6;fill:none}
.axis{stroke:var(--dim);stroke-width:1;fill:none}
.border{fill:none;stroke:var(--edge)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:butt}
.faint{stroke:var(--ink);stroke-width:1;opacity:.38}
.flag{fill:none;stroke:var(--bad);stroke-width:1.4}
.s0{stroke:var(--s0)}
.s1{stroke:var(--s1);stroke-dasharray:7 3}
.s2{stroke:var(--s2);stroke-dasharray:2 3}
.s3{stroke:var(--s3);stroke-dasharray:10 3 2 3}
.s4{stroke:var(--s4);stroke-dasharray:14 4}
.s5{stroke:var(--s5);stroke-dasharray:4 4}
.s6{stroke:var(--s6);stroke-dasharray:10 3 2 3 2 3}
.s7{stroke:var(--s7);stroke-dasharray:1.5 5}
.mark{stroke:var(--ground);stroke-width:.8;stroke-dasharray:none}
.mark.s0{fill:var(--s0)}.mark.s1{fill:var(--s1)}.mark.s2{fill:var(--s2)}.mark.s3{fill:var(--s3)}
.mark.s4{fill:var(--s4)}.mark.s5{fill:var(--s5)}.mark.s6{fill:var(--s6)}.mark.s7{fill:var(--s7)}
.sample{width:2.75rem;height:.875rem;vertical-align:-.1rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.7rem;padding:0;list-style:none}
.panels li{font-size:.82rem;overflow-wrap:anywhere}
.panel{display:block;width:100%;height:auto}
.bar{display:block;width:7rem;height:.55rem;margin-top:.4rem;color:var(--s0)}
.ground{fill:var(--soft)}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;padding:.3rem .6rem;background:var(--ground)}
footer{margin-top:3rem;color:var(--dim);font-size:.88rem}
@media (max-width:30rem){body{padding:1rem .9rem 2rem}h1{font-size:1.5rem}h2{font-size:1.2rem}
.glance{grid-template-columns:1fr 1fr}.verdict .word{font-size:1.3rem}}
@media print{@page{margin:14mm}body{max-width:none;padding:0;font-size:10pt}nav,.skip{display:none}
.scroll,.tall{overflow:visible;max-height:none}.tall thead th,.matrix th:first-child{position:static}
tr,figure,.verdict,.panels li{break-inside:avoid}h2,h3,caption{break-after:avoid}.plot,table.wide{min-width:0}
table{font-size:8.5pt}.matrix thead th{font-size:6pt}.matrix td{min-width:0}
.verdict,.glance div,.ground{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;block-size:auto}}
"""
)
"""The look of the page: the colours of light and dark (each at least 4.5 to 1 against its ground), phone and paper."""


class Html(str):
    """Text that is markup already. Anything else is escaped where it enters a page."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One named line: (round, value) pairs, ascending. It is broken where a round is left out."""

    name: str
    points: Sequence[tuple[int, float]]


def clean(text: str) -> str:
    """Return the text with what cannot be seen, or would turn the reading direction around, made visible."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def h(tag: str, *children: str, **attributes: str | float) -> Html:
    """Return an element. Attribute names are written with _ for -, and with one at the end where Python has the word.

    Empty attributes are left out. Children that are not `Html` are text.
    """
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    head = "".join(f' {name}="{html.escape(clean(str(value)))}"' for name, value in named if value != "")
    end = "\n" if tag in _BLOCKS else ""
    return Html(f"<{tag}{head}>{end if tag in _VOID else join(*children) + f'</{tag}>{end}'}")


def join(*parts: str) -> Html:
    """Return parts one after the other, text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(clean(part)) for part in parts))


def mark(kind: str, words: str) -> Html:
    """Return a small sign out of `symbols`, with the words it stands for; without words, for the eye only."""
    use = h("use", href=f"#sign-{kind}")
    if not words:
        return h("svg", use, class_=f"sign {kind}", aria_hidden="true", viewBox="0 0 12 12", focusable="false")
    return h("svg", h("title", words), use, class_=f"sign {kind}", role="img", viewBox="0 0 12 12", focusable="false")


def symbols() -> Html:
    """Return the shapes that `mark` refers to, unseen; once a page, before the first of them."""
    shapes = {
        "in": h("circle", cx=6, cy=6, r=5, class_="fill"),
        "part": join(
            h("circle", cx=6, cy=6, r=4.4, class_="ring"), h("path", d="M6 1.6a4.4 4.4 0 0 0 0 8.8Z", class_="fill")
        ),
        "out": h("path", d="M2 2L10 10M10 2L2 10", class_="stroke"),
        "missing": h("circle", cx=6, cy=6, r=4.4, class_="ring"),
        "waiting": h("circle", cx=6, cy=6, r=2, class_="fill"),
        "good": h("path", d="M1.5 6.5L4.5 9.5L10.5 2.5", class_="stroke"),
        "unsure": h("path", d="M6 1.5v6M6 9.6v1.4", class_="stroke"),
    }
    defined = join(*(h("symbol", shape, id=f"sign-{kind}", viewBox="0 0 12 12") for kind, shape in shapes.items()))
    return h("svg", defined, class_="unseen", width=0, height=0, aria_hidden="true", focusable="false")


def plot(lines: Sequence[Line], *, title: str, desc: str, x_label: str, y_label: str, styled: bool = True) -> Html:
    """Return lines over rounds on common axes. With `styled`, each has the dashes and marks of its `sample`."""
    frame = _frame(lines, _WIDTH, _HEIGHT, (_LEFT, _RIGHT, _TOP, _BOTTOM))
    parts = [_axes(frame, x_label, y_label)]
    for i, line in enumerate(lines):
        style = f"line s{i % STYLES}" if styled else "line faint"
        parts.append(h("path", d=_path(frame, line.points), class_=style))
        if styled:
            parts.append(_marks(frame, line.points, i))
    return _drawing(title, desc, _WIDTH, _HEIGHT, *parts)


def panel(line: Line, among: Sequence[Line], *, desc: str) -> Html:
    """Return one line, small, on the axes that all of `among` share."""
    frame = _frame(among, _PANEL_WIDTH, _PANEL_HEIGHT, (4, 4, 6, 6))
    border = h("rect", x=0.5, y=0.5, width=_PANEL_WIDTH - 1, height=_PANEL_HEIGHT - 1, class_="border")
    path = h("path", d=_path(frame, line.points, _PANEL_WIDTH), class_="line s0 plain")
    return _drawing(line.name, desc, _PANEL_WIDTH, _PANEL_HEIGHT, border, path, name="panel")


def sample(index: int) -> Html:
    """Return the piece of line that a legend shows for the line of this index."""
    style = index % STYLES
    parts = (
        h("path", d="M1 7H43", class_=f"line s{style}"),
        h("path", d=MARKS[style], class_=f"mark s{style}", transform="translate(22 7)"),
    )
    return h("svg", *parts, class_="sample", viewBox="0 0 44 14", aria_hidden="true", focusable="false")


def progress(
    steps: Sequence[tuple[int, int]], flagged: Sequence[tuple[int, int]], *, title: str, desc: str, y_label: str
) -> Html:
    """Return a staircase of (time in ms, round) pairs, ascending, with a ring on the `flagged` ones."""
    start, end = steps[0][0], max(steps[-1][0], steps[0][0] + 1)
    low, high = 0.0, float(max(1, steps[-1][1]))
    frame = _Frame(start, end, low, high, _WIDTH, _HEIGHT, (_LEFT, _RIGHT, _TOP, _BOTTOM))
    path = [f"M{frame.x(start):.1f} {frame.y(steps[0][1]):.1f}"]
    path += [f"H{frame.x(at):.1f}V{frame.y(number):.1f}" for at, number in thin(steps, POINTS_MAX)[1:]]
    rings = [
        h("circle", cx=f"{frame.x(at):.1f}", cy=f"{frame.y(number):.1f}", r=3.5, class_="flag")
        for at, number in thin(flagged, POINTS_MAX)
    ]
    step_s = next((s for s in _SECONDS if (end - start) / 1000 / s <= 5), 86400 * math.ceil((end - start) / 432e6))
    times = range(-(-start // (step_s * 1000)) * step_s * 1000, end + 1, step_s * 1000)
    wording = "%m-%d" if step_s >= 86400 else "%H:%M" if step_s >= 60 else "%H:%M:%S"
    label = f"time (UTC), from {date(start)}"
    grid = _axes(frame, label, y_label, [(float(t), date(t, wording)) for t in times])
    return _drawing(title, desc, _WIDTH, _HEIGHT, grid, h("path", d="".join(path), class_="line s0 plain"), *rings)


def thin(points: Sequence[tuple[int, T]], most: int) -> Sequence[tuple[int, T]]:
    """Return at most about `most` of the points, evenly, the last one always among them."""
    step = -(-len(points) // most)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def date(ms: int, wording: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """Return a time in words, in UTC. A block's time is signed, but nothing keeps it within a calendar."""
    if not 0 <= ms <= _DATE_MS_MAX:
        return "no date of a calendar"
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime(wording)


# --- geometry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is drawn where: data from (x_low, y_low) to (x_high, y_high) inside the margins of a drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int
    height: int
    margins: tuple[int, int, int, int]  # left, right, top, bottom

    def x(self, value: float) -> float:
        left, right, _, _ = self.margins
        return left + (value - self.x_low) / (self.x_high - self.x_low) * (self.width - left - right)

    def y(self, value: float) -> float:
        _, _, top, bottom = self.margins
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - bottom - share * (self.height - top - bottom)


def _frame(lines: Sequence[Line], width: int, height: int, margins: tuple[int, int, int, int]) -> _Frame:
    xs = [x for line in lines for x, _ in line.points] or [0]
    ys = [y for line in lines for _, y in line.points] or [0.0]
    low, high = min(ys), max(ys)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    first, last = min(xs), max(xs)
    return _Frame(first, last if last > first else first + 1, low, high, width, height, margins)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from `low` to `high`, at most about `most`; the step is 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _axes(frame: _Frame, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]] = ()) -> Html:
    left, right, top, bottom = frame.margins
    base, end = frame.height - bottom, frame.width - right
    parts: list[Html] = []
    for value in ticks(frame.y_low, frame.y_high):
        y = f"{frame.y(value):.1f}"
        parts.append(h("path", d=f"M{left} {y}H{end}", class_="grid"))
        parts.append(h("text", f"{value:.6g}", x=left - 6, y=y, dy="0.35em", class_="end"))
    whole = [(v, f"{v:.0f}") for v in ticks(frame.x_low, frame.x_high, 10) if v == int(v)]
    for value, label in x_ticks or whole:
        parts.append(h("text", label, x=f"{frame.x(value):.1f}", y=base + 16, class_="middle"))
        parts.append(h("path", d=f"M{frame.x(value):.1f} {base}v4", class_="axis"))
    parts.append(h("path", d=f"M{left} {top}V{base}H{end}", class_="axis"))
    parts.append(h("text", x_label, x=(left + end) / 2, y=frame.height - 6, class_="middle"))
    middle = (top + base) / 2
    parts.append(h("text", y_label, transform=f"translate(13 {middle}) rotate(-90)", class_="middle"))
    return join(*parts)


def _path(frame: _Frame, points: Sequence[tuple[int, float]], most: int = POINTS_MAX) -> str:
    """Return the path through at most about `most` points, lifted where a round is missing.

    Where not every round is drawn, only where more are missing than are skipped anyway.
    """
    drawn = thin(points, most)
    skipped = -(-len(points) // most)
    reach = skipped if skipped <= 1 else 2 * skipped
    parts: list[str] = []
    for i, (x, y) in enumerate(drawn):
        go_on = i > 0 and x - drawn[i - 1][0] <= reach
        parts.append(f"{'L' if go_on else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        if not go_on:
            parts.append("h.1")  # A point alone would leave no trace.
    return "".join(parts)


def _marks(frame: _Frame, points: Sequence[tuple[int, float]], index: int) -> Html:
    """Return the marks of a line; lines begin at different points, so that marks of equal lines do not cover."""
    step = max(1, -(-len(points) // MARKS_PER_LINE_MAX))
    style = index % STYLES
    places = (f"translate({frame.x(x):.1f} {frame.y(y):.1f})" for x, y in points[index % step :: step])
    return join(*(h("path", d=MARKS[style], class_=f"mark s{style}", transform=place) for place in places))


def _drawing(title: str, desc: str, width: int, height: int, *parts: Html, name: str = "plot") -> Html:
    return h(
        "svg", h("title", title), h("desc", desc), *parts, class_=name, role="img", viewBox=f"0 0 {width} {height}"
    )


def document(
    *,
    kind: str,
    title: str,
    style: str,
    skip: tuple[str, str],
    about: Html,
    sections: Sequence[tuple[str, str, Html]],
    footer: str,
) -> str:
    """Return a whole HTML document that fetches nothing: its policy allows its own style and no program.

    `sections` are (id, title, content); `skip` is the text of the link for keyboards and the id it leads to.
    """
    links = (h("li", h("a", name, href=f"#{id_}")) for id_, name, _ in sections)
    policy = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'sha256-{policy}'; base-uri 'none'; form-action 'none'",
        ),
        h("meta", name="referrer", content="no-referrer"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{kind}: {title}"),
        h("style", Html(style)),
    )
    body = h(
        "body",
        h("a", skip[0], href=f"#{skip[1]}", class_="skip"),
        symbols(),
        h("header", h("p", kind, class_="kind"), h("h1", title), about),
        h("nav", h("ul", *links), aria_label="Sections"),
        h("main", *(_section(*section) for section in sections)),
        h("footer", h("p", footer)),
    )
    return f"<!doctype html>\n{h('html', head, body, lang='en')}\n"


def _section(id_: str, title: str, content: Html) -> Html:
    return h("section", h("h2", title, id=f"{id_}-title"), content, id=id_, aria_labelledby=f"{id_}-title")
