"""The reference pages on settings, charter and Python have every name that there is, no other, and their values."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

import swarm
from node import config
from node.loop.local import Result
from node.task import OPTIONAL, PARAMETERS, RunInfo, SiteInfo
from swarm import charter as c
from swarm.errors import UsageError
from tests.builders import make_swarm
from tests.docs.pages import DOCS, ROOT

REFERENCE = DOCS / "reference"
TYPES = {str: "text", int: "number", float: "decimal", bool: "switch"}


def rows(page: str, heading: str = "") -> dict[str, list[str]]:
    """Return the rows of a page's tables, below a heading if one is named, by what their first cell has as code."""
    text = (REFERENCE / page).read_text().partition(heading)[2] if heading else (REFERENCE / page).read_text()
    found: dict[str, list[str]] = {}
    for line in (text.partition("\n## ")[0] if heading else text).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| `") else []
        if cells:
            name = cells[0].strip(" `")
            assert name not in found, f"{page} has {name} twice"
            found[name] = cells[1:]
    return found


def test_every_setting_has_its_row_with_type_and_default() -> None:
    table = rows("config.md")
    known = {f"{section}.{one.name}": one.default for section, kind in config.SECTIONS.items() for one in fields(kind)}
    assert {*table} == {*known}
    for name, default in known.items():
        kind, shown, *_ = table[name]
        assert kind == TYPES[type(default)], name
        section, _, key = name.partition(".")
        assert config.load(f"[{section}]\n{key} = {shown.strip('`')}\n", where="page")
        written = {"true": True, "false": False}.get(shown.strip("`"), shown.strip("`").strip('"'))
        assert str(written) == str(default), name


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("run.log", config.LOGS),
        ("run.log_level", config.LEVELS),
        ("site.approve", config.APPROVALS),
        ("ledger.catch_up", config.MODES),
        ("egress.approve", ("no", "first", "every")),
    ],
)
def test_choices_of_a_setting_are_in_its_row(name: str, choices: tuple[str, ...]) -> None:
    words = " ".join(rows("config.md")[name])
    assert all(f"`{choice}`" in words for choice in choices)
    for choice in choices:
        config.load("", where="none", overrides=[f"{name}={choice}"])


@pytest.mark.parametrize(("name", "least", "most"), [(name, *ends) for name, ends in sorted(config._RANGES.items())])
def test_ends_of_a_setting_are_in_its_row(name: str, least: int, most: int) -> None:
    words = " ".join(rows("config.md")[name])
    if name.startswith("storage.keep"):
        return  # As many as anybody wants.
    assert f"{least} to {most}" in words
    with pytest.raises(UsageError):
        config.load("", where="none", overrides=[f"{name}={most + 1}"])


def test_every_field_of_a_charter_has_its_row() -> None:
    charter = make_swarm(3).signed
    text = c.to_toml(charter)
    tables = {"swarm": {"version", "name", "created_ms"}, "share": {"metrics", "edges", "options"}}
    tables |= {"task": {*c.Task.__struct_fields__}, "round": {*c.RoundPolicy.__struct_fields__}}
    tables |= {"ledger": {*c.LedgerPolicy.__struct_fields__}}
    single = {f"{table}.{name}" for table, names in tables.items() for name in names}
    table = rows("charter.md", "## Fields")
    assert {*table} == {*single, "predecessor", "member", "signature"}
    for name in single:
        section, _, key = name.partition(".")
        assert re.search(rf"^\[{section}\]\n(?:[^\[].*\n)*?{key} = ", text, re.MULTILINE), name
    assert {*re.findall(r"`(\w+)`", table["member"][0])} == {*c.Card.__struct_fields__}


def test_every_option_of_a_charter_has_its_row_with_an_example_and_the_word_that_sets_it() -> None:
    table = rows("charter.md", "## Options")
    assert tuple(table) == c.OPTIONS
    offered = (REFERENCE / "cli.md").read_text().partition("### `swarm charter new`")[2].partition("\n### ")[0]
    for name, (example, setter, *_) in table.items():
        for option in re.findall(r"`(--[a-z-]+)`", setter):
            assert f"| `{option}`" in offered, option
        assert example.strip("`"), name


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        (name, text)
        for name, (text, *_) in rows("charter.md", "## Options").items()
        if name
        in ("min_cell", "staleness", "stop", "privacy", "local", "relay", "codec", "route", "pace", "contribution")
    ],
)
def test_the_example_of_an_option_is_one_that_a_charter_takes(name: str, taken: str) -> None:
    base = make_swarm(4).signed.charter
    options = dict(base.options) | {name: taken.strip("`")} | ({"staleness": "16"} if name == "pace" else {})
    metrics = ("accuracy", "auc", "loss")
    msgspec.structs.replace(base, options=tuple(sorted(options.items())), metrics=metrics).check()


def test_what_a_task_file_may_have_and_what_it_is_told() -> None:
    table = rows("python-api.md")
    functions = {name.partition("(")[0]: name for name in table if "(" in name}
    for name, count in {**PARAMETERS, **OPTIONAL}.items():
        assert len(re.findall(r"\w+", functions[name].partition("(")[2])) == count, name
        assert table[functions[name]][0].startswith("Required" if name in PARAMETERS else "Optional")
    assert {name for name in table if name.startswith("site.")} == {f"site.{one.name}" for one in fields(SiteInfo)}
    assert {name for name in table if name.startswith("run.")} == {f"run.{one.name}" for one in fields(RunInfo)}


def shown(function: object) -> str:
    """Return a function's parameters as the page writes them, without types."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    plain = [
        one.replace(annotation=inspect.Parameter.empty)
        for one in signature.parameters.values()
        if one.name not in ("self", "cls")
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def test_signatures_are_those_of_the_source() -> None:
    table = rows("python-api.md")
    assert f"swarm.join{shown(swarm.join)}" in table
    assert f"swarm.Swarm.local{shown(swarm.Swarm.local)}" in table
    assert f"Swarm.learn{shown(swarm.Swarm.learn)}" in table
    assert f"result.mean{shown(Result.mean)}" in table
    public = {
        name: one
        for name, one in vars(swarm.Peer).items()
        if not name.startswith("_") and name not in ("begin", "wait_for", "parameters_of")
    }
    told = {f"peer.{name}" + ("" if isinstance(one, property) else shown(one)) for name, one in public.items()}
    assert {name for name in table if name.startswith("peer.")} == told
    assert {*swarm.__all__} == {"Peer", "Swarm", "join"}


@pytest.mark.parametrize("which", ["lightning", "huggingface"])
def test_callbacks_take_what_the_page_says(which: str) -> None:
    source = ast.parse((ROOT / "node" / "integrations" / f"{which}.py").read_text())
    made = next(
        one
        for found in source.body
        if isinstance(found, ast.ClassDef) and found.name == "SwarmCallback"
        for one in found.body
        if isinstance(one, ast.FunctionDef) and one.name == "__init__"
    )
    words = [*(one.arg for one in made.args.args[1:]), "*"]
    defaults = zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True)
    words += [f"{one.arg}={ast.unparse(value)}" for one, value in defaults if value is not None]
    assert f"node.integrations.{which}.SwarmCallback({', '.join(words)})" in rows("python-api.md")


def test_attributes_that_a_peer_is_said_to_have_are_those_it_documents() -> None:
    text = Path(REFERENCE / "python-api.md").read_text()
    sentence = re.search(r"^A peer has (.*)\.$", text, re.MULTILINE)
    assert sentence is not None
    documented = re.findall(r"^        (\w+): ", swarm.Peer.__doc__ or "", re.MULTILINE)
    assert re.findall(r"`(\w+)`", sentence[1]) == documented
