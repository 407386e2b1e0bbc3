"""`swarm privacy audit` as people run it: what it costs is told first, what it found is written down, errors are words."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from node.audits import Audits
from node.cli import audit as module
from node.cli.main import cli
from node.cli.output import Failure
from node.clock import Clock
from node.site import Site
from node.storage import BlobStore, RealDisk
from swarm.charter import SignedCharter, options_of
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.ledger import entry as e
from swarm.ledger.journal import Journal
from swarm.machine import RECORD_ENTRY, Record
from tests.builders import Feeds, Swarm, changed, contribution, make_swarm
from tests.node.audit.tasks import ONE_STEP, OVERFITTING, TASK

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


@dataclass
class Offering:
    """The folder of a site that has offered updates of rounds 1 to 3, of which blobs are there as a test puts them."""

    site: Site
    swarm: Swarm
    bodies: dict[int, e.Contribution]

    def put(self, *numbers: int) -> None:
        for number in numbers:
            for name in ("base", "update"):
                store = BlobStore(self.site.blobs)
                path = store.new_file()
                path.write_bytes(f"{name} {number}".encode())
                store.add_file(path)

    def held(self, place: Path, wanted: int | None = None, *, end_s: float = 0.0) -> module.Update:
        for left in place.iterdir():
            left.unlink()
        return module._held(self.site, self.swarm.signed, wanted, place, end_s=end_s)


@pytest.fixture
def offering(tmp_path: Path) -> Offering:
    swarm, site = make_swarm(3), Site(tmp_path / "site")
    store, feeds = BlobStore(tmp_path / "scratch"), Feeds(swarm)
    bodies = {}
    for number in (1, 2, 3):
        digests = []
        for name in ("base", "update"):
            path = store.new_file()
            path.write_bytes(f"{name} {number}".encode())
            digests.append(store.hash_file(path).digest)
        body = contribution(swarm, 0, number=number, base=digests[0])
        bodies[number] = msgspec.structs.replace(body, update_digest=digests[1])
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=swarm.signed.ledger_id, segment_bytes=1 << 15)
    journal.open()
    for seq, body in enumerate(bodies.values()):
        journal.append([Record(RECORD_ENTRY, seq, feeds.write(0, body))])
    disk.close()
    return Offering(site, swarm, bodies)


def test_the_last_update_of_this_site_that_is_still_there_is_held_though_its_node_lets_go_of_it(
    offering: Offering, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(Failure, match="no update of this site is in its store"):
        offering.held(place)
    offering.put(1, 2)
    found = offering.held(place)
    for path in offering.site.blobs.iterdir():
        path.unlink()
    assert (found.round, found.base.read_bytes(), found.update.read_bytes()) == (2, b"base 2", b"update 2")
    offering.put(1, 2)
    assert offering.held(place, 1).round == 1
    with pytest.raises(Failure, match="no update of round 3"):
        offering.held(place, 3)


def test_a_blob_that_is_damaged_or_gone_is_not_attacked_in_anothers_name(offering: Offering, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    offering.put(1, 3)
    (offering.site.blobs / offering.bodies[3].update_digest.hex()).write_bytes(b"another")
    assert offering.held(place).round == 1
    (offering.site.blobs / offering.bodies[1].base_digest.hex()).unlink()
    with pytest.raises(Failure, match="no update of this site"):
        offering.held(place)


@pytest.mark.parametrize("links", [False, True], ids=["copied", "gone meanwhile"])
def test_where_a_file_system_has_no_links_both_blobs_are_copied(
    offering: Offering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(source: Path, _: Path) -> None:
        if links:
            source.unlink()
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    place = tmp_path / "place"
    place.mkdir()
    offering.put(2)
    if links:
        with pytest.raises(Failure, match="no update of this site"):
            offering.held(place)
    else:
        assert offering.held(place).update.read_bytes() == b"update 2"


def test_where_the_run_is_on_the_next_update_is_waited_for_and_not_one_that_is_past(
    offering: Offering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, looks, outcome = tmp_path / "place", list[float](), ["RUNNING"]
    place.mkdir()

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            offering.put(3)

    monkeypatch.setattr(module, "sleep", wait)
    monkeypatch.setattr(module, "ask", lambda *_: {"outcome": outcome[0]})
    end_s = Clock().now() + 600
    with pytest.raises(Failure, match="no update of round 2"):
        offering.held(place, 2, end_s=end_s)
    assert looks == [], "round 3 is offered already"
    assert offering.held(place, end_s=end_s).round == 3
    assert looks == [module.LOOK_S] * 3
    outcome[0] = "DONE"
    with pytest.raises(Failure, match="no update of round 4"):
        offering.held(place, 4, end_s=end_s)


@pytest.mark.parametrize(
    ("options", "why"), [({"masks": "pairwise"}, "updates are masked here"), ({"route": "sharded"}, "travel in parts")]
)
def test_what_nobody_sees_whole_is_not_attacked_as_offered(
    offering: Offering, tmp_path: Path, options: dict[str, str], why: str
) -> None:
    charter = changed(make_swarm(4), options=options_of(**options))
    with pytest.raises(UsageError, match=why):
        module._held(offering.site, SignedCharter(charter, {}), None, tmp_path, end_s=0.0)


def test_a_record_that_is_damaged_is_said_before_anything_is_trained(site: Site) -> None:
    site.audits_path.parent.mkdir()
    site.audits_path.write_text("garbage\n")
    with pytest.raises(StoreError, match="line 1: it does not match its digest"):
        CliRunner().invoke(cli, ["privacy", "audit", str(site.folder)], catch_exceptions=False, standalone_mode=False)
