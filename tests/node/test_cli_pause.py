"""`swarm pause` and `swarm resume` where no peer answers: remembered for the next start, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.cli.output import UNAVAILABLE, Failure
from node.site import Site
from node.storage import DirectoryLock
from swarm.errors import UsageError


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "a")
    made.create(name="a", listen="", advertise="", task="task.py", data="data")
    return made


def swarm(*arguments: object) -> str:
    ran = CliRunner().invoke(cli, [str(one) for one in arguments])
    if isinstance(ran.exception, Exception):
        raise ran.exception
    return ran.stdout


def test_without_a_peer_it_holds_from_the_next_start_on(site: Site) -> None:
    assert "its next start trains nothing" in swarm("pause", site.folder)
    assert site.paused_path.exists()
    assert "it was paused already" in swarm("pause", site.folder)
    said = json.loads(swarm("resume", site.folder, "--json"))["data"]
    assert said == {"folder": str(site.folder), "paused": False, "changed": True, "running": False}
    assert not site.paused_path.exists()
    assert "it was not paused" in swarm("resume", site.folder)


def test_where_there_is_no_site_there_is_nothing_to_pause(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="couldn't find a site"):
        swarm("pause", tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_peer_that_runs_and_does_not_answer_is_not_gone_round(site: Site) -> None:
    lock = DirectoryLock(site.run / "lock")
    with pytest.raises(Failure, match="running and does not answer") as caught:
        swarm("pause", site.folder)
    assert caught.value.code == UNAVAILABLE
    assert not site.paused_path.exists()
    lock.close()
