"""`swarm ledger`: read and verify a ledger from its files. Needs no running node, writes nothing, imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.output import INCOMPLETE, INVALID, NOT_FOUND, Failure, count, emit
from node.clock import Clock
from node.site import Site
from node.storage import RealDisk
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, audit, weights
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.journal import BLOCKS, Finding, Placed, scan
from swarm.machine import NodeId

WHERE = click.argument("folder", type=click.Path(path_type=Path), default=Path())

REPAIR = "stop the node and replace ledger/blocks by that of any other member: final blocks are the same everywhere"

PROGRESS_S = 0.5
"""Between lines of progress of a long verification."""


@dataclass(slots=True)
class Files:
    """A ledger on disk, read as it is asked for; what could not be read is kept in `findings`."""

    site: Site
    signed: SignedCharter
    findings: list[Finding] = field(default_factory=list)
    places: dict[int, Placed] = field(default_factory=dict)

    @property
    def corrupt(self) -> Finding | None:
        """The first place where the disk lost something that had been acknowledged."""
        return next((finding for finding in self.findings if finding.verdict == "corruption"), None)

    @property
    def torn(self) -> Finding | None:
        """A last write that is not whole."""
        return next((finding for finding in self.findings if finding.verdict != "corruption"), None)

    def payloads(self) -> Iterator[bytes]:
        """Yield the blocks' records in order."""
        disk = RealDisk(self.site.ledger)
        self.findings.clear()
        height = 0
        try:
            for found in scan(disk, BLOCKS, self.signed.ledger_id):
                if isinstance(found, Finding):
                    self.findings.append(found)
                else:
                    height += 1
                    self.places[height] = found
                    yield found.record.payload
        finally:
            disk.close()


@dataclass(frozen=True, slots=True)
class Row:
    """An entry in words. `round` is None for entries that belong to none."""

    index: int
    time_ms: int
    author: str
    kind: str
    text: str
    round: int | None


@click.group()
def ledger() -> None:
    """Inspect and verify the ledger in a site's folder."""


@ledger.command()
@WHERE
@JSON
def status(folder: Path, *, as_json: bool) -> None:
    """Show what the ledger holds, without checking signatures."""
    files, result = _read(folder)
    signed, state = files.signed, result.state
    names = [card.name for card in signed.charter.members]
    last = result.rounds.get(state.committed.round)
    final = f"round {state.committed.round} of {signed.charter.round.rounds}"
    when = f", {_date(last.committed_ms)}" if last is not None else ""
    text = "\n".join(
        (
            f"ledger     {signed.charter.name}  {signed.ledger_id.hex()}",
            f"size       {_size(result)}, root {state.frontier.root().hex()[:32]}",
            f"members    {len(names)}: {', '.join(names)}",
            f"quorum     {signed.charter.quorum}  ({signed.charter.fault_tolerance()})",
            f"committed  {final}{when}",
            f"model      {state.committed.model.hex()}",
            f"open       {_open_round(result)}",
            *_torn_lines(files, result),
        )
    )
    data = {
        "ledger_id": signed.ledger_id.hex(),
        "name": signed.charter.name,
        "entries": result.entries,
        "blocks": result.blocks,
        "root": state.frontier.root().hex(),
        "committed": state.committed.round,
        "rounds": signed.charter.round.rounds,
        "model": state.committed.model.hex(),
        "members": names,
        "torn": _torn(files, result),
    }
    emit(data, as_json=as_json, text=text)


@ledger.command()
@WHERE
@JSON
@click.option("--round", "number", type=int, help="Only entries of this round.")
@click.option("--peer", help="Only entries of this member.")
def log(folder: Path, number: int | None, peer: str | None, *, as_json: bool) -> None:
    """List the entries, one a line."""
    files, result = _read(folder)
    names = [card.name for card in files.signed.charter.members]
    if number is not None:
        _round(result, number)
    if peer is not None and peer not in names:
        raise Failure(f"there is no member {peer!r} in this swarm", code=NOT_FOUND, hint=f"it has {', '.join(names)}")
    rows = [
        row for row in _rows(files) if (number is None or row.round == number) and (peer is None or row.author == peer)
    ]
    lines = [f"{r.index:>6}  {_date(r.time_ms)}  {r.author:<16} {r.kind:<13} {r.text}" for r in rows]
    shown = ("index", "time_ms", "author", "kind", "text")
    data = {
        "entries": [{name: getattr(row, name) for name in shown} for row in rows],
        "torn": _torn(files, result),
    }
    emit(data, as_json=as_json, text="\n".join((*(lines or ["no entry is of both"]), *_torn_lines(files, result))))


@ledger.command("round")
@click.argument("number", type=int)
@WHERE
@JSON
def round_(number: int, folder: Path, *, as_json: bool) -> None:
    """Show who took part in round NUMBER, with what weight and what result."""
    files, result = _read(folder)
    data, text = _show_round(files.signed, _round(result, number))
    emit(data, as_json=as_json, text=text)


@ledger.command()
@WHERE
@JSON
def verify(folder: Path, *, as_json: bool) -> None:
    """Check everything: signatures, certificates, derived entries, trees. Exit 0 valid, 3 invalid, 6 incomplete."""
    clock = Clock()
    begun = told = clock.now()
    files = _open(folder)
    result = None
    for result in audit(files.payloads(), files.signed):
        if clock.now() - told > PROGRESS_S:
            told = clock.now()
            click.echo(f"checked {_size(result)} ...", err=True)
    assert result is not None, "an audit yields at least once"
    spent = clock.now() - begun
    _judge(files, result)
    data = {
        "valid": True,
        "blocks": result.blocks,
        "entries": result.entries,
        "certificates": result.certificates,
        "rounds": result.state.committed.round,
        "root": result.state.frontier.root().hex(),
        "seconds": round(spent, 3),
        "torn": _torn(files, result),
    }
    charter, certificates = files.signed.charter, count(result.certificates, "certificate")
    lines = [
        f"✔ charter       {len(charter.members)} of {count(len(charter.members), 'founder')} signed",
        f"✔ blocks        {result.blocks}: each extends the one before, all under {certificates}"
        if not result.uncovered
        else f"! blocks        {result.blocks}, the last {result.uncovered} not covered by a certificate yet",
        f"✔ entries       {result.entries}: canonical, signed, every feed without a gap",
        f"✔ rounds        {result.state.committed.round} recomputed, all equal to what is recorded",
        f"✔ tree          root {result.state.frontier.root().hex()[:32]}",
        *_torn_lines(files, result),
        f"VALID           {count(result.entries, 'entry')} in {spent:.2f} s",
    ]
    if not (as_json and result.uncovered):
        emit(data, as_json=as_json, text="\n".join(lines))
    if result.uncovered:
        last = "the last block" if result.uncovered == 1 else f"the last {result.uncovered} blocks"
        raise Failure(f"{last} of this ledger: not certified yet", code=INCOMPLETE, hint="start the node to catch up")


def verify_quietly(folder: Path) -> Audit:
    """Verify a site's ledger and return what was found. Raises `Failure` when it does not hold."""
    files = _open(folder)
    *_, result = audit(files.payloads(), files.signed)
    _judge(files, result)
    return result


# --- reading ----------------------------------------------------------------------------------------------------


def _open(folder: Path) -> Files:
    site = Site(folder)
    if not site.ledger.is_dir():
        raise UsageError(f"couldn't find a ledger in {folder}", hint="name the folder of a site that has been started")
    settings = site.load_settings() if site.settings_path.exists() else None
    return Files(site, site.load_charter(settings))


def _read(folder: Path) -> tuple[Files, Audit]:
    """Follow a ledger without checking signatures. Raises `Failure` when it does not hold."""
    files = _open(folder)
    *_, result = audit(files.payloads(), files.signed, trusting=True)
    _judge(files, result)
    return files, result


def _judge(files: Files, result: Audit) -> None:
    """Raise `Failure` where the ledger first fails, and say whether the disk or somebody did it."""
    if (damage := files.corrupt) is not None:
        raise Failure(
            f"{damage.path} at byte {damage.offset}: {damage.text}; the disk is damaged, this is not a signed change",
            code=INVALID,
            hint=REPAIR,
        )
    if (failure := result.failure) is not None:
        place = files.places.get(failure.height)
        where = f"{place.path} at byte {place.offset}, " if place is not None else ""
        raise Failure(
            f"{where}block {failure.height}: {failure.text}; the file reads well, so it was changed",
            code=INVALID,
            hint="compare with another member's ledger; keep this copy as evidence",
        )


def _round(result: Audit, number: int) -> RoundView:
    view = result.rounds.get(number)
    if view is None:
        last = result.state.committed.round
        hint = f"committed: {'none yet' if not last else 'round 1' if last == 1 else f'rounds 1 to {last}'}"
        raise Failure(f"there is no round {number} in this ledger", code=NOT_FOUND, hint=hint)
    return view


def _rows(files: Files) -> Iterator[Row]:
    names = {card.node: card.name for card in files.signed.charter.members}
    yield Row(0, files.signed.charter.created_ms, "everyone", "charter", files.signed.charter.name, None)
    index = 1
    for payload in files.payloads():
        for leaf in codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves:
            entry = e.decode_entry(leaf)
            round_, words = _describe(entry, names)
            who = names.get(NodeId(entry.author), "(derived)")
            yield Row(index, entry.ts_ms, who, e.KIND_NAMES[entry.kind], words, round_)
            index += 1


def _torn(files: Files, result: Audit) -> dict[str, object] | None:
    """Return what is known of a last write that is not whole: it may be a crash, or a disk that lost the end."""
    if (torn := files.torn) is None:
        return None
    return {"path": torn.path, "offset": torn.offset, "bytes": torn.length, "next_block": result.blocks + 1}


def _torn_lines(files: Files, result: Audit) -> list[str]:
    torn = _torn(files, result)
    if torn is None:
        return []
    place = f"{torn['bytes']} bytes at byte {torn['offset']} of {torn['path']}"
    return [f"! torn end      {place} cannot be read; block {torn['next_block']} would be next"]


# --- words ------------------------------------------------------------------------------------------------------


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _size(result: Audit) -> str:
    return f"{count(result.entries, 'entry')} in {count(result.blocks, 'block')}"


def _open_round(result: Audit) -> str:
    state = result.state
    if state.complete:
        return "nothing: every round of the charter is committed"
    there = sum(1 for number, _ in state.contributions if number == state.round)
    total = len(state.signed.charter.members)
    if state.close is not None:
        return f"round {state.round}, closed, {len(state.attests)} of {total} sites attested"
    return f"round {state.round}, {there} of {total} sites contributed"


def _describe(entry: e.Entry, names: dict[NodeId, str]) -> tuple[int | None, str]:
    """Return (round, words) of an entry."""
    limit = e.ENTRY_BYTES_MAX
    match entry.kind:
        case e.CONTRIBUTION:
            c = codec.decode(entry.body, e.Contribution, limit=limit)
            return c.round, f"round {c.round}, {c.samples} samples, update {c.update_digest.hex()[:12]}"
        case e.ATTEST:
            a = codec.decode(entry.body, e.Attest, limit=limit)
            return a.round, f"round {a.round}, holds model {a.model_digest.hex()[:12]}"
        case e.EVALUATION:
            v = codec.decode(entry.body, e.Evaluation, limit=limit)
            return v.round, f"round {v.round}, scored on {v.samples} held-out samples"
        case e.ROUND_CLOSE:
            close = codec.decode(entry.body, e.RoundClose, limit=limit)
            absent = ", ".join(names[NodeId(node)] for node in close.missing)
            without = f", without {absent}" if absent else ""
            return close.round, f"round {close.round}, {count(len(close.included), 'site')} in{without}"
        case e.ROUND_COMMIT:
            commit = codec.decode(entry.body, e.RoundCommit, limit=limit)
            return (
                commit.round,
                f"round {commit.round}, {commit.model_digest.hex()[:12]} held by {count(commit.attests, 'site')}",
            )
        case e.BLOCK_CERT:
            return None, "finality of an earlier block"
        case _:
            return None, ""


def _show_round(signed: SignedCharter, view: RoundView) -> tuple[dict[str, object], str]:
    names = signed.charter.metrics
    shares = weights(view)
    rejected = dict(view.closed.body.rejected) if view.closed else {}
    rows, lines = [], []
    for card in signed.charter.members:
        placed, scored = view.contributions.get(card.node), view.evaluations.get(card.node)
        metrics = {names[i]: v / e.METRIC_SCALE for i, v in (scored.metrics if scored else ()) if i < len(names)}
        if placed is None:
            state = "MISSING" if view.closed else "not yet"
        elif placed.index in rejected:
            state = f"REJECTED ({e.REASONS[rejected[placed.index]]})"
        else:
            state = "in" if card.node in shares else "contributed"
        samples = placed.body.samples if placed else 0
        update = placed.body.update_digest.hex()[:12] if placed else ""
        rows.append(
            {
                "peer": card.name,
                "state": state,
                "samples": samples,
                "weight": round(shares.get(card.node, 0.0), 6),
                "update": update,
                "held_out": scored.samples if scored else 0,
                "metrics": metrics,
            }
        )
        words = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        weight = f"{shares[card.node]:7.2%}" if card.node in shares else "      -"
        lines.append(f"  {card.name:<16} {samples or '-':>8} {weight}  {update or '-':<12}  {state:<10} {words}")
    commit = view.commit
    head = f"round {view.number}  " + (
        f"COMMITTED {_date(view.committed_ms)} in block {view.height}"
        if commit
        else "OPEN"
        if not view.closed
        else "CLOSED"
    )
    model = f"model {commit.model_digest.hex()}, held by {count(commit.attests, 'site')}" if commit else "no model yet"
    table = f"  {'peer':<16} {'samples':>8}  weight  {'update':<12}  {'state':<10} on its held-out data"
    data: dict[str, object] = {
        "round": view.number,
        "committed": commit is not None,
        "model": commit.model_digest.hex() if commit else None,
        "peers": rows,
    }
    return data, "\n".join((head, model, table, *lines))
