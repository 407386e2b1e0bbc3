"""What the pages tell people to type is taken by the program, and what they tell them to write by its readers.

Of every page: each command line, in a block or in the middle of a sentence, is one that the command line takes, down to
its options and choices. Of the guides: each block is run, here or by a test that it names, or it says above itself, in a
comment, why it is not; commands that need a swarm have one of three sites, which runs for all of them, and where a page
shows what is then seen, its first line is like the one that is.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import node.examples
from node.cli.main import cli
from node.clock import Clock, sleep
from node.config import SECTIONS, load
from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all
from swarm import toml
from tests.docs.pages import DOCS, FENCE, ROOT, Block, blocks, commands, words
from topologies import scenario

PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "decisions")]
GUIDES = [DOCS / "start.md", DOCS / "first-swarm.md", *sorted((DOCS / "guides").glob("*.md"))]

UNMARKED = {
    "docs/guides/containers.md": "not run: needs a container engine; tests/node/test_containers.py runs what does not",
    "docs/guides/live-page.md": "not run: goes on until it is interrupted; tests/node/dashboard asks it",
}
"""Pages whose blocks have one reason together."""

SERVICE = ("useradd", "install", "systemctl")
"""Commands that change the machine: what they install is checked by tests/node/test_packaging.py."""

PLACEHOLDER = re.compile(r"[A-Z][A-Z_.]*")
INLINE = re.compile(r"`(swarm [a-z][^`]*)`")


def typed(block: Block) -> list[str]:
    """Return the command lines of a block: those after `$ `, or those of a block that has nothing else."""
    if any(line.startswith("$ ") for line in block.text.splitlines()):
        return [one.typed for one in commands(block.text)]
    if block.language in ("", "console", "sh"):
        lines = block.text.replace("\\\n", "").splitlines()
        return [
            line for line in lines if re.match(r"(?:swarm|python|docker|cd|\./|\.|useradd|install|systemctl)\s", line)
        ]
    return []


def taken(line: str, *, whole: bool) -> None:
    """Raise what click has against a line. In one that is not `whole` required words and a last value may be missing."""
    shown = words(re.split(r" [|>&]|\$\(", line)[0])[1:]
    said = [word.partition("|")[0] for word in shown if word not in ("...", "…")]
    try:
        _taken(cli, said)
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
        return
    except click.MissingParameter:
        if whole and not re.search(r"\.\.\.|…", line):
            raise
    except click.BadOptionUsage as error:
        if whole or "requires an argument" not in error.message:
            raise
    except (click.BadParameter, click.UsageError):
        if whole or not any(PLACEHOLDER.fullmatch(word) for word in said):
            raise


def _taken(command: click.Command, said: list[str], parent: click.Context | None = None) -> None:
    with command.make_context(command.name or "swarm", said, parent=parent) as context:
        if isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
            _, inner, rest = command.resolve_command(context, rest)
            assert inner is not None
            _taken(inner, rest, context)


@pytest.fixture
def any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's files are its reader's: whether they are there is not asked."""
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))


@pytest.mark.usefixtures("any_path")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_one_that_the_program_takes(page: Path) -> None:
    wrong = []
    lines = [(line, True) for block in blocks(page) for line in typed(block)]
    lines += [(" ".join(line.split()), False) for line in INLINE.findall(FENCE.sub("", page.read_text()))]
    for line, whole in lines:
        if words(line)[:1] != ["swarm"]:
            continue
        try:
            taken(line, whole=whole)
        except click.ClickException as error:
            wrong.append(f"{line}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("any_path")
@pytest.mark.parametrize(
    "line",
    [
        "swarm start --exit-when-down",
        "swarm strat",
        "swarm vote 3f9a",
        "swarm vote 3f9a maybe",
        "swarm init a b --name c",
    ],
)
def test_a_line_that_the_program_does_not_take_is_found(line: str) -> None:
    with pytest.raises(click.ClickException):
        taken(line, whole=True)


CODE = [(block, page) for page in GUIDES for block in blocks(page) if block.language in ("python", "toml")]


@pytest.mark.parametrize("block", [block for block, _ in CODE], ids=lambda block: f"{block.page}:{block.line}")
def test_code_of_a_guide_is_read_by_what_will_read_it(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.text)
        return
    if {*toml.loads(block.text)} <= {*SECTIONS}:
        load(block.text, where=block.page)
    else:
        scenario.parse(block.text, block.page)


def reasons() -> list[str]:
    """Return every block of the guides that is not run, and why."""
    found = []
    for page in GUIDES:
        for block in blocks(page):
            why = f"not run: {block.why}" if block.mark == "not run" else UNMARKED.get(block.page, "")
            if why and (typed(block) or block.language == "python"):
                found.append(f"{block.page}:{block.line} {why}")
    return found


def test_what_is_not_run_says_why_and_what_another_test_runs_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for page in GUIDES:
        for block in blocks(page):
            if block.mark == "run by":
                assert (ROOT / block.why).is_file(), block
                assert page.name in (ROOT / block.why).read_text(), f"{block.why} knows nothing of {page.name}"
            for test in re.findall(r"tests/[\w/.]+(?<!\.)", block.why):
                assert (ROOT / test).exists(), f"{block.page} names {test}, which is not there"
            if block.language == "python" and page.name not in ("start.md", "first-swarm.md"):
                assert block.mark, f"{block.page}:{block.line} is run by nobody, and does not say why"
    with capsys.disabled():
        print(f"\n{len(reasons())} blocks of the guides are not run:", *reasons(), sep="\n  ")


# --- commands that need a swarm ---------------------------------------------------------------------------------------

RUN = [
    block
    for page in GUIDES[2:]
    for block in blocks(page)
    if typed(block) and not block.mark and block.page not in UNMARKED
]

NAMES = {
    "hospital-a": "alpha",
    "NAME.bundle": "alpha.bundle",
    "FIRST.bundle": "alpha.bundle",
    "SECOND.bundle": "beta.bundle",
}
"""What stands on the pages, and what the swarm of these tests has in its place."""


SHOWN = {"oncology": "local"}
"""Names in what a page shows, and what they are in the swarm of these tests."""


def shape(text: str) -> str:
    """Return the first line of what is seen, as a sentence or the head of a table: whatever has a digit in it may differ."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return " ".join("#" if re.search(r"\d", word) else SHOWN.get(word, word) for word in first.split())


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Iterator[Path]:
    """A folder with three sites whose peers run and have learnt what they were to, as the guides suppose them."""
    folder = tmp_path_factory.mktemp("guides")
    task = Path(node.examples.__file__).parent / "breast_cancer.py"
    shutil.copy(task, folder / "task.py")
    names = ("alpha", "beta", "gamma")
    written = write_breast_cancer(folder / "data", 7)
    data = [replace(one, name=name) for one, name in zip(written, names, strict=False)]
    peers = found(folder, data, task, rounds=4, metrics=("accuracy",), seed=7, forkserver=forkserver)
    (folder / "passphrase").write_text("correct horse battery staple\n")
    (folder / "passphrase").chmod(0o600)
    try:
        for peer in peers:
            peer.start("storage.keep_every=1", "run.linger_s=600")
        _until(peers, lambda: all(peer.done for peer in peers))
        assert CliRunner().invoke(cli, ["keygen", str(folder / "delta"), "--name", "delta"]).exit_code == 0
        for name in names[:2]:
            told = CliRunner().invoke(
                cli, ["ledger", "export", str(folder / name), "--bundle", str(folder / f"{name}.bundle")]
            )
            assert told.exit_code == 0, told.output
        yield folder
    finally:
        stop_all(peers)


def _until(peers: list[LocalPeer], reached: Callable[[], bool]) -> None:
    clock = Clock()
    begun = clock.now()
    while not reached():
        assert clock.now() - begun < 90.0, [peer.log_tail() for peer in peers]
        sleep(0.1)
        for peer in peers:
            peer.poll()


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_of_a_guide_does_what_it_is_there_for(
    swarm: Path, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swarm)
    seen = {one.typed: one.seen for one in commands(block.text)}
    for line in typed(block):
        page_shows = seen.get(line)
        if words(line)[0] in SERVICE:
            assert all((ROOT / word).is_file() for word in words(line) if word.startswith("packaging/"))
            continue
        for name, actual in NAMES.items():
            line = line.replace(name, actual)
        program, *arguments = words(line.replace("~/", f"{swarm}/"))
        assert program == "swarm", f"nobody has taught this test: {line}"
        if arguments[0] == "vote":
            shown = CliRunner().invoke(cli, ["members", "beta"])
            proposals = re.findall(r"^  ([0-9a-f]{8})  ", shown.output, re.MULTILINE)
            if not proposals:
                continue
            arguments[1] = proposals[0]
        result = CliRunner().invoke(cli, arguments)
        if arguments[:2] == ["backup", "restore"]:  # As the guide says: not while the original lies there.
            assert "there is something there already" in str(result.exception)
            continue
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
        if page_shows:
            assert shape(result.stdout) == shape("\n".join(page_shows)), f"{line}\n{result.stdout}"
