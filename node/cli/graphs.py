"""Links of one's own, out of a file: --graph and --arcs of `swarm simulate`, --links and --arcs of `charter new`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from swarm.errors import UsageError
from topologies import own
from topologies.graph import Edge

TEXT_BYTES_MAX = 1 << 26
"""Largest file with a graph."""


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        UsageError: There is none, it is too large, or it is not UTF-8.
    """
    try:
        if path.stat().st_size > TEXT_BYTES_MAX:
            raise UsageError(
                f"couldn't read {path}: it is larger than {TEXT_BYTES_MAX >> 20} MiB", hint="is it the right file?"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"couldn't read {path}: {error.strerror}", hint="name a file that is there") from None
    except UnicodeDecodeError:
        raise UsageError(f"couldn't read {path}: it is not text", hint="name a text file in UTF-8") from None


def read_graph(path: Path) -> own.Named:
    """Return the names and the links in a file: GraphML or an adjacency table by its ending, else an edge list.

    Raises:
        UsageError: It cannot be read, or is no connected graph.
    """
    text = read_text(path)
    with _about(path):
        match path.suffix.lower():
            case ".graphml" | ".xml":
                return own.from_graphml(text)
            case ".csv":
                return own.from_adjacency_csv(text)
            case _:
                return own.from_edge_list(text)


def read_links(path: Path, members: Sequence[str]) -> tuple[Edge, ...]:
    """Return the links in a file between these members, as a charter has them.

    Raises:
        UsageError: As `read_graph`; or it names somebody who is no member, or leaves one out.
    """
    graph = read_graph(path)
    with _about(path):
        return own.placed(graph, members)


def read_arcs(path: Path, members: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[Edge, ...]]:
    """Return the members and who gives to whom, (giver, taker), in a file with two names a line; `#` begins a comment.

    Without `members` they are those that the file names, in the order in which they first appear.

    Raises:
        UsageError: It cannot be read, has no link, or a line does not name two of the members.
    """
    index = {name: member for member, name in enumerate(members)}
    found: set[Edge] = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2 or (members and not {*words} <= {*index}):
            raise UsageError(
                f"couldn't read {path}: line {number} does not name two of the sites",
                hint="write giver and taker, as in: hospital-a hospital-b",
            )
        giver, taker = (index.setdefault(word, len(index)) for word in words)
        found.add((giver, taker))
    if not found:
        raise UsageError(f"couldn't read {path}: it has no link", hint="write giver and taker, two names a line")
    return tuple(index), tuple(sorted(found))


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Say which file it is that is wrong."""
    try:
        yield
    except UsageError as error:
        what, _, wrong = error.message.partition(": ")
        hint = f"{error.hint[:1].lower()}{error.hint[1:].rstrip('.')}"
        raise UsageError(f"{what} in {path}: {wrong}", hint=hint) from None
