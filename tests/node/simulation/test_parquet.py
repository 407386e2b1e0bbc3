"""The tables of a result as Parquet: what CSV says, with types."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.simulation import parquet
from node.simulation.results import PEER_COLUMNS, ROUND_COLUMNS
from swarm.errors import UsageError

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed: pip install 'swarm-node[parquet]'"
)
QUICK = ["--nodes", "4", "--model", "linear", "--rounds", "2", "--topology", "ring,complete"]


def simulate(folder: Path, *arguments: str) -> None:
    answer = CliRunner().invoke(cli, ["simulate", "-o", str(folder), *QUICK, *arguments])
    assert answer.exit_code == 0, answer.output


@needs_pyarrow
@pytest.mark.parametrize(("name", "columns"), [("rounds", ROUND_COLUMNS), ("peers", PEER_COLUMNS)])
def test_both_forms_hold_the_same_columns_types_and_values(tmp_path: Path, name: str, columns: dict[str, type]) -> None:
    import pyarrow.parquet as pq

    simulate(tmp_path, "--tables", "both")
    table = pq.read_table(tmp_path / f"{name}.parquet")
    forms = {str: "string", int: "int64", float: "double"}
    assert {field.name: str(field.type) for field in table.schema} == {
        key: forms[kind] for key, kind in columns.items()
    }
    with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {key: columns[key](value) if value else None for key, value in row.items()} for row in csv.DictReader(file)
        ]
    assert rows
    assert table.to_pylist() == rows


@needs_pyarrow
def test_what_is_not_known_is_null_and_no_rows_are_a_table_too() -> None:
    import io

    import pyarrow.parquet as pq

    columns: dict[str, type] = {"name": str, "seed": int, "loss": float}
    rows = [("ring", 1, None), (None, 2**53 + 1, 0.1)]
    encoded = parquet.encoded(columns, rows)
    assert pq.read_table(io.BytesIO(encoded)).to_pylist() == [
        {"name": "ring", "seed": 1, "loss": None},
        {"name": None, "seed": 2**53 + 1, "loss": 0.1},
    ]
    assert parquet.encoded(columns, rows) == encoded
    empty = pq.read_table(io.BytesIO(parquet.encoded(columns, [])))
    assert (empty.num_rows, empty.column_names) == (0, list(columns))


@needs_pyarrow
def test_tables_of_an_earlier_simulation_do_not_stay(tmp_path: Path) -> None:
    simulate(tmp_path, "--tables", "parquet")
    assert sorted(path.name for path in tmp_path.glob("*s.*t")) == ["peers.parquet", "rounds.parquet"]
    assert not list(tmp_path.glob("*.csv"))
    simulate(tmp_path)
    assert {path.name for path in tmp_path.glob("*.csv")} == {"peers.csv", "rounds.csv"}
    assert not list(tmp_path.glob("*.parquet"))


def test_without_pyarrow_it_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "available", lambda: False)
    answer = CliRunner().invoke(cli, ["simulate", "-o", str(tmp_path / "out"), *QUICK, "--tables", "parquet"])
    assert isinstance(answer.exception, UsageError)
    assert "pyarrow is not installed" in answer.exception.message
    assert answer.exception.hint.startswith("pip install 'swarm-node[parquet]'")
    assert not (tmp_path / "out").exists()
