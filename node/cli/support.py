"""`swarm support-bundle`: what somebody else needs to help, and nothing that is not theirs to see.

Everything in it is chosen, nothing is a copy with parts left out: settings by name, facts of the log by their fields,
numbers by their names. So what nobody thought of is not in it. docs/guides/operations.md lists what is in it, and
what never is.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from node.cli.control import ask
from node.cli.init import FOLDER, JSON
from node.cli.main import COMMANDS
from node.cli.output import Failure, check_target, emit
from node.clock import Clock
from node.config import Settings
from node.logfile import log_files
from node.recovery import state_of
from node.site import Site
from node.storage import store_error
from node.telemetry.lines import PRIVATE
from swarm.errors import SwarmError, UsageError

LIBRARIES = (
    "swarm-node",
    "blake3",
    "click",
    "msgpack",
    "msgspec",
    "networkx",
    "numpy",
    "PyNaCl",
    "pyzmq",
    "rich",
    "torch",
)

WORDS = {"site.name", "site.approve", "task.device", "ledger.catch_up", "run.log", "run.log_level"}
"""Settings that are words of this software, or the site's name: their text is told. Of all other text, a path, an
address or something that nobody thought of here, only whether it was set. Numbers are always told."""

VALUES = {"round", "height", "epoch", "members", "peer", "stretch", "blocks", "entries", "signal", "distance_ppm"}
"""Values of facts in the log that are told; all others, metrics among them, are not."""

TOLD = {
    "status": ("swarm", "me", "height", "entries", "root", "epoch", "member", "rounds", "round", "committed", "phase"),
    "more": ("resting", "paused", "halted", "quorum", "tolerance", "eta_s", "policy"),
    "member": ("name", "me", "member", "linked", "absent", "refused", "round", "phase", "contributed", "moved_s"),
    "link": ("received_bytes", "sent_bytes", "clock_offset_ms", "round_trip_s", "round_trip_variation_s"),
}

DOCTOR_S = 120.0
"""How long an examination of this site may take."""

LINES_MAX = 50_000
"""Newest lines of the log that are looked at."""

LINE_CHARACTERS_MAX = 400

_PATH = re.compile(r"(?<![\w:/])~?/[^\s,;'\"]+|[A-Za-z]:\\[^\s,;'\"]+")
_HEX = re.compile(r"\b[0-9a-fA-F]{16,}\b")
_QUOTED = re.compile(r"(?<!\w)'[^'\n]*'|\"[^\"\n]*\"")
_AT = re.compile(
    r"\b(?:tcp|https?|socks5h?|ipc)://[^\s,;)'\"]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:.%]+\](?::\d+)?"
)


@click.command(name="support-bundle", epilog="Example: swarm support-bundle hospital -o for-support.tar.gz")
@FOLDER
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write. Default: support-NAME-DATE.tar.gz."
)
@click.option(
    "--metrics", is_flag=True, help="Put in what facts of the log say of this site's metrics and samples, too."
)
@JSON
def support_bundle(folder: Path, output: Path | None, *, metrics: bool, as_json: bool) -> None:
    """Gather versions, settings, link states, the ledger's head and the log of the site in FOLDER.

    Never in it: data, names of samples, keys, models, addresses, paths, and what the task has printed.
    """
    site = Site(folder)
    settings = site.load_settings()
    made = Clock().now()
    stamp = datetime.fromtimestamp(made, UTC).strftime("%Y%m%dT%H%M%SZ")
    target = Path(f"support-{settings.site.name or 'site'}-{stamp}.tar.gz") if output is None else output
    check_target(target)
    if target.exists():
        raise UsageError(f"couldn't write {target}: it is there already", hint="name another file")
    log = list(_log(site, settings, metrics=metrics))
    parts: dict[str, object] = {
        "about.json": _about(made),
        "settings.json": _settings(settings),
        "ledger.json": _ledger(site, settings),
        "links.json": _links(site),
        "disk.json": _disk(site),
        "log.jsonl": log,
    }
    if "doctor" in COMMANDS:
        parts["doctor.json"] = _doctor(site)
    try:
        _write(target, parts, int(made))
    except OSError as error:
        target.unlink(missing_ok=True)
        raise store_error(f"write {target}", error) from error
    lines = len(log)
    words = (
        f"{target}: {', '.join(parts)}, {lines} lines of log\n"
        f"Look through it before you send it: tar -xzOf {target} | less"
    )
    emit({"path": str(target), "parts": list(parts), "log_lines": lines}, as_json=as_json, text=words)


def _write(target: Path, parts: Mapping[str, object], made: int) -> None:
    with target.open("xb") as file:
        target.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in parts.items():
                rows = content if name.endswith("l") and isinstance(content, list) else [content]
                text = "".join(json.dumps(row, indent=None if rows is content else 1) + "\n" for row in rows).encode()
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(text), 0o600, made
                tar.addfile(info, io.BytesIO(text))


# --- parts --------------------------------------------------------------------------------------------------------


def _about(made: float) -> dict[str, object]:
    return {
        "made": datetime.fromtimestamp(made, UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "command": Path(sys.argv[0]).name,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _settings(settings: Settings) -> dict[str, object]:
    """Return every setting and where it came from; of text that is no word of this software only whether it was set."""
    told: dict[str, object] = {}
    for key, origin in sorted(settings.origin.items()):
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        source = origin if origin == "default" or origin.startswith(("--set", "environment")) else "swarm.toml"
        hidden = isinstance(value, str) and value and origin != "default" and key not in WORDS
        told[key] = {"value": "left out" if hidden else value, "from": source}
    return told


def _ledger(site: Site, settings: Settings) -> dict[str, object]:
    """Return where the ledger on this disk stands, whether the node runs or not."""
    try:
        state = state_of(site.ledger, site.load_charter(settings))
    except SwarmError as error:
        return {"problem": _scrub(error.message)}
    return {
        "ledger_id": state.ledger_id.hex(),
        "height": state.height,
        "entries": state.frontier.size,
        "root": state.frontier.root().hex(),
        "epoch": state.terms.epoch,
        "members": len(state.terms.members),
        "quorum": state.terms.quorum,
        "round": state.round,
        "committed": state.committed.round,
        "accused": len(state.accused),
    }


def _links(site: Site) -> dict[str, object]:
    """Return what the running node says of itself and of each member."""
    try:
        answer = ask(site.control)
    except (Failure, UsageError) as error:
        return {"problem": _scrub(error.message)}
    rows = answer.get("members")
    keys = (*TOLD["member"], *TOLD["link"])
    members = [{key: _plain(row.get(key)) for key in keys} for row in rows] if isinstance(rows, list) else []
    own = {key: _plain(answer.get(key)) for key in (*TOLD["status"], *TOLD["more"])}
    return {**own, "closed": answer.get("closed"), "members": members}


def _doctor(site: Site) -> object:
    """Return what `swarm doctor` looked at and how each stands; its sentences may quote addresses and the data."""
    command = [sys.executable, "-m", "node.cli.main", "doctor", str(site.folder), "--no-task", "--format", "json"]
    try:
        said = subprocess.run(  # noqa: S603 - our own module, arguments as a list
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DOCTOR_S, check=False
        ).stdout
        return diagnosis(json.loads(said)["data"]["findings"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError, RecursionError):
        return {"problem": "swarm doctor gave no answer"}


def diagnosis(findings: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return of each finding what was looked at, whose it is, and how it stands."""
    return [{key: _plain(found.get(key)) for key in ("check", "subject", "level", "id")} for found in findings]


def _disk(site: Site) -> dict[str, object]:
    def size(folder: Path) -> int:
        return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())

    usage = shutil.disk_usage(site.folder)
    parts = {path.name: size(path) for path in (site.ledger, site.blobs, site.models) if path.is_dir()}
    return {"free_bytes": usage.free, "total_bytes": usage.total, "used_bytes": parts}


def _log(site: Site, settings: Settings, *, metrics: bool) -> Iterable[dict[str, object]]:
    """Yield the facts of the log, oldest first, each made anew of the fields that are known to be harmless."""
    if not settings.run.log_file:
        return
    lines: list[str] = []
    for path in log_files(site.folder / settings.run.log_file):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() + lines
        except OSError:
            continue
        if len(lines) > LINES_MAX:
            break
    for line in lines[-LINES_MAX:]:
        try:
            fact = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fact, dict):
            yield _fact(fact, metrics=metrics)


def _fact(fact: Mapping[str, object], *, metrics: bool) -> dict[str, object]:
    event = str(fact.get("event", ""))[:40]
    text = PRIVATE.get(event, str(fact.get("text", "")))
    told: dict[str, object] = {
        "time": fact.get("time") if isinstance(fact.get("time"), int | float) else None,
        "level": str(fact.get("level", ""))[:10],
        "event": _scrub(event),
        "text": _scrub(text if metrics else _without_numbers(event, text)),
    }
    for key, value in fact.items():
        known = key in VALUES or (metrics and event in ("trained", "evaluated") and isinstance(value, int | float))
        if known and key not in told:
            told[key] = _plain(value)
    return told


def _without_numbers(event: str, text: str) -> str:
    """Of what this site trained on, and how well, the sentence says how many and how much."""
    return "" if event in ("trained", "evaluated") else text


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value if _is_digest(value) else _scrub(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if isinstance(value, int | float | bool | None) else str(type(value).__name__)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _scrub(text: str) -> str:
    """Return a sentence without paths, addresses, quotations, and digits that could be a key."""
    for pattern, word in ((_AT, "<address>"), (_PATH, "<path>"), (_QUOTED, "<quoted>"), (_HEX, "<hex>")):
        text = pattern.sub(word, text)
    return text[:LINE_CHARACTERS_MAX]
