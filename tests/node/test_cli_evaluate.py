"""`swarm evaluate`: the table, the verdict and its exit code, at a site whose node has run, and what is said before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import node.examples
from node.alone import owner_of
from node.cli.evaluate import evaluate
from node.cli.ledger.reading import verify_quietly
from node.cli.main import cli
from node.cli.output import INCOMPLETE, NOT_FOUND, WORSE, code_of
from node.clock import Clock, sleep
from node.data import SiteData, write_heart_disease
from node.local import LocalPeer, found, stop_all
from node.report import Verdict, report
from swarm.errors import SwarmError

pytestmark = pytest.mark.real

HEART = Path(__file__).resolve().parents[3] / "shared" / "data" / "heart_disease"

ENOUGH_S = 100.0

# Two numbers, the slope and the shift of a logistic curve; a round takes them a step along. Sixty cases, some in vain.
TASK = """\
import torch


def build_model():
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, -0.5)
    torch.nn.init.zeros_(model.bias)
    return model


def load_data(site):
    draw = torch.Generator().manual_seed(5)
    y = (torch.arange(60) % 3 == 0).float()[:, None]
    return y + 0.4 * torch.randn(60, 1, generator=draw), y


def train(model, data, run):
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y)
    loss.backward()
    optimizer.step()
    return {"samples": len(y), "loss": loss.item()}


def evaluate(model, data, run):
    x, y = data
    print("one line of the task's own")
    RETURN
"""

CASES = 'return {"labels": y, "scores": torch.sigmoid(model(x)), "loss": 0.5}'
NUMBERS = 'return {"samples": 60, "accuracy": 0.75}'


def ran(folder: Path, body: str, forkserver: Path, *overrides: str) -> LocalPeer:
    """Return the one site of a swarm whose run of three rounds is over."""
    task, data = folder / "task.py", folder / "data"
    folder.mkdir()
    data.mkdir()
    task.write_text(TASK.replace("RETURN", body))
    metrics = ("auc", "accuracy", "loss")
    site = SiteData("rural", data, 60, 20, 60)
    (peer,) = found(folder, [site], task, rounds=3, metrics=metrics, seed=1, forkserver=forkserver, min_cell=5)
    peer.start("run.exit_when_done=true", "run.linger_s=0.1", *overrides)
    assert peer.process is not None
    try:
        assert peer.process.wait(ENOUGH_S) == 0, peer.log_tail(20)
    finally:
        stop_all([peer])
    return peer


@pytest.fixture(autouse=True)
def shared_trainers(forkserver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the command starts be forked, too."""
    monkeypatch.setenv("SWARM_TASK__FORKSERVER", str(forkserver))
    monkeypatch.setenv("SWARM_TASK__THREADS", "1")


def swarm(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refused(*arguments: object) -> tuple[int, str]:
    """Return the exit code and the sentence of a command that fails."""
    error = swarm(*arguments).exception
    assert isinstance(error, SwarmError)
    return code_of(error), error.message


@pytest.fixture(scope="module")
def rural(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> LocalPeer:
    return ran(tmp_path_factory.mktemp("rural") / "x", CASES, forkserver)


def test_without_a_baseline_there_are_scores_and_no_verdict(rural: LocalPeer) -> None:
    result = swarm("evaluate", rural.site.folder)
    assert result.exit_code == INCOMPLETE
    lines = result.stdout.splitlines()
    assert lines[0] == "rural, 60 held-out cases: 40 of class 0, 20 of class 1"
    assert lines[2] == "alone     none yet: `swarm evaluate --alone`, or task.alone = true in swarm.toml, trains it"
    assert [line.split()[0] for line in lines[6:9]] == ["swarm", "auc", "accuracy"]
    assert lines[-1] == "verdict   no verdict: this site has trained no model alone yet (--alone does)"
    assert "On the ledger: auc, accuracy, loss, as the charter says, and how many cases." in lines
    assert result.stderr == "one line of the task's own\n"
    assert not rural.site.alone.exists()


def test_the_ledger_and_the_table_say_the_same(rural: LocalPeer) -> None:
    told = json.loads(swarm("ledger", "round", "3", rural.site.folder, "--json").stdout)["data"]["peers"][0]
    models = json.loads(swarm("evaluate", rural.site.folder, "--json").stdout)["data"]["models"]
    assert (models["alone"]["metrics"], models["personal"]["metrics"]) == (None, None)
    metrics = models["swarm"]["metrics"]
    assert (told["held_out"], told["withheld"]) == (60, False)
    assert told["metrics"]["accuracy"] == pytest.approx(metrics["accuracy"]["value"], abs=1e-6)
    assert told["metrics"]["auc"] == pytest.approx(metrics["auc"]["value"], abs=1e-6)
    low, high = told["intervals"]["accuracy"]
    assert [low, high] == pytest.approx([metrics["accuracy"]["low"], metrics["accuracy"]["high"]])
    assert metrics["auc"]["method"] == "DeLong"
    assert rural.site.disclosed_path.read_text() == "[40, 20]\n"


def test_a_number_of_the_tasks_own_stands_beside_what_follows_from_its_cases(rural: LocalPeer) -> None:
    """The charter names the loss, so the ledger has it; the site itself should see it, too."""
    lines = swarm("evaluate", rural.site.folder).stdout.splitlines()
    assert [line.split()[0] for line in lines[7:10]] == ["auc", "accuracy", "loss"]
    assert lines[9].split(maxsplit=1)[1].strip() == "0.500 (no interval)"
    metrics = json.loads(swarm("evaluate", rural.site.folder, "--json").stdout)["data"]["models"]["swarm"]["metrics"]
    assert metrics["loss"] == {"value": 0.5, "support": 60}


def test_a_site_that_is_its_whole_swarm_is_as_good_alone_and_a_better_one_of_its_own_shows(rural: LocalPeer) -> None:
    result = swarm("evaluate", rural.site.folder, "--alone", "--json")
    assert result.exit_code == 0
    verdict = json.loads(result.stdout)["data"]["verdict"]
    assert (verdict["metric"], verdict["outcome"], verdict["difference"]) == ("auc", "undecided", 0.0)
    assert "trained 3 rounds alone" in result.stderr
    again = swarm("evaluate", rural.site.folder, "--metric", "accuracy")
    assert again.exit_code == 0
    assert (
        "verdict   no difference that 60 cases can show between the swarm's model and this site's own: " in again.stdout
    )
    assert "personal  none: this site makes none\n" in again.stdout  # Also beside a baseline.

    # A baseline that has it right, as if it had been trained: the swarm's begins with the wrong sign.
    signed = rural.site.load_charter()
    better = np.array([-2.5, 5.0], "<f4")  # bias, weight
    (rural.site.alone / "round-0003.f32").write_bytes(better.tobytes())
    state = {
        "owner": owner_of(signed.ledger_id, signed.charter.task.digest),
        "round": 3,
        "model": "round-0003.f32",
        "sha256": hashlib.sha256(better.tobytes()).hexdigest(),
        "samples": 60,
    }
    (rural.site.alone / "state.json").write_text(json.dumps(state))
    worse = swarm("evaluate", rural.site.folder)
    assert worse.exit_code == WORSE
    last = worse.stdout.splitlines()[-1]
    assert last.startswith("verdict   the swarm's model is worse than this site's own on the 60 cases: auc -")
    assert last.endswith("p = less than 0.001)")


def test_a_model_that_is_not_kept_and_a_round_that_is_not_there(rural: LocalPeer) -> None:
    assert refused("evaluate", rural.site.folder, "--round", "1") == (
        NOT_FOUND,
        "couldn't evaluate round 1: its model is not at this site",
    )
    assert refused("evaluate", rural.site.folder, "--round", "7")[0] == NOT_FOUND
    assert swarm("evaluate", rural.site.folder, "--round", "3").exit_code in (0, WORSE, INCOMPLETE)


def test_a_task_that_is_not_the_charters_is_refused(rural: LocalPeer, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("x = 1\n")
    for name in ("swarm.toml", "charter.toml"):
        (tmp_path / name).write_bytes((rural.site.folder / name).read_bytes())
    code, message = refused("evaluate", tmp_path)
    assert (code, "is not the task file the charter was made with" in message) == (INCOMPLETE, True)


def test_bare_numbers_are_shown_and_not_compared(tmp_path: Path, forkserver: Path) -> None:
    peer = ran(tmp_path / "x", NUMBERS, forkserver, "task.alone=true", "storage.keep_every=1")
    log = (peer.site.folder / "log.txt").read_text()
    assert "training alone, for comparison: 0 of 3 rounds are done" in log
    assert "trained 3 rounds alone" in log
    result = swarm("evaluate", peer.site.folder)
    assert result.exit_code == INCOMPLETE
    assert "accuracy  0.750 (no interval)  0.750 (no interval)" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "verdict   no verdict: the task's evaluate() returns numbers and no cases, which could be compared one by one"
    )
    first = swarm("evaluate", peer.site.folder, "--round", "1")
    assert "swarm     the swarm's model of round 1" in first.stdout, "it is among the checkpoints"


def test_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(CliRunner().invoke(evaluate, ["--help"]).output.split())
    assert (
        "Ends with 0 if the swarm's model is better, or if the cases show no difference; with 11 if it is worse" in text
    )


# --- four real hospitals ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> dict[str, LocalPeer]:
    if not HEART.is_dir():
        pytest.skip(f"the four hospitals of UCI Heart Disease are not in {HEART}")
    folder = tmp_path_factory.mktemp("heart")
    data = write_heart_disease(HEART, folder / "data")
    task = Path(node.examples.__file__).parent / "heart_disease.py"
    metrics = ("accuracy", "auc", "support_0", "support_1")
    peers = found(folder, data, task, rounds=2, metrics=metrics, seed=1, forkserver=forkserver, min_cell=5)
    try:
        for peer in peers:
            peer.start("task.alone=true")
        clock = Clock()
        begun = clock.now()
        while not all((peer.site.alone / "result.json").exists() for peer in peers):
            assert clock.now() - begun < ENOUGH_S, peers[0].log_tail()
            sleep(0.2)
    finally:
        stop_all(peers)
    return {peer.name: peer for peer in peers}


def test_the_guides_table_is_what_a_hospital_sees(hospitals: dict[str, LocalPeer]) -> None:
    result = swarm("evaluate", hospitals["va"].site.folder)
    lines = result.stdout.splitlines()
    assert lines[0] == "va, 45 held-out cases: 10 of class 0, 35 of class 1"
    assert lines[2:4] == ["alone     this site alone, 2 rounds", "swarm     the swarm's model of round 2"]
    assert [line.split()[0] for line in lines[7:9]] == ["accuracy", "auc"]
    assert any(line.startswith("_recalibrated: at this site's own threshold") for line in lines)
    assert lines[-1].startswith("verdict   ")
    assert result.exit_code in (0, WORSE)


def test_switzerland_has_one_patient_without_the_disease_and_that_stays_there(
    hospitals: dict[str, LocalPeer],
) -> None:
    result = swarm("evaluate", hospitals["switzerland"].site.folder)
    assert "switzerland, 16 held-out cases: 1 of class 0, 15 of class 1" in result.stdout
    assert "no threshold of this site's own: all of class 1 among the cases to choose it on" in result.stdout
    assert "too few (1)" in result.stdout
    assert "Not on the ledger: nothing of it leaves this site: its smallest group has 1, at least 5 are agreed." in (
        result.stdout
    )
    assert not hospitals["switzerland"].site.disclosed_path.exists()
    for peer in hospitals.values():
        shown = swarm("ledger", "round", "2", peer.site.folder).stdout
        (line,) = [line for line in shown.splitlines() if line.split()[0] == "switzerland"]
        assert line.endswith("withheld: too few cases")


def test_a_reader_of_the_ledger_sees_intervals_gaps_and_no_order(hospitals: dict[str, LocalPeer]) -> None:
    audit = verify_quietly(hospitals["cleveland"].site.folder)
    signed = hospitals["cleveland"].site.load_charter()
    page = report(audit, signed, verdict=Verdict(valid=True), made_ms=0)
    assert page.count("withheld in 2 rounds: too few cases") == 2
    assert "All these intervals overlap: by this score no site is shown to be above another." in page
    assert "95 % interval of the last" in page
    for view in audit.rounds.values():
        assert sorted(body.samples for body in view.evaluations.values()) in ([], [0, 45, 89, 104])
