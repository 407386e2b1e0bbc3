"""Let each system call of a real peer fail, one at a time, and see that its ledger survives.

As a program: `python -m tests.integration.strace_campaign --time 1500`. A swarm of one is founded. One run of its peer
is watched by strace: every call by which it opens, writes, syncs, renames or closes a file in its folder is an
*instance*. Then, from the same beginning, the peer runs again and again, and each time strace lets one instance end in
EIO or ENOSPC, or kills the process there. Afterwards the peer must have gone on or have ended with one sentence; the
ledger must verify; and started again, the peer must finish without contradicting anything it signed before.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

import node.examples
from node.cli.main import cli
from node.data import write_breast_cancer
from node.local import fork_server, found
from node.storage import RealDisk
from swarm import codec
from swarm.charter import from_toml
from swarm.ledger.block import Block, FinalBlock, Vote
from swarm.ledger.entry import decode_entry
from swarm.ledger.journal import BLOCKS, FEED, LOGS, Finding, Placed, scan
from swarm.ledger.views import contradict
from swarm.machine import RECORD_BODY, RECORD_VOTE

CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,ftruncate,fallocate,close"
FAULTS = ("error=EIO", "error=ENOSPC", "signal=KILL")
ROUNDS = 1
RUN_S = 60.0
"""A run takes two seconds; a peer that is still there after so many hangs."""


@dataclass(frozen=True, slots=True)
class Injection:
    """The `number`-th time that the peer makes a system call, counted from 1, and what becomes of it.

    Calls are counted by file, because how often a peer wakes its sockets in between differs from run to run. A file
    whose name holds the number of the process has no name yet when the next run begins, so there all files count.
    """

    call: str
    number: int
    path: str
    fault: str
    by_file: bool

    def __str__(self) -> str:
        return f"{self.call} {self.number} on {self.path}: {self.fault}"


def usable() -> str:
    """Return why processes cannot be traced here; empty if they can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    made = subprocess.run(
        [strace, "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO:when=1", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if made.returncode == 0 else f"strace cannot trace here: {made.stderr.strip()}"


# --- one peer -----------------------------------------------------------------------------------------------------


class Bench:
    """A founded swarm of one whose folder is copied for each run."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._folder, self._server = folder, server
        task = Path(node.examples.__file__).parent / "breast_cancer.py"
        data = write_breast_cancer(folder / "data", 1)[:1]
        terms = {"metrics": ("accuracy",), "forkserver": server, "min_contributions": 1}
        (self._peer,) = found(folder / "founded", data, task, rounds=ROUNDS, seed=1, **terms)  # type: ignore[arg-type]
        self._copies = itertools.count()

    def copy(self) -> Path:
        """Return a site's folder in which nothing has happened yet."""
        target = self._folder / f"run-{next(self._copies)}"
        shutil.copytree(self._peer.site.folder, target)
        return target

    def command(self, site: Path) -> list[str]:
        """Return what starts the peer of a folder, until its run is over."""
        command = [sys.executable, "-m", "node.cli.main", "start", str(site)]
        settings = ("run.log=plain", "run.exit_when_done=true", "run.linger_s=0", "task.threads=1")
        for setting in (*settings, f"task.forkserver={self._server}"):
            command += ["--set", setting]
        return command


def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a command to its end. Returns its exit status, negative for a signal, and all it printed."""
    made = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_S, check=False
    )
    return made.returncode, made.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Instance:
    """One call on a file of the site: its name, its number as an `Injection` counts it, the path in the folder."""

    call: str
    number: int
    path: str
    by_file: bool


def instances(bench: Bench) -> list[Instance]:
    """Return each call on a file of the site that a calm run makes."""
    site = bench.copy()
    trace = site.with_suffix(".trace")
    code, said = run(["strace", "-qq", "-y", "-o", str(trace), "-e", f"trace={CALLS}", *bench.command(site)])
    assert code == 0, said
    process = (site / "run" / "lock").read_text()
    calls: collections.Counter[str] = collections.Counter()
    of_file: collections.Counter[tuple[str, str]] = collections.Counter()
    met = []
    for line in trace.read_text(errors="replace").splitlines():
        call = line.partition("(")[0]
        if call not in CALLS.split(","):
            continue
        calls[call] += 1
        paths = {*re.findall(re.escape(str(site)) + r"/([^\">,\s]*)", line)}
        of_file.update((call, path) for path in paths)
        if "ENOENT" in line:
            continue
        named = sorted(path for path in paths if process not in path)
        if named:
            met.append(Instance(call, of_file[call, named[0]], named[0], True))
        elif paths:
            met.append(Instance(call, calls[call], min(paths), False))
    return met


def injected(bench: Bench, site: Path, injection: Injection) -> tuple[int, str]:
    """Run the peer of a folder with one call tampered with."""
    rule = f"inject={injection.call}:{injection.fault}:when={injection.number}"
    only = ["-P", str(site / injection.path)] if injection.by_file else []
    return run(["strace", "-qq", "-o", "/dev/null", *only, "-e", rule, *bench.command(site)])


# --- what must be true afterwards ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """Everything a site's ledger holds that its peer has signed, and its blocks."""

    votes: tuple[Vote, ...]
    proposals: tuple[Block, ...]
    entries: tuple[bytes, ...]
    blocks: tuple[bytes, ...]
    findings: tuple[Finding, ...]


def said_by(site: Path) -> Said:
    """Read a ledger as it lies there, without mending anything."""
    ledger_id = from_toml((site / "charter.toml").read_text()).ledger_id
    disk = RealDisk(site / "ledger")
    try:
        parts = {log: list(scan(disk, log, ledger_id)) for log in LOGS}
    finally:
        disk.close()
    records = {log: [part.record for part in found if isinstance(part, Placed)] for log, found in parts.items()}
    wal = records["wal"]
    return Said(
        tuple(codec.decode(r.payload, Vote, limit=1 << 20) for r in wal if r.kind == RECORD_VOTE),
        tuple(codec.decode(r.payload, Block, limit=1 << 20) for r in wal if r.kind == RECORD_BODY),
        tuple(record.payload for record in records[FEED]),
        tuple(record.payload for record in records[BLOCKS]),
        tuple(part for found in parts.values() for part in found if isinstance(part, Finding)),
    )


def check_words(code: int, said: str, fault: str) -> None:
    """Assert that a peer goes on, or is killed, or ends with one sentence that says what was attempted."""
    assert "Traceback" not in said, said
    if fault.startswith("signal"):
        assert code in (0, -signal.SIGKILL), said
    elif code != 0:
        errors = [line for line in said.splitlines() if "error: " in line]
        assert len(errors) == 1, f"{len(errors)} sentences:\n{said}"
        assert "couldn't" in errors[0], said
        assert "unexpected" not in errors[0], said


def check_together(before: Said, after: Said) -> None:
    """Assert that nothing was lost that was there, and that what was signed then and now does not contradict."""
    assert after.blocks[: len(before.blocks)] == before.blocks, "final blocks changed"
    assert after.entries[: len(before.entries)] == before.entries, "own entries changed"
    places = [(decode_entry(leaf).seq, decode_entry(leaf).id) for leaf in after.entries]
    assert len({seq for seq, _ in places}) == len({*places}), "two entries in one place"
    votes = {*before.votes, *after.votes}
    for one, other in itertools.combinations(votes, 2):
        same = (one.epoch, one.view) == (other.epoch, other.view)
        assert not (same and contradict(one.kind, one.block, other.kind, other.block)), (one, other)
    proposed = {block.opened().view: block.opened().hash for block in before.proposals}
    for block in after.proposals:
        header = block.opened()
        assert proposed.setdefault(header.view, header.hash) == header.hash, f"two proposals in view {header.view}"
    final = [codec.decode(payload, FinalBlock, limit=1 << 21).block.opened().height for payload in after.blocks]
    assert final == list(range(1, len(final) + 1))


def verified(site: Path) -> tuple[int, str]:
    """Return what `swarm ledger verify` says of a site, and its exit status."""
    with mock.patch.dict(os.environ, {"SWARM_TRUST": str(site / "trust.json")}):
        result = CliRunner().invoke(cli, ["ledger", "verify", str(site)])
    error = result.exception
    code = 0 if error is None else getattr(error, "code", 1)
    return int(code or 0), f"{result.output}{error or ''}"


VALID, EMPTY = 0, 6
"""Exit statuses of `verify` that a crash may lead to: a valid ledger, or one in which nothing is final yet."""


def try_one(bench: Bench, injection: Injection) -> str:
    """Inject one fault and check everything. Returns in a word what became of the peer."""
    site = bench.copy()
    code, said = injected(bench, site, injection)
    check_words(code, said, injection.fault)
    before = said_by(site)
    assert {finding.verdict for finding in before.findings} <= {"torn tail"}, before.findings
    if (site / "ledger").is_dir():
        checked, words = verified(site)
        assert checked in (VALID, EMPTY), words
    if code != 0:
        again, said_then = run(bench.command(site))
        assert again == 0, said_then
    after = said_by(site)
    check_together(before, after)
    checked, words = verified(site)
    assert checked == VALID, words
    shutil.rmtree(site)
    return "went on" if code == 0 else "was killed" if code < 0 else "stopped"


def all_injections(met: Sequence[Instance]) -> list[Injection]:
    return [Injection(one.call, one.number, one.path, fault, one.by_file) for one in met for fault in FAULTS]


def sampled(injections: Sequence[Injection], count: int, seed: int) -> list[Injection]:
    """Return so many of them, each call and each fault in turn."""
    rng = random.Random(seed)
    by_kind: dict[tuple[str, str], list[Injection]] = {}
    for injection in injections:
        by_kind.setdefault((injection.call, injection.fault), []).append(injection)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    for kind in kinds:
        rng.shuffle(by_kind[kind])
    turns = itertools.zip_longest(*(by_kind[kind] for kind in kinds))
    return [injection for turn in turns for injection in turn if injection is not None][:count]


@contextlib.contextmanager
def bench_in(folder: Path) -> Iterator[Bench]:
    with fork_server() as server:
        yield Bench(folder, server)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--time", type=float, default=1500.0, help="seconds")
    options.add_argument("--seed", type=int, default=1, help="of the order, when there is no time for all")
    chosen = options.parse_args()
    reason = usable()
    if reason:
        print(f"couldn't inject anything: {reason}")
        return 1
    ended: collections.Counter[str] = collections.Counter()
    failed = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swarm-strace-") as folder, bench_in(Path(folder)) as bench:
        injections = all_injections(instances(bench))
        for injection in sampled(injections, len(injections), chosen.seed):
            if time.monotonic() - begun > chosen.time:
                break
            try:
                ended[try_one(bench, injection)] += 1
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"{injection}\n{error}", flush=True)
    how = ", ".join(f"{count} {what}" for what, count in sorted(ended.items()))
    print(f"{sum(ended.values()) + failed} of {len(injections)} faults in {time.monotonic() - begun:.0f} s: {how}")
    print(f"{failed} failed" if failed else "every ledger verifies, and nobody contradicted itself")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
