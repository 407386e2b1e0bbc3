"""`swarm ledger blocks | block | certs | diff`: what holds a ledger together, and two of them side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from node.cli.forms import listed, shown, told
from node.cli.ledger.naming import BLOCK, Height, Search, block_label
from node.cli.ledger.reading import (
    WHERE,
    Placement,
    blocks_of,
    date,
    entries_of,
    names_of,
    read,
    row_of,
    words_of,
)
from node.cli.ledger.sources import Source, TilesFolder, open_ledger
from node.cli.output import CONTRADICTION, INVALID, NOT_FOUND, Failure, Form, count, emit, emit_bytes, emit_rows
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit
from swarm.ledger.block import SKIP, VOTE_NAMES, FinalBlock, Header
from swarm.ledger.merkle import leaf_hash
from swarm.machine import NodeId


@click.command(epilog="Example: swarm ledger blocks --from 100 --to 120")
@WHERE
@listed(raw=True)
@click.option("--from", "first", type=Height(), default=1, show_default=True, help="First height.")
@click.option("--to", "last", type=Height(), help="Last height. [default: the end]")
def blocks(folder: Path, first: int, last: int | None, *, form: Form) -> None:
    """List the blocks: when, proposed by whom, in which view, how many entries, certified by whom.

    Raw, their records follow each other, each a canonical MessagePack array that says itself where it ends.
    """
    if last is not None and last < first:
        raise UsageError(f"couldn't list blocks {first} to {last}: the first comes after the last", hint="swap them")
    files, result = read(folder)
    if first > max(result.blocks, 1):
        raise _no_block(str(first), result.blocks)
    if form is Form.RAW:
        emit_bytes(payload for height, payload in enumerate(files.payloads(), 1) if first <= height <= (last or height))
        return
    head = f"{'block':>6}  {'time':<23}  {'view':>6}  {'entries':>7}  {'proposer':<16}  finalized by"
    rows = _rows(files, result, first, last)
    emit_rows("blocks", rows, form=form, head=[head], none="none yet: nothing but the charter is final")


def _rows(files: Source, result: Audit, first: int, last: int | None) -> Iterator[tuple[dict[str, object], str]]:
    for header, final in _opened(files):
        if not first <= header.height <= (last or header.height):
            continue
        members = _names_at(result, header.epoch)
        signers = [members[i] for certificate in final.certificate for i in certificate.signers]
        proposer = members[final.block.proposer]
        plain: dict[str, object] = {
            "height": header.height,
            "time_ms": header.time_ms,
            "view": header.view,
            "entries": header.count,
            "proposer": proposer,
            "hash": header.hash.hex(),
            "root": header.root.hex(),
            "signers": signers,
        }
        line = f"{header.height:>6}  {date(header.time_ms):<23}  {header.view:>6}  {header.count:>7}  {proposer:<16}  "
        yield plain, line + (", ".join(signers) or "a later block's certificate")


@click.command(epilog="Example: swarm ledger block 12")
@click.argument("height", metavar="BLOCK")
@WHERE
@told(raw=True)
def block(height: str, folder: Path, *, form: Form) -> None:
    """Show a block: its header, who signed it, which views were skipped before it, its entries.

    BLOCK is its height, as 12 or b12, or six or more hexadecimal digits of its hash. Raw, it is the block's record.
    """
    files, result = read(folder)
    show_block(files, result, _height(files, result, height), form)


def show_block(files: Source, result: Audit, height: int, form: Form) -> None:
    """Print a block that is there."""
    if form is Form.RAW:
        emit_bytes(payload for at, payload in enumerate(files.payloads(), 1) if at == height)
        return
    data, text = block_view(files, result, height)
    emit(data, as_json=form is Form.JSON, text=text)


def hashes_of(files: Source) -> Iterator[tuple[int, str]]:
    """Yield the height of each block and its hash, in hexadecimal digits."""
    for header, _ in _opened(files):
        yield header.height, header.hash.hex()


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


def _height(files: Source, result: Audit, which: str) -> int:
    """Return the height of the block that is meant. Raises `Failure` when there is none, or more than one."""
    search = Search[int](which)
    for height, hash_ in hashes_of(files):
        search.offer(BLOCK, height, hash_, block_label(height, hash_), height)
    absent = _no_block(which, result.blocks)
    return search.found(absent.message, absent.hint)


def _no_block(which: str, blocks: int) -> Failure:
    return Failure(f"there is no block {which} in this ledger", code=NOT_FOUND, hint=f"it has {count(blocks, 'block')}")


def _block_at(files: Source, height: int) -> tuple[Header, FinalBlock]:
    return next((header, final) for header, final in _opened(files) if header.height == height)


@click.command(epilog="Example: swarm ledger certs 12")
@click.argument("which", metavar="BLOCK")
@WHERE
@listed()
def certs(which: str, folder: Path, *, form: Form) -> None:
    """Show the certificates that a block rests on, and who signed them. BLOCK is named as for `block`."""
    files, result = read(folder)
    height = _height(files, result, which)
    header, final = _block_at(files, height)
    rows: list[tuple[dict[str, object], str]] = []
    for certificate in (*final.block.justify, *final.certificate):
        what = "finality" if certificate in final.certificate else "right to extend"
        members = _names_at(result, certificate.epoch)
        kind, signers = VOTE_NAMES[certificate.kind], [members[i] for i in certificate.signers]
        plain: dict[str, object] = {
            "what": what,
            "kind": kind,
            "view": certificate.view,
            "block": certificate.block.hex(),
            "signers": signers,
        }
        by = f"{len(signers)} of {len(members)}: {', '.join(signers)}"
        rows.append((plain, f"  {what:<16} {kind:<9} view {certificate.view:<6} by {by}"))
    head = [f"block {height}  {header.hash.hex()}  view {header.view}"]
    foot = [] if final.certificate else ["  finality         through a later block's certificate"]
    emit_rows(
        "certificates",
        rows,
        form=form,
        head=head,
        none="\n".join(head),
        foot=foot,
        rest={"height": height, "hash": header.hash.hex()},
    )


@click.command(epilog="Example: swarm ledger diff ours their.bundle")
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@shown
def diff(one: Path, other: Path, *, as_json: bool) -> None:
    """Compare two ledgers: equal, one lagging behind the other, a fork, or unrelated.

    Exit 0 when one continues the other, 4 when they are a fork, 3 when they are of different swarms. Tiles have no
    blocks: with a directory of them, entries are compared.
    """
    sides = [open_ledger(folder) for folder in (one, other)]
    if sides[0].signed.ledger_id != sides[1].signed.ledger_id:
        found = _unrelated(sides)
    elif any(isinstance(side, TilesFolder) for side in sides):
        found = _compared([[leaf_hash(placed.leaf) for placed in entries_of(side)] for side in sides], "entry", sides)
    else:
        chains = [[(header.hash, _signers(header, final)) for header, final in _opened(side)] for side in sides]
        found = _compared([[name for name, _ in chain] for chain in chains], "block", sides)
        if found.relation == "fork":
            found = _with_signers(found, sides, chains)
    data = {"relation": found.relation, **found.data}
    emit(data, as_json=as_json, text=found.text)
    if found.relation in _DIFF_CODES:
        raise SystemExit(_DIFF_CODES[found.relation])


_DIFF_CODES = {"fork": CONTRADICTION, "unrelated": INVALID}


@dataclass(frozen=True, slots=True)
class Relation:
    """How two ledgers stand to each other: in a word, for programs, and in words."""

    relation: str
    data: dict[str, object]
    text: str


def _unrelated(sides: Sequence[Source]) -> Relation:
    ids = [side.signed.ledger_id.hex() for side in sides]
    lines = [
        f"  {side.where}: {side.signed.charter.name!r}, ledger {id_}" for side, id_ in zip(sides, ids, strict=True)
    ]
    head = "unrelated: ledgers of different swarms, each founded by a charter of its own"
    return Relation("unrelated", {"ledger_ids": ids}, "\n".join((head, *lines)))


def _compared(chains: Sequence[Sequence[bytes]], unit: str, sides: Sequence[Source]) -> Relation:
    """Compare what two ledgers consist of, by hashes, the first to the last."""
    sizes = [len(chain) for chain in chains]
    pairs = zip(*chains, strict=False)
    common = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(sizes))
    data: dict[str, object]
    data = {"common_height": common, "heights": sizes} if unit == "block" else {"common_size": common, "sizes": sizes}
    if common == sizes[0] == sizes[1]:
        return Relation("equal", data, f"equal: {count(common, unit)}")
    if common == min(sizes):
        behind = sides[0 if sizes[0] < sizes[1] else 1].where
        missing = abs(sizes[0] - sizes[1])
        text = f"lag: {behind} is {count(missing, unit)} behind; the {common} it has are the same"
        return Relation("lag", {**data, "behind": str(behind)}, text)
    place = f"two different blocks {common + 1} are final" if unit == "block" else f"entry {common} differs"
    after = f"block {common}" if unit == "block" else count(common, unit)
    liars = (
        "More members have lied than the swarm tolerates." if unit == "block" else "Compare bundles to see who signed."
    )
    return Relation("fork", data, f"FORK after {after}: {place}. {liars}")


def _with_signers(
    found: Relation, sides: Sequence[Source], chains: Sequence[Sequence[tuple[bytes, tuple[tuple[int, int], ...]]]]
) -> Relation:
    """Add who signed in both branches of a fork: nobody honest does."""
    common = int(str(found.data["common_height"]))
    branches = [
        _nodes(side, {signer for _, signers in chain[common:] for signer in signers})
        for side, chain in zip(sides, chains, strict=True)
    ]
    both = [name for node, name in branches[0].items() if node in branches[1]]
    text = f"{found.text}\nin the certificates of both branches: {', '.join(both) or 'nobody'}"
    return Relation(found.relation, {**found.data, "signed_both": both}, text)


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
