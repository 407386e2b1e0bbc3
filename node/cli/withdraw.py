"""`swarm withdraw`: a site takes back what it has learnt for the others, and everybody sees which models hold it."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.control import ask
from node.cli.init import FOLDER, JSON
from node.cli.ledger.lineage import held_words
from node.cli.ledger.reading import names_of, read
from node.cli.output import emit
from node.governance import latest_round, no_rounds
from node.lineage import holding, works_of
from node.site import Site
from swarm.errors import UsageError
from swarm.ledger.participation import rounds_words


class Rounds(click.ParamType[tuple[int, int]]):
    """Rounds on the command line: `4`, or `4-9`."""

    name = "rounds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the first and the last."""
        if isinstance(value, tuple):
            return value
        first, _, last = str(value).partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            self.fail(f"{value!r} are no rounds: write them as 4 or 4-9", param, ctx)
        return int(first), int(last or first)


@click.command()
@FOLDER
@click.option("--rounds", type=Rounds(), metavar="A-B", help="Those whose work is taken back; default: all so far.")
@click.option("--yes", "sure", is_flag=True, help="Say it. Without, only show which models hold the work.")
@JSON
def withdraw(folder: Path, rounds: tuple[int, int] | None, *, sure: bool, as_json: bool) -> None:
    """Say on record that the work of the site in FOLDER is taken back, and show which models hold it.

    Nothing on record is changed, and a model cannot be made to forget: what follows is for the members to decide. A
    swarm can begin again from the last model without that work: `swarm charter new --after FOLDER --at-round N`.
    """
    site = Site(folder)
    me = site.node()
    files, result = read(folder)
    first, last = rounds or (1, latest_round(result.state))
    if why := no_rounds(result.state, first, last):
        raise UsageError(why, hint="write the first round and the last, as in --rounds 2-3")
    works = works_of(result, me, first, last)
    if not works:
        name = names_of(result).get(me, me.hex()[:8])
        raise UsageError(
            f"couldn't withdraw the work of {name} of {rounds_words(first, last)}: there is none on record",
            hint="`swarm ledger peer` lists what a site has contributed",
        )
    found = holding(files.signed, result, works)
    if sure:
        ask(site.control, f"withdraw {first} {last}")
    said = "Said on record" if sure else "Nothing was said yet: add --yes to say it"
    text = f"{held_words(found, result, folder)}\n{said}: this site takes back its work of {rounds_words(first, last)}."
    plain = {"first": first, "last": last, "said": sure, "models": list(found.rounds), "clean": found.clean}
    emit(plain, as_json=as_json, text=text)
