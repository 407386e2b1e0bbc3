"""`swarm ledger forks`: two histories that both had a quorum, and who signed both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from node.cli.forms import listed
from node.cli.ledger.reading import WHERE, Files, followed, open_ledger
from node.cli.output import CONTRADICTION, INVALID, Failure, Form, count, emit_rows
from swarm import codec
from swarm.errors import Reject
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header, faults
from swarm.ledger.evidence import RULES, judge
from swarm.ledger.forks import charges, find_fork
from swarm.machine import NodeId
from swarm.terms import Terms

PROOF_BYTES_MAX = 256 << 20


@click.command(epilog="Example: swarm ledger forks hospital")
@WHERE
@listed()
def forks(folder: Path, *, form: Form) -> None:
    """Show the forks this site has proof of, checked again here, and who signed both histories.

    A node that meets a certified history which contradicts its own stops voting and keeps that history beside its
    ledger. Exit 4 when there is any.
    """
    files = open_ledger(folder)
    proofs = sorted(files.site.ledger.glob("fork-*")) if isinstance(files, Files) else []
    result = followed(files)
    known = {view.terms.epoch: view.terms for view in result.epochs}
    ours = (
        [codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX) for payload in files.payloads()] if proofs else []
    )
    found = [_judged(path, ours, files.signed.ledger_id, known) for path in proofs]
    rows = ((fork, "\n".join(_words(fork))) for fork in found)
    if emit_rows("forks", rows, form=form, none="none: this site knows one history only"):
        raise SystemExit(CONTRADICTION)


def _judged(path: Path, ours: list[FinalBlock], ledger_id: bytes, known: Mapping[int, Terms]) -> dict[str, object]:
    """Return what a proof shows, every signature in it checked. Raises `Failure` when it shows nothing."""
    headers = [Header.decode(final.block.header) for final in ours]
    finals = {header.height: (header.hash, header.epoch) for header in headers}
    try:
        theirs = codec.decode(path.read_bytes(), tuple[FinalBlock, ...], limit=PROOF_BYTES_MAX)
        fork = find_fork(theirs, finals.get, ledger_id=ledger_id, terms_of=known.get)
    except Reject as reason:
        raise Failure(
            f"couldn't use {path}: {reason.message}", code=INVALID, hint="ask another member for its copy"
        ) from None
    if fork is None:
        raise Failure(f"couldn't use {path}: it proves no fork of this ledger", code=INVALID, hint="move it away")
    terms = [known[epoch] for epoch in sorted(known, reverse=True)]
    mine = [final for final, header in zip(ours, headers, strict=True) if header.height >= fork.height]
    liars: dict[str, list[str]] = {}
    for body in charges([mine, fork.theirs], known.get):
        try:
            judge(body, ledger_id, terms)
        except Reject:
            continue
        name = next(t.name(NodeId(body.culprit)) for t in terms if t.index(NodeId(body.culprit)) is not None)
        liars.setdefault(name, []).append(RULES[body.rule])
    first, n = Header.decode(fork.theirs[0].block.header), len(known[headers[fork.height - 1].epoch].members)
    return {
        "height": fork.height,
        "ours": fork.ours.hex(),
        "ours_ms": headers[fork.height - 1].time_ms,
        "theirs": first.hash.hex(),
        "theirs_ms": first.time_ms,
        "theirs_blocks": len(fork.theirs),
        "liars": liars,
        "liars_at_least": 2 * known[headers[fork.height - 1].epoch].quorum - n,
        "tolerated": faults(n),
        "proof": str(path),
    }


def _words(fork: Mapping[str, object]) -> list[str]:
    liars = fork["liars"]
    assert isinstance(liars, dict), "just made"
    lines = [
        f"✘ fork at block {fork['height']}: two histories, each with the signatures of a quorum",
        f"    ours     {str(fork['ours'])[:16]}   {_when(fork['ours_ms'])}",
        f"    theirs   {str(fork['theirs'])[:16]}   {_when(fork['theirs_ms'])}",
        f"    proof    {fork['proof']}, {count(int(str(fork['theirs_blocks'])), 'block')}",
        f"    signed both histories ({fork['tolerated']} tolerated, at least {fork['liars_at_least']} must have):",
    ]
    lines += [f"      {name}: {'; '.join(rules)}" for name, rules in sorted(liars.items())]
    lines.append("    Found a successor without them: swarm charter new --after FOLDER ...")
    return lines


def _when(time_ms: object) -> str:
    return datetime.fromtimestamp(int(str(time_ms)) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
