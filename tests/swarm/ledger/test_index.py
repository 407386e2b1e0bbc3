"""Places of blocks follow from the segments, whatever was asked for before."""

from __future__ import annotations

import random
from collections.abc import Iterator

from swarm.ledger.index import TABLES_MAX, Index


class Segments:
    """A pretended log: per path the offsets of its blocks. Counts how often a segment is walked."""

    def __init__(self) -> None:
        self.offsets: dict[str, list[int]] = {}
        self.walks: list[str] = []

    def walk(self, path: str, height: int) -> Iterator[int]:
        del height
        self.walks.append(path)
        yield from self.offsets[path]


def filled(sizes: list[int]) -> tuple[Segments, Index]:
    segments = Segments()
    index = Index(segments.walk)
    first = 1
    for number, size in enumerate(sizes):
        path = f"{number}.seg"
        segments.offsets[path] = [64 + 8 * (first + i) for i in range(size)]
        index.begin(path, first)
        first += size
    return segments, index


def test_every_block_is_found_where_it_is_and_nothing_else() -> None:
    sizes = [3, 1, 5, 2]
    _, index = filled(sizes)
    expected = {}
    height = 1
    for number, size in enumerate(sizes):
        for _ in range(size):
            expected[height] = (f"{number}.seg", 64 + 8 * height)
            height += 1
    asked = list(range(-2, 15))
    random.Random(1).shuffle(asked)
    assert {h: index.find(h) for h in asked if index.find(h) is not None} == expected


def test_a_segment_is_walked_once_while_it_is_remembered_and_few_are() -> None:
    segments, index = filled([2] * (TABLES_MAX + 1))
    for height in (1, 2, 1, 2):
        index.find(height)
    assert segments.walks == ["0.seg"]
    for height in range(3, 3 + 2 * TABLES_MAX, 2):
        index.find(height)
    assert len(segments.walks) == TABLES_MAX + 1
    index.find(1)
    assert segments.walks[-1] == "0.seg", "it was forgotten"


def test_what_is_written_after_a_walk_is_found_and_what_was_not_walked_is_walked_later() -> None:
    segments, index = filled([2, 2])
    index.extend("1.seg", 5, [500])
    segments.offsets["1.seg"].append(500)
    assert index.find(5) == ("1.seg", 500), "not walked before: the walk finds it"
    index.extend("1.seg", 6, [600, 700])
    assert (index.find(6), index.find(7)) == (("1.seg", 600), ("1.seg", 700))
    assert segments.walks == ["1.seg"]


def test_a_gap_is_never_believed() -> None:
    segments, index = filled([2])
    index.find(1)
    index.extend("0.seg", 9, [900])
    assert index.find(3) is None
    assert index.find(9) is None
    assert segments.walks == ["0.seg", "0.seg"], "the segment itself was asked again"


def test_segments_out_of_order_are_not_looked_into() -> None:
    _, index = filled([2, 2])
    index.begin("stray.seg", 2)
    assert [span.path for span in index.spans] == ["0.seg", "1.seg"]
