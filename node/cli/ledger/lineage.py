"""`swarm ledger lineage`: what a model was made of, which models hold a site's work, and what was taken back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.naming import ROUND
from node.cli.ledger.reading import WHERE, Source, date, member_named, names_of, read, round_view
from node.cli.output import emit
from node.lineage import Holding, Step, holding, steps, withdrawals, withdrawn, works_of
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.participation import ranges, rounds_words


@click.command(epilog="Example: swarm ledger lineage --of site-2")
@WHERE
@click.option("--round", "number", metavar="ROUND", help="The model of this round; default: of every committed one.")
@click.option("--of", "name", metavar="NAME", help="Which models hold the work of this site, and which does not.")
@shown
def lineage(folder: Path, number: str | None, name: str | None, *, as_json: bool) -> None:
    """Show how models descend from one another and from the sites' updates, and which hold work that was taken back."""
    files, result = read(folder)
    if name is not None:
        _tell_of(files, result, folder, name, as_json=as_json)
        return
    made = steps(result)
    if number is not None:
        wanted = ROUND.number(number)
        if wanted is None:
            raise UsageError(f"couldn't read {number!r} as a round", hint="say its number, as 3 or r3")
        round_view(result, wanted)
        made = [step for step in made if step.number == wanted]
    taken = _taken(files, result, folder)
    names = names_of(result)
    rows = [
        {
            "round": step.number,
            "base": None if step.base is None else step.base.hex(),
            "model": None if step.model is None else step.model.hex(),
            "updates": [
                {
                    "site": names[share.placed.author],
                    "entry": share.placed.index,
                    "round": share.placed.body.round,
                    "update": share.placed.body.update_digest.hex(),
                    "share": share.share,
                }
                for share in step.shares
            ],
        }
        for step in made
    ]
    lines = [line for step in made for line in _lines(step, result)] or ["no round is committed yet"]
    emit({"models": rows, **taken[0]}, as_json=as_json, text="\n".join([*lines, *taken[1]]))


def _lines(step: Step, result: Audit) -> list[str]:
    names = names_of(result)
    if step.model is None:
        return [f"round {step.number:<4} one of gossip: each site ended with a model of its own"]
    base = "the sites' own models" if step.base is None else f"{step.base.hex()[:12]} and the updates"
    lines = [f"round {step.number:<4} {step.model.hex()[:12]}  from {base}"]
    for share in step.shares:
        body = share.placed.body
        late = f", of round {body.round}" if body.round != step.number else ""
        who = f"{names[share.placed.author]:<18}"
        lines.append(f"             {share.share:>6.1%}  {who} {body.update_digest.hex()[:12]}{late}")
    return lines


def _taken(files: Source, result: Audit, folder: Path) -> tuple[dict[str, object], list[str]]:
    """Return what was taken back and which models hold it, for programs and in words."""
    names = names_of(result)
    notes = withdrawals(result)
    found = holding(files.signed, result, withdrawn(result))
    plain: dict[str, object] = {
        "withdrawals": [
            {
                "site": names[one.author],
                "entry": one.index,
                "time_ms": one.time_ms,
                "first": one.body.first,
                "last": one.body.last,
            }
            for one in notes
        ],
        "holding": list(found.rounds),
        "clean": found.clean,
    }
    if not notes:
        return plain, []
    lines = ["", "Taken back:"]
    for one in notes:
        words = rounds_words(one.body.first, one.body.last)
        lines.append(f"  {names[one.author]:<18} its work of {words}, on {date(one.time_ms)}, entry {one.index}")
    return plain, [*lines, held_words(found, result, folder)]


def _tell_of(files: Source, result: Audit, folder: Path, name: str, *, as_json: bool) -> None:
    node = member_named(names_of(result), name)
    found = holding(files.signed, result, works_of(result, node, 1, result.state.round))
    emit(
        {"site": name, "models": list(found.rounds), "clean": found.clean, "sites": _sites(found, result)},
        as_json=as_json,
        text=held_words(found, result, folder),
    )


def _sites(found: Holding, result: Audit) -> dict[str, Sequence[str]]:
    names = names_of(result)
    return {str(number): [names[node] for node in nodes] for number, nodes in found.sites.items()}


def held_words(found: Holding, result: Audit, folder: Path) -> str:
    """Say which models hold some work, which is the last without it, and how the ledger in `folder` is continued."""
    if not found.rounds:
        return "No committed model holds that work."
    clean = "the initial model" if not found.clean else f"the model of round {found.clean}"
    lines = [f"The models of round{'s' if len(found.rounds) > 1 else ''} {ranges(found.rounds)} hold it."]
    every = {seat.node for seat in result.state.terms.members}
    first = next((number for number in found.rounds if every <= {*found.sites.get(number, every)}), None)
    if found.sites and first is not None and first > found.rounds[0]:
        lines.append(f"In gossip each site has its own; all of them do from round {first} on.")
    lines.append(f"The last without is {clean}: what came after has to be trained again to be without it.")
    lines.append(
        f"To go on from there: swarm charter new --after {shlex.quote(str(folder))} --at-round {found.clean} ..."
    )
    return "\n".join(lines)
