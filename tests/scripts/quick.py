"""A script's table of a quick run, as its rows: what every one of them has to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from scripts.real_peers import COLUMNS, FORKSERVER

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def needs(path: str) -> pytest.MarkDecorator:
    """Skip, with its reason, what needs a file of the real data."""
    return pytest.mark.skipif(not (DATA / path).exists(), reason=f"needs {path} in ../shared/data")


def quick_rows(
    main: Callable[[list[str]], None],
    arguments: Sequence[object],
    sites: Sequence[str],
    forkserver: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Mapping[str, list[float]]:
    """Run a script and return, by row, its scores in our columns; each site must have one in every column."""
    monkeypatch.setenv(FORKSERVER, str(forkserver))
    main([*map(str, arguments), "--quick"])
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if COLUMNS[0] in line.split())
    assert heading.split()[2 : 2 + len(COLUMNS)] == list(COLUMNS)
    ends = [heading.index(column) + len(column) for column in COLUMNS]
    rows = {}
    for name in sites:
        line = next(line for line in lines if line.startswith(name))
        rows[name] = [float(line[:end].split()[-1]) for end in ends]
        assert all(0 <= value <= 1 for value in rows[name]), line
    return rows
