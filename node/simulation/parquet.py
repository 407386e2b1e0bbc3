"""SHELL. Tables as Parquet, for notebooks and databases: the only file that imports pyarrow, which is optional."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarm.errors import UsageError


def available() -> bool:
    """Whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def check_available() -> None:
    """Raise `UsageError` unless pyarrow is installed."""
    if not available():
        raise UsageError(
            "couldn't write tables as Parquet: pyarrow is not installed",
            hint="pip install 'swarm-node[parquet]', or leave --tables at csv",
        )


def encoded(columns: Mapping[str, type], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a table as one Parquet file, the same bytes for the same table under one release of pyarrow.

    Args:
        columns: Their names, in order, and what is in them: str, int (as int64) or float (as float64).
        rows: A value or None for every column.

    Raises:
        UsageError: pyarrow is not installed.
    """
    check_available()
    import pyarrow as pa
    import pyarrow.parquet as pq

    forms: dict[type, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, forms[kind]) for name, kind in columns.items()])
    held = list(zip(*rows, strict=True)) or [()] * len(columns)
    table = pa.table([pa.array(column, field.type) for column, field in zip(held, schema, strict=True)], schema)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
