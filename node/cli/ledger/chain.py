"""`swarm ledger verify | blocks | certs | diff`: whether a ledger holds, and what holds it together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.reading import (
    Files,
    blocks_of,
    date,
    judge,
    open_ledger,
    read,
    size_words,
    torn_end,
    torn_lines,
)
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, NOT_FOUND, Failure, count, emit
from node.clock import Clock
from swarm.ledger.audit import audit
from swarm.ledger.block import VOTE_NAMES, FinalBlock, Header

WHERE = click.argument("folder", type=click.Path(path_type=Path), default=Path())

PROGRESS_S = 0.5
"""Between lines of progress of a long verification."""


@click.command()
@WHERE
@JSON
def verify(folder: Path, *, as_json: bool) -> None:
    """Check everything: signatures, certificates, derived entries, trees.

    Exit 0 valid, 3 invalid, 4 valid with proof that a member contradicted itself, 6 incomplete.
    """
    clock = Clock()
    begun = told = clock.now()
    files = open_ledger(folder)
    result = None
    for result in audit(files.payloads(), files.signed):
        if clock.now() - told > PROGRESS_S:
            told = clock.now()
            click.echo(f"checked {size_words(result)} ...", err=True)
    assert result is not None, "an audit yields at least once"
    spent = clock.now() - begun
    judge(files, result)
    data = {
        "valid": True,
        "blocks": result.blocks,
        "entries": result.entries,
        "certificates": result.certificates,
        "rounds": result.state.committed.round,
        "root": result.state.frontier.root().hex(),
        "evidence": len(result.state.accused),
        "seconds": round(spent, 3),
        "torn": torn_end(files, result),
    }
    accused = result.state.accused
    charter, certificates = files.signed.charter, count(result.certificates, "certificate")
    lines = [
        f"✔ charter       {len(charter.members)} of {count(len(charter.members), 'founder')} signed",
        f"✔ blocks        {result.blocks}: each extends the one before, all under {certificates}"
        if not result.uncovered
        else f"! blocks        {result.blocks}, the last {result.uncovered} not covered by a certificate yet",
        f"✔ entries       {result.entries}: canonical, signed, every feed without a gap",
        f"✔ rounds        {result.state.committed.round} recomputed, all equal to what is recorded",
        f"✔ tree          root {result.state.frontier.root().hex()[:32]}",
        *(
            [f"! evidence      {count(len(accused), 'proof')} of contradiction: see `swarm ledger evidence`"]
            if accused
            else []
        ),
        *torn_lines(files, result),
        f"VALID           {count(result.entries, 'entry')} in {spent:.2f} s",
    ]
    if not (as_json and result.uncovered):
        emit(data, as_json=as_json, text="\n".join(lines))
    if result.uncovered:
        last = "the last block" if result.uncovered == 1 else f"the last {result.uncovered} blocks"
        raise Failure(f"{last} of this ledger: not certified yet", code=INCOMPLETE, hint="start the node to catch up")
    if accused:
        raise SystemExit(CONTRADICTION)


@click.command()
@WHERE
@JSON
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, help="First height.")
@click.option("--to", "last", type=click.IntRange(1), help="Last height. [default: the end]")
def blocks(folder: Path, first: int, last: int | None, *, as_json: bool) -> None:
    """List the blocks: when, proposed by whom, in which view, how many entries, certified by whom."""
    files, _ = read(folder)
    members = [card.name for card in files.signed.charter.members]
    rows, lines = [], [f"{'block':>6}  {'time':<23}  {'view':>6}  {'entries':>7}  {'proposer':<16}  finalized by"]
    for header, final in _opened(files):
        if not first <= header.height <= (last or header.height):
            continue
        signers = [members[i] for certificate in final.certificate for i in certificate.signers]
        proposer = members[final.block.proposer]
        rows.append(
            {
                "height": header.height,
                "time_ms": header.time_ms,
                "view": header.view,
                "entries": header.count,
                "proposer": proposer,
                "hash": header.hash.hex(),
                "root": header.root.hex(),
                "signers": signers,
            }
        )
        by = ", ".join(signers) or "a later block's certificate"
        lines.append(
            f"{header.height:>6}  {date(header.time_ms):<23}  {header.view:>6}  {header.count:>7}  {proposer:<16}  {by}"
        )
    emit({"blocks": rows}, as_json=as_json, text="\n".join(lines))


@click.command()
@click.argument("height", type=click.IntRange(1))
@WHERE
@JSON
def certs(height: int, folder: Path, *, as_json: bool) -> None:
    """Show the certificates that block HEIGHT rests on, and who signed them."""
    files, result = read(folder)
    members = [card.name for card in files.signed.charter.members]
    found = next(((header, final) for header, final in _opened(files) if header.height == height), None)
    if found is None:
        hint = f"it has {count(result.blocks, 'block')}"
        raise Failure(f"there is no block {height} in this ledger", code=NOT_FOUND, hint=hint)
    header, final = found
    rows, lines = [], [f"block {height}  {header.hash.hex()}  view {header.view}"]
    for certificate in (*final.block.justify, *final.certificate):
        what = "finality" if certificate in final.certificate else "right to extend"
        kind, signers = VOTE_NAMES[certificate.kind], [members[i] for i in certificate.signers]
        rows.append(
            {
                "what": what,
                "kind": kind,
                "view": certificate.view,
                "block": certificate.block.hex(),
                "signers": signers,
            }
        )
        lines.append(f"  {what:<16} {kind:<9} view {certificate.view:<6} by {', '.join(signers)}")
    emit({"height": height, "hash": header.hash.hex(), "certificates": rows}, as_json=as_json, text="\n".join(lines))


@click.command()
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@JSON
def diff(one: Path, other: Path, *, as_json: bool) -> None:
    """Compare the ledgers of two folders. Exit 0 when one continues the other, 4 when they are a fork."""
    sides = [open_ledger(folder) for folder in (one, other)]
    if sides[0].signed.ledger_id != sides[1].signed.ledger_id:
        names = [side.signed.charter.name for side in sides]
        raise Failure(
            f"{one} and {other} are ledgers of different swarms ({names[0]!r} and {names[1]!r})",
            code=INVALID,
            hint="compare folders whose charters are the same",
        )
    chains = [[(header.hash, _signers(final)) for header, final in _opened(side)] for side in sides]
    common = 0
    for (ours, _), (theirs, _) in zip(*chains, strict=False):
        if ours != theirs:
            break
        common += 1
    heights = [len(chain) for chain in chains]
    relation = "same" if heights[0] == heights[1] == common else "fork" if common < min(heights) else "lag"
    data: dict[str, object] = {"relation": relation, "common_height": common, "heights": heights}
    if relation == "same":
        text = f"the same: {count(common, 'block')}"
    elif relation == "lag":
        behind = one if heights[0] < heights[1] else other
        text = f"{behind} is {count(abs(heights[0] - heights[1]), 'block')} behind, otherwise the same"
    else:
        branches = [{i for _, signers in chain[common:] for i in signers} for chain in chains]
        both = [card.name for i, card in enumerate(sides[0].signed.charter.members) if all(i in b for b in branches)]
        data["signed_both"] = both
        text = (
            f"FORK after block {common}: two different blocks {common + 1} are final. More members have lied than the "
            f"swarm tolerates.\nin the certificates of both branches: {', '.join(both) or 'nobody'}"
        )
    emit(data, as_json=as_json, text=text)
    if relation == "fork":
        raise SystemExit(CONTRADICTION)


def _opened(files: Files) -> Iterator[tuple[Header, FinalBlock]]:
    for final in blocks_of(files):
        yield Header.decode(final.block.header), final


def _signers(final: FinalBlock) -> tuple[int, ...]:
    return tuple(i for certificate in final.certificate for i in certificate.signers)
