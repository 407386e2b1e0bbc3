"""`swarm approve`: show the update that waits for this site's people, and let it out or not."""

from __future__ import annotations

import getpass
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.output import NOT_FOUND, Failure, emit
from node.clock import Clock
from node.console import size_words
from node.egress.folder import waiting_at
from node.egress.waiting import REASON_CHARACTERS_MAX, Decision, Offer
from node.site import Site
from swarm.errors import UsageError

DIGITS_MIN = 8
"""Of an update's digest on the command line. There is only one that waits."""


@click.command(epilog="Example: swarm approve hospital --digest 3f9a5c21")
@FOLDER
@click.option("--round", "round_", type=click.IntRange(1), help="Let out the update of this round, unasked.")
@click.option("--digest", metavar="HEX", help="Let out the update whose digest begins so, unasked.")
@click.option("--reject", metavar="REASON", help="Do not let it out. The reason stays in this site's record.")
@JSON
def approve(folder: Path, round_: int | None, digest: str | None, reject: str | None, *, as_json: bool) -> None:
    """Show the update that waits at the site in FOLDER, and let it out if a person says so.

    On a terminal it asks. Elsewhere it only shows, unless an option says what to do. Its peer need not run: the word
    holds from the next start on.
    """
    site = Site(folder)
    if not site.settings_path.exists():
        raise UsageError(f"couldn't find a site in {site.folder}", hint="name the folder of a site")
    waiting = waiting_at(site)
    offer = waiting.offer()
    if offer is None:
        raise Failure(
            f"couldn't find an update that waits in {site.folder}",
            code=NOT_FOUND,
            hint="egress.approve says which updates wait; `swarm egress log` shows what has left",
        )
    _check_meant(offer, round_, digest)
    if reject is not None and not 0 < len(reject.strip()) <= REASON_CHARACTERS_MAX:
        hint = f"write why, in at most {REASON_CHARACTERS_MAX} characters"
        raise UsageError("couldn't reject an update without a reason, or with so long a one", hint=hint)
    said = waiting.decision()
    yes: bool | None = None
    if reject is not None:
        yes = False
    elif said is None and (round_ is not None or digest is not None):
        yes = True
    elif said is None and not as_json and _somebody_is_there():
        click.echo(shown(offer))
        yes = click.confirm("Let it out?", default=None)
        reject = None if yes else click.prompt("Why not?", type=str)[:REASON_CHARACTERS_MAX]
    if said is not None and (said.yes or yes is not None):
        before = "let out" if said.yes else "not to be let out"
        raise UsageError(
            f"couldn't decide on the update of round {offer.round}: {said.by} has said already that it is {before}",
            hint="what has been said is carried out when the peer runs; `swarm egress log` shows that it was",
        )
    if yes is not None:
        now_ms = int(Clock().now() * 1000)
        reason = (reject or "").strip()
        waiting.decide(Decision(update=offer.update, yes=yes, reason=reason, by=_person(), time_ms=now_ms))
    state = "waiting" if yes is None else "approved" if yes else "rejected"
    emit({**plain(offer), "state": state}, as_json=as_json, text=_words(offer, yes))


def plain(offer: Offer) -> dict[str, object]:
    """Return an update that waits, for programs."""
    return {
        "round": offer.round,
        "update": offer.update,
        "bytes": offer.size,
        "norm": offer.norm,
        "samples": offer.samples,
        "metrics": offer.told,
        "epsilon": offer.privacy[0] / 1000 if offer.privacy[0] else None,
        "to": list(offer.to),
        "made_ms": offer.made_ms,
    }


def shown(offer: Offer) -> str:
    """Return what would leave, for people."""
    made = datetime.fromtimestamp(offer.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = ", ".join(f"{name} {value:.4g}" for name, value in offer.told.items()) or "none"
    private = f"epsilon {offer.privacy[0] / 1000:.3f} so far, delta 1e-{offer.privacy[1]}" if offer.privacy[0] else "no"
    what = "the model it leads to" if offer.whole else "how the model changed by this site's training"
    lines = [
        f"round       {offer.round}, trained {made}",
        f"what        {what}, {size_words(offer.size)}",
        f"norm        {offer.norm:.4g}",
        f"metrics     {told} (of {offer.samples} samples)",
        f"private     {private}",
        f"visible to  {', '.join(offer.to) or 'nobody else: this site is alone'}",
        f"digest      {offer.update}",
    ]
    return "\n".join(lines)


def _words(offer: Offer, yes: bool | None) -> str:
    if yes is None:
        return f"{shown(offer)}\nIt waits. Let it out: swarm approve --digest {offer.update[:16]}, or --reject REASON"
    done = "let out: it leaves as soon as the peer runs" if yes else "rejected: it never leaves this site"
    return f"the update of round {offer.round} ({offer.update[:16]}) is {done}"


def _check_meant(offer: Offer, round_: int | None, digest: str | None) -> None:
    """Raise `Failure` if something else is meant than what waits."""
    if digest is not None and (len(digest) < DIGITS_MIN or digest.lower().strip("0123456789abcdef")):
        hint = f"give at least {DIGITS_MIN} hexadecimal digits of it"
        raise UsageError(f"couldn't use {digest[:80]!r} as the digest of an update", hint=hint)
    another = (round_ is not None and round_ != offer.round) or not offer.update.startswith((digest or "").lower())
    if another:
        raise Failure(
            f"couldn't find that update: what waits is of round {offer.round}, {offer.update[:16]}",
            code=NOT_FOUND,
            hint="`swarm approve` shows it; look at it before you let it out",
        )


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # A container's user without a name.
        return f"user {os.getuid()}"
