"""`swarm simulate`: from what is typed to a folder with a result."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Answer
from msgspec.structs import replace

from node.cli import simulate as command
from node.cli.main import cli
from node.cli.output import INTERRUPTED, Failure
from node.simulation.compare import Progress
from node.simulation.results import Result
from swarm.charter import card_to_toml, from_toml, make_card
from swarm.errors import UsageError
from swarm.mixing.compress.forms import Spec, parse
from tests.builders import identity

QUICK = ["--nodes", "4", "--model", "linear", "--rounds", "2", "--topology", "ring,complete"]


def run(folder: Path, *arguments: str) -> Answer:
    return CliRunner().invoke(cli, ["simulate", "-o", str(folder), *arguments])


def test_asking_for_help_or_for_the_scenarios_waits_for_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from node.cli.main import cli;"
        "a = CliRunner().invoke(cli, ['simulate', '--help']); b = CliRunner().invoke(cli, ['simulate', '--list']);"
        "print(a.exit_code, b.exit_code, 'torch' in sys.modules, 'five-hospitals' in b.output)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert told.stdout.split() == ["0", "0", "False", "True"]


def test_a_simulation_ends_with_a_table_a_recommendation_and_a_folder(tmp_path: Path) -> None:
    answer = run(tmp_path / "out", *QUICK)
    assert answer.exit_code == 0, answer.output
    assert "topology" in answer.stdout
    assert "losing one, two" in answer.stdout
    assert f"The result: {tmp_path / 'out' / 'report.html'}" in answer.stdout
    assert "4 sites learn digits (iid) with linear, 650 parameters" in answer.stderr
    assert "round 2/2" in answer.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"result.json", "rounds.csv", "peers.csv", "report.html", "task.py"} <= names
    result = Result.load(tmp_path / "out")
    assert result.topologies == ("ring", "complete")
    assert result.recommendation is not None
    rows = (tmp_path / "out" / "rounds.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    assert rows[0].startswith("topology,seed,speed,round,virtual_s,bytes_total,bytes_busiest,consensus_distance")
    assert len((tmp_path / "out" / "peers.csv").read_text().splitlines()) == 1 + 2 * 2 * 4


def test_json_is_one_object_and_a_folder_of_ones_own_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        answer = run(tmp_path, *QUICK, "--json")
        assert answer.exit_code == 0, answer.output
    data = json.loads(answer.stdout)["data"]
    assert data["recommendation"]["topology"] in ("ring", "complete")
    assert [row["topology"] for row in data["recommendation"]["table"]].count("ring") == 1
    assert not data["partial"]


def test_a_folder_that_no_simulation_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    answer = run(tmp_path, *QUICK)
    assert isinstance(answer.exception, UsageError)
    assert "no simulation made it" in answer.exception.message


def test_interrupted_it_writes_what_there_is_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(self: command.Watcher, progress: Progress) -> None:
        if progress.topology == "complete":
            raise KeyboardInterrupt

    monkeypatch.setattr(command.Watcher, "told", told)
    answer = run(tmp_path, *QUICK)
    assert isinstance(answer.exception, Failure)
    assert answer.exception.code == INTERRUPTED
    assert "3 rounds of 2 runs" in answer.exception.message
    result = Result.load(tmp_path)
    assert result.partial
    assert [run.complete for run in result.runs] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nodes", "1"], "1 is not between 2 and 4096"),
        (["--nodes", "5", "--topology", "hypercube"], "a hypercube of 5 members: it needs a power of two"),
        (["--nodes", "5", "--topology", "random_regular:3"], "5"),
        (["--topology", "ring,ring"], "or one of them twice"),
        (["--seeds", "1,x"], "'1,x': they are not whole numbers"),
        (["--scenario", "mars"], "neither packaged nor a file"),
        (["--scenario", "outage", "--nodes", "7"], "it describes 6 sites"),
        (["--data", "cifar"], "couldn't find the data 'cifar'"),
        (["--model", "task:/nowhere.py"], "/nowhere.py"),
        (["--graph", "/nowhere.csv"], "couldn't read /nowhere.csv"),
        (["--target-accuracy", "2"], "2 is not between 0 and 1"),
        (["--lr", "-1"], "learning.learning_rate"),
        (["--partition", "dirichlet:0.0001", "--nodes", "300"], "couldn't divide"),
        (["--ray", "local", "--speed", "protocol"], "couldn't use --ray at protocol speed"),
        (["--route", "sharded"], "learning.route: it is for exact mixing"),
        (["--route", "sharded", "--mixing", "exact", "--topology", "ring"], "everybody must reach everybody"),
        (["--codec", "int8", "--topology", "base2"], "partners change from round to round"),
        (["--graph", "a.txt", "--arcs", "b.txt"], "couldn't use --graph and --arcs"),
        (["--arcs", "/nowhere.txt"], "couldn't read /nowhere.txt"),
        (["--clip", "100"], "couldn't clip at learning speed"),
        (["--clip", "100", "--mixing", "exact"], "learning.clip: it is for gossip"),
        (["--clip", "501"], "learning.clip: 501 is not between 1 and 500"),
        (["--stop", "accuracy"], "couldn't read stop = 'accuracy'"),
        (["--stop", "auc:higher:5", "--mixing", "exact"], "'auc': it is none of the charter's metrics"),
        (["--stop", "loss:lower:5"], "couldn't stop a gossiping swarm early at learning speed"),
        (["--salt"], "learning.salt: it is for exact mixing"),
        (["--salt", "--mixing", "exact", "--route", "sharded:3"], "learning.salt: the ledger confirms guesses anyway"),
        (["--salt", "--mixing", "exact", "--codec", "topk:50"], "learning.salt: under topk:50 sizes of messages"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_before_anything_runs(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    answer = run(tmp_path / "out", "--rounds", "1", *arguments)
    assert isinstance(answer.exception, UsageError), answer.output
    assert says in answer.exception.message
    assert not (tmp_path / "out").exists(), "what cannot be simulated leaves no folder behind"


def test_a_cluster_without_ray_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.simulation.actors.available", lambda: False)
    answer = run(tmp_path, *QUICK, "--ray", "head:6379")
    assert isinstance(answer.exception, UsageError)
    assert answer.exception.message == "couldn't simulate on a Ray cluster: Ray is not installed"
    assert answer.exception.hint == "pip install 'swarm-node[ray]'"
    assert [*tmp_path.iterdir()] == [], "a folder that was there stays, as empty as it was"


def test_a_failure_leaves_an_earlier_result_as_it_was(tmp_path: Path) -> None:
    assert run(tmp_path, *QUICK).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert isinstance(run(tmp_path, *QUICK, "--data", "cifar").exception, UsageError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_number_of_processes_leaves_no_trace(tmp_path: Path) -> None:
    written = []
    for workers in ("1", "2"):
        assert run(tmp_path, *QUICK, "--workers", workers).exit_code == 0
        written.append([(tmp_path / name).read_bytes() for name in ("rounds.csv", "peers.csv")])
    assert written[0] == written[1]


def test_a_graph_of_ones_own_brings_its_names(tmp_path: Path) -> None:
    graph = tmp_path / "links.txt"
    graph.write_text("berlin paris\nparis rome\nrome berlin\nrome oslo\n")
    answer = run(tmp_path / "out", "--graph", str(graph), "--topology", "own,star", *QUICK[2:6])
    assert answer.exit_code == 0, answer.output
    result = Result.load(tmp_path / "out")
    assert result.names == ("berlin", "paris", "rome", "oslo")
    own = result.select("own", "learning")[0]
    assert own.facts.links == 4
    assert own.resilience.single_points == (2,)


def test_a_graph_of_other_sites_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "links.csv"
    graph.write_text("0,1\n1,0\n")
    answer = run(tmp_path / "out", "--graph", str(graph), "--nodes", "3")
    assert isinstance(answer.exception, UsageError)
    assert "it has 2 members, the scenario 3 sites" in answer.exception.message


def test_a_route_goes_over_the_complete_graph_unless_another_is_named(tmp_path: Path) -> None:
    answer = run(tmp_path, *QUICK[:6], "--mixing", "exact", "--route", "sharded", "--codec", "int8")
    assert answer.exit_code == 0, answer.output
    assert "note: At learning speed models are averaged as they are: int8" in answer.stdout
    result = Result.load(tmp_path)
    assert result.topologies == ("complete",)
    assert result.scenario["learning"]["route"] == "sharded"  # type: ignore[index]
    # Of four updates either owner's three slices, and half an average back, in a quarter of the bytes.
    assert result.runs[0].rounds[-1].bytes_total == pytest.approx(2 * 4 * 2 * 650, rel=0.1)


def test_links_of_ones_own_may_go_one_way(tmp_path: Path) -> None:
    arcs = tmp_path / "arcs.txt"
    arcs.write_text("berlin paris  # giver, taker\nparis, rome\nrome berlin\nrome oslo\noslo berlin\n")
    answer = run(tmp_path / "out", "--arcs", str(arcs), "--topology", "own,ring", *QUICK[2:6])
    assert answer.exit_code == 0, answer.output
    result = Result.load(tmp_path / "out")
    assert result.names == ("berlin", "paris", "rome", "oslo")
    assert result.scenario["arcs"] == [[0, 1], [1, 2], [2, 0], [2, 3], [3, 0]]
    assert result.select("own", "learning")[0].facts.links == 5
    arcs.write_text("berlin paris rome\n")
    answer = run(tmp_path / "other", "--arcs", str(arcs))
    assert isinstance(answer.exception, UsageError)
    assert "line 1 does not name two of the sites" in answer.exception.message


@pytest.mark.real
@pytest.mark.parametrize(
    ("topology", "more", "codec", "gamma"),
    [("base2", [], None, 1.0), ("ring", ["--codec", "int4", "--gamma", "0.5"], parse("int4"), 0.5)],
)
def test_the_exported_command_drafts_a_charter_with_the_topology(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topology: str, more: list[str], codec: Spec | None, gamma: float
) -> None:
    out = tmp_path / "out"
    answer = run(out, "--export", "charter", "--topology", topology, *more, *QUICK[:6])
    assert answer.exit_code == 0, answer.output
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        card = make_card(identity(number), name=f"site-{number}", endpoint=f"tcp://127.0.0.1:{17000 + number}")
        Path(f"site-{number}.card.toml").write_text(card_to_toml(card))
    script = (out / "charter.sh").read_text()
    lines = [line for line in script.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    words = shlex.split("\n".join(lines))
    assert words[:3] == ["swarm", "charter", "new"]
    drafted = CliRunner().invoke(cli, words[1:])
    assert drafted.exit_code == 0, drafted.output
    charter = from_toml(Path("charter.toml").read_text()).charter
    assert (charter.schedule, charter.round.mixing, charter.round.rounds) == (topology, "gossip", 2)
    assert (charter.codec, charter.gamma) == (codec, gamma)
    assert charter.task.parameters == 650
    assert f'topology = "{topology}"' in (out / "topology.toml").read_text()


@pytest.mark.real
@pytest.mark.parametrize("mixing", ["gossip", "exact"])
def test_an_exported_graph_of_ones_own_drafts_what_the_graph_itself_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("links.txt").write_text("oslo paris\nparis rome\nrome oslo\nrome bonn\n")
    own = ["--graph", "links.txt", "--topology", "own", "--mixing", mixing]
    answer = run(Path("out"), *own, "--export", "charter", *QUICK[2:6])
    assert answer.exit_code == 0, answer.output
    for number, name in enumerate(("oslo", "paris", "rome", "bonn")):
        card = make_card(identity(number), name=name, endpoint=f"tcp://127.0.0.1:{17000 + number}")
        Path(f"{name}.card.toml").write_text(card_to_toml(card))
    lines = [line for line in Path("out/charter.sh").read_text().splitlines() if not line.startswith("#")]
    words = shlex.split(" ".join(line.removesuffix("\\") for line in lines))
    assert words[words.index("--links") + 1] == "out/links.txt"
    drafted = []
    for links in ("out/links.txt", "links.txt"):
        words[words.index("--links") + 1] = links
        answer = CliRunner().invoke(cli, [*words[1:], "--force"])
        assert answer.exit_code == 0, answer.output
        drafted.append(replace(from_toml(Path("charter.toml").read_text()).charter, created_ms=0))
    assert drafted[0] == drafted[1]
    assert drafted[0].edges == ((0, 1), (0, 2), (1, 2), (2, 3))
    assert (drafted[0].round.mixing, drafted[0].schedule) == (mixing, "links" if mixing == "gossip" else "")
    assert "links = [[0, 1], [0, 2], [1, 2], [2, 3]]" in Path("out/topology.toml").read_text()


EXACT = (("codec", "bf16"), ("min_cell", "5"), ("route", "sharded"), ("staleness", "16"))
SALTED = (
    ("min_cell", "5"),
    ("route", "fold"),
    ("salt", "32"),
    ("staleness", "16"),
    ("stop", "accuracy:higher:5"),
)
OWN = (("links", "0>1 1>2 2>0 2>3 3>0"), ("min_cell", "5"), ("schedule", "links"))


@pytest.mark.real
@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (["--mixing", "exact", "--route", "sharded", "--codec", "bf16"], EXACT),
        (["--arcs", "arcs.txt", "--topology", "own"], OWN),
        (["--mixing", "exact", "--salt", "--stop", "accuracy:higher:5", "--route", "fold"], SALTED),
    ],
)
def test_an_exported_command_says_how_models_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], options: tuple[tuple[str, str], ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("arcs.txt").write_text("site-0 site-1\nsite-1 site-2\nsite-2 site-0\nsite-2 site-3\nsite-3 site-0\n")
    answer = run(Path("out"), *QUICK[:6], *asked, "--export", "charter")
    assert answer.exit_code == 0, answer.output
    for number in range(4):
        card = make_card(identity(number), name=f"site-{number}", endpoint=f"tcp://127.0.0.1:{17000 + number}")
        Path(f"site-{number}.card.toml").write_text(card_to_toml(card))
    lines = [line for line in Path("out/charter.sh").read_text().splitlines() if not line.startswith("#")]
    drafted = CliRunner().invoke(cli, shlex.split(" ".join(line.removesuffix("\\") for line in lines))[1:])
    assert drafted.exit_code == 0, drafted.output
    assert from_toml(Path("charter.toml").read_text()).charter.options == options
