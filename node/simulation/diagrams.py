"""The diagrams of a simulation's report, as markup: a network with its loads, eigenvalues in the unit disk.

What must not be lost in a drawing of links is which of them, and which site, everything hangs on: those differ by shape
and dashes, not by colour alone. Places come from `node.simulation.layout`; nothing is reckoned here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from node.simulation.charts import LETTER, drawing, short
from node.svg import Html, h
from topologies.graph import Edge

SIZE = 480
"""Width of a network, in units of a drawing."""

NAMED_MAX = 40
"""Members of a network whose names are written; beyond, names would cover each other and the table has them."""

DRAWN_MAX = 150
"""Members of a network that is drawn at all. Beyond, it is a hairball, and a table says more."""

STYLE = """
.net{display:block;width:100%;height:auto;max-width:36rem}
.net text{fill:var(--ink);font-size:12.5px}
.net text.halo{stroke:var(--ground);stroke-width:3.5;stroke-linejoin:round;fill:none}
.net .end{text-anchor:end}.net .middle{text-anchor:middle}
.often0{fill:none;stroke:var(--s0)}
.often1{fill:none;stroke:var(--s0);opacity:.62}
.often2{fill:none;stroke:var(--s0);opacity:.34}
.bridge{fill:none;stroke:var(--bad);stroke-dasharray:7 4}
.site{fill:var(--ground);stroke:var(--s0);stroke-width:2}
.site.gateway{fill:var(--s0)}
.site.alone{fill:var(--bad);stroke:var(--bad)}
.disk{fill:var(--soft);stroke:var(--dim);stroke-width:1}
.slem{fill:none;stroke:var(--s1);stroke-width:1.6;stroke-dasharray:6 4}
.eigen{fill:var(--s0);fill-opacity:.55;stroke:var(--s0);stroke-width:.8}
.eigen.second{fill:var(--s1);stroke:var(--s1);fill-opacity:1}
.eigen.one{fill:var(--ground);stroke:var(--ink);stroke-width:1.4}
"""
"""What `node.svg.STYLE` has no words for; every colour comes from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A topology as drawn.

    Attributes:
        names: Of the members.
        places: Shape (n, 2), within -1 to 1, from `node.simulation.layout.positions`.
        load: Bytes a round over each link, both directions, in the mean.
        often: The share of rounds in which each link is used, above 0 to 1.
        gateways: Members on many of the shortest paths.
        alone: Members whose loss alone cuts somebody off.
        bridges: Links whose loss alone does.
    """

    names: Sequence[str]
    places: NDArray[np.float64]
    load: dict[Edge, float]
    often: dict[Edge, float]
    gateways: frozenset[int]
    alone: frozenset[int]
    bridges: frozenset[Edge]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name where it is written: `anchor` is "start", "middle" or "end", as of SVG text; y is its middle."""

    text: str
    x: float
    y: float
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A network on paper, `SIZE` units wide, y downwards.

    Attributes:
        height: Of the paper.
        radius: Of a member's mark.
        places: Of the members.
        names: Of the members, if they are few enough to be named.
    """

    height: float
    radius: float
    places: Sequence[tuple[float, float]]
    names: Sequence[Name]

    @classmethod
    def of(cls, net: Network) -> Plan:
        """Lay it out, with room for names at the sides."""
        n = len(net.names)
        named = n <= NAMED_MAX
        room = max((len(short(name, 14)) for name in net.names), default=0) * LETTER + 14 if named else 14.0
        across = SIZE / 2 - room
        half = min(SIZE / 2, max(float(np.ptp(net.places[:, 1])) / 2 * across + 34, 40.0))
        # A polygon of five has its middle below that of its height.
        off = float(net.places[:, 1].max() + net.places[:, 1].min()) / 2 * across
        middle = SIZE / 2, half - off
        places = [(middle[0] + float(x) * across, middle[1] + float(y) * across) for x, y in net.places]
        radius = 7.0 if n <= 20 else 5.5 if named else max(2.4, 150 / n)
        names = _written(net, places, middle, radius) if named else ()
        return cls(height=2 * half, radius=radius, places=places, names=names)


def network(net: Network, *, title: str, desc: str) -> Html:
    """Return the topology: a link as wide as its load, as strong as it is often used; marks where losses hurt."""
    plan = Plan.of(net)
    most = max(net.load.values(), default=1.0)
    parts: list[Html] = []
    for link in by_load(net):
        (ax, ay), (bx, by) = plan.places[link[0]], plan.places[link[1]]
        thick = link_width(net.load[link], most, len(net.load))
        kind = "bridge" if link in net.bridges else f"often{often_class(net.often[link])}"
        parts.append(h("path", d=f"M{ax:.1f} {ay:.1f}L{bx:.1f} {by:.1f}", class_=kind, stroke_width=f"{thick:.2f}"))
    for member, place in enumerate(plan.places):
        parts.append(_site(place, plan.radius, alone=member in net.alone, gateway=member in net.gateways))
    for name in plan.names:
        where = {"x": f"{name.x:.1f}", "y": f"{name.y:.1f}", "dy": "0.35em"}
        anchor = "" if name.anchor == "start" else name.anchor
        parts.append(h("text", name.text, class_=f"halo {anchor}".strip(), aria_hidden="true", **where))
        parts.append(h("text", name.text, class_=anchor, **where))
    return drawing(title, desc, SIZE, round(plan.height), *parts, name="net")


def by_load(net: Network) -> list[Edge]:
    """Return the links in the order of drawing: the heaviest last, on top."""
    return sorted(net.load, key=lambda link: (net.load[link], link))


def link_width(load: float, most: float, links: int) -> float:
    """Return how wide a link is drawn, in proportion to its bytes; narrower where there are many to keep apart."""
    widest = min(4.5, max(1.1, 190 / max(1, links)))
    return 0.6 + (widest - 0.6) * load / most if most else 0.6


def unit_disk(eigenvalues: Sequence[complex], second: float, *, title: str, desc: str) -> Html:
    """Return eigenvalues in the unit disk, the trivial one hollow, with a circle at the second largest modulus."""
    size, middle, radius = 300, 150, 116

    def at(value: complex) -> tuple[str, str]:
        return f"{middle + value.real * radius:.1f}", f"{middle - value.imag * radius:.1f}"

    parts = [
        h("circle", cx=middle, cy=middle, r=radius, class_="disk"),
        h(
            "path",
            d=f"M{middle - radius - 8} {middle}h{2 * radius + 16}M{middle} {middle - radius - 8}v{2 * radius + 16}",
            class_="grid",
        ),
        h("text", "1", x=middle + radius + 12, y=middle, dy="0.35em"),
        h("text", "\u22121", x=middle - radius - 12, y=middle, dy="0.35em", class_="end"),
        h("text", "i", x=middle, y=middle - radius - 13, class_="middle"),
        h("text", "\u2212i", x=middle, y=middle + radius + 22, class_="middle"),
    ]
    if second > 0.004:
        parts.append(h("circle", cx=middle, cy=middle, r=f"{second * radius:.1f}", class_="slem"))
    trivial = int(np.argmin([abs(value - 1) for value in eigenvalues]))
    for i, value in enumerate(eigenvalues):
        x, y = at(value)
        kind = "one" if i == trivial else "second" if abs(abs(value) - second) < 1e-6 and second > 0.004 else ""
        parts.append(h("circle", cx=x, cy=y, r=4, class_=f"eigen {kind}".strip()))
    return drawing(title, desc, size, size, *parts)


def often_class(share: float) -> int:
    """Return the class of a link used in this share of rounds: always, at least every third, less."""
    return 0 if share > 0.999 else 1 if share >= 1 / 3 - 1e-9 else 2


def _site(place: tuple[float, float], radius: float, *, alone: bool, gateway: bool) -> Html:
    x, y = place
    if alone:
        r = radius * 1.35
        return h(
            "path", d=f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}Z", class_="site alone"
        )
    if gateway:
        r = radius * 0.95
        return h(
            "rect",
            x=f"{x - r:.1f}",
            y=f"{y - r:.1f}",
            width=f"{2 * r:.1f}",
            height=f"{2 * r:.1f}",
            class_="site gateway",
        )
    return h("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", class_="site")


def _written(
    net: Network, places: Sequence[tuple[float, float]], middle: tuple[float, float], radius: float
) -> list[Name]:
    """Each name where it is furthest from its member's links, clear of other members and names, rather outward."""
    names = []
    taken = [_Box(x - radius, y - radius, x + radius, y + radius) for x, y in places]
    # From the rim inwards: those in the middle have the most sides to choose from.
    for i in sorted(range(len(places)), key=lambda i: (-math.dist(places[i], middle), i)):
        x, y = places[i]
        ends = [places[b if a == i else a] for a, b in net.load if i in (a, b)]
        links = [math.atan2(by - y, bx - x) for bx, by in ends]
        outward = math.atan2(y - middle[1], x - middle[0])
        others = [box for k, box in enumerate(taken) if k != i]
        text = short(net.names[i], 14)
        best = max(
            (_name_at(text, (x, y), angle, radius) for angle in (outward, *(k * math.pi / 4 for k in range(8)))),
            key=lambda choice: _merit(choice[0], _box_of(choice[1]), links, outward, others),
        )[1]
        names.append(best)
        taken.append(_box_of(best))
    return names


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def _name_at(text: str, place: tuple[float, float], angle: float, radius: float) -> tuple[float, Name]:
    ux, uy = math.cos(angle), math.sin(angle)
    anchor = "end" if ux < -0.35 else "middle" if ux <= 0.35 else "start"
    return angle, Name(text=text, x=place[0] + ux * (radius + 6), y=place[1] + uy * (radius + 11), anchor=anchor)


def _box_of(name: Name) -> _Box:
    wide = LETTER * len(name.text)
    left = name.x - {"end": wide, "middle": wide / 2, "start": 0.0}[name.anchor]
    return _Box(left, name.y - 7, left + wide, name.y + 7)


def _merit(angle: float, box: _Box, links: Sequence[float], outward: float, others: Sequence[_Box]) -> float:
    nearest = min((abs(math.remainder(angle - link, 2 * math.pi)) for link in links), default=math.pi)
    covered = sum(
        other.left < box.right and box.left < other.right and other.top < box.bottom and box.top < other.bottom
        for other in others
    )
    turned = abs(math.remainder(angle - outward, 2 * math.pi)) / math.pi
    # A word is wide and low: beside its member it needs less of the circle than above or below.
    return min(nearest, 1.2) - 0.3 * turned - 0.1 * abs(math.sin(angle)) - 3.0 * covered
