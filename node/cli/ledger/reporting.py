"""`swarm ledger report`: the whole audit as one page for people who never open a terminal."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.reading import WHERE, Source, judge, open_ledger, torn_lines
from node.cli.output import INVALID, Failure, emit
from node.clock import Clock
from node.report import Verdict
from node.report import report as page
from node.storage import write_file_durably
from swarm.ledger.audit import Audit, audit


@click.command(epilog="Example: swarm ledger report -o audit.html")
@WHERE
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("ledger-report.html"),
    show_default=True,
    help="Where to write the page.",
)
@shown
def report(folder: Path, output: Path, *, as_json: bool) -> None:
    """Verify the ledger and write what it says as one page: open it in any browser, mail it, print it.

    A ledger that does not hold gets its page too, and ends with 3.
    """
    files = open_ledger(folder)
    *_, result = audit(files.payloads(), files.signed)
    verdict = _verdict(files, result)
    made = page(result, files.signed, verdict=verdict, made_ms=int(Clock().now() * 1000))
    write_file_durably(output, made.encode(), mode=0o644)
    if not verdict.valid:
        raise Failure(f"{verdict.problem}; the report is in {output}", code=INVALID, hint=verdict.advice)
    emit({"path": str(output), "valid": True}, as_json=as_json, text=f"The ledger holds. The report is in {output}.")


def _verdict(files: Source, result: Audit) -> Verdict:
    try:
        judge(files, result)
    except Failure as failure:
        return Verdict(valid=False, problem=failure.message, advice=failure.hint)
    return Verdict(valid=True, notes=tuple(line.lstrip("! ") for line in torn_lines(files, result.blocks)))
