"""`swarm status`: ask the running peer, over its local socket, how things stand."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import click

from node.cli.control import ask
from node.cli.forms import told
from node.cli.init import FOLDER
from node.cli.output import INCOMPLETE, Failure, Form, emit
from node.clock import sleep
from node.console import bar, latency_words, member_state
from node.site import Site
from node.terminal import Claim, can_be_drawn_on, fitted
from swarm.errors import SwarmError, UsageError
from swarm.ledger.participation import ranges


@click.command()
@FOLDER
@told(short=False)
@click.option("--watch", is_flag=True, help="Ask again every second.")
def status(folder: Path, *, form: Form, watch: bool) -> None:
    """Ask the peer of the site in FOLDER how things stand."""
    control, as_json = Site(folder).control, form is Form.JSON
    if not watch:
        answer = {**ask(control), **spent_of(Site(folder))}
        emit(answer, as_json=as_json, text=render(answer))
        if answer.get("refused"):  # A node that was started before an update does not say it.
            raise SystemExit(INCOMPLETE)
        return
    claim = Claim(sys.stdout) if not as_json and can_be_drawn_on(sys.stdout, os.environ) else None
    try:
        if claim is not None and not claim.granted:
            raise UsageError(
                f"couldn't watch {folder} here: another live view draws on this terminal",
                hint="watch it in a terminal of its own, or ask once: swarm status",
            )
        _watch(folder, as_json=as_json, drawing=claim is not None)
    except KeyboardInterrupt:  # The way to end it.
        return
    finally:
        if claim is not None:
            claim.close()


def _watch(folder: Path, *, as_json: bool, drawing: bool) -> NoReturn:
    """Ask again and again. A node that was there and is away is waited for, where people look on."""
    site, seen = Site(folder), False
    while True:
        answer: Mapping[str, object] = {}
        try:
            answer = {**ask(site.control), **spent_of(site)}
            text, seen = render(answer), True
        except Failure as error:
            if as_json or not seen:
                raise
            text = f"{error.message}\nlooking again every second; Ctrl-C ends it"
        if drawing:
            size = shutil.get_terminal_size()
            # The last line stays empty: a terminal may scroll for the end of a line in it.
            text = fitted(text, size.columns, max(size.lines - 1, 1))
            click.clear()  # Only now that there is something to show in its place.
        emit(answer, as_json=as_json, text=text)
        sleep(1.0)


def render(answer: Mapping[str, object]) -> str:
    """Return a status in words."""
    rounds, committed = int(str(answer["rounds"])), int(str(answer["committed"]))
    lines = [
        f"{answer['swarm']}   {answer['me']}",
        f"rounds     {committed} of {rounds} committed  {bar(committed, rounds)}",
        f"ledger     block {answer['height']}, {answer['entries']} entries, root {str(answer['root'])[:16]}",
        f"model      {_model(answer)}",
        f"quorum     {answer['quorum']}  ({answer['tolerance']})",
    ]
    lines += _masks(answer)
    lines += [f"site noise {answer['site_noise']}"] if answer.get("site_noise") else []
    lines += _outcome(answer)
    lines += _unlike(answer)
    lines += _cut(answer)
    lines += [f"{key.upper():<10} {answer[key]}" for key in ("refused", "paused", "halted") if answer.get(key)]
    lines += [f"THIS SITE  trains nothing: {answer['resting']}"] if answer.get("resting") else []
    lines += [f"THIS SITE  {answer['waiting']}"] if answer.get("waiting") else []
    lines += [f"scores     {answer['unscored']}"] if answer.get("unscored") else []
    lines += [f"privacy    {answer['privacy']}"] if answer.get("privacy") else []
    members = answer["members"]
    assert isinstance(members, list), "a status lists members"
    for member in members:
        mark, words, _ = member_state(member)
        lines.append(f"  {mark} {member['name']:<16} round {member['round']:<4} {words}{_held(member)}{_trip(member)}")
    return "\n".join(lines)


def spent_of(site: Site) -> dict[str, str]:
    """Return what of its privacy budget the site has spent, in words; nothing where it has no budget and spent nothing.

    The file is the site's own, and this command's to read: a node that is at work need not be asked.
    """
    if not site.spending_path.exists():
        return {}
    from node.cli.privacy import account_of  # Only now anybody waits for the accountant.

    try:
        return {"privacy": account_of(site).words()}
    except SwarmError as error:
        return {"privacy": error.message}


def _outcome(answer: Mapping[str, object]) -> list[str]:
    """Return how the run ended, and without whom; nothing while it goes on, or waits, which is told as paused."""
    outcome, gaps = answer.get("outcome"), answer.get("gaps")
    if outcome not in ("DONE", "FAILED"):
        return []
    lines = [f"{outcome!s:<10} {answer['reason']}"]
    if isinstance(gaps, Mapping):
        missing = "; ".join(f"{name} in round{'s' * (len(r) > 1)} {ranges(r)}" for name, r in gaps.items())
        lines.append(f"took part  {f'a SUBSET: no work of {missing}' if missing else 'every site, in every round'}")
    return lines


def _masks(answer: Mapping[str, object]) -> list[str]:
    """Return how far the open round has come with its masks, where updates are masked."""
    masks = answer.get("masks")  # A node that was started before an update does not say it.
    if not isinstance(masks, Mapping) or answer.get("outcome") == "DONE":
        return []
    words = {
        "keys": "have posted keys",
        "deals": "have dealt shares of their secrets",
        "offers": "have offered what they masked",
        "reveals": "have revealed what the sum takes",
        "void": "",
    }[masks["stage"]]
    if not words:
        return [f"masks      round {masks['round']} is void: no sum could be had, and the model stays as it was"]
    again = f", attempt {masks['attempt']}" if masks["attempt"] > 1 else ""
    return [f"masks      round {masks['round']}{again}: {masks['done']} of {masks['of']} {words}"]


def _unlike(answer: Mapping[str, object]) -> list[str]:
    """Return which updates of the last mean are unlike the others, and in what."""
    likeness = answer.get("likeness")  # A node that was started before an update does not say it.
    if not isinstance(likeness, Mapping):
        return []
    return [
        f"LOOK AT    {site['name']}, round {likeness['round']}: {site['unlike']}"
        for site in likeness["sites"]
        if site["unlike"]
    ]


def _cut(answer: Mapping[str, object]) -> list[str]:
    """Return that this site's last update was cut, or is of nothing."""
    own = answer.get("own_update")  # A node that was started before an update does not say it.
    return [f"THIS SITE  {own['told']}"] if isinstance(own, Mapping) and own.get("told") else []


def _model(answer: Mapping[str, object]) -> str:
    """Return the common model; in gossip, which has one at the end only, that of this site."""
    if answer["model"] is not None:
        return str(answer["model"])[:16]
    own = answer.get("own_model")
    return "each site has its own, this site none yet" if own is None else f"{str(own)[:16]}, this site's own"


def _trip(member: Mapping[str, object]) -> str:
    """Return how long a word to a member and its answer take, once that is known."""
    trip = member.get("round_trip_s")  # A node that was started before an update does not say it.
    return "" if trip is None else f", {latency_words(float(str(trip)))} there and back"


def _held(member: Mapping[str, object]) -> str:
    """Return whose models a member says it holds in a round of gossip."""
    match member.get("holds"):
        case [*names]:
            return f", holds the models of {', '.join(map(str, names))}" if names else ", holds no model of a partner"
        case _:
            return ""
