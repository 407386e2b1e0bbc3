"""What goes to support: enough to help, and nothing that was planted where it must not be found."""

from __future__ import annotations

import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.support import LIBRARIES, diagnosis, support_bundle
from node.logfile import LogFile
from node.runtime import ControlSocket
from node.site import Site
from node.storage import SnapshotFile
from swarm.errors import UsageError
from swarm.machine import Answer, Report, Snapshot
from tests.node.test_backup import LEFT, write_member

PLANTED = {
    "data folder": "/srv/imaging/mueller-anna",
    "loader": "loader_of_dr_meier.py",
    "environment": "sk-live-9f8e7d6c",
    "patient in output": "patient-4711",
    "patient in error": "patient-4712",
    "patient quoted": "patient-4713",
    "address": "10.77.66.55",
    "host": "pacs.klinik.example",
    "metric": "0.987654",
    "samples": "13579",
    "unknown value": "hunter2",
    "key in text": "ab12" * 16,
    "path in text": "/home/anna/thesis",
    "note in settings": "swarm-of-secrets",
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = write_member(tmp_path / "site")
    text = made.settings_path.read_text().replace('data = "data"', f'data = "{PLANTED["data folder"]}"')
    text = text.replace('listen = ""', f'listen = "tcp://{PLANTED["address"]}:7400"')
    text = text.replace("[run]", f'loader = "{PLANTED["loader"]}"\n[run]').replace("task.py", "task.py", 1)
    made.settings_path.write_text(f"# {PLANTED['note in settings']}\n{text}")
    log = LogFile(made.run / "log.jsonl", node="site-0", bytes_max=1 << 20, count=3, level="debug")
    for report in (
        Report(
            "started", "ledger at block 3, round 1 of 3", {"height": 3, "round": 1, "comment": PLANTED["unknown value"]}
        ),
        Report("task_output", f"read {PLANTED['patient in output']}", level="debug"),
        Report(
            "training_failed", f"training for round 2 failed: KeyError: {PLANTED['patient in error']}", {"round": 2}
        ),
        Report(
            "trained",
            f"trained round 1 on {PLANTED['samples']} samples",
            {"round": 1, "accuracy": 0.987654, "samples": 13579},
        ),
        Report(
            "odd", f"no column '{PLANTED['patient quoted']}' in {PLANTED['path in text']}, key {PLANTED['key in text']}"
        ),
        Report(
            "unreachable",
            f"couldn't reach b: nothing answers at tcp://{PLANTED['host']}:7400; trying again",
            {"peer": "b"},
        ),
    ):
        log.report(report, 1.0)
    log.close()
    with (made.run / "log.jsonl").open("a") as file:
        file.write(
            f'not json {PLANTED["patient in output"]}\n[1]\n"text"\n{{"event": {{"a": "{PLANTED["unknown value"]}"}}}}\n'
        )
        # As an older version, or somebody else, may have written it.
        file.write(
            json.dumps(
                {"event": "task_output", "text": PLANTED["patient in output"], "peer": [PLANTED["unknown value"]]}
            )
        )
    (made.folder / "data").mkdir()
    (made.folder / "data" / "x.csv").write_text(PLANTED["patient in output"])
    return made


def bundle(site: Site, *options: str) -> tuple[dict[str, str], bytes]:
    target = site.folder.parent / "support.tar.gz"
    target.unlink(missing_ok=True)
    ran = CliRunner(env={"SWARM_TASK__DATA": f"/x/{PLANTED['environment']}"}).invoke(
        support_bundle, [str(site.folder), "-o", str(target), *options]
    )
    assert ran.exit_code == 0, ran.exception
    with tarfile.open(target) as tar:
        parts = {info.name: tar.extractfile(info).read().decode() for info in tar}  # type: ignore[union-attr]
    assert target.stat().st_mode & 0o777 == 0o600
    return parts, "".join(parts.values()).encode()


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    """Something that answers as the site's node would."""
    row = {
        "name": "site-1", "linked": False, "refused": f"tcp://{PLANTED['address']} has another charter",
        "endpoint": f"tcp://{PLANTED['host']}:7400", "node": PLANTED["key in text"], "received_bytes": 12,
    }  # fmt: skip
    answer = {
        "swarm": "test-swarm",
        "round": 2,
        "halted": f"see {PLANTED['path in text']}",
        "members": [row],
        "extra": PLANTED["unknown value"],
    }
    control, ending = ControlSocket(site.control), threading.Event()

    def serve() -> None:
        while not ending.wait(0.01):
            for asked in control.questions():
                control.answer(Answer(asked.ticket, answer))

    thread = threading.Thread(target=serve)
    thread.start()
    yield site
    ending.set()
    thread.join()
    control.close()


def test_nothing_that_was_planted_is_in_it(running: Site) -> None:
    parts, everything = bundle(running)
    seeds = [(running.keys / name).read_text().strip() for name in ("identity.seed", "curve.seed")]
    for what, secret in {**PLANTED, "seed": seeds[0], "other seed": seeds[1], "host": socket.gethostname()}.items():
        if len(secret) > 3:
            assert secret.encode() not in everything, what
    assert str(running.folder).encode() not in everything
    assert LEFT.model[:16].hex().encode() not in everything
    assert {*parts} >= {"about.json", "settings.json", "ledger.json", "links.json", "disk.json", "log.jsonl"}


def test_what_helps_is_in_it(running: Site) -> None:
    parts, _ = bundle(running)
    about = json.loads(parts["about.json"])
    assert {*about["versions"]} == {*LIBRARIES}
    settings = json.loads(parts["settings.json"])
    assert settings["task.data"] == {"value": "left out", "from": "environment SWARM_TASK__DATA"}
    assert settings["site.listen"] == {"value": "left out", "from": "swarm.toml"}
    assert settings["run.log_file"] == {"value": "run/log.jsonl", "from": "default"}
    assert settings["storage.ballast_mb"]["value"] == 64
    ledger = json.loads(parts["ledger.json"])
    assert (ledger["height"], ledger["ledger_id"]) == (LEFT.state.height, LEFT.swarm.signed.ledger_id.hex())
    links = json.loads(parts["links.json"])
    assert links["members"][0]["name"] == "site-1"
    assert links["members"][0]["refused"] == "<address> has another charter"
    facts = [json.loads(line) for line in parts["log.jsonl"].splitlines()]
    assert facts[0]["text"] == "ledger at block 3, round 1 of 3"
    assert facts[0]["height"] == 3
    assert [fact["text"] for fact in facts if fact["event"] == "training_failed"] == ["training failed"]
    assert "couldn't reach b: nothing answers at <address>; trying again" in [fact["text"] for fact in facts]
    assert "no column <quoted> in <path>, key <hex>" in [fact["text"] for fact in facts]


def test_metrics_are_in_it_only_when_asked_for(site: Site) -> None:
    _, without = bundle(site)
    parts, everything = bundle(site, "--metrics")
    assert PLANTED["metric"].encode() not in without
    assert PLANTED["metric"].encode() in everything
    assert PLANTED["samples"] in parts["log.jsonl"]
    for what in ("patient in output", "patient in error", "patient quoted", "unknown value", "data folder"):
        assert PLANTED[what].encode() not in everything, what


def test_it_is_made_whatever_is_broken(site: Site) -> None:
    SnapshotFile(site.ledger / "snapshot").save(Snapshot(3, b"garbage"))
    (site.run / "log.jsonl").write_bytes(b"\xff\xfe{{{\n" + b"[" * 100_000)
    parts, _ = bundle(site)
    assert "couldn't read the snapshot in <path>" in json.loads(parts["ledger.json"])["problem"]
    assert "no node answers in <path>" in json.loads(parts["links.json"])["problem"]
    assert parts["log.jsonl"] == ""
    (site.folder / "charter.toml").unlink()
    assert "problem" in json.loads(bundle(site)[0]["ledger.json"])


def test_nothing_is_overwritten(site: Site) -> None:
    target = site.folder.parent / "mine"
    target.touch()
    ran = CliRunner().invoke(support_bundle, [str(site.folder), "-o", str(target)])
    assert isinstance(ran.exception, UsageError)
    assert target.read_bytes() == b""


def test_of_an_examination_it_has_what_was_looked_at_and_how_it_stands() -> None:
    found = {
        "check": "batch", "subject": "", "level": "WARN", "id": "E17", "text": "label patient-4711: 3",
        "values": {"patient-4711": 3}, "remedy": "look into /srv/imaging",
    }  # fmt: skip
    assert diagnosis([found]) == [{"check": "batch", "subject": "", "level": "WARN", "id": "E17"}]
