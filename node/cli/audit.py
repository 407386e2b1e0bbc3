"""`swarm privacy audit`: attacks on a site's own updates, before it joins and while it takes part."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from node.audits import BEFORE, OFFERED, Audits, broken, leaks, lines
from node.cli.control import ask
from node.cli.init import FOLDER, JSON
from node.cli.output import FAILED, NOT_FOUND, Failure, check_task, count, emit
from node.clock import Clock, sleep
from node.config import Settings
from node.loop.form import is_script
from node.site import Site
from node.spending import budget_of
from node.storage import BlobStore, RealDisk, hold, store_error
from node.task import task_digest
from swarm import charter as terms
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.ledger import entry as e
from swarm.ledger.journal import FEED, Placed, scan
from swarm.machine import Digest
from swarm.privacy.accounting import Budget

ROUNDS, REFERENCES, INVERSION_STEPS, MINUTES = 5, 4, 200, 60
DELTA_DEFAULT = 1e-5
SEED_BITS = 48
LOOK_S = 0.1
"""Between looks at what this site offers: an update is here for as long as its round takes to close."""


@click.command()
@FOLDER
@click.option("--offered", is_flag=True, help="Attack an update that this site has offered, from its store.")
@click.option("--round", "round_", type=click.IntRange(1), help="With --offered: of this round.  [default: the last]")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=ROUNDS, show_default=True, help="Rounds of each training."
)
@click.option(
    "--references",
    type=click.IntRange(2, 256),
    default=REFERENCES,
    show_default=True,
    help="Trainings that the attacker compares with, an even number.",
)
@click.option("--canaries", type=click.IntRange(0), default=0, help="Put so many records with wrong labels in.")
@click.option(
    "--inversion-steps",
    type=click.IntRange(0, 100_000),
    default=INVERSION_STEPS,
    show_default=True,
    help="Steps of the search for records in an update; 0 for no search.",
)
@click.option(
    "--minutes",
    type=click.IntRange(1),
    default=MINUTES,
    show_default=True,
    help="Begin nothing longer; with --offered, wait no longer for an update.",
)
@click.option("--seed", type=click.IntRange(0), help="Of the coins.  [default: drawn, and recorded]")
@JSON
def audit(
    folder: Path,
    round_: int | None,
    rounds: int,
    references: int,
    canaries: int,
    inversion_steps: int,
    minutes: int,
    seed: int | None,
    *,
    offered: bool,
    as_json: bool,
) -> None:
    """Attack what the site in FOLDER would offer, or has offered, and say how far that gets.

    Without --offered the task is trained on this site's data as the charter would have it, several times, each with
    some records left out: nothing leaves, and nothing is spent. What is found is added to privacy/audits. An attack
    that finds nothing proves nothing. Ends with 1 if more was spent than the account says.
    """
    site = Site(folder)
    settings = site.load_settings()
    signed = _charter(site, settings)
    task = site.folder / settings.task.file
    check_task(task)
    if is_script(task):
        raise UsageError("couldn't audit a script: its training is its own", hint="audit the same training as a task")
    if round_ is not None and not offered:
        raise UsageError("couldn't audit a round that is not said to be offered", hint="add --offered")
    if offered and canaries:
        raise UsageError("couldn't put canaries into what was offered already", hint="leave --canaries out")
    audits = Audits(site.audits_path)
    audits.all()  # What is damaged is said before anything is trained.
    own = Budget(settings.privacy.epsilon, settings.privacy.delta) if settings.privacy.epsilon else None
    budget = own if signed is None else budget_of(settings, signed)
    delta = DELTA_DEFAULT if budget is None else budget.delta
    asked = {"rounds": rounds, "references": references, "canaries": canaries, "inversion_steps": inversion_steps}
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    request = {
        **asked,
        "what": OFFERED if offered else BEFORE,
        "setting": _setting(site, settings, signed, budget),
        "threads": settings.task.threads,
        "delta": delta,
        "minutes": minutes,
        "seed": seed,
    }
    if offered:
        number, result = _attack_offered(site, signed, round_, request)
    else:
        number = 0
        _say(
            f"{1 + references} trainings of {count(rounds, 'round')}, {count(inversion_steps, 'step')} of inversion on"
            f" each of up to 4 updates, about {count(minutes, 'minute')} at most; nothing leaves this site or is spent"
        )
        result = _run(request)
    ledger = "" if signed is None else signed.ledger_id.hex()[:16]
    found = {
        **result,
        "kind": OFFERED if offered else BEFORE,
        "round": number,
        "ledger": ledger,
        "task": task_digest(task).hex(),
        "time_ms": int(Clock().now() * 1000),
        "budget": None if budget is None else [budget.epsilon, budget.delta],
        "delta": delta,
        "asked": {"seed": seed, **({"inversion_steps": inversion_steps} if offered else asked)},
    }
    audits.append(found)
    alike = [one for one in audits.all() if one["kind"] == found["kind"] and one["ledger"] == ledger]
    words = [*lines(found), f"added to {site.audits_path}, as audit {len(alike)} of its kind"]
    emit({**found, "leaks": leaks(found), "path": str(site.audits_path)}, as_json=as_json, text="\n".join(words))
    if broken(found):
        raise SystemExit(FAILED)


def _charter(site: Site, settings: Settings) -> SignedCharter | None:
    """Return the charter, signed by all or not yet: who audits before signing has a draft. None where there is none."""
    path = site.folder / settings.site.charter
    if not path.exists():
        return None
    try:
        return terms.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"couldn't read {path}: {error}") from None


def _setting(
    site: Site, settings: Settings, signed: SignedCharter | None, budget: Budget | None
) -> dict[str, str | int | float | list[float] | None]:
    """Return how this site trains, by its settings and the charter."""
    task = settings.task
    return {
        "task": str((site.folder / task.file).resolve()),
        "data": str((site.folder / task.data).resolve()),
        "loader": str((site.folder / task.loader).resolve()) if task.loader else None,
        "site": settings.site.name,
        "device": task.device,
        "seed": 0 if signed is None else signed.charter.task.seed,
        "local": "" if signed is None else signed.charter.local,
        "rounds": ROUNDS if signed is None else signed.charter.round.rounds,
        "clip": 0.0 if signed is None else signed.charter.round.clip_norm_milli / 1000,
        "budget": None if budget is None else [budget.epsilon, budget.delta],
    }


def _attack_offered(
    site: Site, signed: SignedCharter | None, wanted: int | None, request: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Return the round of an offered update, and what was found by attacking it."""
    if signed is None:
        raise UsageError("couldn't audit what was offered: this site has no charter", hint="leave --offered out")
    site.audits_path.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".offered-", dir=site.audits_path.parent) as place:
        held = _held(site, signed, wanted, Path(place), end_s=Clock().now() + 60 * request["minutes"])
        _say(
            f"the update of round {held.round} is attacked, {count(request['inversion_steps'], 'step')} of inversion;"
            " nothing leaves this site"
        )
        where = {"base": str(held.base.resolve()), "update": str(held.update.resolve())}
        form = {"coded": signed.charter.codec is not None, "salt": signed.charter.salt}
        return held.round, _run({**request, **where, **form})


@dataclass(frozen=True, slots=True)
class Update:
    """An update of this site's own, held where its node does not let go of it, and the model that it began with."""

    round: int
    base: Path
    update: Path


def _held(site: Site, signed: SignedCharter, wanted: int | None, place: Path, *, end_s: float) -> Update:
    """Return an update that this site has offered, linked into an empty folder of the same disk.

    A node keeps an update while its round is open, and rounds are much of their time in training: where none is here
    and the node runs, the next is waited for, until `end_s`.

    Raises:
        UsageError: there is nothing in this swarm that could be attacked.
        Failure: none is here, and none came.
    """
    charter, clock, told = signed.charter, Clock(), False
    if charter.round.mixing != "exact":
        raise UsageError(
            "couldn't audit what was offered: in this swarm sites offer whole models, not updates",
            hint="leave --offered out",
        )
    if charter.masks:
        raise UsageError(
            "couldn't audit what was offered: updates are masked here, and nobody sees one", hint="leave --offered out"
        )
    if charter.route is not None:
        raise UsageError(
            "couldn't audit what was offered: on this route updates travel in parts", hint="leave --offered out"
        )
    while True:
        said = _said(site, signed)
        for number, base, update in said:
            if wanted in (None, number) and _linked(site, place, base=base, update=update):
                return Update(number, place / "base", place / "update")
        if (wanted is not None and said and said[0][0] > wanted) or not _runs(site) or clock.now() > end_s:
            break
        if not told:
            told = True
            _say("no such update is here at the moment; the next that this site offers is waited for")
        sleep(LOOK_S)
    which = "no update of this site" if wanted is None else f"no update of round {wanted}"
    raise Failure(
        f"couldn't audit what was offered: {which} is in its store with the model it began with",
        code=NOT_FOUND,
        hint="updates are let go of once nobody needs them; audit while the run is on, and the next is waited for",
    )


def _said(site: Site, signed: SignedCharter) -> list[tuple[int, Digest, Digest]]:
    """Return what this site has offered last, newest first: round, model it began with, update. By its own feed.

    That is written as an update is offered, before any block has it, and what blocks have had for long is gone from it.
    """
    if not (site.ledger / FEED).is_dir():
        return []
    disk, found = RealDisk(site.ledger), list[tuple[int, Digest, Digest]]()
    try:
        for part in scan(disk, FEED, signed.ledger_id):
            if isinstance(part, Placed):
                entry = e.decode_entry(part.record.payload)
                if entry.kind == e.CONTRIBUTION:
                    body = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
                    found.append((body.round, Digest(body.base_digest), Digest(body.update_digest)))
    except StoreError:
        return []  # A segment was dropped meanwhile: the next look finds the others.
    finally:
        disk.close()
    return found[::-1]


def _linked(site: Site, place: Path, *, base: Digest, update: Digest) -> bool:
    """Hold both blobs under other names, so that they stay when the node lets go of them; False if one is not whole."""
    for name, digest in (("base", base), ("update", update)):
        target = place / name
        target.unlink(missing_ok=True)
        try:
            hold(site.blobs / digest.hex(), target)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(f"copy {name} {digest.hex()[:12]}", error) from error
        if BlobStore(place).hash_file(target).digest != digest:
            return False
    return True


def _runs(site: Site) -> bool:
    """Whether a node runs in the site's folder, and its run is not over."""
    try:
        return ask(site.control, "status").get("outcome") in ("RUNNING", "PAUSED")
    except Failure:
        return False


def _run(request: Mapping[str, object]) -> dict[str, Any]:
    """Let a process of its own do it, and return what it found. Raises `SwarmError` where it could not."""
    command: Sequence[str] = [sys.executable, "-m", "node.audit"]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        assert child.stdin is not None, "asked for"
        assert child.stdout is not None, "asked for"
        try:
            child.stdin.write(json.dumps(request))
            child.stdin.close()
            for line in child.stdout:
                said = json.loads(line)
                if "say" in said:
                    _say(said["say"])
                elif "error" in said:
                    raise SwarmError(said["error"], hint=said["hint"])
                else:
                    return dict(said["found"])
        except BrokenPipeError:
            pass  # It died before it read: told below.
        finally:
            child.kill()
    raise SwarmError(
        f"couldn't audit: the process that does it ended by itself (exit code {child.returncode})",
        hint="see above for what it printed; too little memory is the usual cause",
    )


def _say(text: str) -> None:
    click.echo(text, err=True)
