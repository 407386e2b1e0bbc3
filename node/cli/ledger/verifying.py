"""`swarm ledger verify`: whether a ledger holds; if not, where it first fails, whose doing that is, and what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.checking import Deferred, HeadOnly, Walk, follow, walk, workers
from node.cli.ledger.naming import Height
from node.cli.ledger.published import Uncosigned, compare, first_bad, open_head
from node.cli.ledger.reading import WHERE, judge, stop_words, torn_end, torn_lines
from node.cli.ledger.sources import Source, TilesFolder, open_ledger
from node.cli.ledger.tiled import Tiled, follow_tiles
from node.cli.ledger.trust import TRUST, Standing, Watch, memory_at
from node.cli.ledger.wholeness import Beside, Remark
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, Failure, count, emit
from node.clock import Clock
from node.exchanges import Exchanges, every_exchange
from swarm.errors import UsageError
from swarm.ledger import tlog
from swarm.ledger.audit import Audit
from swarm.ledger.merkle import Frontier
from swarm.terms import Terms, founding

PROGRESS_S = 0.2
"""Between redraws of the progress of a long verification."""


@click.command(epilog="Example: swarm ledger verify hospital")
@WHERE
@click.option("--full", is_flag=True, help="Check everything, every signature included. The default.")
@click.option("--fast", is_flag=True, help="Check hashes, trees and the last certificate only: many times as fast.")
@click.option("--from", "first", type=Height(), help="Check signatures only from this height on.")
@TRUST
@shown
def verify(folder: Path, first: int | None, trust_path: Path | None, *, full: bool, fast: bool, as_json: bool) -> None:
    """Check everything: signatures, certificates, derived entries, trees, and every other file of the ledger.

    Of a directory of tiles: every file, every entry and its signature, and who cosigned the tree.

    Exit 0 valid, 3 invalid, 5 valid but gone back on what was seen here before, 4 valid with proof that a member
    contradicted itself, or of a fork, 6 incomplete. Of several, the first in this order.
    """
    if full + fast + (first is not None) > 1:
        raise UsageError("couldn't verify: say one of --full, --fast and --from", hint="see `--help`")
    files = open_ledger(folder)
    watch = Watch(files.signed, memory_at(trust_path), published=isinstance(files, TilesFolder))
    progress = Progress()
    if isinstance(files, TilesFolder):
        if first is not None:
            raise UsageError("couldn't verify tiles from a block on: they have entries only", hint="leave --from out")
        found = _tiles(files, watch, progress, trusting=fast)
    else:
        found = examine(files, watch, progress, first=first or 1, fast=fast)
    progress.clear()
    sound = watch.standing in (Standing.NEW, Standing.CONSISTENT)
    if sound:
        watch.remember()
    ends_well = sound and not found.ending(INVALID) and (found.accused or not found.incomplete)
    if ends_well or not as_json:
        data = {**found.data, "files": [remark.plain() for remark in found.remarks if remark.mark != "✔"]}
        emit({**data, "trust": watch.plain()}, as_json=as_json, text="\n".join(_lines(found, watch)))
    _end(found, watch)


def examine(files: Source, watch: Watch, progress: Progress, *, first: int = 1, fast: bool = False) -> Found:
    """Check a ledger that has blocks, and all beside them. Raises `Failure` or `LedgerError` if blocks do not hold."""
    beside = Beside(files)
    found = _fast(files, watch, beside, progress) if fast else _full(files, watch, beside, progress, first)
    found = replace(found, remarks=tuple(beside.remarks(found.epochs, watch.size)))
    if beside.cosigned is not None:
        watch.vouch(beside.cosigned.size, beside.cosigned.root)
    return found


def _end(found: Found, watch: Watch) -> None:
    """End as the worst of what was found demands."""
    for failure in found.ending(INVALID):
        raise failure
    watch.refuse()
    if found.accused:
        raise SystemExit(CONTRADICTION)
    for failure in found.incomplete:
        raise failure


@dataclass(frozen=True, slots=True)
class Found:
    """What a verification that succeeded says: its lines, and the same for programs.

    `epochs` has the terms of each epoch, newest first; `remarks` what is said of the files beside the blocks.
    """

    data: dict[str, object]
    lines: tuple[str, ...]
    verdict: str
    accused: int
    uncovered: int
    epochs: tuple[Terms, ...]
    remarks: tuple[Remark, ...] = ()

    def ending(self, code: int) -> list[Failure]:
        """Return the errors of this code."""
        return [remark.failure for remark in self.remarks if remark.code == code]

    @property
    def incomplete(self) -> list[Failure]:
        """The errors that say that something is missing, or was signed by too few, or twice."""
        found = self.ending(CONTRADICTION)
        if self.uncovered:
            last = "the last block" if self.uncovered == 1 else f"the last {self.uncovered} blocks"
            hint = "start the node to catch up"
            found.append(Failure(f"{last} of this ledger: not certified yet", code=INCOMPLETE, hint=hint))
        return found + self.ending(INCOMPLETE)


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


def _full(files: Source, watch: Watch, beside: Beside, progress: Progress, first: int) -> Found:
    def see(audit: Audit) -> None:
        watch.see_audit(audit)
        beside.see_audit(audit)
        progress.tell(audit.blocks, audit.entries)

    with workers() as made:
        result = follow(files, Deferred(made), first=first, see=see)
    spent = progress.spent_s
    progress.clear()
    judge(files, result)
    return _found(files, result, spent, first)


def _fast(files: Source, watch: Watch, beside: Beside, progress: Progress) -> Found:
    def see(height: int, time_ms: int, frontier: Frontier, covered: bool) -> None:
        watch.see(height, time_ms, frontier, covered=covered)
        beside.see(frontier)
        progress.tell(height, frontier.size)

    found, epochs = walk(files, see), [founding(files.signed.charter)]
    if found.epoch:  # Only who follows the votes on members knows whose certificate the last one must be.
        result = follow(files, HeadOnly())
        found.failure = found.failure or result.failure
        epochs = [view.terms for view in result.epochs]
    progress.clear()
    judge(files, found)
    return _found_fast(files, found, epochs[::-1], progress.spent_s)


def _tiles(files: TilesFolder, watch: Watch, progress: Progress, *, trusting: bool) -> Found:
    """Verify a directory of tiles: its files, its entries, and that a quorum has cosigned their tree."""
    number = files.check()

    def see(index: int, leaf: bytes, tiled: Tiled) -> None:
        del leaf
        watch.see(0, 0, tiled.frontier, covered=False)
        progress.tell(0, index + 1)

    tiled = follow_tiles(files, trusting=trusting, see=see)
    charter, state = files.signed.charter, tiled.epochs[0]
    data, at = files.checkpoint() or b"", files.checkpoint_at
    remarks = _cosigned(at, data, tlog.origin(charter.name, files.signed.ledger_id), tiled)
    founders, entries = len(charter.members), tiled.entries
    checked = "canonical, every feed without a gap" if trusting else "canonical, signed, every feed without a gap"
    lines = (
        f"✔ charter       {founders} of {count(founders, 'founder')} signed",
        f"✔ tiles         {count(number, 'file')}, each what the entries make it",
        f"✔ entries       {entries}: {checked}",
        *((f"✔ epochs        {state.epoch}, each by the votes of a quorum",) if state.epoch else ()),
        f"✔ tree          root {tiled.frontier.root().hex()[:32]}",
        *([f"! evidence      {count(len(tiled.accused), 'proof')} of contradiction"] if tiled.accused else []),
        "- not checked   whether rounds follow from the entries: that needs blocks, as a bundle has them",
    )
    plain: dict[str, object] = {
        "valid": True,
        "mode": "fast" if trusting else "full",
        "from": 1,
        "files_checked": number,
        "entries": entries,
        "rounds": tiled.rounds,
        "root": tiled.frontier.root().hex(),
        "evidence": len(tiled.accused),
        "seconds": round(progress.spent_s, 3),
        "torn": None,
    }
    verdict = f"VALID           {count(entries, 'entry')} in {progress.spent_s:.2f} s, by tiles"
    return Found(plain, lines, verdict, len(tiled.accused), 0, tuple(tiled.epochs), tuple(remarks))


def _cosigned(where: str, data: bytes, name: str, tiled: Tiled) -> Iterator[Remark]:
    """Say who vouches for the tree of a directory of tiles: without a quorum's word, its entries are a claim."""
    try:
        head = open_head(where, data, name, tiled.epochs)
        compare(head, tiled.entries, tiled.frontier.root())
    except Uncosigned:
        text, hint = "no quorum of the members has cosigned it", "get the newest checkpoint from a member for these"
        yield Remark("!", "checkpoint", text, where, code=INCOMPLETE, hint=hint)
        return
    except Failure as failure:
        text = failure.message.removeprefix(f"{where}: ")
        yield Remark("✘", "checkpoint", text, where, code=failure.code, hint=failure.hint)
        return
    names = ", ".join(sorted(head.cosigners))
    yield Remark("✔", "checkpoint", f"cosigned by {names}: {len(head.cosigners)}, {head.needed} are needed")
    strange = first_bad(data, name, tiled.epochs)
    if strange is not None:  # A witness from outside may have signed too; so may nobody, if the line was damaged.
        yield Remark("-", "checkpoint", "this signature is no member's, and does not count", where, strange)


def _found(files: Source, result: Audit, spent: float, first: int) -> Found:
    state, founders = result.state, len(files.signed.charter.members)
    accused = len(state.accused)
    certificates = count(result.certificates, "certificate")
    from_ = "" if first == 1 else f" from block {first} on"
    checked = f" (checked{from_})" if from_ else ""
    met = None if state.exchange is None else [*every_exchange(files.signed, result)]
    exchanged = [] if met is None else [_exchange_line(met)]
    lines = (
        f"✔ charter       {founders} of {count(founders, 'founder')} signed",
        f"✔ blocks        {result.blocks}: each extends the one before, all under {certificates}"
        if not result.uncovered
        else f"! blocks        {result.blocks}, the last {result.uncovered} not covered by a certificate yet",
        f"✔ entries       {result.entries}: canonical, signed{checked}, every feed without a gap",
        f"✔ rounds        {state.committed.round} recomputed, all equal to what is recorded",
        *exchanged,
        *([f"✔ stopping      {stop_words(state)}"] if state.stopping is not None else []),
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
        "pairs": None if met is None else sum(len(one.pairs) for one in met),
        "scheduled": None if met is None else sum(one.scheduled for one in met),
        "root": state.frontier.root().hex(),
        "evidence": accused,
        "seconds": round(spent, 3),
        "torn": torn_end(files, result.blocks),
    }
    if state.stopping is not None:
        data["stopping"] = stop_words(state)
    how = "" if first == 1 else f", signatures{from_}"
    rate = f" ({result.entries / spent:,.0f} a second)" if spent >= 1 else ""
    verdict = f"VALID           {count(result.entries, 'entry')} in {spent:.2f} s{rate}{how}"
    epochs = tuple(view.terms for view in reversed(result.epochs))
    return Found(data, lines, verdict, accused, result.uncovered, epochs)


def _exchange_line(met: Sequence[Exchanges]) -> str:
    """Say who exchanged in rounds of gossip, once the matrix of each is found to keep the weighted mean."""
    bent = [one.number for one in met if not one.check()]
    assert not bent, f"the matrices of rounds {bent} move the mean: that is a mistake in this program"
    pairs, scheduled = sum(len(one.pairs) for one in met), sum(one.scheduled for one in met)
    rounds = count(len(met), "round")
    return f"✔ exchanges     {pairs} of {count(scheduled, 'pair')} in {rounds} of gossip, each said by both"


def _found_fast(files: Source, found: Walk, epochs: Sequence[Terms], spent: float) -> Found:
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
    return Found(data, lines, verdict, 0, found.uncovered, tuple(epochs))


def _lines(found: Found, watch: Watch) -> list[str]:
    sound = watch.standing in (Standing.NEW, Standing.CONSISTENT)
    mark = "✘" if not sound else "!" if watch.namesakes and watch.standing is Standing.NEW else "✔"
    verdict = found.verdict
    if found.ending(INVALID):
        verdict = f"NOT WHOLE       the entries hold, and not every file does: {verdict.removeprefix('VALID').strip()}"
    elif not sound:
        verdict = f"VALID in itself, {verdict.removeprefix('VALID').strip()}"
    remarks = (remark.line for remark in found.remarks)
    return [*found.lines, *remarks, f"{mark} trust         {watch.words()}", verdict]
