"""Puts a bug into the product and takes it out again.

A bug is a list of edits: a function, words that occur in its source exactly once, and what to read instead. The edited
source is compiled and its code takes the place of the function's own, so that whoever holds the function runs the bug,
however they came by it. Nothing on disk changes. When the product is rewritten and the words are gone, the bank says
so: somebody must then decide what the same mistake would look like in the new text.
"""

from __future__ import annotations
import __future__

import contextlib
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import pytest

from swarm.errors import SwarmError

FAILURES = (AssertionError, pytest.fail.Exception, SwarmError)
"""How a test fails that has noticed a bug. Anything else that it raises is a mistake in the bank."""

_PACKAGES = ("swarm", "gossip", "topologies", "node", "tests")


@dataclass(frozen=True, slots=True)
class Edit:
    """In the source of a function, `new` instead of the one place that says `old`."""

    where: Callable[..., Any]
    old: str
    new: str

    def __post_init__(self) -> None:
        _source(_plain(self.where))  # as it is now: an editor may be at work while the tests run


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake, how to make it, and the test that must notice."""

    name: str
    edits: tuple[Edit, ...]
    killer: Callable[..., None]


@contextlib.contextmanager
def seeded(edits: Sequence[Edit]) -> Iterator[None]:
    """Run the body with the bug in place."""
    before = {function: function.__code__ for function in (_plain(edit.where) for edit in edits)}
    try:
        for function, code in [(function, _edited(function, edits)) for function in before]:
            function.__code__ = code
        _forget()
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code
        _forget()


def run(test: Callable[..., None], fixture: Callable[[str], Any]) -> None:
    """Run the body of a test, with each of its parameters, the first failure being the last."""
    drawn = hasattr(test, "hypothesis")
    for case in _cases(test):
        names = [] if drawn else [name for name in inspect.signature(test).parameters if name not in case]
        test(**case, **{name: fixture(name) for name in names})


def notices(test: Callable[..., None], fixture: Callable[[str], Any]) -> bool:
    """Whether a test fails, as a test fails that has found what it looks for."""
    try:
        run(test, fixture)
    except BaseExceptionGroup as group:  # Hypothesis found several ways
        _, rest = group.split(FAILURES)
        if rest is not None:
            raise
        return True
    except FAILURES:
        return True
    return False


def _plain(function: Callable[..., Any]) -> FunctionType:
    """Return the function under what decorates it."""
    plain = inspect.unwrap(getattr(function, "fget", None) or getattr(function, "func", None) or function)
    assert isinstance(plain, FunctionType), f"{function} has no source to edit"
    return plain


@functools.cache
def _source(function: FunctionType) -> tuple[str, int]:
    """Return a function's source, and the number of its first line."""
    lines, first = inspect.getsourcelines(function)
    return textwrap.dedent("".join(lines)), first


def _edited(function: FunctionType, edits: Sequence[Edit]) -> CodeType:
    source, first = _source(function)
    for edit in edits:
        if _plain(edit.where) is function:
            found = source.count(edit.old)
            assert found == 1, f"{function.__qualname__} says {edit.old!r} {found} times: the bank is out of date"
            source = source.replace(edit.old, edit.new)
    compiled = compile(
        "\n" * (first - 1) + source,
        inspect.getsourcefile(function) or "",
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    code = next(c for c in compiled.co_consts if isinstance(c, CodeType) and c.co_name == function.__name__)
    assert code.co_freevars == function.__code__.co_freevars, f"{function.__qualname__} is a closure"
    return code


def _cases(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """Yield the arguments that `pytest.mark.parametrize` gives a test, once without any if it gives none."""
    axes: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names = mark.args[0]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        rows = []
        for given in mark.args[1]:
            values = given.values if hasattr(given, "values") and hasattr(given, "marks") else given
            if len(names) == 1 and values is given:
                values = (given,)
            rows.append(dict(zip(names, values, strict=True)))
        axes.append(rows)
    for combination in itertools.product(*axes):
        yield {name: value for row in combination for name, value in row.items()}


def _forget() -> None:
    """Empty every cache of the product and the tests: what was computed with a bug is not true without it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES:
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper) and value is not _source:
                    value.cache_clear()
