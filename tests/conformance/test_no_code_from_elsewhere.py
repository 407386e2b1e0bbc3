"""Bytes from elsewhere are never code, and nobody is called but the members: no module that is shipped has the means.

ruff refuses `pickle` and `torch.load` as well (`banned-api` in pyproject.toml); this holds whatever ruff is told to pass over.
What user code does is its own: a task file and `scripts/` are not looked at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UNPICKLE = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
TELL = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "smtplib", "ftplib", "xmlrpc", "sentry_sdk"}
RUN = {"eval", "exec", "compile"}


def shipped() -> list[Path]:
    found = [path for package in ("swarm", "gossip", "topologies", "node") for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if "examples" not in path.parts]


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield every module that is imported anywhere, and every `module.name` that may be one."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)


def offences(text: str) -> list[str]:
    """Return what of it could run bytes as code, or call somebody: names of modules and calls."""
    tree = ast.parse(text)
    names = {*imported(tree)}
    found = [name for name in names if name.split(".")[0] in UNPICKLE or name in TELL or name.split(".")[0] in TELL]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in RUN:
                found.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                found.append("torch.load")
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                found.append("allow_pickle")
    return sorted(found)


def test_nothing_that_is_shipped_unpickles_evaluates_or_speaks_to_a_service() -> None:
    found = {str(path.relative_to(ROOT)): offences(path.read_text()) for path in shipped()}
    assert len(found) > 300
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from urllib import request", "urllib.request"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("exec(data)", "exec"),
    ],
)
def test_what_is_looked_for_is_found(text: str, name: str) -> None:
    assert offences(text) == [name]
