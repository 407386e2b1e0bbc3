"""`swarm track`: what a ledger says of a run, in TensorBoard or MLflow."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.following import Following
from node.cli.ledger.reading import WHERE, followed
from node.cli.ledger.sources import Files, open_ledger
from node.cli.output import count, emit
from node.clock import sleep
from node.tracking import Fed, MLflow, TensorBoard, Tracker, scored
from swarm.errors import UsageError

LAST_LOOKS = 6
"""Without anything new, after which nobody's score of the last round is waited for any more."""


@click.command(epilog="Example: swarm track --tensorboard runs/oncology --follow")
@WHERE
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Folder for TensorBoard's event files.")
@click.option("--mlflow", "uri", metavar="URI", help="MLflow's server or database, http://... or sqlite:///...")
@click.option("--experiment", help="MLflow's experiment. Default: the swarm's name.")
@click.option("--follow", is_flag=True, help="Go on until the run is done.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds between looks, with --follow."
)
@JSON
def track(
    folder: Path,
    tensorboard: Path | None,
    uri: str | None,
    experiment: str | None,
    *,
    follow: bool,
    every: float,
    as_json: bool,
) -> None:
    """Show a run in TensorBoard or MLflow, from its ledger: a site's folder, a bundle, or tiles.

    Signatures are not checked here: `swarm ledger verify` does that.
    """
    if (tensorboard is None) == (uri is None):
        raise UsageError("couldn't track the run: name one place", hint="give --tensorboard FOLDER or --mlflow URI")
    files = open_ledger(folder)
    if follow and not isinstance(files, Files):
        text = f"couldn't follow {folder}: nothing is ever added to a bundle or to tiles"
        raise UsageError(text, hint="leave --follow out, or name a site's folder")
    following = Following(files) if follow and isinstance(files, Files) else None
    if following is not None:
        following.catch_up()
    result = followed(files) if following is None else following.result
    tracker: Tracker
    if tensorboard is not None:
        tracker = TensorBoard(tensorboard)
    else:
        assert uri is not None, "one of the two is there"
        tracker = MLflow(uri, experiment or result.state.signed.charter.name, result)
    fed = Fed(tracker)
    total = fed.feed(result, over=result.state.complete and following is None)
    if following is not None:
        waited = 0
        # Scores of the last round come after the run is done; a site that is gone by then tells none.
        while not result.state.complete or (waited < LAST_LOOKS and not scored(result)):
            sleep(every)
            following.catch_up()
            fresh = fed.feed(result, over=False)
            total, waited = total + fresh, 0 if fresh else waited + 1
        following.close()
        total += fed.feed(result, over=True)
    tracker.close()
    done = result.state.committed.round
    where = str(tensorboard) if tensorboard is not None else str(uri)
    text = f"{count(total, 'number')} of {count(done, 'round')} handed to {where}"
    emit({"points": total, "rounds": done, "to": where}, as_json=as_json, text=text)
