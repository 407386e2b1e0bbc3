"""`swarm solo`: the same task file with no swarm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.output import check_target, check_task, count, emit
from node.config import PROCESSES_MAX
from node.solo import run_solo
from node.trainer import TrainerSettings
from swarm.mixing.local import parse


@click.command()
@click.argument("task", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The site's own data.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="How many rounds.")
@click.option("--device", default="cpu", show_default=True, help="Where to train, as task.device: cpu, cuda, cuda:1.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the initial model.")
@click.option(
    "--local", default="", help="Train as a charter with this --local would have it, to see whether TASK can."
)
@click.option(
    "--processes",
    type=click.IntRange(1, PROCESSES_MAX),
    default=1,
    show_default=True,
    help="Train in so many at once, as a site with task.processes does.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the model there (safetensors).")
@JSON
def solo(
    task: Path,
    data: Path,
    rounds: int,
    device: str,
    seed: int,
    local: str,
    processes: int,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Train TASK alone: what this site reaches without the others."""
    check_task(task)
    if output is not None:
        check_target(output)
    if local:
        parse(local)
    settings = TrainerSettings(
        task=task.resolve(),
        data=data.resolve(),
        site="solo",
        seed=seed,
        device=device,
        local=local,
        processes=processes,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run_solo(
            settings,
            rounds=rounds,
            folder=Path(folder),
            tell=lambda line: click.echo(line, err=True),
            output=output,
        )
    words = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    text = f"trained on {count(result.samples, 'sample')}; on {result.held_out} held out: {words}"
    data_out = {"samples": result.samples, "held_out": result.held_out, "metrics": dict(result.metrics)}
    emit(data_out, as_json=as_json, text=text)
