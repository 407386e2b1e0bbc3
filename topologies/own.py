"""One's own graph: an edge list, an adjacency table, GraphML or a networkx graph, read into names and a `Topology`.

The text comes from a person, so every complaint names the line and what would be right. It may also come from a
stranger: sizes are bounded before anything is built, and GraphML with a document type or entities is refused unread,
since entities that expand into each other turn a page of XML into gigabytes (CWE-776). Nothing here opens a file.

Direction: a link carries both ways, so a graph that insists on one direction is refused, unless it has every link both
ways. For push-sum on one-way links there is `schedules.directed`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.errors import UsageError
from topologies.graph import NODES_MAX, Edge, Topology, reached

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import networkx as nx

TEXT_CHARACTERS_MAX = 1 << 26
"""Largest text that is looked at: an adjacency table of `NODES_MAX` members takes half of it."""

NAME_CHARACTERS_MAX = 200
"""Longest name of a member; longer ones are a sign of another kind of file."""

LISTED_MAX = 8
"""Members that a hint names."""

Named = tuple[tuple[str, ...], Topology]
"""Names in the order of the members 0..n-1, and who is linked to whom."""


def from_edge_list(text: str) -> Named:
    """Read one link a line: two names with a space, tab or comma between; `#` begins a comment.

    Names stand in the order they first appear. If all of them are whole numbers they are indices: members 0 to the
    highest, whatever the order. What follows the second name (a weight, networkx's `{}`) is not read.

    Raises:
        UsageError: Naming the line that is not a link, or if the links do not connect everybody.
    """
    _bounded(text, "edge list")
    links: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) < 2:
            raise _at(number, "edge list", f"{words[0]!r} stands alone", "Write two members, as in: berlin paris")
        a, b = (_name(word, number, "edge list") for word in words[:2])
        if a == b:
            raise _at(number, "edge list", f"{a!r} is linked to itself", "Remove the line.")
        links.append((a, b))
    if not links:
        raise UsageError("couldn't read the edge list: it has no link", hint="Write two members a line.")
    return _joined(_order(name for link in links for name in link), links, "edge list")


def from_adjacency_csv(text: str) -> Named:
    """Read a square table: 0 for no link, anything else (1, or a weight) for a link; it must be symmetric.

    With a header row its fields are the names, and the first field of each row may repeat them; an empty corner marks
    names that are numbers. Without a header members are named by their index. The diagonal is not read: nobody links to
    itself, and mixing matrices have weights there.

    Raises:
        UsageError: Naming the line and the member where the table is not square, not symmetric or not a number.
    """
    _bounded(text, "adjacency table")
    reader = csv.reader(io.StringIO(text, newline=None))
    try:
        rows = [
            (number, [field.strip() for field in fields])
            for number, fields in enumerate(reader, 1)
            if any(field.strip() for field in fields)
        ]
    except csv.Error as error:  # A field of more than 128 KiB, as one with a quote that is never closed is.
        raise _at(reader.line_num, "adjacency table", str(error), "Is it the right kind of file?") from None
    if not rows:
        raise UsageError("couldn't read the adjacency table: it is empty", hint="Write one row for every member.")
    names, rows = _headed(rows)
    n = len(names)
    if len(rows) != n:
        raise _at(
            rows[-1][0] if rows else 1,
            "adjacency table",
            f"there are {len(rows)} rows for {n} columns",
            "Write one row and one column for every member.",
        )
    values = [_numbers(number, fields, n) for number, fields in rows]
    for i, (number, _) in enumerate(rows):
        for j in range(i):
            if bool(values[i][j]) != bool(values[j][i]):
                raise _at(
                    number,
                    "adjacency table",
                    f"{names[i]} to {names[j]} is {values[i][j]:g}, but line {rows[j][0]} has {values[j][i]:g} for "
                    "the way back",
                    "Links carry both ways: make the table symmetric.",
                )
    links = [(names[i], names[j]) for i in range(n) for j in range(i) if values[i][j]]
    return _joined({name: i for i, name in enumerate(names)}, links, "adjacency table")


def from_graphml(text: str) -> Named:
    """Read GraphML (Brandes, Eiglsperger & Lerner, "GraphML Primer"), as networkx, yEd, Gephi and igraph write it.

    A node's name is its `label` or `name` attribute where every node has a different one, else its id.

    Raises:
        UsageError: If it declares a document type or entities, is not well-formed (naming the line), or its graph is
            not one of ours.
    """
    _bounded(text, "GraphML")
    if (place := _declared(text)) >= 0:
        raise _at(
            text.count("\n", 0, place) + 1,
            "GraphML",
            "it declares a document type or entities, which can expand without end",
            "Remove the <!DOCTYPE ...> declaration; GraphML needs none.",
        )
    # A running node never reads graphs and never pays for these imports.
    import xml.etree.ElementTree as ET

    import networkx as nx

    try:
        root = ET.fromstring(text)  # noqa: S314 - as above
        _complete(root)
        graph = nx.parse_graphml(text)
    except ET.ParseError as error:
        raise _at(error.position[0], "GraphML", str(error), "Export the graph again.") from None
    except (nx.NetworkXException, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UsageError(
            f"couldn't read the GraphML: {error or 'it is not GraphML'}",
            hint="Export a plain graph of nodes and edges.",
        ) from None
    return from_networkx(graph)


def _complete(root: Element) -> None:
    """Refuse what networkx would read as a member named None: a node without an id, an edge without an end.

    Raises:
        UsageError: Naming the first.
    """
    for tag, attributes in (("node", ("id",)), ("edge", ("source", "target"))):
        for number, element in enumerate(root.iterfind(f".//{{*}}{tag}"), 1):
            for attribute in attributes:
                if not element.get(attribute):
                    raise UsageError(
                        f"couldn't read the GraphML: {tag} number {number} has no {attribute}",
                        hint="Export the graph again.",
                    )


def from_networkx(graph: nx.Graph[Hashable]) -> Named:
    """Take over a networkx graph with nodes of any kind; attributes but the nodes' names are dropped.

    Nodes that are exactly the integers 0..n-1 keep their numbers; others stand in the graph's own order. A directed
    graph is taken if every link goes both ways, a multigraph counts parallel links once.

    Raises:
        UsageError: If a link goes one way only, a node is linked to itself, or not everybody is connected.
    """
    nodes = list(graph.nodes)
    if not 1 <= len(nodes) <= NODES_MAX:
        raise UsageError(
            f"couldn't read the graph: it has {len(nodes)} members, and must have 1 to {NODES_MAX}",
            hint="Choose a part of it.",
        )
    if all(type(node) is int for node in nodes) and sorted(nodes) == list(range(len(nodes))):
        nodes.sort()
    names = _node_names(nodes, {node: dict(graph.nodes[node]) for node in nodes})
    place = {node: i for i, node in enumerate(nodes)}
    links = [(place[a], place[b]) for a, b, *_ in graph.edges]
    for a, b in links:
        if a == b:
            raise UsageError(f"couldn't read the graph: {names[a]!r} is linked to itself", hint="Remove that link.")
    if graph.is_directed():
        arcs = set(links)
        one_way = next(((a, b) for a, b in links if (b, a) not in arcs), None)
        if one_way is not None:
            raise UsageError(
                f"couldn't read the graph: {names[one_way[0]]!r} is linked to {names[one_way[1]]!r}, but not back",
                hint="Links carry both ways: pass graph.to_undirected(), or use schedules.directed for push-sum.",
            )
    return _joined({name: i for i, name in enumerate(names)}, [(names[a], names[b]) for a, b in links], "graph")


def placed(graph: Named, members: Sequence[str]) -> tuple[Edge, ...]:
    """Return the links as ascending pairs of members, sorted: those of a charter.

    The graph calls members by their names; or, where not all of its names are theirs, by their numbers from 0.

    Raises:
        UsageError: It names somebody who is no member, or leaves a member out.
    """
    names, topology = graph
    place = {name: member for member, name in enumerate(members)}
    called = members
    if not all(name in place for name in names) and all(name.isascii() and name.isdigit() for name in names):
        place = {str(member): member for member in range(len(members))}
        called = tuple(place)
    if strangers := [name for name in names if name not in place]:
        raise UsageError(
            f"couldn't use the links: {strangers[0]!r} is no member",
            hint=f"Write the members' names ({_listed(members)}) or their numbers from 0 to {len(members) - 1}.",
        )
    if left_out := [member for member, name in zip(members, called, strict=True) if name not in {*names}]:
        others = f" and {len(left_out) - 1} more have none" if len(left_out) > 1 else " has none"
        raise UsageError(
            f"couldn't use the links: {left_out[0]!r}{others}",
            hint="Link every member to at least one other.",
        )
    pairs = ((place[names[a]], place[names[b]]) for a, b in topology.edges)
    return tuple(sorted((min(pair), max(pair)) for pair in pairs))


def _listed(members: Sequence[str]) -> str:
    shown = ", ".join(members[:LISTED_MAX])
    return shown if len(members) <= LISTED_MAX else f"{shown} and {len(members) - LISTED_MAX} more"


def _headed(rows: list[tuple[int, list[str]]]) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The names and the rows of numbers, with the header and the column of names taken off if they are there."""
    first_number, first = rows[0]
    if first[0] and all(_is_number(field) for field in first):
        return tuple(map(str, range(len(first)))), rows
    body = rows[1:]
    cornered = bool(body) and all(len(fields) == len(first) and not _is_number(fields[0]) for _, fields in body)
    names = tuple(
        _name(field, first_number, "adjacency table") for field in (first[1:] if cornered else first) if field
    )
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise _at(
            first_number, "adjacency table", f"the name {twice!r} stands twice", "Give every member its own name."
        )
    if len(body) and not cornered and all(len(fields) == len(names) + 1 for _, fields in body):
        cornered = True
    if not cornered:
        return names, body
    for i, (number, fields) in enumerate(body[: len(names)]):
        if fields[0] != names[i]:
            raise _at(
                number,
                "adjacency table",
                f"the row of {fields[0]!r} stands where the column of {names[i]!r} is",
                "Put rows and columns in the same order.",
            )
    return names, [(number, fields[1:]) for number, fields in body]


def _numbers(number: int, fields: list[str], n: int) -> list[float]:
    if len(fields) != n:
        raise _at(
            number, "adjacency table", f"it has {len(fields)} numbers for {n} members", "Write one for every member."
        )
    for field in fields:
        if not _is_number(field):
            raise _at(number, "adjacency table", f"{field!r} is not a number", "Write 0, 1 or a weight.")
    return [float(field) if field else 0.0 for field in fields]


def _is_number(field: str) -> bool:
    try:
        return math.isfinite(float(field or "0"))
    except ValueError:
        return False


def _declared(text: str) -> int:
    """Where a document type or an entity is declared, or -1. Case matters in XML, but not to a careless parser."""
    upper = text.upper()
    return min((place for word in ("<!DOCTYPE", "<!ENTITY") if (place := upper.find(word)) >= 0), default=-1)


def _node_names(nodes: list[Hashable], attributes: Mapping[Hashable, Mapping[str, object]]) -> tuple[str, ...]:
    """The nodes' labels or names if each has its own, else what the nodes are."""
    for attribute in ("label", "name"):
        found = [str(attributes[node].get(attribute, "")).strip() for node in nodes]
        if all(found) and len(set(found)) == len(found):
            return tuple(found)
    plain = [str(node) for node in nodes]
    return tuple(plain if len(set(plain)) == len(plain) else map(repr, nodes))


def _order(names: Iterable[str]) -> dict[str, int]:
    """Each name with its index: by first appearance, or the number itself where all are numbers."""
    found = dict.fromkeys(names)
    if all(name.isascii() and name.isdigit() for name in found):
        highest = max(int(name) for name in found)
        if highest < NODES_MAX:
            return {str(i): i for i in range(highest + 1)} | {name: int(name) for name in found}
    return {name: i for i, name in enumerate(found)}


def _joined(place: Mapping[str, int], links: Iterable[tuple[str, str]], what: str) -> Named:
    """The topology, with complaints about its parts in the caller's names."""
    names = [""] * (max(place.values()) + 1)
    for name, i in place.items():
        names[i] = names[i] or name
    if len(names) > NODES_MAX:
        raise UsageError(
            f"couldn't read the {what}: it has {len(names)} members, more than {NODES_MAX}", hint="Choose a part of it."
        )
    edges = [(place[a], place[b]) for a, b in links]
    linked: list[list[int]] = [[] for _ in names]
    for a, b in edges:
        linked[a].append(b)
        linked[b].append(a)
    lost = [name for name, seen in zip(names, reached(linked), strict=True) if not seen]
    if lost:
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UsageError(
            f"couldn't read the {what}: {lost[0]!r}{others} cannot be reached from {names[0]!r}",
            hint="Add a link that joins the separate parts.",
        )
    return tuple(names), Topology.from_edges(len(names), edges)


def _name(word: str, number: int, what: str) -> str:
    if len(word) > NAME_CHARACTERS_MAX or not word.isprintable():
        raise _at(number, what, "a name is too long or cannot be printed", "Is it the right kind of file?")
    return word


def _bounded(text: str, what: str) -> None:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise UsageError(
            f"couldn't read the {what}: {len(text)} characters are more than {TEXT_CHARACTERS_MAX}",
            hint=f"A swarm has at most {NODES_MAX} members; is it the right file?",
        )


def _at(number: int, what: str, wrong: str, hint: str) -> UsageError:
    return UsageError(f"couldn't read the {what}: line {number}: {wrong}", hint=hint)
