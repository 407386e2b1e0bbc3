"""A script and its node, as real processes: either may be killed at any moment, and what is wrong is said in words.

The script's model is two numbers without PyTorch, which go half the way to the site's own value in each round. From 3,
with sites at 0 and 1 that weigh the same, the common model goes 1.75, 1.125, 0.8125.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from node.cli.control import ask
from node.cli.ledger.reading import verify_quietly
from node.cli.output import Failure
from node.clock import Clock, sleep
from node.data import SiteData
from node.local import LocalPeer, found
from node.loop import peer as loop
from node.loop.parameters import parameters_of
from swarm.errors import SwarmError, UsageError

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]

SCRIPT = """\
import pathlib
import sys
import time

import numpy as np

import swarm

model = {"at": np.full(2, 3.0)}
peer = swarm.join(sys.argv[1], model)
value = float((peer.data / "value.txt").read_text())
while peer.running:
    start = peer.receive()["at"].copy()
    print("round", peer.round, flush=True)
    while (pathlib.Path(sys.argv[1]) / f"hold-{peer.round}").exists():
        peer.step()
        time.sleep(0.02)
    model["at"] += (value - model["at"]) / 2
    scores = {"samples": 2, "loss": abs(start[0] - value)}
    print("taken" if peer.send(samples=5, metrics={"loss": 1.0}, evaluation=scores) else "not taken", flush=True)
print("end", *model["at"], flush=True)
"""

GIVE_UP_S = 100.0
ROUNDS = 3


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> list[LocalPeer]:
    """Two sites with a signed charter; nothing runs."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "script.py").write_text(SCRIPT)
    data = []
    for index in range(2):
        part = folder / "data" / f"site-{index}"
        part.mkdir(parents=True)
        (part / "value.txt").write_text(str(index))
        data.append(SiteData(part.name, part, 5, 0, 2))
    return found(
        folder,
        data,
        folder / "script.py",
        rounds=ROUNDS,
        metrics=("loss",),
        seed=1,
        patience_s=60,
        deadline_s=600,
        min_contributions=2,
    )


class Script:
    """The script of one site, running."""

    def __init__(self, peer: LocalPeer) -> None:
        folder = peer.site.folder
        self.output = folder / "printed.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(folder / "task.py"), str(folder)], stdout=file, stderr=file, env=environment
            )

    def printed(self) -> list[str]:
        return self.output.read_text().splitlines()

    def children(self) -> list[int]:
        """The node it has started."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait(condition: Callable[[], bool], what: str) -> None:
    clock = Clock()
    end = clock.now() + GIVE_UP_S
    while not condition():
        assert clock.now() < end, f"no {what} within {GIVE_UP_S} s"
        sleep(0.05)


def answers(control: Path) -> bool:
    try:
        ask(control)
    except Failure:
        return False
    return True


@pytest.fixture
def scripts(peers: list[LocalPeer]) -> Iterator[list[Script]]:
    running: list[Script] = []
    yield running
    for script in running:
        for pid in script.children() if script.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        script.process.kill()
        script.process.wait()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the node a script has started")
def test_the_run_ends_right_though_a_script_and_a_node_are_killed(
    peers: list[LocalPeer], scripts: list[Script]
) -> None:
    first, second = (peer.site for peer in peers)
    (first.folder / "hold-2").touch()
    (second.folder / "hold-3").touch()
    a, b = Script(peers[0]), Script(peers[1])
    scripts += [a, b]
    wait(lambda: "round 2" in a.printed(), "second round")
    a.process.kill()
    a.process.wait()
    # The node lives on, and says what it waits for.
    wait(lambda: "come back" in str(ask(first.control).get("waiting")), "word of the missing script")
    again = Script(peers[0])
    scripts.append(again)
    wait(lambda: again.printed().count("round 2") == 2, "second round again")
    (first.folder / "hold-2").unlink()

    wait(lambda: "round 3" in b.printed(), "third round")
    (node,) = b.children()
    os.kill(node, signal.SIGKILL)
    wait(lambda: not answers(second.control), "end of the node")
    (second.folder / "hold-3").unlink()
    assert b.process.wait(GIVE_UP_S) == 0, b.printed()
    assert again.process.wait(GIVE_UP_S) == 0, again.printed()
    # What was trained while its node was dead was taken from it: nothing was trained twice.
    assert b.printed().count("round 3") == 1
    assert "not taken" not in b.printed()
    assert any("was killed by SIGKILL; starting it again" in line for line in b.printed())
    assert again.printed()[-1] == b.printed()[-1] == "end 0.8125 0.8125"
    audit = verify_quietly(first.folder)
    assert audit.state.committed.round == ROUNDS
    assert len(audit.rounds[1].evaluations) == 2
    assert audit.rounds[2].evaluations  # The other may have died with its node.

    # Who comes when all is over gets the result, and has nothing to train.
    late = Script(peers[0])
    scripts.append(late)
    assert late.process.wait(GIVE_UP_S) == 0, late.printed()
    assert late.printed()[-1] == "end 0.8125 0.8125"
    assert late.printed().count("round 3") == 1


def test_join_says_what_is_wrong_before_it_starts_anything(
    peers: list[LocalPeer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = peers[0].site
    signed = site.load_charter()
    with pytest.raises(UsageError, match=r"couldn't find .*swarm\.toml") as caught:
        loop.join(tmp_path, {"at": np.zeros(2)})
    assert caught.value.__notes__ == ["hint: make a site with `swarm init`"]  # A traceback shows it.
    main = sys.modules["__main__"]  # Whatever runs these tests.
    monkeypatch.setattr(main, "__file__", str(Path(__file__)), raising=False)
    with pytest.raises(UsageError, match="is not the script that the charter was made with"):
        loop.check_script(signed, site.folder / "task.py")
    monkeypatch.delattr(main, "__file__")
    with pytest.raises(UsageError, match="couldn't join from an interactive session"):
        loop.check_script(signed, site.folder / "task.py")
    with pytest.raises(UsageError, match="it has 3 parameters and the charter's 2|tensor 'at' has shape"):
        loop.check_layout(signed, parameters_of({"at": np.zeros(3)}).layout, peers[1].site)
    with pytest.raises(UsageError, match="as many parameters, under other names|tensor 'to'|tensor 'at'"):
        loop.check_layout(signed, parameters_of({"to": np.zeros(2)}).layout, site)


def test_a_site_without_a_charter_is_told_so(peers: list[LocalPeer]) -> None:
    site = peers[0].site
    charter = site.folder / "charter.toml"
    charter.rename(site.folder / "away")
    try:
        with pytest.raises(UsageError, match=r"couldn't find .*charter\.toml"):
            loop.join(site.folder, {"at": np.zeros(2)})
    finally:
        (site.folder / "away").rename(charter)


def test_a_node_that_cannot_start_ends_the_script_with_its_last_words(
    peers: list[LocalPeer], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folder's task file is another one: the node says so, and the script says it again."""
    site = peers[0].site
    with pytest.raises(Failure):
        ask(site.control)  # Nothing runs.
    task = site.folder / "task.py"
    kept = task.read_text()
    task.write_text(kept + "# changed\n")
    site.models.rename(site.folder / "put-away")  # Or the run would be complete.
    monkeypatch.setattr(loop, "check_script", lambda *_: None)
    try:
        with pytest.raises(SwarmError, match="is not the task file the charter was made with"):
            loop.join(site.folder, {"at": np.zeros(2)})
    finally:
        task.write_text(kept)
        (site.folder / "put-away").rename(site.models)
    assert "starting the node of site-0" in capfd.readouterr().err
