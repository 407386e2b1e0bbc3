"""What a ledger's length costs its node, and what it costs to make a block durable.

    PYTHONPATH=. python scripts/bench_ledger_length.py [--entries 10000 1000000] [--repeats 7] [--folder DIR]

- *start*: from the journal on disk to a node that has its state: seconds of the wall clock in a process of its own, and
  how much that process grew by it, at each length in turn. The page cache is warm, as after a restart of the node.
- *without a snapshot*: the same once, reading every block.
- *serving*: blocks read for peers that catch up, at random heights and one range after the other.
- *durable blocks*: appends of blocks to the journal, and between them the same bytes written to a preallocated file
  with one fdatasync each, so that a busy disk slows both.
- *catching up*: a member that was away follows the blocks of a run, given to it in ranges, in processor time. Limit of
  the mode that checks every signature: bare Ed25519 over as many.
- *syncs*: of real nodes in the simulated world, for each final block.

The ledgers are made here, without signatures: a start believes what was verified before it was written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace
from nacl import bindings
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from gossip.catchup import FAST, FULL, RANGE_BLOCKS
from gossip.protocol import CAPABILITIES
from node.core import SOFTWARE
from node.core.pursuit import BLOCKS_REPLY_BYTES_MAX
from node.recovery import recover
from node.storage import RealDisk, SnapshotFile
from swarm import codec
from swarm.identity import SigningKey
from swarm.ledger import entry as e
from swarm.ledger.block import (
    FINALIZE,
    NOTARIZE,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Vote,
    entries_hash,
    justify_hash,
)
from swarm.ledger.journal import SEGMENT_BYTES, WAL, Journal, joined
from swarm.ledger.merkle import leaf_hash
from swarm.ledger.state import Head, State, genesis
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_BODY,
    RECORD_ENTRY,
    RECORD_VOTE,
    LinkChanged,
    Received,
    Record,
    Snapshot,
    Started,
)
from tests.benchmarks.ledgers import make_ledger
from tests.builders import CODE, LAYOUT, digest, make_swarm
from tests.sites import calm_world
from topologies.world import world as simulated
from topologies.world.clock import EPOCH_S

MEMBERS = 7
ENTRIES_PER_BLOCK = 16
SIGNATURE = bytes(64)


class Unsynced(RealDisk):
    """For making ledgers: nothing of them need survive."""

    @override
    def sync(self, path: str) -> None:
        """Do nothing."""

    @override
    def sync_folder(self, folder: str) -> None:
        """Do nothing."""


def main() -> int:
    """Measure and print one line a figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entries", type=int, nargs=2, default=(10_000, 1_000_000), help="a short and a long ledger")
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--folder", type=Path, help="keep the ledgers here, or use those that are here")
    options.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.start is not None:
        print(json.dumps(start(chosen.start)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        lengths(folder, chosen.entries, chosen.repeats)
        serving(folder / str(chosen.entries[1]))
        durable(folder)
    rates()
    syncs()
    return 0


def line(what: str, value: str, goal: str = "") -> None:
    """Print a figure."""
    print(f"{what:<52} {value:<44} {goal}", flush=True)


# --- a ledger of a length -------------------------------------------------------------------------------------------


def make(folder: Path, entries: int) -> None:
    """Write a ledger of about this many entries as a node leaves it: blocks, its votes, its own entries, a snapshot."""
    swarm = make_swarm(MEMBERS, rounds=1000)
    disk = Unsynced(folder)
    journal = Journal(disk, ledger_id=swarm.signed.ledger_id)
    journal.open()
    state = genesis(swarm.signed)
    parent, height, own = state.ledger_id, 0, 0
    body = codec.encode(e.Evaluation(0, digest("model"), 1000, ((0, 693_147),)))
    authors = [who.node for who in swarm.identities]
    while state.size < entries:
        height += 1
        state = replace(state, height=height, time_ms=state.time_ms + 1000)
        leaves, mine = [], []
        for i in range(ENTRIES_PER_BLOCK):
            author = authors[(height + i) % MEMBERS]
            head = state.heads[author]
            place = (state.ledger_id, author, head.seq, head.prev, state.time_ms)
            entry = e.Entry(e.ENTRY_VERSION, e.EVALUATION, *place, body, SIGNATURE)
            leaf = entry.encode()
            leaves.append(leaf)
            if author == authors[0]:
                mine.append(Record(RECORD_ENTRY, head.seq, leaf))
                own = head.seq
            state = replace(state, heads={**state.heads, author: Head(head.seq + 1, entry.id)})
        state = replace(state, frontier=state.frontier.extend([leaf_hash(leaf) for leaf in leaves]))
        final, header = finished(state, parent, leaves)
        vote = codec.encode(Vote(0, height, NOTARIZE, header.hash, 0, SIGNATURE))
        written = [
            *mine,
            Record(RECORD_BODY, height, codec.encode(final.block)),
            Record(RECORD_VOTE, height, vote),
            Record(RECORD_BLOCK, height, codec.encode(final)),
        ]
        journal.append(written)
        journal.append(
            [Record(RECORD_VOTE, height, codec.encode(Vote(0, height, FINALIZE, header.hash, 0, SIGNATURE)))]
        )
        journal.drop_wal_below(height)
        journal.drop_feed_below(own)
        parent = header.hash
    SnapshotFile(folder / "snapshot").save(Snapshot(state.height, state.encode()))
    disk.close()


def finished(state: State, parent: bytes, leaves: Sequence[bytes]) -> tuple[FinalBlock, Header]:
    """Return the block that leads to a state, with certificates of a quorum."""
    height = state.height
    before = max(height - 1, 0)
    quorum = state.terms.quorum
    seals = tuple([SIGNATURE] * quorum)
    justify = (Certificate(0, before, NOTARIZE, parent, tuple(range(quorum)), seals),) if before else ()
    header = Header(
        epoch=0,
        view=height,
        height=height,
        parent_hash=parent,
        parent_view=before,
        time_ms=state.time_ms,
        first_index=state.size - len(leaves),
        count=len(leaves),
        size=state.size,
        root=state.frontier.root(),
        entries_hash=entries_hash(leaves),
        state_hash=state.digest(),
        justify_hash=justify_hash(justify),
    )
    block = Block(header.encode(), tuple(leaves), justify, 0, SIGNATURE)
    seal = Certificate(0, height, FINALIZE, header.hash, tuple(range(quorum)), seals)
    return FinalBlock(block, (seal,)), header


# --- starting -------------------------------------------------------------------------------------------------------


def start(folder: Path) -> dict[str, float]:
    """Start a node on a ledger, in this process; return what it took."""
    swarm = make_swarm(MEMBERS, rounds=1000)
    node = swarm.node(0, now=EPOCH_S)
    before, begun = rss_bytes(), time.perf_counter()
    disk = RealDisk(folder)
    journal = Journal(disk, ledger_id=swarm.signed.ledger_id)
    recovered = recover(journal, disk, SnapshotFile(folder / "snapshot"), swarm.signed)
    node.handle(Started(recovered.opened.records, snapshot=recovered.snapshot), EPOCH_S + 10**6)
    spent, after = time.perf_counter() - begun, rss_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"s": spent, "grown": after - before, "peak": peak, "height": node.replica.head.height}


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lengths(folder: Path, entries: Sequence[int], repeats: int) -> None:
    """Start at each length in turn, in new processes."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in entries}
    for count in entries:
        if not (folder / str(count)).exists():
            begun = time.perf_counter()
            make(folder / str(count), count)
            spent = time.perf_counter() - begun
            size = sum(path.stat().st_size for path in (folder / str(count) / "blocks").iterdir())
            line(f"made a ledger of {count} entries", f"{size / 1e6:.0f} MB in {spent:.0f} s")
    for _ in range(repeats):
        for count in entries:
            found[count].append(begin(folder / str(count)))
    for count, runs in found.items():
        spent, grown, peak = (statistics.median(run[key] for run in runs) for key in ("s", "grown", "peak"))
        value = f"{spent * 1e3:.1f} ms, +{grown / 2**20:.1f} MiB, peak {peak / 2**20:.0f} MiB"
        line(f"start at {count} entries, height {runs[0]['height']:.0f}", value)
    short, long = (found[count] for count in entries)
    ratios = [b["s"] / a["s"] for a, b in zip(short, long, strict=True)]
    line("start, long against short", f"{statistics.median(ratios):.2f}", "goal <= 1.5")
    growth = [b["peak"] - a["peak"] for a, b in zip(short, long, strict=True)]
    line("peak memory, long beyond short", f"{statistics.median(growth) / 2**20:+.1f} MiB", "goal <= 16 MiB")
    for count in entries:
        (folder / str(count) / "snapshot").unlink()
        run = begin(folder / str(count))
        line(f"without a snapshot at {count} entries", f"{run['s']:.2f} s, peak {run['peak'] / 2**20:.0f} MiB")


def begin(folder: Path) -> dict[str, float]:
    """Start a node in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--start", str(folder)], capture_output=True, check=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def serving(folder: Path) -> None:
    """Read blocks for others."""
    swarm = make_swarm(MEMBERS, rounds=1000)
    disk = RealDisk(folder)
    journal = Journal(disk, ledger_id=swarm.signed.ledger_id)
    top = height_of(journal)
    rng, spent = random.Random(1), []
    for _ in range(50):
        begun = time.perf_counter()
        journal.blocks(rng.randint(1, top), top, 1)
        spent.append(time.perf_counter() - begun)
    line("one block at a random height", f"{statistics.median(spent) * 1e3:.2f} ms")
    height, size, begun = 1, 0, time.perf_counter()
    while height <= top and size < 256 << 20:
        found = journal.blocks(height, top, BLOCKS_REPLY_BYTES_MAX)
        size += len(joined(found))
        height += len(found)
    line("ranges of blocks, one after the other", f"{size / (time.perf_counter() - begun) / 1e6:.0f} MB/s")
    disk.close()


def height_of(journal: Journal) -> int:
    """Return the height of the last block."""
    journal.open(1 << 62)
    low, high = 1, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if journal.blocks(middle, middle, 1) else (low, middle - 1)
    return low


# --- durability -----------------------------------------------------------------------------------------------------


def durable(folder: Path, blocks: int = 400, size: int = 4000) -> None:
    """Append blocks, and write the same bytes bare in between."""
    disk = RealDisk(folder / "durable")
    journal = Journal(disk, ledger_id=bytes(32))
    journal.open()
    bare = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(bare, 0, 16 << 20)
    os.fsync(bare)
    data = os.urandom(size)
    journal.append([Record(RECORD_BLOCK, 1, data)])
    spent = [0.0, 0.0]
    for height in range(2, blocks + 2):
        begun = time.perf_counter()
        journal.append([Record(RECORD_BLOCK, height, data)])
        between = time.perf_counter()
        os.pwrite(bare, data, height * len(data))
        os.fdatasync(bare)
        spent[0] += between - begun
        spent[1] += time.perf_counter() - between
    os.close(bare)
    disk.close()
    value = f"{blocks / spent[0]:.0f} a second beside {blocks / spent[1]:.0f}: {spent[1] / spent[0]:.2f}"
    line("durable blocks beside bare fdatasync", value, "goal >= 0.8")


def rates(members: int = MEMBERS, rounds: int = 60) -> None:
    """Let a member that was away follow the blocks of others, in both modes; processor time."""
    signed, payloads, signatures = make_ledger(members=members, rounds=rounds)
    swarm = make_swarm(members, rounds=rounds)
    assert swarm.signed.ledger_id == signed.ledger_id
    signatures += len(payloads)  # their leaders'
    found: dict[str, list[float]] = {FULL: [], FAST: []}
    bare: list[float] = []
    for _ in range(5):
        bare.append(ed25519_rate())
        for mode, spent in found.items():
            node = swarm.node(0, now=EPOCH_S, catch_up=mode, snapshot_blocks=256)
            now = EPOCH_S + 10**6
            node.handle(Started(), now)
            if mode == FAST:
                node.replica.trusted_height = len(payloads)
            peer = swarm.identities[1].node
            node.handle(LinkChanged(peer, True), now)
            hello = m.Hello((1, 0), SOFTWARE, CAPABILITIES, peer, signed.ledger_id, CODE, LAYOUT, answer=False)
            node.handle(Received(peer, wire.encode(hello)), now)
            begun = time.process_time()
            for first in range(1, len(payloads) + 1, RANGE_BLOCKS):
                part = payloads[first - 1 : first - 1 + RANGE_BLOCKS]
                node.handle(Received(peer, wire.encode(m.BlockRange(first)), joined(part)), now)
            spent.append(time.process_time() - begun)
            assert node.replica.head.height == len(payloads), "all of it was followed"
    entries = node.replica.head.size
    full, fast = (statistics.median(found[mode]) for mode in (FULL, FAST))
    ratio = statistics.median(signatures / spent / rate for spent, rate in zip(found[FULL], bare, strict=True))
    value = f"{entries / full:.0f} entries/s, {ratio:.2f} of bare Ed25519"
    line(f"catching up, full: {signatures} signatures", value, "goal >= 0.6")
    line("catching up, fast", f"{entries / fast:.0f} entries/s, {full / fast:.1f} times as fast")


def ed25519_rate(count: int = 1000) -> float:
    """Return signatures verified a second of processor time."""
    key = SigningKey.from_seed(bytes(32))
    signed = [(message, key.sign(message)) for message in (b"%300d" % i for i in range(count))]
    begun = time.process_time()
    for message, signature in signed:
        bindings.crypto_sign_open(signature + message, key.public)
    return count / (time.process_time() - begun)


def syncs(members: int = 4, rounds: int = 30) -> None:
    """Count what real nodes sync while they agree, with segments as large as on a real disk."""
    simulated.SEGMENT_BYTES = SEGMENT_BYTES[WAL]
    swarm = make_swarm(members, rounds=rounds)
    world = calm_world(swarm)
    counted: dict[str, int] = {}
    for place in world.places:
        bare = place.disk.sync

        def sync(path: str, bare: object = bare, name: str = place.name) -> None:
            log = f"{name} {path.partition('/')[0]}"
            counted[log] = counted.get(log, 0) + 1
            bare(path)  # type: ignore[operator]  # a bound method

        place.disk.sync = sync  # type: ignore[method-assign]  # counting is all that is added
    world.run(lambda w: all(place.finished for place in w.places))
    heights = [place.machine.replica.head.height for place in world.places]  # type: ignore[union-attr]
    agreed = [
        sum(counted.get(f"{place.name} {log}", 0) for log in ("blocks", "wal")) / height
        for place, height in zip(world.places, heights, strict=True)
    ]
    value = f"{statistics.mean(agreed):.2f} (busiest member {max(agreed):.2f})"
    line(f"syncs for a final block, {members} members", value, "goal <= 3.0")


if __name__ == "__main__":
    sys.exit(main())
