"""The tree and its leaves as files that never change (c2sp.org/tlog-tiles), to be served by any web server.

A tile holds up to 256 hashes of one level of every eighth, an entry bundle up to 256 leaves. A full tile is the same
bytes for ever; the last one of a level is partial, named by its width, and stays right for the sizes that it was
written for. Whoever knows a checkpoint needs no other trust: what is read here is believed only when it leads to the
checkpoint's root.

This module makes names and bytes, and asks for bytes by name. It opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from swarm.errors import LedgerError
from swarm.ledger.merkle import HASH_BYTES, Frontier, consistency_ranges, inclusion_ranges, leaf_hash
from swarm.ledger.tlog import Checkpoint

WIDTH = 256
LEVELS_PER_TILE = 8

LEAF_BYTES_MAX = 65_535
"""Longest leaf: its length is written in two bytes."""

CHECKPOINT = "checkpoint"
"""Where the newest checkpoint lies, beside the tiles."""

Read = Callable[[str], bytes | None]
"""Returns what lies under a name such as "tile/0/000", or None when there is nothing."""


def tile_name(level: int, index: int, width: int = WIDTH) -> str:
    """Return where a tile of hashes lies. `width` is below 256 for a partial one."""
    return f"tile/{level}/{_place(index, width)}"


def bundle_name(index: int, width: int = WIDTH) -> str:
    """Return where a bundle of leaves lies."""
    return f"tile/entries/{_place(index, width)}"


def _place(index: int, width: int) -> str:
    digits = f"{index % 1000:03}"
    while index := index // 1000:
        digits = f"x{index % 1000:03}/{digits}"
    return digits if width == WIDTH else f"{digits}.p/{width}"


def write(leaves: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of every file of the tree over these leaves, and no file for an empty tree.

    Holds one tile a level and one bundle. Raises `ValueError` for a leaf that is too long.
    """
    rows: list[list[bytes]] = [[]]  # per level, the hashes of its last tile
    counts = [0]  # and how many hashes the level has
    bundle: list[bytes] = []
    for leaf in leaves:
        if len(leaf) > LEAF_BYTES_MAX:
            raise ValueError(f"a leaf of {len(leaf)} bytes does not fit an entry bundle")
        bundle.append(len(leaf).to_bytes(2, "big") + leaf)
        level, value = 0, leaf_hash(leaf)
        while True:
            rows[level].append(value)
            counts[level] += 1
            if len(rows[level]) < WIDTH:
                break
            index = counts[level] // WIDTH - 1
            yield tile_name(level, index), b"".join(rows[level])
            if level == 0:
                yield bundle_name(index), b"".join(bundle)
                bundle = []
            value = Frontier().extend(rows[level]).root()
            rows[level] = []
            level += 1
            if level == len(rows):
                rows.append([])
                counts.append(0)
    for level, row in enumerate(rows):
        if row:
            yield tile_name(level, counts[level] // WIDTH, len(row)), b"".join(row)
    if bundle:
        yield bundle_name(counts[0] // WIDTH, len(bundle)), b"".join(bundle)


class Tiles:
    """The tree of `size` leaves, read from its tiles as far as a question needs them. Nothing in it is believed.

    A proof of a leaf reads the tiles over that leaf and those at the right edge of the tree, one of each a level, and
    the topmost is both: at most 2·⌈log256 size⌉ - 1.
    """

    def __init__(self, size: int, read: Read) -> None:
        self.size = size
        self._read = read
        self._known: dict[tuple[int, int], Sequence[bytes]] = {}

    @property
    def opened(self) -> int:
        """How many tiles were read so far."""
        return len(self._known)

    def root(self) -> bytes:
        """Return the root. Raises `LedgerError` when a tile is missing or has another length than it must."""
        return Frontier(self.size, tuple(self._perfect(0, self.size))).root()

    def leaf(self, index: int) -> bytes:
        """Return the hash of a leaf. Raises as `root`."""
        (found,) = self._perfect(index, index + 1)
        return found

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """Return the audit path of a leaf. Raises as `root`, and `ValueError` when there is no such leaf."""
        return tuple(self._range(start, end) for start, end in inclusion_ranges(index, self.size))

    def consistency_proof(self, old: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old` leaves are a prefix of all. Raises as `root`, or `ValueError`."""
        return tuple(self._range(start, end) for start, end in consistency_ranges(old, self.size))

    def _range(self, start: int, end: int) -> bytes:
        return Frontier(end - start, tuple(self._perfect(start, end))).root()

    def _perfect(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the roots of a range's perfect subtrees, largest first."""
        while start < end:
            height = (end - start).bit_length() - 1
            level, within = divmod(height, LEVELS_PER_TILE)
            first = start >> level * LEVELS_PER_TILE
            row = self._tile(level, first // WIDTH)[first % WIDTH :][: 1 << within]
            yield Frontier().extend(row).root()
            start += 1 << height

    def _tile(self, level: int, index: int) -> Sequence[bytes]:
        known = self._known.get((level, index))
        if known is None:
            width = _width(self.size >> level * LEVELS_PER_TILE, index)
            name = tile_name(level, index, width)
            data = _fetch(self._read, name)
            if len(data) % HASH_BYTES or len(data) // HASH_BYTES < width:
                raise _broken(name, f"it has {len(data)} bytes")
            hashes = [data[i : i + HASH_BYTES] for i in range(0, width * HASH_BYTES, HASH_BYTES)]
            known = self._known[level, index] = hashes
        return known


def entries(checkpoint: Checkpoint, read: Read) -> Iterator[bytes]:
    """Yield every leaf under a checkpoint, bundle by bundle, each as it comes: whoever uses them checks the end.

    After the last leaf the tree they make is compared with the checkpoint.

    Raises:
        LedgerError: a file is missing or malformed, or the leaves have another root.
    """
    frontier = Frontier()
    for index in range(-(-checkpoint.size // WIDTH)):
        width = _width(checkpoint.size, index)
        name = bundle_name(index, width)
        bundle = _leaves(_fetch(read, name), name, width)
        frontier = frontier.extend(leaf_hash(leaf) for leaf in bundle)
        yield from bundle
    if frontier.root() != checkpoint.root:
        raise LedgerError(
            f"couldn't verify the entries under {checkpoint.origin}: their root is not the checkpoint's",
            hint="get the tiles again from another member; keep these",
        )


def check(checkpoint: Checkpoint, read: Read) -> int:
    """Check every tile and bundle of a tree against its checkpoint, and return how many files those are.

    Raises:
        LedgerError: one is missing, or is not what the leaves make it.
    """
    files = 0
    for name, expected in write(entries(checkpoint, read)):
        found = read(name)
        if found is None:
            found = _fetch(read, name)[: len(expected)]
        if found != expected:
            raise _broken(name, "it is not what the entries make it")
        files += 1
    return files


def _width(count: int, index: int) -> int:
    """Return how many hashes of a level with `count` of them are in its tile `index`."""
    return min(count - index * WIDTH, WIDTH)


def _fetch(read: Read, name: str) -> bytes:
    """Return a tile or bundle; for a partial one that is gone, the full one, which begins with it."""
    data = read(name)
    if data is None:
        full, partial, _ = name.partition(".p/")
        data = read(full) if partial else None
    if data is None:
        raise _broken(name, "it is missing")
    return data


def _leaves(data: bytes, name: str, width: int) -> list[bytes]:
    """Return the first `width` leaves of a bundle."""
    leaves: list[bytes] = []
    offset = 0
    while len(leaves) < width:
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        if offset + 2 > len(data) or end > len(data):
            raise _broken(name, f"it ends within its entry {len(leaves)}")
        leaves.append(data[offset + 2 : end])
        offset = end
    return leaves


def _broken(name: str, why: str) -> LedgerError:
    return LedgerError(f"couldn't use {name}: {why}", hint="get the tiles again from another member; keep these")
