"""The page first-swarm.md is followed to the letter: three hospitals, each in a network namespace of its own.

What talks to other sites runs as a process in its site's namespace; everything else that is typed runs in this process,
in its site's folder. A person who does not see what the page promises waits and looks again; so does this, where looking
changes nothing. The five-minute start is followed the same way, on this machine.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.clock import Clock, sleep
from node.local import PROGRAM, free_ports
from tests.chaos.namespaces import Network, why_not
from tests.docs.pages import DOCS, ROOT, Command, File, Send, pattern, steps, words

pytestmark = [
    pytest.mark.long,
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WAIT_S = 120.0
LOOKS = ("status", "members", "doctor", "ledger")
"""Commands that change nothing and may be repeated until they say what is to be seen."""

TALKS = ("start", "join", "doctor")
"""Commands that open sockets to other sites."""


@dataclass(slots=True)
class Reader:
    """Whoever follows a page: the sites' folders, what is put in place of the page's names, what runs meanwhile."""

    folder: Path
    environment: Mapping[str, str]
    inside: Callable[[str], tuple[str, ...]]
    names: dict[str, str]
    ids: tuple[str, ...] = ()
    running: dict[str, tuple[Command, subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    begun: int = 0

    def follow(self, page: Path) -> None:
        for step in steps(page):
            match step:
                case File():
                    for site in sorted(path for path in self.folder.iterdir() if path.is_dir()):
                        (site / step.name).write_text(step.text)
                case Send():
                    target = self.at(step.taker) / step.name
                    target.parent.mkdir(exist_ok=True)
                    shutil.copy(self.at(step.giver) / step.file, target)
                case Command():
                    self.do(step)

    def at(self, site: str) -> Path:
        return self.folder / (site.lower() or "one")

    def put(self, text: str) -> str:
        for name, actual in self.names.items():
            text = text.replace(name, actual)
        return text

    def do(self, step: Command) -> None:
        typed = self.put(step.typed)
        os.chdir(self.at(step.site))
        if step.own_terminal or typed.endswith(" &"):
            self.begin(step, typed.removesuffix(" &"))
            return
        if typed == "wait":
            for site in [*self.running]:
                self.ended(site)
            return
        match words(typed):
            case ["swarm", *arguments]:
                clock = Clock()
                begun = clock.now()
                while True:
                    code, said = self.run(step.site, arguments)
                    found = (
                        pattern([self.put(line) for line in step.seen], self.ids).fullmatch(said) if step.seen else True
                    )
                    if code == 0 and found:
                        break
                    late = arguments[0] not in LOOKS or clock.now() - begun > WAIT_S
                    assert not late, f"{typed}\nended with {code} and said\n{said}\n{self.logs()}"
                    sleep(0.3)
                if isinstance(found, re.Match):
                    self.names |= {name.removeprefix("id_"): one for name, one in found.groupdict().items() if one}
            case ["python", name, *arguments]:
                before, sys.argv = sys.argv, [name, *arguments]
                try:
                    runpy.run_path(name, run_name="__main__")
                finally:
                    sys.argv = before
            case ["cp", source, target]:
                shutil.copy(source, target)
            case _:
                raise AssertionError(f"the page has a command that nobody has taught this test: {typed}")

    def run(self, site: str, arguments: list[str]) -> tuple[int, str]:
        """Run `swarm`; return its exit status and everything that it wrote, with a line break at the end."""
        if arguments[0] in TALKS:
            done = subprocess.run(
                [*self.inside(site), *PROGRAM, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment,
                check=False,
            )
            return done.returncode, done.stdout.decode().rstrip("\n") + "\n"
        result = CliRunner().invoke(cli, arguments)
        error = result.exception
        more = "" if error is None or isinstance(error, SystemExit) else f"\n{error}"
        return result.exit_code, (result.output + more).rstrip("\n") + "\n"

    def begin(self, step: Command, typed: str) -> None:
        """Type a command in a terminal of its own, once what was typed there before has ended."""
        program, *arguments = words(typed)
        assert program == "swarm"
        self.begun += 1
        terminal = step.site or str(self.begun)
        if terminal in self.running:
            self.ended(terminal)
        log = self.folder / f"terminal-{self.begun}.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.inside(step.site), *PROGRAM, *arguments], stdout=out, stderr=out, env=self.environment
            )
        self.running[terminal] = step, process, log

    def ended(self, terminal: str) -> None:
        """See what was typed in a terminal end well, having said what it was to say."""
        step, process, log = self.running.pop(terminal)
        assert process.wait(WAIT_S) == 0, log.read_text()
        said = log.read_text().rstrip("\n") + "\n"
        assert pattern([*map(self.put, step.seen), "…"], self.ids).fullmatch(said), said

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for _, _, log in self.running.values())

    def stop(self) -> None:
        for _, process, _ in self.running.values():
            process.terminate()
        for _, process, _ in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def environment(tmp_path: Path, forkserver: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """What commands find in theirs: as a person's, but trainers are forked, since importing PyTorch takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARM_TASK__FORKSERVER", str(forkserver))
    monkeypatch.setenv("SWARM_TASK__THREADS", "1")
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be done here")
def test_two_hospitals_found_a_swarm_and_a_third_joins_as_the_page_says(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    page = DOCS / "first-swarm.md"
    ids = tuple(re.findall(r"`([0-9a-f]{8})`", page.read_text().partition("## 1.")[0]))
    assert len(ids) == 2
    for site in "abc":
        (tmp_path / site).mkdir()
    with Network(3) as network:
        reader = Reader(
            tmp_path,
            environment,
            lambda site: network.inside("ABC".index(site)),
            {"a.example.org": network.address(0)},
            ids,
        )
        try:
            reader.follow(page)
            models = [(tmp_path / s / f"hospital-{s}" / "models" / "round-0040.safetensors") for s in "abc"]
            clock = Clock()
            begun = clock.now()
            while not all(model.exists() for model in models) and clock.now() - begun < WAIT_S:
                sleep(0.2)
            assert len({model.read_bytes() for model in models}) == 1, "three copies of one model"
            keys = {(tmp_path / s / f"hospital-{s}" / "keys" / "identity.seed").read_bytes() for s in "abc"}
            assert len(keys) == 3
        finally:
            reader.stop()


def test_two_peers_on_one_machine_learn_as_the_start_page_says(tmp_path: Path, environment: Mapping[str, str]) -> None:
    (tmp_path / "one").mkdir()
    ports = dict(zip(("7401", "7402"), map(str, free_ports(2)), strict=True))
    reader = Reader(tmp_path, environment, lambda _: (), ports)
    try:
        reader.follow(DOCS / "start.md")
        models = [tmp_path / "one" / site / "models" / "round-0010.safetensors" for site in ("alice", "bob")]
        assert models[0].read_bytes() == models[1].read_bytes()
    finally:
        reader.stop()
