"""`swarm ledger contributions`: what each site contributed, by the charter's measure, and what that is worth."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import click

from node.cli.control import ask
from node.cli.forms import listed
from node.cli.ledger.naming import ROUND
from node.cli.ledger.reading import WHERE, Source, names_of, read, round_view
from node.cli.ledger.sources import Files
from node.cli.output import Failure, Form, count, emit_rows
from node.contributions import GAMED, Account, accounts, csv_of, in_metric, policy_words, verdicts
from node.storage import write_file_durably
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.participation import ranges

LINE_CHARACTERS = 112
"""As wide as the table."""


@click.command(epilog="Example: swarm ledger contributions --csv shares.csv")
@WHERE
@click.option("--round", "number", metavar="ROUND", help="One round instead: who says what of whose work.")
@click.option(
    "--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write the sites to this file as CSV too."
)
@listed()
def contributions(folder: Path, *, number: str | None, table: Path | None, form: Form) -> None:
    """List what each site contributed: samples, weight, agreed score with its error, and the share that follows.

    A score is the median of what the other members find, each on its own held-out data. It is indicative: see the guide
    on contributions for what it can be gamed by.
    """
    files, result = read(folder)
    if number is not None:
        if table is not None:
            raise UsageError(
                "couldn't write one round as CSV: that is a table of sites over all rounds",
                hint="leave out --round or --csv; --json prints a round for programs",
            )
        _round(result, number, form)
        return
    found = accounts(result)
    if table is not None:
        write_file_durably(table, csv_of(found).encode(), mode=0o644)
    running = _running(files)
    scored = any(one.score is not None for one in found)
    metric = result.state.signed.charter.contribution
    unit = metric.metric if metric is not None else ""
    head = [f"{policy_words(result)}"]
    head.append(
        f"  {'peer':<16} {'rounds':>6} {'samples':>10} {'weight':>7} {'of samples':>10}"
        f"  {f'worth in {unit}' if unit else '':>24}  {'share':>7}  {'judged':>13}"
    )
    rows = [(_plain(one), _line(one)) for one in found]
    gaps = [f"{one.name} in {ranges(one.gaps)}" for one in found if one.gaps]
    foot = [f"No agreed score, too few said anything in time: {'; '.join(gaps)}."] if gaps else []
    foot += _cost(running)
    foot += [fill(GAMED, LINE_CHARACTERS)] if scored or metric is not None else []
    rest = {"measure": None if metric is None else metric.text, "node": running, "note": GAMED}
    emit_rows("contributions", rows, form=form, head=head, foot=foot, rest=rest)


def _plain(one: Account) -> dict[str, object]:
    return {
        "peer": one.name,
        "node": one.node.hex(),
        "rounds": one.rounds,
        "samples": one.samples,
        "weight": round(one.weight, 6),
        "size_share": one.size_ppm / 1e6,
        "score": None if one.score is None else in_metric(one.score),
        "error": None if one.score is None else round(in_metric(one.error), 6),
        "scored": one.scored,
        "gaps": list(one.gaps),
        "share": None if one.share_ppm is None else one.share_ppm / 1e6,
        "judged": one.judged,
        "evaluations": one.evaluations,
    }


def _line(one: Account) -> str:
    score = "-" if one.score is None else f"{in_metric(one.score):+.4f} +- {in_metric(one.error):.4f}"
    share = "-" if one.share_ppm is None else f"{one.share_ppm / 1e6:.1%}"
    judged = count(one.evaluations, "model") if one.judged else "-"
    return (
        f"  {one.name:<16} {one.rounds:>6} {one.samples:>10} {one.weight:>7.1%} {one.size_ppm / 1e6:>10.1%}"
        f"  {score:>24}  {share:>7}  {judged:>13}"
    )


def _cost(running: dict[str, object] | None) -> list[str]:
    """Say what judging has cost the node that runs here: its seconds are its own and on no ledger."""
    if running is None:
        return []
    seconds, training = float(str(running["seconds"])), float(str(running["training_s"]))
    share = f", {seconds / training:.1%} of its training" if training else ""
    return [f"This site's node: {running['evaluations']} models judged in {seconds:.3g} s{share}, since it started."]


def _running(files: Source) -> dict[str, object] | None:
    """Return what the node of this site has spent on scores; None where none runs, or none is asked for."""
    if not isinstance(files, Files) or not files.site.control.exists():
        return None
    try:
        told = ask(files.site.control).get("appraisal")
    except Failure:
        return None
    return dict(told) if isinstance(told, dict) else None


def _round(result: Audit, text: str, form: Form) -> None:
    """Print one round: each contribution, what comes of it, and each scorer's word on it."""
    number = ROUND.number(text)
    if number is None:
        raise UsageError(f"couldn't read {text!r} as a round", hint="say its number, as 3 or r3")
    round_view(result, number)
    names, judged = names_of(result), result.scores.rounds.get(number)
    rows = []
    for one in () if judged is None else verdicts(judged):
        said = [{"by": names[who], "score": in_metric(v), "error": in_metric(error)} for who, v, error in one.said]
        plain: dict[str, object] = {
            "peer": names[one.author],
            "samples": one.samples,
            "score": None if one.score is None else in_metric(one.score),
            "spread": None if one.score is None else in_metric(one.spread),
            "scorers": one.scorers,
            "said": said,
        }
        words = ", ".join(
            f"{names[who]} {in_metric(value):+.4f}{' (of itself: does not count)' if who == one.author else ''}"
            for who, value, _ in one.said
        )
        score = "a gap" if one.score is None else f"{in_metric(one.score):+.4f} +- {in_metric(one.spread):.4f}"
        rows.append((plain, f"  {names[one.author]:<16} {one.samples:>8}  {score:>20}  {words or '-'}"))
    settled = judged is not None and judged.settled
    stands = "settled" if settled else "not settled yet: more scores may count"
    head = [f"round {number}, {stands}", f"  {'peer':<16} {'samples':>8}  {'median +- spread':>20}  who says what"]
    none = f"round {number}: nobody judges it; {policy_words(result)}"
    rest = {"round": number, "settled": settled, "note": GAMED}
    emit_rows(
        "contributions",
        rows,
        form=form,
        head=head,
        none=none,
        foot=[fill(GAMED, LINE_CHARACTERS)] if rows else [],
        rest=rest,
    )
