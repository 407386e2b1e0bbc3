"""The image and the three sites of the compose file: held to what they promise as far as that goes without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.cli.main import COMMANDS
from swarm.charter import from_toml

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "packaging" / "container"
NUMBER = "10001:10001"


def test_the_image_runs_as_nobody_and_says_how_it_is() -> None:
    text = (PLACE / "Dockerfile").read_text("utf-8")
    last = text.rpartition("\nFROM ")[2]
    assert f"\nUSER {NUMBER}\n" in last, "a number: an orchestrator cannot tell that a name is not root's"
    assert last.index("USER ") > last.index("RUN "), "and nothing is done as root after it"
    assert re.search(r'^HEALTHCHECK .* CMD \["swarm", "status", "/var/lib/swarm"', last, re.MULTILINE)
    assert 'ENTRYPOINT ["swarm"]' in last
    assert "python:${PYTHON}" in text
    assert ":latest" not in text


def test_the_image_is_made_of_the_program_and_of_nothing_else() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = (PLACE / "Dockerfile").read_text("utf-8")
    copied = {word for words in re.findall(r"^COPY ([^-].*) \./?\S*$", text, re.MULTILINE) for word in words.split()}
    assert copied == let_in
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*", "the rest, keys and data among it, stays out"


@pytest.mark.real
def test_a_linter_finds_nothing_wrong_with_it() -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: make test-containers")
    ran = subprocess.run([linter, str(PLACE / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def composed() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: make test-containers")
    told = yaml.safe_load((PLACE / "compose.yml").read_text("utf-8"))
    assert isinstance(told, dict)
    return told


def test_no_container_of_ours_may_do_more_than_it_needs() -> None:
    services = composed()["services"]
    ours = [one for one in services.values() if one["image"] == "swarm-node"]
    assert len(ours) == 6
    for one in ours:
        assert one["read_only"] is True
        assert one["user"] == NUMBER
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in one, "a peer is reached by the others; who publishes it says so"
    for one in services.values():
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
        assert re.search(r":v?\d+\.\d+", one["image"]) or one["image"] == "swarm-node", "versions are named"


def test_watchers_run_what_there_is_and_see_no_data() -> None:
    services = composed()["services"]
    for name in ("a", "b", "c"):
        watch = services[f"watch-{name}"]
        assert watch["command"][0] in COMMANDS
        assert watch["volumes"] == [f"./sites/hospital-{name}:/var/lib/swarm"]
        assert watch["networks"] == ["watching"]
        assert services[f"hospital-{name}"]["networks"] == ["swarm"]
    scraped = (PLACE / "prometheus.yml").read_text("utf-8")
    assert {*re.findall(r"watch-\w:9464", scraped)} == {f"watch-{name}:9464" for name in ("a", "b", "c")}


def test_what_is_mounted_is_there() -> None:
    for one in composed()["services"].values():
        for volume in one.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith(("./", "../")) and not source.startswith("./sites/"):
                assert (PLACE / source).exists(), source


@pytest.mark.real
def test_three_sites_are_made_with_one_charter_that_all_have_signed(tmp_path: Path) -> None:
    place = tmp_path / "container"
    shutil.copytree(PLACE, place, ignore=shutil.ignore_patterns("sites"))
    python = Path(sys.executable).parent
    environment = os.environ | {"SWARM": f"{sys.executable} -m node.cli.main", "PATH": f"{python}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", str(place / "three-sites")], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    charters = [(place / "sites" / f"hospital-{name}" / "charter.toml").read_text() for name in ("a", "b", "c")]
    assert len({*charters}) == 1
    from_toml(charters[0]).check()
    again = subprocess.run(
        ["bash", str(place / "three-sites")], capture_output=True, text=True, env=environment, check=False
    )
    assert (again.returncode, "there is a folder sites already" in again.stderr) == (2, True)
