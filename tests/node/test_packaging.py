"""The units for systemd: accepted by it, and true of this program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.output import INCOMPLETE, PAUSED, SUBSET, UNAVAILABLE, USAGE

UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").iterdir())
PEER = next(path for path in UNITS if path.name == "swarm@.service")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.real
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text().replace("/usr/local/bin/swarm", sys.executable)
        (tmp_path / path.name.replace("@", "@site")).write_text(text)
    for path in sorted(tmp_path.iterdir()):
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
        )
        about = [line for line in ran.stderr.splitlines() if str(tmp_path) in line or path.name in line]
        assert (ran.returncode, about) == (0, []), ran.stderr


EXPOSURE = {"swarm@.service": 19, "swarm-backup@.service": 10}
"""Tenths of ten, of which ten is no protection at all: as docs/guides/operations.md has it."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.real
def test_they_are_as_confined_as_the_guide_says(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "operations.md").read_text("utf-8")
    for path in UNITS:
        if path.suffix != ".service":
            continue
        copy = tmp_path / path.name.replace("@", "@site")
        copy.write_text(path.read_text().replace("/usr/local/bin/swarm", sys.executable))
        words = [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={EXPOSURE[path.name]}",
            str(copy),
        ]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if "offline" in ran.stderr:
            pytest.skip("this systemd cannot look at a unit that is not loaded")
        assert ran.returncode == 0, ran.stdout.splitlines()[-1]
        assert f"{EXPOSURE[path.name] / 10} for `{path.name}`" in guide


def test_the_peer_tells_systemd_how_it_is_and_is_not_started_again_for_what_a_person_has_to_mend() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", PEER.read_text(), re.MULTILINE))
    assert settings["Type"] == "notify"
    assert settings["NotifyAccess"] == "main"
    assert int(settings["WatchdogSec"]) > 0
    assert settings["Restart"] == "on-failure", "a site that has left must not be started again and again"
    assert settings["SuccessExitStatus"] == f"{SUBSET} {PAUSED}"
    assert settings["RestartPreventExitStatus"] == f"{USAGE} {INCOMPLETE} {UNAVAILABLE}"
