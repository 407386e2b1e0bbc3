"""`swarm ledger card`: the card of the model that a ledger leads to."""

from __future__ import annotations

from pathlib import Path

import click

from node.audits import Audits
from node.card import card as made_of
from node.cli.forms import shown
from node.cli.ledger.reading import WHERE, judge, open_ledger
from node.cli.output import NOT_FOUND, Failure, check_target, emit
from node.site import Site
from node.storage import write_file_durably
from swarm.ledger.audit import audit


@click.command(epilog="Example: swarm ledger card -o model-card.md")
@WHERE
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("model-card.md"),
    show_default=True,
    help="Where to write it.",
)
@shown
def card(folder: Path, output: Path, *, as_json: bool) -> None:
    """Verify the ledger, and write the card of its last model: who made it, by which terms, how it scores where.

    What only people can say stands in it as a question. In a site's folder it tells that site's audits too.
    """
    check_target(output)
    files = open_ledger(folder)
    *_, result = audit(files.payloads(), files.signed)
    judge(files, result)
    done = result.state.committed.round
    if not done:
        text = "there is no model to write a card of: no round is committed yet"
        raise Failure(text, code=NOT_FOUND, hint="`swarm ledger status` shows how far the open round has come")
    ledger = files.signed.ledger_id.hex()[:16]
    audits = (
        [one for one in Audits(Site(folder).audits_path).all() if one["ledger"] == ledger] if folder.is_dir() else []
    )
    write_file_durably(output, made_of(files.signed, result, audits).encode(), mode=0o644)
    emit(
        {"path": str(output), "round": done}, as_json=as_json, text=f"The card of round {done}'s model is in {output}."
    )
