"""`swarm ledger verify`: whether a ledger holds; if not, where it first fails, whose doing that is, and what to do."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.checking import Deferred, HeadOnly, Walk, follow, walk, workers
from node.cli.ledger.reading import WHERE, judge, torn_end, torn_lines
from node.cli.ledger.sources import Source, open_ledger
from node.cli.ledger.trust import TRUST, Standing, Watch, memory_at
from node.cli.output import CONTRADICTION, INCOMPLETE, Failure, count, emit
from node.clock import Clock
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.merkle import Frontier

PROGRESS_S = 0.2
"""Between redraws of the progress of a long verification."""


@click.command()
@WHERE
@click.option("--full", is_flag=True, help="Check everything, every signature included. The default.")
@click.option("--fast", is_flag=True, help="Check hashes, trees and the last certificate only: many times as fast.")
@click.option("--from", "first", type=click.IntRange(1), help="Check signatures only from this height on.")
@TRUST
@JSON
def verify(folder: Path, first: int | None, trust_path: Path | None, *, full: bool, fast: bool, as_json: bool) -> None:
    """Check everything: signatures, certificates, derived entries, trees.

    Exit 0 valid, 3 invalid, 5 valid but gone back on what was seen here before, 4 valid with proof that a member
    contradicted itself, 6 incomplete. Of several, the first in this order.
    """
    if full + fast + (first is not None) > 1:
        raise UsageError("couldn't verify: say one of --full, --fast and --from", hint="see `--help`")
    files = open_ledger(folder)
    watch = Watch(files.signed, memory_at(trust_path))
    progress = Progress()
    found = _fast(files, watch, progress) if fast else _full(files, watch, progress, first or 1)
    progress.clear()
    if watch.standing in (Standing.NEW, Standing.CONSISTENT):
        watch.remember()
    emit_all = watch.standing in (Standing.NEW, Standing.CONSISTENT) and (found.accused or not found.uncovered)
    if emit_all or not as_json:
        emit({**found.data, "trust": watch.plain()}, as_json=as_json, text="\n".join(_lines(files, found, watch)))
    watch.refuse()
    if found.accused:
        raise SystemExit(CONTRADICTION)
    if found.uncovered:
        last = "the last block" if found.uncovered == 1 else f"the last {found.uncovered} blocks"
        raise Failure(f"{last} of this ledger: not certified yet", code=INCOMPLETE, hint="start the node to catch up")


@dataclass(frozen=True, slots=True)
class Found:
    """What a verification that succeeded says: its lines, and the same for programs."""

    data: dict[str, object]
    lines: tuple[str, ...]
    verdict: str
    accused: int
    uncovered: int


class Progress:
    """A line on a terminal that is drawn over, and nothing anywhere else."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._clock = Clock()
        self._begun = self._told = self._clock.now()

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock.now() - self._begun

    def tell(self, blocks: int, entries: int) -> None:
        """Say how far it has come, now and then."""
        if not self._shown or self._clock.now() - self._told < PROGRESS_S:
            return
        self._told = self._clock.now()
        rate = entries / max(self.spent_s, PROGRESS_S)
        click.echo(
            f"\r\x1b[Kchecked {entries:,} entries in {blocks:,} blocks, {rate:,.0f} a second", err=True, nl=False
        )

    def clear(self) -> None:
        """Leave the line empty for what comes."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _full(files: Source, watch: Watch, progress: Progress, first: int) -> Found:
    def see(audit: Audit) -> None:
        watch.see_audit(audit)
        progress.tell(audit.blocks, audit.entries)

    with workers() as made:
        result = follow(files, Deferred(made), first=first, see=see)
    spent = progress.spent_s
    progress.clear()
    judge(files, result)
    return _found(files, result, spent, first)


def _fast(files: Source, watch: Watch, progress: Progress) -> Found:
    def see(height: int, time_ms: int, frontier: Frontier, covered: bool) -> None:
        watch.see(height, time_ms, frontier, covered=covered)
        progress.tell(height, frontier.size)

    found = walk(files, see)
    if found.epoch:  # Only who follows the votes on members knows whose certificate the last one must be.
        result = follow(files, HeadOnly())
        found.failure = found.failure or result.failure
    progress.clear()
    judge(files, found)
    return _found_fast(files, found, progress.spent_s)


def _found(files: Source, result: Audit, spent: float, first: int) -> Found:
    state, founders = result.state, len(files.signed.charter.members)
    accused = len(state.accused)
    certificates = count(result.certificates, "certificate")
    from_ = "" if first == 1 else f" from block {first} on"
    checked = f" (checked{from_})" if from_ else ""
    lines = (
        f"✔ charter       {founders} of {count(founders, 'founder')} signed",
        f"✔ blocks        {result.blocks}: each extends the one before, all under {certificates}"
        if not result.uncovered
        else f"! blocks        {result.blocks}, the last {result.uncovered} not covered by a certificate yet",
        f"✔ entries       {result.entries}: canonical, signed{checked}, every feed without a gap",
        f"✔ rounds        {state.committed.round} recomputed, all equal to what is recorded",
        f"✔ tree          root {state.frontier.root().hex()[:32]}",
        *(
            [f"! evidence      {count(accused, 'proof')} of contradiction: see `swarm ledger evidence`"]
            if accused
            else []
        ),
        *torn_lines(files, result.blocks),
    )
    data: dict[str, object] = {
        "valid": True,
        "mode": "full" if first == 1 else "from",
        "from": first,
        "blocks": result.blocks,
        "entries": result.entries,
        "certificates": result.certificates,
        "uncovered": result.uncovered,
        "rounds": state.committed.round,
        "root": state.frontier.root().hex(),
        "evidence": accused,
        "seconds": round(spent, 3),
        "torn": torn_end(files, result.blocks),
    }
    how = "" if first == 1 else f", signatures{from_}"
    rate = f" ({result.entries / spent:,.0f} a second)" if spent >= 1 else ""
    verdict = f"VALID           {count(result.entries, 'entry')} in {spent:.2f} s{rate}{how}"
    return Found(data, lines, verdict, accused, result.uncovered)


def _found_fast(files: Source, found: Walk, spent: float) -> Found:
    charter = files.signed.charter
    founders = len(charter.members)
    lines = (
        f"✔ charter       {founders} of {count(founders, 'founder')} signed",
        f"✔ blocks        {found.blocks}: each names the one before, a quorum signed the last"
        if not found.uncovered
        else f"! blocks        {found.blocks}, the last {found.uncovered} not covered by a certificate yet",
        f"✔ tree          holds all {count(found.entries, 'entry')}, root {found.frontier.root().hex()[:32]}",
        "- not checked   who signed which entry, and whether the rounds follow: `swarm ledger verify --full`",
        *torn_lines(files, found.blocks),
    )
    data: dict[str, object] = {
        "valid": True,
        "mode": "fast",
        "from": 1,
        "blocks": found.blocks,
        "entries": found.entries,
        "uncovered": found.uncovered,
        "root": found.frontier.root().hex(),
        "evidence": 0,
        "seconds": round(spent, 3),
        "torn": torn_end(files, found.blocks),
    }
    verdict = f"VALID           {count(found.entries, 'entry')} in {spent:.2f} s, hashes only"
    return Found(data, lines, verdict, 0, found.uncovered)


def _lines(files: Source, found: Found, watch: Watch) -> list[str]:
    del files
    sound = watch.standing in (Standing.NEW, Standing.CONSISTENT)
    mark = "✘" if not sound else "!" if watch.namesakes and watch.standing is Standing.NEW else "✔"
    verdict = found.verdict if sound else f"VALID in itself, {found.verdict.removeprefix('VALID').strip()}"
    return [*found.lines, f"{mark} trust         {watch.words()}", verdict]
