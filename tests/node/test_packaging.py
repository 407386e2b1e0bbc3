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


def test_the_peer_tells_systemd_how_it_is_and_is_not_started_again_for_what_a_person_has_to_mend() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", PEER.read_text(), re.MULTILINE))
    assert settings["Type"] == "notify"
    assert settings["NotifyAccess"] == "main"
    assert int(settings["WatchdogSec"]) > 0
    assert settings["Restart"] == "on-failure", "a site that has left must not be started again and again"
    assert settings["SuccessExitStatus"] == f"{SUBSET} {PAUSED}"
    assert settings["RestartPreventExitStatus"] == f"{USAGE} {INCOMPLETE} {UNAVAILABLE}"
