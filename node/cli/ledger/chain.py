"""`swarm ledger blocks | block | certs | diff`: what holds a ledger together, and two of them side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.reading import (
    WHERE,
    Placement,
    blocks_of,
    date,
    names_of,
    read,
    row_of,
    words_of,
)
from node.cli.ledger.sources import Source, open_ledger
from node.cli.output import CONTRADICTION, INVALID, NOT_FOUND, Failure, count, emit
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit
from swarm.ledger.block import SKIP, VOTE_NAMES, FinalBlock, Header
from swarm.machine import NodeId


@click.command()
@WHERE
@JSON
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, help="First height.")
@click.option("--to", "last", type=click.IntRange(1), help="Last height. [default: the end]")
def blocks(folder: Path, first: int, last: int | None, *, as_json: bool) -> None:
    """List the blocks: when, proposed by whom, in which view, how many entries, certified by whom."""
    files, result = read(folder)
    rows, lines = [], [f"{'block':>6}  {'time':<23}  {'view':>6}  {'entries':>7}  {'proposer':<16}  finalized by"]
    for header, final in _opened(files):
        if not first <= header.height <= (last or header.height):
            continue
        members = _names_at(result, header.epoch)
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
def block(height: int, folder: Path, *, as_json: bool) -> None:
    """Show block HEIGHT: its header, who signed it, which views were skipped before it, its entries."""
    files, result = read(folder)
    data, text = block_view(files, result, height)
    emit(data, as_json=as_json, text=text)


def block_view(files: Source, result: Audit, height: int) -> tuple[dict[str, object], str]:
    """Return a block for programs, and in words. Raises `Failure` when the ledger has none of that height."""
    header, final = _block_at(files, height)
    members, words = _names_at(result, header.epoch), words_of(files, result)
    placed = [
        Placement(header.first_index + i, height, leaf, e.decode_entry(leaf))
        for i, leaf in enumerate(final.block.leaves)
    ]
    rows = [row_of(one, files, words) for one in placed]
    signers = [members[i] for certificate in final.certificate for i in certificate.signers]
    absent = [name for name in members if name not in signers] if signers else []
    skipped = [certificate.view for certificate in final.block.justify if certificate.kind == SKIP]
    views = f", after {count(len(skipped), 'view')} given up" if skipped else ""
    lines = [
        f"block {height}  {header.hash.hex()}",
        f"time       {date(header.time_ms)}, agreed by a quorum of clocks",
        f"proposed   by {members[final.block.proposer]} in view {header.view}{views}",
        f"final      signed by {len(signers)} of {len(members)}: {', '.join(signers)}"
        if signers
        else "final      through a later block's certificate",
        *([f"           not by {', '.join(absent)}"] if absent else []),
        f"parent     {header.parent_hash.hex()}",
        f"tree       {header.size} entries, root {header.root.hex()}",
        f"entries    {header.count}" + (f", from {header.first_index} on" if header.count else ""),
        *(f"  {row.index:>6}  {row.author:<16} {row.kind:<15} {row.text}".rstrip() for row in rows),
    ]
    data: dict[str, object] = {
        "height": height,
        "hash": header.hash.hex(),
        "parent": header.parent_hash.hex(),
        "epoch": header.epoch,
        "view": header.view,
        "views_skipped": skipped,
        "time_ms": header.time_ms,
        "proposer": members[final.block.proposer],
        "signers": signers,
        "size": header.size,
        "root": header.root.hex(),
        "entries": [{"index": row.index, "author": row.author, "kind": row.kind, "text": row.text} for row in rows],
    }
    return data, "\n".join(lines)


def _names_at(result: Audit, epoch: int) -> list[str]:
    """Return the members' names in an epoch, in the order that signatures count them."""
    terms = next(view.terms for view in reversed(result.epochs) if view.terms.epoch <= epoch)
    return [seat.name for seat in terms.members]


def _block_at(files: Source, height: int) -> tuple[Header, FinalBlock]:
    blocks_seen = 0
    for header, final in _opened(files):
        blocks_seen += 1
        if header.height == height:
            return header, final
    hint = f"it has {count(blocks_seen, 'block')}"
    raise Failure(f"there is no block {height} in this ledger", code=NOT_FOUND, hint=hint)


@click.command()
@click.argument("height", type=click.IntRange(1))
@WHERE
@JSON
def certs(height: int, folder: Path, *, as_json: bool) -> None:
    """Show the certificates that block HEIGHT rests on, and who signed them."""
    files, result = read(folder)
    header, final = _block_at(files, height)
    rows, lines = [], [f"block {height}  {header.hash.hex()}  view {header.view}"]
    for certificate in (*final.block.justify, *final.certificate):
        what = "finality" if certificate in final.certificate else "right to extend"
        members = _names_at(result, certificate.epoch)
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
    chains = [[(header.hash, _signers(header, final)) for header, final in _opened(side)] for side in sides]
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
        branches = [
            _nodes(side, {signer for _, signers in chain[common:] for signer in signers})
            for side, chain in zip(sides, chains, strict=True)
        ]
        both = [name for node, name in branches[0].items() if node in branches[1]]
        data["signed_both"] = both
        text = (
            f"FORK after block {common}: two different blocks {common + 1} are final. More members have lied than the "
            f"swarm tolerates.\nin the certificates of both branches: {', '.join(both) or 'nobody'}"
        )
    emit(data, as_json=as_json, text=text)
    if relation == "fork":
        raise SystemExit(CONTRADICTION)


def _opened(files: Source) -> Iterator[tuple[Header, FinalBlock]]:
    for final in blocks_of(files):
        yield Header.decode(final.block.header), final


def _signers(header: Header, final: FinalBlock) -> tuple[tuple[int, int], ...]:
    """Return (epoch, index in it) of those who signed that a block is final."""
    return tuple((header.epoch, i) for certificate in final.certificate for i in certificate.signers)


def _nodes(files: Source, signers: Collection[tuple[int, int]]) -> dict[NodeId, str]:
    """Return who signed, by id: an index is a member only in its own epoch, as this side tells of it."""
    *_, result = audit(files.payloads(), files.signed, trusting=True)
    names = names_of(result)
    seats = {(v.terms.epoch, i): seat.node for v in result.epochs for i, seat in enumerate(v.terms.members)}
    there = {seats[signer] for signer in signers if signer in seats}
    return {node: name for node, name in names.items() if node in there}
