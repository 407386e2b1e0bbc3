"""`swarm ledger checkpoint | policy | vkeys | prove | check-proof | consistency`, and the tiles of `export`.

What these write is the text of public standards, so that whoever gets it needs none of this software: see
`swarm.ledger.tlog` and `docs/reference/exports.md`. Nothing here signs. The signatures are those that the members'
nodes gave while they ran, kept in the checkpoint that each node publishes beside its ledger; where there is none, these
commands say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from node.cli.forms import listed, shown
from node.cli.ledger.checking import follow_leaves
from node.cli.ledger.naming import ENTRY, Search, entry_label
from node.cli.ledger.published import Head, Uncosigned, compare, contents, judged, keys_of, members_policy, open_head
from node.cli.ledger.reading import WHERE, entries_of, followed, judge
from node.cli.ledger.sources import Source, TilesFolder, open_ledger
from node.cli.ledger.tiled import follow_tiles
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, Failure, Form, check_target, count, emit, emit_rows
from node.storage import write_file_durably
from swarm.errors import UsageError
from swarm.ledger import note as n
from swarm.ledger import tiles, tlog
from swarm.ledger.audit import Audit
from swarm.ledger.entry import decode_entry
from swarm.ledger.merkle import Tree, leaf_hash, verify_consistency
from swarm.terms import Terms

LINES_ALWAYS_READ = 16
"""Signature lines that every verifier of notes must accept."""


@dataclass(frozen=True, slots=True)
class Log:
    """A ledger as a log: its name, its tree, and the terms of its newest epochs, the one at hand first."""

    name: str
    tree: Tree
    terms: Sequence[Terms]
    head: Head | None

    @property
    def policy(self) -> tlog.Policy:
        """The policy of the members of today."""
        return members_policy(self.name, self.terms[0])


@click.command(epilog="Example: swarm ledger policy > oncology.policy")
@WHERE
@shown
def policy(folder: Path, *, as_json: bool) -> None:
    """Write the trust policy by which anybody can check this ledger's checkpoints and proofs (c2sp.org/tlog-policy)."""
    name, terms = _terms(folder)
    made = _policy(name, terms[0])
    head = f"# Who must have cosigned a checkpoint of {name}: {terms[0].quorum} of its {len(terms[0].members)} members."
    text = f"{head}\n{made.encode()}"
    data = {"origin": name, "quorum": terms[0].quorum, "members": len(terms[0].members), "policy": text}
    emit(data, as_json=as_json, text=text.removesuffix("\n"))


@click.command(epilog="Example: swarm ledger vkeys")
@WHERE
@listed()
def vkeys(folder: Path, *, form: Form) -> None:
    """List the members' verifier keys: those that sign for the log, then those that cosign (c2sp.org/signed-note)."""
    name, terms = _terms(folder)
    logs = [tlog.log_key(name, seat.cosign_key).encode() for seat in terms[0].members]
    cosigners = [tlog.cosigner_key(name, seat.name, seat.cosign_key).encode() for seat in terms[0].members]
    if form is Form.TABLE:
        click.echo("\n".join((*logs, *cosigners)))
        return
    rows = (
        ({"member": seat.name, "log": log, "cosigner": cosigner}, "")
        for seat, log, cosigner in zip(terms[0].members, logs, cosigners, strict=True)
    )
    emit_rows("vkeys", rows, form=form, rest={"origin": name})


@click.command(epilog="Example: swarm ledger checkpoint")
@WHERE
@shown
@click.option("--lines", type=click.IntRange(2, n.SIGNATURES_MAX), help="Write at most so many signature lines.")
def checkpoint(folder: Path, lines: int | None, *, as_json: bool) -> None:
    """Write the newest checkpoint that a quorum has cosigned (c2sp.org/tlog-checkpoint). 6 when there is none."""
    log = _log(folder)
    head = _published(log)
    chosen = n.Note(head.note.text, head.note.lines[:lines])
    needed = log.terms[0].quorum
    carried = len(chosen.signed_by(log.policy.witnesses.values()))
    if carried < needed:
        click.echo(
            f"{count(len(chosen.lines), 'line')} carry {carried} cosignatures; the policy asks for {needed}", err=True
        )
    text = chosen.encode().decode()
    data = {
        "origin": log.name,
        "size": head.checkpoint.size,
        "root": head.checkpoint.root.hex(),
        "cosignatures": carried,
        "needed": needed,
        "newer_entries": len(log.tree) - head.checkpoint.size,
        "note": text,
    }
    emit(data, as_json=as_json, text=text.removesuffix("\n"))


@click.command(epilog="Example: swarm ledger prove 41860 -o entry.tlog-proof")
@click.argument("which")
@WHERE
@shown
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there. [default: stdout]"
)
@click.option(
    "--entry",
    "aside",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the entry there instead of into the proof, to be shown or kept back.",
)
@click.option(
    "--checkpoint",
    "given",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prove it under this checkpoint. [default: the one published beside the ledger]",
)
def prove(
    which: str, folder: Path, output: Path | None, aside: Path | None, given: Path | None, *, as_json: bool
) -> None:
    """Prove that an entry is in the ledger, to anybody who has the policy (c2sp.org/tlog-proof).

    WHICH is its place in the log, or six or more hexadecimal digits of its id. 6 when the newest checkpoint does not
    reach it yet.
    """
    for target in (output, aside):
        if target is not None:
            check_target(target)
    search = Search[tuple[int, bytes]](which)

    def see(index: int, leaf: bytes) -> None:
        id_ = decode_entry(leaf).id.hex()
        search.offer(ENTRY, index, id_, entry_label(index, id_), (index, leaf))

    log = _log(folder, see)
    hint = "`swarm ledger log` lists the entries"
    index, leaf = search.found(f"there is no entry {which!r} in this ledger", hint)
    head = _published(log, given)
    if index >= head.checkpoint.size:
        raise Failure(
            f"couldn't prove entry {index}: the newest checkpoint covers {count(head.checkpoint.size, 'entry')}",
            code=INCOMPLETE,
            hint="try again when the members have cosigned a newer one; that takes seconds while nodes run",
        )
    extra = b"" if aside is not None else leaf
    if len(extra) > tlog.EXTRA_BYTES_MAX:
        raise Failure(f"couldn't put entry {index} into its proof: it is too long", code=INCOMPLETE, hint="add --entry")
    proof = tlog.Proof(index, log.tree.inclusion_proof(index, head.checkpoint.size), head.data, extra)
    proof.verify(leaf_hash(leaf), head.checkpoint)
    text = proof.encode()
    if aside is not None:
        write_file_durably(aside, leaf, mode=0o644)
    if output is not None:
        write_file_durably(output, text, mode=0o644)
    data = {
        "index": index,
        "id": decode_entry(leaf).id.hex(),
        "size": head.checkpoint.size,
        "hashes": [value.hex() for value in proof.path],
        "path": None if output is None else str(output),
        "proof": text.decode(),
    }
    words = f"entry {index} is in the first {head.checkpoint.size}, by {_hashes(proof.path)}: {output}"
    emit(data, as_json=as_json, text=text.decode().removesuffix("\n") if output is None else words)


@click.command("check-proof", epilog="Example: swarm ledger check-proof entry.tlog-proof --policy oncology.policy")
@click.argument("file", type=click.Path(path_type=Path))
@shown
@click.option("--policy", "policy_", type=click.Path(path_type=Path), required=True, help="Whose word is needed.")
@click.option("--entry", "aside", type=click.Path(path_type=Path), help="The entry, where the proof does not hold it.")
@click.option("-v", "--verbose", is_flag=True, help="Show every hash on the way to the root.")
def check_proof(file: Path, policy_: Path, aside: Path | None, *, verbose: bool, as_json: bool) -> None:
    """Check a proof, needing nothing but the policy. 3 when it does not hold."""
    with judged():
        proof = tlog.Proof.decode(contents(file))
        trusted = tlog.Policy.decode(contents(policy_))
        endorsed = trusted.check(n.parse(proof.note))
    leaf = proof.extra if aside is None else contents(aside)
    if not leaf:
        hint = "name the file that holds the entry's bytes with --entry"
        raise UsageError(f"couldn't check {file}: the proof does not hold the entry it is about", hint=hint)
    head, hashed = endorsed.checkpoint, leaf_hash(leaf)
    proof.verify(hashed, head)
    way = tlog.steps(hashed, proof.index, head.size, proof.path)
    times = sorted(endorsed.cosigners.values())
    lines = [f"leaf {proof.index}  SHA256(00 | {len(leaf)} bytes) = {hashed.hex()}"]
    if verbose:
        lines += [f"  {i:>2}  {s.side} {s.sibling.hex()[:16]}  ->  {s.result.hex()}" for i, s in enumerate(way)]
    lines += [
        f"root {head.root.hex()}  of {count(head.size, 'entry')} of {head.origin}",
        f"cosigned by {len(times)} of {len(trusted.witnesses)}"
        + (f", {_moment(times[0])} to {_moment(times[-1])}" if times else ""),
        "HOLDS",
    ]
    data = {
        "holds": True,
        "origin": head.origin,
        "index": proof.index,
        "size": head.size,
        "leaf": hashed.hex(),
        "root": head.root.hex(),
        "cosigners": dict(endorsed.cosigners),
        "steps": [{"side": s.side, "sibling": s.sibling.hex(), "result": s.result.hex()} for s in way],
    }
    emit(data, as_json=as_json, text="\n".join(lines))


@click.command(epilog="Example: swarm ledger consistency old.checkpoint 41872")
@click.argument("old")
@click.argument("new")
@WHERE
@shown
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the proof as text there.")
def consistency(old: str, new: str, folder: Path, output: Path | None, *, as_json: bool) -> None:
    """Prove that the log of size OLD is the beginning of that of size NEW. Either may be a file with a checkpoint.

    A checkpoint that is not of this log's past is a fork: 4 when members of the swarm have signed it, else 3. With -o,
    NEW must be a checkpoint, or the size of the published one, since the text (that of c2sp.org/tlog-witness) ends
    with it.
    """
    if output is not None:
        check_target(output)
    log = _log(folder)
    (before, _), (after, note) = _side(log, old), _side(log, new)
    if not 0 < before <= after:
        raise UsageError(
            f"couldn't prove anything from {before} to {after} entries",
            hint="name two sizes above 0, the smaller first",
        )
    path = log.tree.consistency_proof(before, after)
    roots = log.tree.root(before), log.tree.root(after)
    verify_consistency(before, after, *roots, path)
    if output is not None:
        if note is None:
            hint = "name a file with a checkpoint as NEW, or leave -o out"
            raise UsageError(f"couldn't write {output}: nobody has signed a checkpoint of {after} entries", hint=hint)
        write_file_durably(output, tlog.Consistency(before, path, note).encode(), mode=0o644)
    lines = [
        f"old   {before} entries  root {roots[0].hex()}",
        f"new   {after} entries  root {roots[1].hex()}",
        *(f"  {value.hex()}" for value in path),
        f"CONSISTENT, by {_hashes(path)}" + (f": {output}" if output is not None else ""),
    ]
    data = {
        "old": {"size": before, "root": roots[0].hex()},
        "new": {"size": after, "root": roots[1].hex()},
        "hashes": [value.hex() for value in path],
        "path": None if output is None else str(output),
    }
    emit(data, as_json=as_json, text="\n".join(lines))


def export_tiles(where: Path, target: Path, *, as_json: bool) -> None:
    """Write a ledger as a tlog-tiles directory, which may hold an earlier export of it.

    The tree is that of the published checkpoint, which is written last; without one, that of all entries. A file that
    is there already is left alone if it is the same: none of them may ever change.
    """
    log = _log(where)
    size = len(log.tree) if log.head is None else log.head.checkpoint.size
    _check_same_log(target, log)
    written = kept = 0
    leaves = (placed.leaf for placed in entries_of(open_ledger(where)) if placed.index < size)
    for name, data in tiles.write(leaves):
        path = target / name
        if path.exists():
            if path.read_bytes() != data:
                raise _foreign(path)
            kept += 1
        else:
            write_file_durably(path, data, mode=0o644)
            written += 1
    if log.head is not None:
        write_file_durably(target / tiles.CHECKPOINT, log.head.data, mode=0o644)
    left = len(log.tree) - size
    lines = [f"{count(size, 'entry')} of {log.name} in {target}: {written + kept} files, {written} of them new"]
    if log.head is None:
        lines.append("without a checkpoint: no quorum has cosigned one here yet")
    elif left:
        lines.append(f"{count(left, 'newer entry')} not cosigned yet and left out")
    data_ = {
        "path": str(target),
        "origin": log.name,
        "size": size,
        "files": written + kept,
        "written": written,
        "checkpoint": log.head is not None,
        "left_out": left,
    }
    emit(data_, as_json=as_json, text="\n".join(lines))


# --- reading ----------------------------------------------------------------------------------------------------


def _terms(where: Path) -> tuple[str, Sequence[Terms]]:
    """Return the log's name, and who the members are and lately were."""
    files = open_ledger(where)
    if isinstance(files, TilesFolder):
        return _name(files), follow_tiles(files, trusting=True).epochs
    result = followed(files)
    return _name(files), (result.state.terms, *result.state.past)


def _name(files: Source) -> str:
    return tlog.origin(files.signed.charter.name, files.signed.ledger_id)


def _log(where: Path, see: Callable[[int, bytes], None] = lambda *_: None) -> Log:
    """Read a ledger as a log, once. `see` is told the place and the bytes of every entry.

    Raises:
        Failure: it, or the checkpoint beside it, does not hold.
    """
    files = open_ledger(where)
    # The checkpoint first: its node has written the blocks before it, and may write more while this reads.
    published, tree, hashes = files.checkpoint(), Tree(), list[bytes]()

    def take(index: int, leaf: bytes) -> None:
        hashes.append(leaf_hash(leaf))
        see(index, leaf)

    def take_block(result: Audit, leaves: Sequence[bytes]) -> None:
        for index, leaf in enumerate(leaves, result.entries - len(leaves)):
            take(index, leaf)

    if isinstance(files, TilesFolder):
        epochs: Sequence[Terms] = follow_tiles(
            files, trusting=True, see=lambda index, leaf, _: take(index, leaf)
        ).epochs
    else:
        result = follow_leaves(files, take_block)
        judge(files, result)
        epochs = (result.state.terms, *result.state.past)
    tree.extend(hashes)
    name = _name(files)
    head = None if published is None else _head(files, published, name, tree, epochs)
    return Log(name, tree, epochs, head)


def _head(files: Source, data: bytes, name: str, tree: Tree, epochs: Sequence[Terms]) -> Head | None:
    """Return the checkpoint that lies beside a ledger, checked against tree and members.

    That of a directory of tiles may be anybody's: with too few cosignatures it only says how far the tiles go.
    """
    try:
        head = open_head(files.checkpoint_at, data, name, epochs)
    except Uncosigned:
        if isinstance(files, TilesFolder):
            return None
        raise
    size = head.checkpoint.size
    compare(head, len(tree), tree.root(size) if size <= len(tree) else None)
    return head


def _published(log: Log, given: Path | None = None) -> Head:
    """Return the checkpoint to use: one that was given, or the one that lies beside the ledger."""
    if given is not None:
        head = open_head(str(given), contents(given), log.name, log.terms)
        size = head.checkpoint.size
        compare(head, len(log.tree), log.tree.root(size) if size <= len(log.tree) else None)
        return head
    if log.head is None:
        raise Failure(
            "there is no cosigned checkpoint of this ledger here",
            code=INCOMPLETE,
            hint=f"a running node writes one once {log.terms[0].quorum} of {len(log.terms[0].members)} members have "
            "cosigned it; one from elsewhere may be named with --checkpoint",
        )
    return log.head


def _policy(name: str, terms: Terms) -> tlog.Policy:
    if len(terms.members) > tlog.COSIGNED_MEMBERS_MAX:
        raise Failure(
            f"couldn't write a policy of {len(terms.members)} members: verifiers read {n.SIGNATURES_MAX} signature "
            f"lines and the quorum is {terms.quorum}",
            code=INCOMPLETE,
            hint="verify the ledger itself with `swarm ledger verify`",
        )
    return members_policy(name, terms)


def _side(log: Log, text: str) -> tuple[int, bytes | None]:
    """Return a size, and the checkpoint of it where there is one. Raises `Failure` for one that is not of this log."""
    if text.isdecimal():
        size = int(text[:19])
        if size > len(log.tree):
            raise Failure(
                f"couldn't prove anything about {text} entries: this ledger has {len(log.tree)}",
                code=INCOMPLETE,
                hint="start the node: it fetches what is missing from the others",
            )
        same = log.head is not None and log.head.checkpoint.size == size
        return size, log.head.data if log.head is not None and same else None
    path = Path(text)
    data = contents(path)
    with judged(path):
        note = n.parse(data)
        found = tlog.Checkpoint.decode(note.text)
        signers = note.signed_by(keys_of(log.name, log.terms))
    if found.origin != log.name:
        hint = "name a checkpoint of this ledger"
        raise Failure(f"couldn't use {path}: it is of the log {found.origin!r}", code=INVALID, hint=hint)
    if found.size > len(log.tree):
        raise Failure(
            f"{path} is of {count(found.size, 'entry')}, and this ledger ends after {len(log.tree)}",
            code=INCOMPLETE,
            hint="start the node: it fetches what is missing from the others",
        )
    if log.tree.root(found.size) != found.root:
        names = {key.name.removeprefix(f"{log.name}/") for key in signers if key.type == n.COSIGNATURE}
        who = ", ".join(sorted(names)) or "nobody"
        raise Failure(
            f"{path} is not of this log's past: another root of {count(found.size, 'entry')}, cosigned by {who}",
            code=CONTRADICTION if signers else INVALID,
            hint="keep both: together they are evidence" if signers else "nothing in it is signed by a member",
        )
    return found.size, data


def _check_same_log(target: Path, log: Log) -> None:
    """Refuse a folder that holds another log, before anything is mixed."""
    path = target / tiles.CHECKPOINT
    if not path.exists():
        return
    with judged(path):
        found = tlog.Checkpoint.decode(n.parse(contents(path)).text)
    if found.origin != log.name or found.size > len(log.tree) or log.tree.root(found.size) != found.root:
        raise _foreign(path)


def _foreign(path: Path) -> Failure:
    return Failure(
        f"couldn't export the ledger: {path} is of another log, or of another history of this one",
        code=INVALID,
        hint="name an empty folder; keep this one if it should have been the same",
    )


def _hashes(path: Sequence[bytes]) -> str:
    return f"{len(path)} hash{'' if len(path) == 1 else 'es'}"


def _moment(time_s: int) -> str:
    try:
        return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"second {time_s}"
