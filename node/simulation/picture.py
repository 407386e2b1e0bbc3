"""Who holds what, drawn: a dot for every peer and label, as large as the number of examples; below, each peer's total.

Area says how many, so a peer with four times the examples has a dot twice as wide. The drawing is markup of `node.svg`
for a report; `standalone` makes it a file that any browser opens, with nothing fetched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.svg import Html, clean, h, join, ticks

PEERS_MAX = 100
"""Peers drawn: beyond, dots would be thinner than a line. Others are left out evenly, by size, and it is said."""

LABELS_MAX = 24
"""Labels with a row of their own; the rarest share the last one."""

_LEFT, _RIGHT, _TOP = 84, 12, 10
_WIDTH, _ROW, _BARS = 720, 22, 96
_GAP, _FOOT = 12, 42
_NAME_CHARACTERS = 11

_STYLE = """
svg{background:#fff;color:#1b1f24;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
text{fill:#50585f}.end{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:#c9d0d6;stroke-width:.6;fill:none}.axis{stroke:#50585f;fill:none}
.mark{fill:#0b5fa5}
@media (prefers-color-scheme:dark){svg{background:#14181c}text{fill:#a9b3bb}.grid{stroke:#404a53}.axis{stroke:#a9b3bb}
.mark{fill:#6cb2ff}}
"""


def holdings_picture(
    counts: NDArray[np.int64], *, labels: Sequence[str], peers: Sequence[str] = (), title: str = "Who holds what"
) -> Html:
    """Return the drawing of `counts`, shape (peers, labels), as `topologies.partitions.holdings` gives them.

    `peers` are their names; without them they are numbered from 0.
    """
    n = len(counts)
    assert counts.shape == (n, len(labels)), "one count for each peer and label"
    names = [clean(name) for name in (peers or [str(peer) for peer in range(n)])]
    shown = _shown(counts.sum(axis=1))
    counts, rows = _rows(counts, [clean(label) for label in labels])
    total, drawn = counts.sum(axis=1), counts[shown]
    width = (_WIDTH - _LEFT - _RIGHT) / len(shown)
    base = _TOP + _ROW * len(rows)
    height = base + _GAP + _BARS + _FOOT
    x = [_LEFT + width * (column + 0.5) for column in range(len(shown))]
    left_out = f" {len(shown)} of {n:,} are drawn, evenly by size." if len(shown) < n else ""
    desc = (
        f"{n:,} peers hold {int(total.sum()):,} examples of {len(labels)} labels, {int(total.min()):,} to "
        f"{int(total.max()):,} a peer; a peer has {_several(drawn)} of the labels.{left_out}"
    )
    return h(
        "svg",
        h("title", title),
        h("desc", desc),
        _dots(drawn, rows, x, width),
        _bars(total[shown], x, width, base + _GAP),
        _names([names[peer] for peer in shown], x, width, height),
        class_="plot",
        role="img",
        viewBox=f"0 0 {_WIDTH} {height}",
    )


def standalone(drawing: Html) -> str:
    """Return a drawing as the text of an .svg file: with a namespace and colours of its own, light and dark."""
    assert drawing.startswith("<svg "), "one drawing"
    head, rest = drawing.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}"><style>{_STYLE}</style>{rest}\n'


def _shown(total: NDArray[np.int64]) -> list[int]:
    """Return the peers to draw, ascending; of too many, evenly from the largest to the smallest, both included."""
    if len(total) <= PEERS_MAX:
        return list(range(len(total)))
    by_size = np.argsort(-total, kind="stable")
    picked = by_size[np.linspace(0, len(total) - 1, PEERS_MAX).round().astype(int)]
    return sorted(int(peer) for peer in picked)


def _rows(counts: NDArray[np.int64], labels: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the counts with the rarest labels added up where there are too many."""
    if len(labels) <= LABELS_MAX:
        return counts, labels
    common = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[: LABELS_MAX - 1])
    rest = np.setdiff1d(np.arange(len(labels)), common)
    merged = np.column_stack([counts[:, common], counts[:, rest].sum(axis=1)])
    return merged, [*(labels[label] for label in common), f"{len(rest)} others"]


def _dots(counts: NDArray[np.int64], rows: Sequence[str], x: Sequence[float], width: float) -> Html:
    most = max(1, int(counts.max()))
    largest = min(_ROW, max(width, 4.0)) / 2 * 0.94
    parts = []
    for row, label in enumerate(rows):
        y = _TOP + _ROW * (row + 0.5)
        parts.append(h("path", d=f"M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(h("text", _short(label), x=_LEFT - 8, y=f"{y:.1f}", dy="0.35em", class_="end"))
        for column in map(int, np.flatnonzero(counts[:, row])):
            # Never so small that something looks like nothing.
            radius = max(0.6, largest * math.sqrt(counts[column, row] / most))
            parts.append(h("circle", cx=f"{x[column]:.1f}", cy=f"{y:.1f}", r=f"{radius:.2f}", class_="mark"))
    middle = _TOP + _ROW * len(rows) / 2
    parts.append(h("text", "label", transform=f"translate(13 {middle}) rotate(-90)", class_="middle"))
    return join(*parts)


def _bars(total: NDArray[np.int64], x: Sequence[float], width: float, top: float) -> Html:
    most, base = max(1, int(total.max())), top + _BARS
    parts = []
    for value in ticks(0, most, 4):
        y = f"{base - value / most * _BARS:.1f}"
        parts.append(h("path", d=f"M{_LEFT} {y}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(h("text", f"{value:,.0f}", x=_LEFT - 8, y=y, dy="0.35em", class_="end"))
    wide = max(0.8, min(28.0, width * 0.8))
    for count, middle in zip(total, x, strict=True):
        tall = count / most * _BARS
        bar = f"M{middle - wide / 2:.1f} {base:.1f}v{-tall:.1f}h{wide:.1f}v{tall:.1f}Z"
        parts.append(h("path", d=bar, class_="mark"))
    parts.append(h("path", d=f"M{_LEFT} {base:.1f}H{_WIDTH - _RIGHT}", class_="axis"))
    middle = top + _BARS / 2
    parts.append(h("text", "examples", transform=f"translate(13 {middle}) rotate(-90)", class_="middle"))
    return join(*parts)


def _names(names: Sequence[str], x: Sequence[float], width: float, height: int) -> Html:
    """Write as many names below the bars as there is room for, and what they are."""
    names = [_short(name, max(_NAME_CHARACTERS, int(width / 7) - 1)) for name in names]
    room = max(map(len, names)) * 7 + 6
    step = max(1, math.ceil(room / width))
    y = height - _FOOT + 16
    written = [
        h("text", name, x=f"{x[column]:.1f}", y=y, class_="middle")
        for column, name in enumerate(names)
        if column % step == 0
    ]
    return join(*written, h("text", "site", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=height - 6, class_="middle"))


def _short(name: str, most: int = _NAME_CHARACTERS) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def _several(counts: NDArray[np.int64]) -> str:
    held = (counts > 0).sum(axis=1)
    low, high = int(held.min()), int(held.max())
    return str(low) if low == high else f"{low} to {high}"
