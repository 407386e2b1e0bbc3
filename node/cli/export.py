"""`swarm export`: the model of a swarm as a file for others, or what this site makes of it, for itself."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.ledger.reading import read
from node.cli.output import NOT_FOUND, USAGE, Failure, check_target, emit
from node.cli.start import check_own_task, origin_of, trainer_settings
from node.clock import Clock
from node.declared import declared
from node.egress.folder import record_at
from node.egress.record import EXPORT
from node.export import FORMATS, ONNX, SAFETENSORS, check_available, export_model
from node.loop.form import is_script
from node.site import Site
from node.solo import wait
from node.storage import store_error
from node.trainer import Described, EvaluateDone, Exported, Trainer
from swarm.errors import UsageError
from swarm.ledger.state import State, best_of
from swarm.machine import Digest, NodeId
from swarm.vector import Layout


@click.command()
@FOLDER
@click.option(
    "--personal",
    is_flag=True,
    help="This site's own model: with its private parts, trained on as the task says, or Ditto's. For this site alone.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=SAFETENSORS,
    show_default=True,
    help="onnx: the model with its graph, for use without PyTorch. Needs the extra onnx.",
)
@click.option(
    "--best",
    is_flag=True,
    help="The model of the best round so far, where the charter has --stop, instead of the last one's.",
)
@click.option("--evaluate", is_flag=True, help="Say how good it is on this site's held-out data.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write there.  [default: in the site's folder models]",
)
@JSON
def export(
    folder: Path, output: Path | None, *, personal: bool, best: bool, form: str, evaluate: bool, as_json: bool
) -> None:
    """Write the model of the last committed round that the site in FOLDER knows of. Its node may be running."""
    if personal and best:
        raise UsageError(
            "couldn't export with --personal and --best: a site keeps its own model of the last round alone",
            hint="give one of them",
        )
    site = Site(folder.resolve())
    settings, signed = site.load_settings(), site.load_charter()
    check_own_task(site, settings, signed)
    if form == ONNX:
        check_available()
        if not personal:
            _check_common(site.folder / settings.task.file)
    state = read(site.folder)[1].state
    round_, model = _best(state) if best else _model(state, site.node())
    kind = "personal" if personal else "best" if best else "round"
    target = output or site.models / f"{kind}-{round_:04d}.{form}"
    check_target(target)
    origin = {**origin_of(signed, round_, model), **({"site": settings.site.name} if personal else {})}
    which = "personal" if personal else "swarm"
    scores: dict[str, Mapping[str, float]] = {}
    told: dict[str, object] = {"digest": model.hex(), "path": str(target), "personal": personal}
    now_ms, ledger = int(Clock().now() * 1000), signed.ledger_id.hex()[:16]
    record_at(site).add(EXPORT, time_ms=now_ms, ledger=ledger, round_=round_, **told)
    with tempfile.TemporaryDirectory(prefix="swarm-export-") as place:
        # The node may forget its blob meanwhile.
        copied = _copied(site.blobs / model.hex(), Path(place) / "model", round_)
        trainer = Trainer(dataclasses.replace(trainer_settings(site, settings, signed), round_steps=0, round_seconds=0))
        try:
            trainer.start()
            if form == SAFETENSORS and not personal:
                trainer.describe(Path(place) / "initial")
                layout = Layout.decode(wait(trainer, Described, _tell).layout)
                export_model(copied, layout, target, origin)
            else:
                trainer.export(round_, copied, target.resolve(), origin, which=which, form=form)
                wait(trainer, Exported, _tell)
            for one in dict.fromkeys(("swarm", which)) if evaluate else ():
                trainer.evaluate(round_, copied, which=one)
                scores[one] = wait(trainer, EvaluateDone, _tell).metrics
        finally:
            trainer.close()
    whose = "this site's own model" if personal else "the best model, that" if best else "the model"
    lines = [f"{whose} of round {round_} is in {target}"]
    lines += [f"  {one:<9} {_words(metrics)}" for one, metrics in scores.items()]
    if personal:
        lines.append("It holds what never left this site: whom you give it to may learn from it about its data.")
    metrics_of = {one: dict(metrics) for one, metrics in scores.items()}
    data = {"path": str(target), "round": round_, "model": model.hex()}
    data |= {"personal": personal, "best": best, "metrics": metrics_of}
    emit(data, as_json=as_json, text="\n".join(lines))


def _check_common(task: Path) -> None:
    """Refuse to write as everybody's what has parts of this site's own: a graph is whole or it is none."""
    if is_script(task):
        raise Failure(
            "couldn't export as ONNX: the task is a script, and only that can call its model",
            code=USAGE,
            hint="call torch.onnx.export in the script, or export it as safetensors",
        )
    said = declared(task)
    if said.private or said.normalisation not in ("", "average"):
        raise Failure(
            "couldn't export everybody's model as ONNX: parts of it are this site's own, and a graph needs all of them",
            code=USAGE,
            hint="add --personal, for this site alone; or leave --format out",
        )


def _model(state: State, me: NodeId) -> tuple[int, Digest]:
    """Return the last committed round and its model; between rounds of gossip that is this site's own."""
    round_ = state.committed.round
    if round_ and state.committed.model_bytes:
        return round_, Digest(state.committed.model)
    own = None if state.exchange is None else state.exchange.models.get(me)
    if not round_ or own is None:
        raise Failure("couldn't export a model: no round is committed yet", code=NOT_FOUND, hint="see `swarm status`")
    return own.round, Digest(own.model)


def _best(state: State) -> tuple[int, Digest]:
    """Return the best round by the metric that may end the run, and its model. Raises `Failure` if there is none."""
    found, policy = best_of(state), state.signed.charter.stop
    if policy is None:
        raise Failure(
            "couldn't export the best model: nothing is agreed on by which one round is better than another",
            code=NOT_FOUND,
            hint="that is for the charter to say, with --stop; leave --best out for the last model",
        )
    if found is None or not found.model_bytes:
        why = (
            "no round has counted yet" if found is None else f"of round {found.round} each site had a model of its own"
        )
        raise Failure(
            f"couldn't export the best model by {policy.metric}: {why}",
            code=NOT_FOUND,
            hint="leave --best out for the last model; `swarm ledger status` says how the run does",
        )
    return found.round, Digest(found.model)


def _copied(blob: Path, target: Path, round_: int) -> Path:
    try:
        shutil.copyfile(blob, target)
    except FileNotFoundError:
        raise Failure(
            f"couldn't export the model of round {round_}: this site does not hold it now",
            code=NOT_FOUND,
            hint="let its node run: it fetches what it lacks",
        ) from None
    except OSError as error:
        raise store_error(f"copy {blob}", error) from error
    return target


def _words(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "no metrics"


def _tell(line: str) -> None:
    click.echo(line, err=True)
