"""Let five real peers learn round after round for hours, and see that nothing grows but the ledger.

As a program: `python -m tests.integration.soak --time 7200`. Five peers on loopback, each with a trainer of its own, a
task of thirty weights, and more rounds than there is time for. Every ten seconds each process is looked at: resident
memory that is its own, open descriptors, threads; and each site's folder: bytes on disk, by kind. At the end every
ledger is verified, and over the last two thirds of the time, when caches are warm, a straight line is laid through each
series. Flat is what grows by less along that line than its tolerance says:

- memory of a process: `MEMORY_MIB` per hour;
- descriptors and threads of a process: less than `COUNT` over the whole stretch;
- the folder without its ledger and its logs: `REST_BASE` and `REST_BYTES` per round, for all that is kept beside them is bounded;
- the record of what has left the site: `RECORD_BYTES` per round;
- the log files of the run: what the settings allow;
- the blocks of the ledger on disk: what was added to them, and one preallocated segment; its other two logs: one segment.

Caches of the node are bounded by numbers, not by time: the largest, of 20,000 entries and votes already heard, are full
after some two thousand rounds of five peers. A soak that has not come to twice as many in its first third says of
memory only how the caches fill.

Samples are written to `samples.csv` in the folder, and drawn to `soak.png` where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.config import RunSettings
from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all
from node.storage import RealDisk
from swarm.ledger.journal import BLOCKS, FEED, SEGMENT_BYTES, WAL, Placed, scan

ROUNDS = 1_000_000
"""More than two hours are enough for."""

EVERY_S = 10.0
SETTLE = 1 / 3
"""The first part of the time says nothing: imports, allocators and caches."""

MEMORY_MIB = 4.0
"""Per hour and process. A ledger of 10^7 entries may cost 16 MiB in all (the design's target), so a leak that matters
in a run of weeks is far above this, and what an allocator wanders by in an hour is below."""

COUNT = 1.0
REST_BYTES = 64.0
"""Per round; none is expected."""

REST_BASE = 65_536.0
"""Blobs of the round come and go, in blocks of 4 KiB."""

LOGS = ("run", "log.txt")
"""The log files, which grow until they are rotated; `log.txt` is what a peer prints, kept by nobody but this soak."""

RECORD = "egress"
"""The record of what has left the site, which is kept for good as the ledger is."""

RECORD_BYTES = 4096.0
"""Per round: a line for each thing that left, to five sites."""

STALL_S = 120.0
"""A swarm that commits no round for so long stands still, and the soak ends."""


@dataclass(slots=True)
class Samples:
    """Series by name: seconds since the beginning, and values. Names are `what/site` or `what/site/role`."""

    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, at_s: float, value: float) -> None:
        """Append a value."""
        self.series[name].append((at_s, value))

    def growth(self, name: str, from_s: float) -> tuple[float, float, float]:
        """Return (median, growth along the least-squares line, its seconds) of what was measured from a time on."""
        points = np.array([point for point in self.series[name] if point[0] >= from_s])
        if len(points) < 3:
            return float("nan"), float("nan"), 0.0
        at_s, values = points[:, 0], points[:, 1]
        slope = float(np.polyfit(at_s - at_s[0], values, 1)[0])
        span = float(at_s[-1] - at_s[0])
        return float(np.median(values)), slope * span, span

    def write(self, path: Path) -> None:
        """Write all of it, a line each."""
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("series", "at_s", "value"))
            for name, points in sorted(self.series.items()):
                table.writerows((name, f"{at_s:.1f}", f"{value:.0f}") for at_s, value in points)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one series."""

    name: str
    median: float
    growth: float
    allowed: float
    unit: str

    @property
    def flat(self) -> bool:
        """Whether it grew by no more than is allowed. A series with too few values is not flat."""
        return self.growth <= self.allowed


def family(pid: int) -> Iterator[tuple[str, int]]:
    """Yield (role, pid) of a peer's process and of every process below it: `peer`, `child1`, `child1.1`."""
    todo = [("peer", pid)]
    while todo:
        role, one = todo.pop()
        yield role, one
        try:
            tasks = sorted(Path(f"/proc/{one}/task").iterdir())
            below = sorted(int(word) for task in tasks for word in (task / "children").read_text().split())
        except OSError:
            continue
        todo += [(f"child{i}" if role == "peer" else f"{role}.{i}", child) for i, child in enumerate(below, 1)]


def look(pid: int) -> Mapping[str, float]:
    """Return what a process has now: anonymous and all resident bytes, descriptors, threads."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {
            "memory": 1024.0 * int(status["RssAnon"].split()[0]),
            "resident": 1024.0 * int(status["VmRSS"].split()[0]),
            "descriptors": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
            "threads": float(status["Threads"]),
        }
    except (OSError, KeyError):
        return {}


def weigh(folder: Path) -> Mapping[str, float]:
    """Return the bytes that a site's folder takes on disk, by kind: each log of the ledger, blobs, models, the rest."""
    found: dict[str, float] = defaultdict(float)
    for path, _, names in os.walk(folder):
        parts = Path(path).relative_to(folder).parts
        kind = ".".join(parts[: 2 if parts[:1] == ("ledger",) else 1]) or "files"
        for name in names:
            try:
                found[name if name in LOGS else kind] += 512.0 * (Path(path) / name).lstat().st_blocks
            except OSError:
                continue  # swept away while we looked
    return found


def sample(peers: Sequence[LocalPeer], at_s: float, samples: Samples) -> int:
    """Look at everything; return the last round that anybody knows to be committed."""
    for peer in peers:
        code = None if peer.process is None else peer.process.poll()
        assert code is None, f"{peer.name} ended by itself with {code}:\n{peer.log_tail(20)}"
        peer.poll()
        samples.add(f"round/{peer.name}", at_s, peer.committed)
        samples.add(f"entries/{peer.name}", at_s, float(str(peer.status.get("entries", 0))))
        if peer.process is not None:
            for role, pid in family(peer.process.pid):
                for what, value in look(pid).items():
                    samples.add(f"{what}/{peer.name}/{role}", at_s, value)
        kinds = weigh(peer.site.folder)
        for kind, value in kinds.items():
            samples.add(f"disk.{kind}/{peer.name}", at_s, value)
        kept = ("ledger", RECORD, *LOGS)
        blobs = sum(value for kind, value in kinds.items() if not kind.startswith(kept))
        samples.add(f"rest/{peer.name}", at_s, blobs)
    return max(peer.committed for peer in peers)


def judge(samples: Samples, time_s: float, bytes_an_entry: float) -> list[Finding]:
    """Return what every series that should be flat did over the last two thirds of the time.

    An entry of the ledger takes `bytes_an_entry` in its blocks.
    """
    findings: list[Finding] = []
    from_s = SETTLE * time_s
    for name in sorted(samples.series):
        what, site = name.split("/")[:2]
        median, growth, span = samples.growth(name, from_s)
        match what:
            case "memory":
                findings.append(
                    Finding(name, median / 2**20, growth / 2**20, MEMORY_MIB * max(span, 1.0) / 3600.0, "MiB")
                )
            case "descriptors" | "threads":
                findings.append(Finding(name, median, growth, COUNT, ""))
            case "rest":
                rounds = samples.growth(f"round/{site}", from_s)[1]
                findings.append(Finding(name, median, growth, REST_BASE + REST_BYTES * rounds, "bytes"))
            case "disk.egress":
                rounds = samples.growth(f"round/{site}", from_s)[1]
                findings.append(Finding(name, median, growth, REST_BASE + RECORD_BYTES * rounds, "bytes"))
            case "disk.run":
                settings = RunSettings()
                allowed = settings.log_file_mb * settings.log_files
                findings.append(Finding(name, median / 2**20, median / 2**20, allowed, "MiB in all"))
            case "disk.ledger.blocks":
                added = bytes_an_entry * samples.growth(f"entries/{site}", from_s)[1] + SEGMENT_BYTES[BLOCKS]
                findings.append(Finding(name, median / 2**20, growth / 2**20, added / 2**20, "MiB"))
            case "disk.ledger.wal" | "disk.ledger.feed":
                segment = SEGMENT_BYTES[WAL if what.endswith("wal") else FEED]
                findings.append(Finding(name, median / 2**20, growth / 2**20, segment / 2**20, "MiB"))
    return findings


def entry_bytes(peer: LocalPeer, entries: int, ledger_id: bytes) -> float:
    """Return how many bytes of blocks there are for each entry of a site's ledger."""
    parts = scan(RealDisk(peer.site.ledger), BLOCKS, ledger_id)
    return sum(len(part.record.payload) for part in parts if isinstance(part, Placed)) / max(1, entries)


def run(folder: Path, *, time_s: float, every_s: float = EVERY_S, seed: int = 1) -> tuple[list[Finding], Samples]:
    """Soak for so long. Returns what each series did.

    Raises:
        AssertionError: A peer ended, the swarm stood still, or a ledger does not verify.
    """
    task = Path(node.examples.__file__).parent / "breast_cancer.py"
    peers = found(
        folder,
        write_breast_cancer(folder / "data", seed),
        task,
        rounds=ROUNDS,
        seed=seed,
        metrics=("accuracy",),
        patience_s=12.0,
    )
    samples, begun = Samples(), time.monotonic()
    last, moved = 0, begun
    try:
        for peer in peers:
            peer.start()
        while (now := time.monotonic()) < begun + time_s:
            round_ = sample(peers, now - begun, samples)
            if round_ > last:
                last, moved = round_, now
            where = {peer.name: peer.committed for peer in peers}
            assert now - moved < STALL_S, f"no round in {STALL_S:.0f} s: {where}"
            samples.write(folder / "samples.csv")
            time.sleep(max(0.0, every_s - (time.monotonic() - now)))
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert all(audit.failure is None for audit in audits), "a ledger does not hold"
    print(f"{last} rounds, {audits[0].entries} entries; {len(audits)} ledgers verify", flush=True)
    return judge(samples, time_s, entry_bytes(peers[0], audits[0].entries, audits[0].state.ledger_id)), samples


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as lines, what is not flat first."""
    head = f"{'':5}{'series':44}{'median':>14}{'growth':>12}{'allowed':>12}"
    lines = [
        f"{'' if one.flat else 'GROWS':5} {one.name:43}{one.median:14,.1f}{one.growth:12,.2f}{one.allowed:12,.2f} {one.unit}"
        for one in sorted(findings, key=lambda one: (one.flat, one.name))
    ]
    return "\n".join([head, *lines])


def picture(samples: Samples, path: Path) -> bool:
    """Draw memory, descriptors and disk over time; say whether that could be done."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(10, 10), sharex=True, constrained_layout=True)
    shown = (("memory", 2**20, "own memory, MiB"), ("descriptors", 1, "descriptors"), ("disk.", 2**20, "on disk, MiB"))
    for axis, (what, unit, label) in zip(axes, shown, strict=True):
        for name, points in sorted(samples.series.items()):
            if name.startswith(what):
                axis.plot([at_s / 60 for at_s, _ in points], [value / unit for _, value in points], lw=0.8, label=name)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=120)
    return True


def main() -> int:
    """Soak from the command line; return 1 when something grows."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    options.add_argument("--time", type=float, default=7200.0)
    options.add_argument("--every", type=float, default=EVERY_S, help="seconds between samples")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="swarm-soak-"))
    print(f"five peers in {folder}, for {chosen.time:.0f} s", flush=True)
    findings, samples = run(folder, time_s=chosen.time, every_s=chosen.every, seed=chosen.seed)
    print(table(findings))
    if picture(samples, folder / "soak.png"):
        print(f"drawn to {folder / 'soak.png'}")
    growing = [one for one in findings if not one.flat]
    print(f"{len(findings) - len(growing)} of {len(findings)} series are flat; samples in {folder / 'samples.csv'}")
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
