"""`swarm egress`: what may leave this site, and what has left it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from node.cli.forms import listed
from node.cli.init import FOLDER, JSON
from node.cli.lazy import LazyGroup
from node.cli.ledger.sources import open_folder
from node.cli.output import INCOMPLETE, INVALID, Form, count, emit, emit_rows
from node.config import EgressSettings, Settings
from node.console import size_words
from node.egress import record as r
from node.egress.folder import objections_at, record_at
from node.egress.policy import REMEDY, refusal
from node.site import Site
from swarm import codec
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock

TABLE = {
    "policy": ("node.cli.egress:policy", "What this site lets out, and whether its charter asks for more."),
    "log": ("node.cli.egress:log", "What has left this site."),
}

WORDS = {
    "rounds": "rounds of which updates leave, over all swarms",
    "peers": "members that may see them",
    "update_mb": "largest update, MiB",
    "norm": "updates are clipped to, if the charter's is larger",
    "noise": "least noise of private training",
    "epsilon_round": "most epsilon a round",
    "metrics": "metrics that may be told",
    "require": "terms that a charter must have",
    "forbid": "terms that it must not have",
    "approve": "updates that wait for a person",
}


@click.group(cls=LazyGroup, table=TABLE)
def egress() -> None:
    """What may leave this site, and what has: see docs/guides/egress.md."""


@click.command()
@FOLDER
@JSON
def policy(folder: Path, *, as_json: bool) -> None:
    """Show what the site in FOLDER lets out, and whether its charter asks for more: exit 6 if it does."""
    site = Site(folder)
    settings = site.load_settings()
    found: list[str] = []
    charter = None
    if (site.folder / settings.site.charter).exists():
        signed = site.load_charter(settings)
        charter = signed.charter.name
        found = objections_at(site, settings, signed, site.node())
    own = {name: getattr(settings.egress, name) for name in WORDS}
    lines = [f"{name:<14} {_value(name, settings):<12} {text}" for name, text in WORDS.items()]
    privacy = settings.privacy
    spends = f"{privacy.epsilon:g}" if privacy.epsilon else "-"
    lines += [
        f"{'min_cell':<14} {settings.task.min_cell or '-':<12} fewest cases that scores are told of ([task])",
        f"{'epsilon':<14} {spends:<12} privacy that may be spent in all ([privacy])",
    ]
    if charter is not None:
        end = f"{charter!r} asks for no more than that."
        lines += ["", f"IT DOES NOT FIT: {refusal(found, charter)}; {REMEDY}" if found else f"The charter of {end}"]
    data = {"policy": own, "min_cell": settings.task.min_cell, "charter": charter, "objections": found}
    emit(data, as_json=as_json, text="\n".join(lines))
    if found:
        raise SystemExit(INCOMPLETE)


def _value(name: str, settings: Settings) -> str:
    value = getattr(settings.egress, name)
    default = getattr(EgressSettings(), name)
    return "-" if value == default and name not in ("approve", "metrics", "peers") else str(value) or "none"


@click.command()
@FOLDER
@click.option("--round", "round_", type=click.IntRange(1), help="Only of this round.")
@click.option("--check", is_flag=True, help="Hold it against the ledger: exit 3 if that has what this has not.")
@listed()
def log(folder: Path, round_: int | None, *, check: bool, form: Form) -> None:
    """Show what has left the site in FOLDER: each line was written before it did. Its peer need not run."""
    site = Site(folder)
    if not site.settings_path.exists():
        raise UsageError(f"couldn't find a site in {site.folder}", hint="name the folder of a site")
    lines = record_at(site).lines()
    shown = [line for line in lines if round_ in (None, line.round)]
    rest: dict[str, object] = {}
    foot: list[str] = []
    compared: r.Comparison | None = None
    if check:
        ledger, said = _said(site)
        compared = r.compare(lines, ledger, said)
        foot = _judged(compared)
        rest = {
            "check": {
                "holds": compared.holds,
                "agreed": compared.agreed,
                "before": compared.before,
                "unordered": compared.unordered,
                "unrecorded": [one.id for one in (*compared.unrecorded, *compared.unseen)],
            }
        }
    emit_rows("lines", _rows(shown), form=form, none="Nothing has left this site.", foot=foot, rest=rest)
    if compared is not None and not compared.holds:
        raise SystemExit(INVALID)


def _rows(lines: Iterable[r.Line]) -> Iterator[tuple[dict[str, object], str]]:
    for line in lines:
        when = datetime.fromtimestamp(line.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        yield line.plain(), f"{when}  {line.ledger[:8]}  round {line.round:<4} {line.what:<13} {_told(line)}"


def _told(line: r.Line) -> str:
    rest, parts = line.rest, []
    if isinstance(size := rest.get("bytes"), int):
        parts.append(size_words(size))
    if isinstance(digest := rest.get("digest"), str):
        parts.append(digest[:12])
    if isinstance(norm := rest.get("norm"), int | float):
        parts.append(f"norm {norm:.4g}")
    if isinstance(metrics := rest.get("metrics"), dict) and metrics:
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        parts.append(f"{told} of {rest.get('samples')}")
    elif isinstance(samples := rest.get("samples"), int) and samples:
        parts.append(count(samples, "sample"))
    parts += [str(rest[name]) for name in ("by", "why", "reason", "path") if rest.get(name)]
    if isinstance(to := rest.get("to"), list):
        parts.append(f"to {', '.join(str(one) for one in to) or 'nobody'}")
    return "  ".join(parts)


def _judged(compared: r.Comparison) -> list[str]:
    lines = [f"{count(compared.agreed, 'entry')} on the ledger, and this record has each"]
    if compared.before:
        lines.append(f"{count(compared.before, 'entry')} more were said before this record begins")
    if compared.unordered:
        lines.append(f"{count(compared.unordered, 'line')} the ledger does not have: not final, or never said")
    if compared.unrecorded:
        lines.append(
            f"NOT IN THIS RECORD: {', '.join(f'{one.what} of round {one.round}' for one in compared.unrecorded)}"
        )
    if compared.unseen:
        listed_ = ", ".join(f"round {one.round}" for one in compared.unseen)
        lines.append(f"UPDATES NOT IN THIS RECORD: {listed_}")
    return lines


def _said(site: Site) -> tuple[str, Sequence[r.Said]]:
    """Return the ledger's first digits, and what of it this site has said that its data went into."""
    files, me = open_folder(site.folder), site.node()
    found: list[r.Said] = []
    for payload in files.payloads():
        block = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
        for leaf in block.block.leaves:
            entry = e.decode_entry(leaf)
            told = r.told_by(entry) if entry.author == me else None
            if told is not None:
                word, body = told
                digest = body.update_digest.hex() if isinstance(body, e.Contribution) else ""
                found.append(r.Said(entry.seq, entry.id.hex(), word, body.round, digest))
    return files.signed.ledger_id.hex()[:16], found
