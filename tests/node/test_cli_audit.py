"""`swarm privacy audit` as people run it: what it costs is told first, what it found is written down, errors are words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from node.audits import Audits
from node.cli import audit as module
from node.cli.main import cli
from node.cli.output import Failure
from node.site import Site
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.ledger.audit import audit
from tests.benchmarks.ledgers import make_ledger
from tests.node.audit.tasks import ONE_STEP, OVERFITTING, TASK
from tests.node.test_cli_ledger import written

QUICK = ["--rounds", "1", "--references", "2", "--inversion-steps", "5", "--seed", "1"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "a")
    assert CliRunner().invoke(cli, ["init", str(made.folder), "--name", "a"]).exit_code == 0
    (made.folder / "task.py").write_text(TASK.replace("BODY", OVERFITTING))
    return made


def run(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["privacy", "audit", str(site.folder), *arguments], catch_exceptions=False)


def test_an_audit_tells_its_cost_first_and_is_written_down(site: Site) -> None:
    result = run(site, *QUICK, "--canaries", "20", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("3 trainings of 1 round, 5 steps of inversion")
    data = json.loads(result.stdout)["data"]
    assert data["leaks"][0] == "membership"
    assert data["records"] == 160
    assert data["asked"]["seed"] == 1
    assert data["epsilon_spent"] is None
    (kept,) = Audits(site.audits_path).all()
    assert kept["membership"] == data["membership"]
    assert site.audits_path.stat().st_mode & 0o777 == 0o600
    assert not site.spending_path.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--round", "3"], "not said to be offered"),
        (["--offered", "--canaries", "3"], "offered already"),
        (["--offered"], "this site has no charter"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_trained(
    site: Site, arguments: Sequence[str], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(
            cli,
            ["privacy", "audit", str(site.folder), *arguments],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_a_script_is_not_audited(site: Site) -> None:
    (site.folder / "task.py").write_text("import swarm\n\nwith swarm.join('.') as run:\n    pass\n")
    with pytest.raises(UsageError, match="couldn't audit a script"):
        CliRunner().invoke(cli, ["privacy", "audit", str(site.folder)], catch_exceptions=False, standalone_mode=False)


def test_a_broken_promise_ends_with_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No honest training breaks it here, so the process that audits is replaced."""
    from tests.node.test_audits import ONE

    monkeypatch.setattr(module, "_run", lambda *_: {**ONE, "epsilon_at_least": 2.5})
    result = run(site)
    assert result.exit_code == 1
    assert "the promise is broken" in result.stdout


def test_a_process_that_dies_and_a_task_that_fails_are_told_in_words(site: Site) -> None:
    for body, why in (
        ("raise RuntimeError('no such scanner')", r"no such scanner \(task.py, line 19\)"),
        ("import os; os._exit(9)", r"ended by itself \(exit code 9\)"),
    ):
        (site.folder / "task.py").write_text(TASK.replace("BODY", body))
        with pytest.raises(SwarmError, match=why):
            CliRunner().invoke(
                cli, ["privacy", "audit", str(site.folder), *QUICK], catch_exceptions=False, standalone_mode=False
            )
    assert not site.audits_path.exists()


def test_an_offered_update_is_attacked_where_it_lies(site: Site) -> None:
    """The process itself, on a base and an update in files."""
    from node.audit.training import Setting, Trainee

    (site.folder / "task.py").write_text(TASK.replace("BODY", ONE_STEP.replace("lr=0.1", "lr=20.0")))
    trainee = Trainee(Setting(task=site.folder / "task.py", data=site.folder, site="a", seed=0))
    release, _ = trainee.train(trainee.records.trained, 1)
    trainee.close()
    for name, vector in (("base", release.bases[0]), ("update", release.updates[0])):
        np.concatenate([vector, np.zeros(vector.size * (name == "base"), "<f4")]).astype("<f4").tofile(
            site.folder / name
        )
    request = {
        "what": "offered",
        "setting": module._setting(site, site.load_settings(), None, None),
        "threads": 1,
        "seed": 1,
        "inversion_steps": 3,
        "base": str(site.folder / "base"),
        "update": str(site.folder / "update"),
        "coded": False,
        "salt": 0,
    }
    found = module._run(request)
    assert found["membership"]["found"]
    assert (found["membership"]["members"], found["membership"]["others"]) == (160, 160)
    (site.folder / "salted").write_bytes((site.folder / "update").read_bytes() + bytes(range(32)))
    salted = module._run({**request, "update": str(site.folder / "salted"), "salt": 32})
    assert salted["membership"] == found["membership"], "salt is no part of what was trained"
    with pytest.raises(SwarmError, match="the update is not of this task's model"):
        module._run({**request, "update": request["base"]})


def test_the_last_update_of_this_site_that_is_still_there_is_attacked_and_none_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed, payloads, _ = make_ledger(members=3, rounds=3)
    made = Site(written(tmp_path / "site", payloads, signed=signed))
    me = signed.charter.members[0].node
    monkeypatch.setattr(Site, "node", lambda _: me)
    with pytest.raises(Failure, match="no update of this site is in its store"):
        module._update(made, signed, None)
    *_, result = audit(payloads, signed)
    made.blobs.mkdir()
    for number in (1, 2):
        body = result.rounds[number].contributions[me].body
        for name in (body.base_digest, body.update_digest):
            (made.blobs / name.hex()).touch()
    number, found = module._update(made, signed, None)
    assert number == 2
    assert found["update"] == str(made.blobs / result.rounds[2].contributions[me].body.update_digest.hex())
    assert module._update(made, signed, 1)[0] == 1
    with pytest.raises(Failure, match="this site's update of round 3"):
        module._update(made, signed, 3)


def test_a_record_that_is_damaged_is_said_before_anything_is_trained(site: Site) -> None:
    site.audits_path.parent.mkdir()
    site.audits_path.write_text("garbage\n")
    with pytest.raises(StoreError, match="line 1: it does not match its digest"):
        CliRunner().invoke(cli, ["privacy", "audit", str(site.folder)], catch_exceptions=False, standalone_mode=False)
