"""`swarm simulate`: try topologies before you deploy one.

It turns what was typed into a scenario, plays it, and says which topology and why. The simulation itself is in
`node.simulation`; nothing of it is imported before it is needed, as it brings PyTorch along.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from node.cli.graphs import read_arcs, read_graph, read_text
from node.cli.init import JSON
from node.cli.output import INTERRUPTED, Failure, count, emit
from node.clock import Clock
from node.console import bar, duration_words
from swarm.errors import UsageError
from swarm.mixing import rules
from swarm.routes import SPREAD
from topologies import own
from topologies.scenario import OWN, TOPOLOGIES, Learning, Scenario, Site, parse, plain
from topologies.world.attacks import NAMES as ATTACKS

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from node.simulation.compare import Progress
    from node.simulation.results import Result, Speed, Tables

NODES = 16
"""Sites when nothing else says how many."""

PLAIN_S = 2.0
"""Between lines of progress where the output is no terminal."""

MARKER = ".swarm-simulate"
"""In a folder that a simulation made, so that the next may replace what is in it."""

RESULT = "result.json"

TABLES: dict[str, tuple[Tables, ...]] = {"csv": ("csv",), "parquet": ("parquet",), "both": ("csv", "parquet")}

SPEEDS: dict[str, tuple[Speed, ...]] = {
    "learning": ("learning",),
    "protocol": ("protocol",),
    "both": ("learning", "protocol"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What does not change the result: forms of its tables, who works on it, what is written and printed beside it."""

    tables: tuple[Tables, ...]
    workers: int | None
    cluster: str | None
    export: bool
    as_json: bool


@click.command()
@click.option("--scenario", metavar="FILE|NAME", default="", help="A scenario file, or a packaged one (--list).")
@click.option("--list", "list_presets", is_flag=True, help="List the packaged scenarios.")
@click.option("--nodes", type=int, help=f"How many sites, all alike.  [default: {NODES}]")
@click.option(
    "--topology", "topologies", metavar="NAME,...", help=f"What to compare.  [default: {','.join(TOPOLOGIES)}]"
)
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    help="A graph of your own: edge list, adjacency .csv or .graphml. It is compared under the name own.",
)
@click.option(
    "--arcs",
    type=click.Path(path_type=Path),
    help="In place of --graph, links of your own that go one way: a file with two sites a line, giver and taker.",
)
@click.option("--data", metavar="NAME", help="digits, mnist:PATH, npz:PATH or csv:PATH.  [default: digits]")
@click.option("--model", metavar="NAME", help="mlp, mlp:200,200, linear or task:FILE.  [default: mlp]")
@click.option(
    "--partition",
    metavar="HOW",
    help="iid, dirichlet:0.1, dirichlet-equal:1, shards:2, power:1.5, ratios:8,1,1 or column:NAME; with +scanners"
    " behind it every site's device sees differently. Less is more uneven; dirichlet-equal shares its number out among"
    " the labels, so that 1 with ten of them is as uneven as 0.1 for each.  [default: iid]",
)
@click.option("--rounds", type=int, help="How many rounds.  [default: 30]")
@click.option("--local-epochs", type=int, help="Passes over a site's data in a round.  [default: 1]")
@click.option("--batch", type=int, help="Examples a step.  [default: 8]")
@click.option("--lr", type=float, help="Learning rate.  [default: 0.3]")
@click.option("--momentum", type=float, help="Of SGD; begins anew every round.  [default: 0]")
@click.option("--mixing", type=click.Choice(["gossip", "exact"]), help="How models are averaged.  [default: gossip]")
@click.option("--correction", metavar="NAME", help="Of gossip where data differ: qg, qg:500 or gt.  [default: none]")
@click.option(
    "--outer",
    metavar="NAME",
    help="With --mixing exact, what is done with the mean of the updates: none, fedavgm, nesterov, fedadam, fedyogi or"
    " fedadagrad, with numbers of your own as in nesterov:0.9,0.7.  [default: none]",
)
@click.option(
    "--route",
    metavar="ROUTE",
    help="With --mixing exact, how sites get to the mean: spread, sharded or fold; the last two over complete alone."
    "  [default: spread]",
)
@click.option(
    "--rule",
    metavar="RULE",
    help=f"With --mixing exact, average by a rule that a few liars cannot move far: {rules.EXAMPLES}.  [default: mean]",
)
@click.option(
    "--attack",
    metavar="NAME",
    help=f"What attackers do: {', '.join(ATTACKS)}; some take a strength, as ipm:5. In gossip label-flip, back-door and"
    " dissensus.  [default: nothing]",
)
@click.option("--attackers", type=int, help="How many of the sites attack: the last ones.  [default: 1 with --attack]")
@click.option(
    "--codec",
    metavar="NAME",
    help="How models travel: bf16, int8, int4, sign or topk:50; in gossip all but bf16 take links that stay the same."
    "  [default: float32]",
)
@click.option("--gamma", type=float, help="How far sites go towards each other under it.  [default: by the codec]")
@click.option(
    "--clip",
    type=int,
    help="In gossip, the weight that liars may have among a site's partners, in thousandths, as 100: none pulls it"
    " further than its nearest do. At protocol speed.  [default: none]",
)
@click.option(
    "--salt",
    is_flag=True,
    default=None,
    help="With --mixing exact, let secret bytes travel behind each update, so that nobody confirms a guess of it by the"
    " ledger.",
)
@click.option(
    "--stop",
    metavar="RULE",
    help="End runs before their last round, once a metric has not become better for so many rounds: accuracy:higher:5."
    " With --mixing exact, or at protocol speed.  [default: all rounds]",
)
@click.option(
    "--speed",
    type=click.Choice(sorted(SPEEDS)),
    default="learning",
    show_default=True,
    help="learning: many peers, costs reckoned. protocol: the real nodes in a simulated world, faults and all.",
)
@click.option("--seed", "--seeds", "seeds", metavar="N,...", help="One run for each.  [default: 1]")
@click.option("--target-accuracy", type=float, help="0 to 1.  [default: a point below the best]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("swarm-simulation"),
    show_default=True,
    help="Folder for the result.",
)
@click.option(
    "--tables",
    type=click.Choice(sorted(TABLES)),
    default="csv",
    show_default=True,
    help="How rounds and peers are written beside result.json; Parquet needs pyarrow.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes at learning speed.  [default: one per core]")
@click.option(
    "--ray",
    "cluster",
    metavar="ADDRESS",
    help="Learn on a Ray cluster, its workers instead of processes, as in head:6379; local starts one here. The result"
    " is the same.",
)
@click.option(
    "--export", type=click.Choice(["charter"]), help="Write what founds a swarm with the recommended topology."
)
@JSON
def simulate(
    *,
    scenario: str,
    list_presets: bool,
    nodes: int | None,
    topologies: str | None,
    graph: Path | None,
    arcs: Path | None,
    data: str | None,
    model: str | None,
    partition: str | None,
    rounds: int | None,
    local_epochs: int | None,
    batch: int | None,
    lr: float | None,
    momentum: float | None,
    mixing: str | None,
    correction: str | None,
    outer: str | None,
    route: str | None,
    rule: str | None,
    attack: str | None,
    attackers: int | None,
    codec: str | None,
    gamma: float | None,
    clip: int | None,
    salt: bool | None,
    stop: str | None,
    speed: str,
    seeds: str | None,
    target_accuracy: float | None,
    output: Path,
    tables: str,
    workers: int | None,
    cluster: str | None,
    export: str | None,
    as_json: bool,
) -> None:
    """Try topologies before you deploy one: how well sites learn, how long it takes, what it costs, what may fail.

    Without options sixteen sites that are all alike learn handwritten digits over four topologies.
    """
    if list_presets:
        found = [parse(text, name) for name, text in presets().items()]
        listed = [{"name": one.name, "summary": one.summary, "sites": one.n} for one in found]
        text = "\n".join(f"{one.name:<18} {one.summary}" for one in found)
        emit({"scenarios": listed}, as_json=as_json, text=text)
        return
    chosen = _scenario(scenario, nodes)
    if graph is not None and arcs is not None:
        raise UsageError(
            "couldn't use --graph and --arcs: both say who is linked to whom", hint="leave one of them out"
        )
    own_links = graph or arcs
    if own_links is not None:
        chosen = _with_links(
            chosen, own_links, named=bool(topologies), fixed=bool(scenario or nodes), one_way=arcs is not None
        )
    if topologies is None and not scenario and route not in (None, SPREAD):
        topologies = "complete"  # on the other routes everybody reaches everybody
    if topologies is not None:
        chosen = replace(chosen, topologies=tuple(part.strip() for part in topologies.split(",") if part.strip()))
    asked = {
        "data": data,
        "model": model,
        "partition": partition,
        "rounds": rounds,
        "local_epochs": local_epochs,
        "batch": batch,
        "learning_rate": lr,
        "momentum": momentum,
        "mixing": mixing,
        "correction": correction,
        "outer": outer,
        "route": route,
        "rule": rule,
        "attack": attack,
        "attackers": 1 if attack and attackers is None and not chosen.learning.attackers else attackers,
        "codec": codec,
        "gamma": gamma,
        "clip": clip,
        "salt": salt,
        "stop": stop,
        "seeds": None if seeds is None else _numbers(seeds),
        "target_accuracy": target_accuracy,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    chosen = replace(chosen, learning=replace(chosen.learning, **given))  # type: ignore[arg-type]  # as the options say
    _check_extras(tables, cluster, speed)
    how = How(tables=TABLES[tables], workers=workers, cluster=cluster, export=export == "charter", as_json=as_json)
    with _fresh(output) as folder:
        _play(chosen, SPEEDS[speed], folder, how)


def presets() -> dict[str, str]:
    """The packaged scenarios by name, ascending, as TOML."""
    folder = resources.files("topologies") / "presets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


# --- what was asked for -----------------------------------------------------------------------------------------------


def _scenario(name: str, nodes: int | None) -> Scenario:
    if not name:
        return plain(NODES if nodes is None else nodes)
    packaged = presets()
    if name in packaged:
        chosen = parse(packaged[name], name)
    else:
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"couldn't find the scenario {name}: it is neither packaged nor a file",
                hint=f"packaged are {', '.join(packaged)}",
            )
        chosen = parse(read_text(path), name)
    if nodes is not None and nodes != chosen.n:
        raise UsageError(
            f"couldn't simulate {nodes} nodes of {name}: it describes {chosen.n} sites",
            hint="leave --nodes out, or change count in a copy of the file",
        )
    return chosen


def _with_links(scenario: Scenario, path: Path, *, named: bool, fixed: bool, one_way: bool) -> Scenario:
    """Add links of one's own. Their names are the sites' where the scenario has no sites of its own."""
    graph = None if one_way else read_graph(path)
    names, links = read_arcs(path, scenario.names if fixed else ()) if graph is None else (graph[0], graph[1].edges)
    if not fixed:
        sites = tuple(Site(name=_site_name(name, member)) for member, name in enumerate(names))
        scenario = replace(scenario, sites=sites)
    if scenario.n != len(names):
        raise UsageError(
            f"couldn't use the graph {path}: it has {len(names)} members, the scenario {scenario.n} sites",
            hint="leave --nodes out, or give a graph of the same size",
        )
    if graph is not None and {*names} <= {*scenario.names}:
        links = own.placed(graph, scenario.names)
    compared = scenario.topologies if named else (OWN, *(t for t in scenario.topologies if t != OWN))
    if one_way:
        return replace(scenario, graph=(), arcs=links, topologies=compared)
    return replace(scenario, graph=links, arcs=(), topologies=compared)


def _site_name(name: str, member: int) -> str:
    """A name that a charter can have; what cannot be one becomes a number."""
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else f"site-{member}"


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"couldn't use the seeds {text!r}: they are not whole numbers", hint="write --seeds 1,2,3"
        ) from None


def _check_extras(tables: str, cluster: str | None, speed: str) -> None:
    """Refuse what cannot be before there is a folder."""
    if tables != "csv":
        from node.simulation import parquet

        parquet.check_available()
    if cluster is not None and speed == "protocol":
        raise UsageError(
            "couldn't use --ray at protocol speed: there the nodes of one world run in one process",
            hint="leave --ray out, or take --speed learning",
        )


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to: a new one, or one that an earlier simulation made.

    What cannot be simulated leaves no trace: until there is a result, what was made is removed again.
    """
    if folder.exists() and not (folder / MARKER).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"couldn't write to {folder}: it exists and no simulation made it", hint="choose another --output"
        )
    there = {*folder.iterdir()} if folder.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    try:
        yield folder
    except BaseException:
        if not (folder / RESULT).exists():
            for made in {*folder.iterdir()} - (there or set()):
                shutil.rmtree(made) if made.is_dir() else made.unlink()
            if there is None:
                folder.rmdir()
        raise


# --- playing ----------------------------------------------------------------------------------------------------------


def _play(scenario: Scenario, speeds: Sequence[Speed], folder: Path, how: How) -> None:
    from node.simulation.compare import Comparison, open_topology
    from node.simulation.export import write_charter
    from node.simulation.recommend import lines
    from node.simulation.report import write_report

    clock = Clock()
    begun = clock.now()
    command = shlex.join(["swarm", *sys.argv[1:]])
    comparison = Comparison(scenario, speeds, folder, command, cluster=how.cluster, workers=how.workers)
    watcher = Watcher(sys.stderr, clock)
    watcher.begin(scenario, comparison.parameters)
    interrupted = False
    try:
        for _ in comparison.play(watcher.told):
            pass
    except KeyboardInterrupt:
        interrupted = True
    finally:
        watcher.close()
    result = comparison.result(partial=interrupted)
    result.write(folder, how.tables)
    write_report(folder, result)
    exported: list[Path] = []
    if how.export and result.recommendation is not None:
        run = result.select(result.recommendation.topology, result.recommendation.speed)[0]
        schedule = open_topology(run.topology, scenario, run.schedule_seed)
        exported = write_charter(folder, result, scenario, schedule, comparison.task)
    found = [*lines(result), *(f"note: {note}" for note in result.notes)]
    found += [f"The charter: sh {exported[0]}, see {exported[1]}"] if exported else []
    found.append(f"The result: {folder / 'report.html'} ({duration_words(clock.now() - begun)})")
    emit(_plain(result, folder, exported), as_json=how.as_json, text="\n".join(found))
    if interrupted:
        done = count(sum(len(run.rounds) for run in result.runs), "round")
        raise Failure(
            f"interrupted: what was done until then, {done} of {count(len(result.runs), 'run')}, is in {folder}",
            code=INTERRUPTED,
        )
    if any(not run.complete for run in result.runs):
        raise Failure(
            "not every run came to its end; the notes say why",
            code=1,
            hint=f"read them in {folder / 'report.html'}; below its quorum a swarm pauses and does not guess",
        )


def _plain(result: Result, folder: Path, exported: Sequence[Path]) -> dict[str, object]:
    """What programs get: the comparison, and where the rest is."""
    import msgspec

    return {
        "folder": str(folder),
        "partial": result.partial,
        "recommendation": msgspec.to_builtins(result.recommendation),
        "notes": list(result.notes),
        "exported": [str(path) for path in exported],
    }


class Watcher:
    """Shows how far a comparison is: in place on a terminal, now and then a line elsewhere."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        """Begin with nothing shown."""
        self._stream, self._clock = stream, clock
        self._told_at = clock.now()
        self._done: list[str] = []
        live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._live: Live | None = self._begin_live() if live else None

    def begin(self, scenario: Scenario, parameters: int) -> None:
        """Say what is about to be simulated."""
        learning: Learning = scenario.learning
        self._print(
            f"{scenario.name}: {scenario.n} sites learn {learning.data} ({learning.partition}) with {learning.model}, "
            f"{parameters:,} parameters; {count(len(scenario.topologies), 'topology')}, "
            f"{count(len(learning.seeds), 'seed')}, {count(learning.rounds, 'round')}"
        )

    def told(self, progress: Progress) -> None:
        """Show a round."""
        one, last = progress.round, progress.round.number == progress.rounds
        mean, least = one.accuracy_mean, one.accuracy_min
        known = "" if mean is None or least is None else f"  accuracy {100 * mean:.1f} %, worst {100 * least:.1f} %"
        label = f"{progress.topology}, seed {progress.seed}, {progress.speed}"
        words = f"  {label:<34} {bar(one.number, progress.rounds)} round {one.number}/{progress.rounds}{known}"
        words += f", {duration_words(one.virtual_s)} in the swarm's time"
        now = self._clock.now()
        if self._live is not None:
            self._live.update(self._drawn(f"{words}   [run {progress.run} of {progress.runs}]"), refresh=True)
            if last:
                self._live.console.print(words, highlight=False, markup=False, soft_wrap=True)
        elif last or now - self._told_at >= PLAIN_S:
            self._told_at = now
            self._print(words)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.update("", refresh=True)
            self._live.stop()

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def _drawn(self, line: str) -> Text:
        from rich.text import Text

        return Text(line, style="green", no_wrap=True, overflow="ellipsis")

    def _begin_live(self) -> Live:
        from rich.console import Console as Terminal
        from rich.live import Live

        live = Live(console=Terminal(file=self._stream), auto_refresh=False)
        live.start()
        return live
