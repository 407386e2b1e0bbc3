"""SHELL. The folder: settings, keys, card, charter, and whether they belong together."""

from __future__ import annotations

import os
from pathlib import Path

from node.cli.output import count
from node.doctor.case import Case
from node.doctor.finding import Finding, fail, warn, well
from node.egress.folder import objections_at, record_at, waiting_at
from node.egress.policy import MISFIT, REMEDY, refusal
from node.egress.record import rounds_out
from node.task import task_digest
from node.vault import is_sealed
from swarm import charter as terms


def settings(case: Case) -> list[Finding]:
    """The settings can be read, all layers of them."""
    found = case.settings
    changed = sorted(
        key for key, origin in found.origin.items() if origin not in ("default", str(case.site.settings_path))
    )
    more = f"; {', '.join(changed)} from elsewhere" if changed else ""
    told = [well("settings", f"{case.site.settings_path.name} can be read: this is {found.site.name!r}{more}")]
    password = case.site.folder / found.network.proxy_password_file
    return [*told, *(_readable(password, "settings") if password.is_file() else ())]


def keys(case: Case) -> list[Finding]:
    """The keys are there, whole, and for nobody else on this machine to read."""
    identity = case.identity
    sealed = all(is_sealed(path.read_text(encoding="ascii", errors="replace")) for path in case.site.key_files())
    how = "encrypted" if sealed else "not encrypted (`swarm key encrypt`)"
    text = f"both keys are there, {how}, and only this user can read them"
    found = [well("keys", text, node=case.node.hex(), encrypted=sealed)]
    if not sealed and case.site.vault.locked:
        text = "some keys are encrypted and some are not: encrypting or decrypting them did not come to its end"
        found.append(warn("keys", text, "run the same command again, with the same passphrase"))
    found += _seen_by_others(case)
    if case.site.card_path.exists():
        card = terms.card_from_toml(case.site.card_path.read_text(encoding="utf-8", errors="replace"))
        if card.id_key != identity.id_key.public or card.curve_key != identity.curve_public:
            text = f"{case.site.card_path.name} is of other keys than those in {case.site.keys.name}/"
            found.append(
                warn("keys", text, "send nobody this card; `swarm rotate` and `swarm keygen` write right ones")
            )
    return found


def _seen_by_others(case: Case) -> list[Finding]:
    """Secrets that others on this machine can read, or whose owner is somebody else."""
    keys, found = case.site.keys, []
    mode = keys.stat().st_mode & 0o777
    if mode & 0o077:
        text = f"others on this machine can look into {keys} (mode {mode:o})"
        found.append(warn("keys", text, f"run chmod 700 {keys}"))
    for path in case.site.key_files():
        found += _readable(path, "keys")
    return found


def _readable(path: Path, check: str) -> list[Finding]:
    """Say if a secret file is for others to read, or belongs to somebody else."""
    status, found = path.stat(), []
    if status.st_mode & 0o077:
        text = f"others on this machine can read {path} (mode {status.st_mode & 0o777:o})"
        found.append(warn(check, text, f"run chmod 600 {path}"))
    if status.st_uid not in (0, os.geteuid()):
        text = f"{path} belongs to another user, who can read and replace it"
        found.append(warn(check, text, f"run chown {os.geteuid()} {path}, as root"))
    return found


def charter(case: Case) -> list[Finding]:
    """The charter is there, and everybody has signed it."""
    signed = case.signed
    text = f"{signed.charter.name}, signed by all {len(signed.charter.members)}; compare with the others: "
    return [well("charter", text + signed.ledger_id.hex()[:16], ledger_id=signed.ledger_id.hex())]


def member(case: Case) -> list[Finding]:
    """This site is in it, by the keys it holds and the address it is known by."""
    index = case.terms.index(case.node)
    if case.joining:
        case.site.load_sponsors()  # Says in words what is wrong with it, once: all that looks at the network needs it.
        text = f"this site is no member of {case.signed.charter.name!r} yet, as far as its own ledger tells"
        return [warn("member", text, "start it, if `swarm join` has said that it is one; else run that again")]
    if index is None:
        text = f"this site's keys are not among those of {case.signed.charter.name!r}"
        remedy = "put the charter there that has this site's card, or restore the keys that belong to it"
        return [fail("member", text, remedy, identifier="SWARM-SITE-MEMBER")]
    seat, mine = case.terms.members[index], case.settings
    found = [well("member", f"this site is {seat.name!r}, member {index + 1} of {len(case.terms.members)}")]
    if seat.curve_key != case.identity.curve_public and case.site.load_successor() is None:
        text = "the members know this site by another transport key than the one in its folder"
        remedy = "restore keys/ from your backup; without it, leave and join again"
        found.append(fail("member", text, remedy, identifier="SWARM-SITE-KEYS"))
    if mine.site.name != seat.name:
        text = f"the settings call this site {mine.site.name!r}, the charter {seat.name!r}"
        found.append(warn("member", text, f'write name = "{seat.name}" below [site]: logs and seeds go by it'))
    if seat.endpoint and not mine.site.listen:
        text = f"others dial this site at {seat.endpoint}, and it does not listen"
        found.append(fail("member", text, "write `listen` below [site], or `swarm rotate` to an empty address"))
    return found


def task(case: Case) -> list[Finding]:
    """The task file is the charter's, and there are data to hand it."""
    settings_, wanted = case.settings.task, case.signed.charter.task.digest
    path, data = case.site.folder / settings_.file, case.site.folder / settings_.data
    found = []
    if not path.is_file():
        text = f"there is no task file {path}"
        found.append(fail("task", text, "put it there, or name another below [task]", identifier="SWARM-TASK-FILE"))
    elif task_digest(path) != wanted:
        remedy = f"get the file whose SHA-256 begins {wanted.hex()[:16]}"
        text = f"{path.name} is not the file that the charter was made with"
        found.append(fail("task", text, remedy, identifier="SWARM-TASK-FILE"))
    else:
        found.append(well("task", f"{path.name} is the charter's ({wanted.hex()[:16]})"))
    if not data.exists():
        text = f"there are no data at {data}"
        found.append(fail("data", text, "put them there, or write where they are as `data` below [task]"))
    if settings_.loader and not (case.site.folder / settings_.loader).is_file():
        text = f"there is no loader {case.site.folder / settings_.loader}"
        found.append(fail("data", text, "put it there, or leave `loader` below [task] out"))
    return found


def egress(case: Case) -> list[Finding]:
    """The charter asks for no more than this site lets out, and the record of what has left is whole."""
    against = objections_at(case.site, case.settings, case.signed, case.node)
    if against:
        return [fail("egress", refusal(against, case.signed.charter.name), REMEDY, identifier=MISFIT)]
    lines = record_at(case.site).lines()
    offer = waiting_at(case.site).offer()
    left = f"updates of {count(len(rounds_out(lines)), 'round')} have left this site, each written down before"
    found = [well("egress", f"{left}; the charter asks for no more than may")]
    if offer is not None and waiting_at(case.site).decision() is None:
        text = f"the update of round {offer.round} waits for this site's people"
        found.append(warn("egress", text, "`swarm approve` shows what would leave, and lets it out"))
    return found


def ledger(case: Case) -> list[Finding]:
    """How far this site's own ledger has come."""
    if case.status is not None:
        return [
            well("ledger", f"the node runs, at block {case.status['height']}", height=int(str(case.status["height"])))
        ]
    if not (case.site.ledger / "blocks").is_dir():
        return [well("ledger", "there is none yet: it begins when the node starts")]
    return [well("ledger", f"there is one, in epoch {case.terms.epoch}; `swarm ledger verify` checks all of it")]
