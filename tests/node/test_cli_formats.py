"""`--format` of `swarm ledger`: the same facts for people, as one object, as one object a line, or as bare bytes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from node.cli.ledger import COMMANDS, ledger
from node.cli.ledger.reading import committed_words
from node.cli.output import Form, emit_bytes, emit_rows, wants_color, wants_json
from swarm.errors import UsageError
from swarm.ledger.entry import RoundCommit
from tests.node.test_cli_ledger import SEGMENT, calm, data, flip, leaves, places, refused, said, swarm, written
from tests.node.test_cli_ledger_views import with_a_liar

LISTS = {
    "log": "entries",
    "rounds": "rounds",
    "peers": "peers",
    "members": "members",
    "epochs": "epochs",
    "blocks": "blocks",
    "evidence": "evidence",
    "forks": "forks",
    "certs": "certificates",
    "vkeys": "vkeys",
}
"""What lists things, and the key under which `--format json` has them."""

ARGUMENTS = {
    "certs": ["2"],
    "show": ["1"],
    "round": ["1"],
    "peer": ["site-0"],
    "block": ["2"],
    "consistency": ["1", "2"],
}
TELLS = ["status", "show", "round", "peer", "verify", "block", "stats", "lineage", "policy", "consistency"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


def lines_of(text: str) -> list[dict[str, object]]:
    """Return the data of each line, having checked its envelope."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(
        (set(one), one["schema"], one["status"]) == ({"schema", "status", "data"}, "swarm/cli/v1", "ok")
        for one in found
    )
    return [one["data"] for one in found]


@pytest.mark.parametrize("command", LISTS)
def test_lines_of_json_are_the_list_of_the_one_object(command: str, tmp_path: Path) -> None:
    signed, payloads = with_a_liar()
    folder = written(tmp_path / "caught", payloads, signed=signed, segment_bytes=1 << 20)
    words = ["ledger", command, *ARGUMENTS.get(command, []), folder]
    lines, whole = swarm(*words, "--format", "jsonl"), swarm(*words, "--format", "json")
    assert (lines.exit_code, whole.stderr) == (whole.exit_code, "")
    assert not lines.stderr or lines.stderr.startswith("A SUBSET"), "which no line has room for"
    assert lines_of(lines.stdout) == json.loads(whole.stdout)["data"][LISTS[command]]
    assert lines.stdout or command == "forks"
    assert swarm(*words, "--json").stdout == whole.stdout, "--json is short for it"
    assert swarm(*words, "--format=table").stdout == swarm(*words).stdout


@pytest.mark.parametrize("command", TELLS)
def test_what_has_nothing_to_list_says_so(site: Path, command: str) -> None:
    result = swarm("ledger", command, *ARGUMENTS.get(command, []), site, "--format", "jsonl")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (2, 2)
    assert (
        error["message"]
        == f"couldn't print swarm ledger {command} as jsonl: it has one thing to tell and nothing to list"
    )
    assert error["hint"] == "--format json prints it as one object"


def test_a_torn_end_is_told_to_who_reads_lines_too(site: Path) -> None:
    last = places(site)[-1]
    flip(site / SEGMENT, last.offset + 60)
    result = swarm("ledger", "log", site, "--format", "jsonl")
    assert result.exit_code == 0
    assert lines_of(result.stdout) == data("ledger", "log", site)["entries"]
    assert result.stderr.startswith("! torn end ")


def test_an_error_is_a_line_like_the_others(site: Path) -> None:
    flip(site / SEGMENT, places(site)[2].offset + 60)
    for form in (["--format", "jsonl"], ["--format=json"], ["--json"]):
        result = swarm("ledger", "log", site, *form)
        (line,) = result.stdout.splitlines()
        assert (result.exit_code, json.loads(line)["status"], json.loads(line)["error"]["code"]) == (3, "error", 3)
    assert swarm("ledger", "log", site, "--format", "table").stdout == ""


def test_each_line_is_out_before_the_next_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def rows() -> Iterator[tuple[dict[str, object], str]]:
        for number in range(3):
            seen.append(capsys.readouterr().out)
            yield {"number": number}, ""

    assert emit_rows("numbers", rows(), form=Form.JSONL) == 3
    assert [len(text.splitlines()) for text in seen] == [0, 1, 1]


def test_raw_is_the_very_bytes_of_the_ledger(site: Path) -> None:
    payloads = calm()[1]
    first = leaves(payloads[0])[0]
    assert swarm("ledger", "show", "1", site, "--format", "raw").stdout_bytes == first
    assert swarm("ledger", "block", "2", site, "--format", "raw").stdout_bytes == payloads[1]
    assert swarm("ledger", "show", "b2", site, "--format", "raw").stdout_bytes == payloads[1]
    assert swarm("ledger", "blocks", site, "--format", "raw").stdout_bytes == b"".join(payloads)
    some = swarm("ledger", "blocks", site, "--from", "2", "--to", "b3", "--format", "raw")
    assert some.stdout_bytes == b"".join(payloads[1:3])


def test_what_has_no_bytes_of_its_own_is_not_printed_raw(site: Path) -> None:
    for words, hint in [(["show", "r1"], "--round"), (["round", "1"], "`blocks`"), (["log"], "`blocks`")]:
        result = swarm("ledger", *words, site, "--format", "raw")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: couldn't print ")
        assert hint in result.stderr


def test_raw_bytes_never_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(UsageError, match="raw bytes on a terminal"):
        emit_bytes([b"\x1b[2J"])
    assert capsys.readouterr().out == ""


def test_two_forms_at_once_are_a_contradiction(site: Path) -> None:
    result = swarm("ledger", "log", site, "--json", "--format", "table")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, 2)
    assert "contradict each other" in result.stderr
    assert data("ledger", "stats", site, "--format", "json").keys() == data("ledger", "stats", site).keys()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["log", "--json"], True),
        (["log", "--format", "json"], True),
        (["log", "--format=jsonl"], True),
        (["log", "--format", "raw"], False),
        (["log", "--format"], False),
        (["jsonl", "--format", "table"], False),
    ],
)
def test_an_error_is_in_json_for_who_asked_for_json(words: list[str], wanted: bool) -> None:
    assert wants_json(words) is wanted


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, True),
        ({"TERM": "xterm"}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colour_is_left_out_for_who_does_not_want_it(environment: dict[str, str], wanted: bool) -> None:
    assert wants_color(environment) is wanted


def test_a_round_of_one_model_and_one_of_several_are_told_apart() -> None:
    one = RoundCommit(3, 7, bytes([0xAB] * 32), 128, 4, 400, (), (), 0, 0)
    several = msgspec.structs.replace(one, model_digest=bytes(32), distance_max_ppm=350, distance_mean_ppm=310)
    assert committed_words(one) == "abababababab held by 4 sites"
    assert committed_words(several) == (
        "4 sites ended with models of their own, up to 0.035 % of a model's length apart, 0.031 % on average"
    )


# --- a range that is not there ------------------------------------------------------------------------------------


def test_blocks_that_are_not_there_are_not_an_empty_list(site: Path) -> None:
    message, hint = refused("ledger", "blocks", site, "--from", "99", code=7)
    assert (message, hint) == ("there is no block 99 in this ledger", f"it has {len(calm()[1])} blocks")
    refused("ledger", "blocks", site, "--from", "3", "--to", "2", code=2)
    message, _ = refused("ledger", "blocks", site, "--from", "x3", code=2)
    assert "'x3' is no height" in message
    assert said("ledger", "blocks", written(site.with_name("new"), ())).startswith("none yet")


# --- help ---------------------------------------------------------------------------------------------------------


CONTEXT = click.Context(ledger, **ledger.context_settings)  # type: ignore[arg-type]  # click's own, passed through


def every_command() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = ledger.get_command(CONTEXT, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(
    ("name", "command"), [*every_command()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_help_is_one_clear_sentence_and_an_example_that_runs(name: str, command: click.Command) -> None:
    text = swarm("ledger", *name.split(), "--help").stdout
    first = str(command.help).partition("\n")[0]
    assert re.fullmatch(r"[A-Z](?:[^.]|\.(?=\S)){10,}\.(?: .*)?", first), first
    assert "--format" in text
    example = re.search(r"Example: (swarm ledger [^\n]*)", text)
    assert example is not None, "an example says more than a grammar"
    words = shlex.split(example[1].partition(" > ")[0])[2:]
    assert words[: len(name.split())] == name.split()
    command.make_context(name, words[len(name.split()) :], parent=CONTEXT)
