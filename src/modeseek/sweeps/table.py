"""The table of a sweep: one row for each finished cell, as CSV and, where pyarrow is installed, as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeseek.core.files import write_atomically, write_text


def write_table(out: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write `table.csv` and `table.parquet` into `out`; returns what was written. Columns are those of all rows, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "table.csv", text.getvalue())
    return [out / "table.csv", *_parquet(out / "table.parquet", rows, columns)]


def _parquet(path: Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> list[Path]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return []
    values = {name: [row.get(name) for row in rows] for name in columns}
    for name, column in values.items():  # "inf" in a column of numbers
        if any(isinstance(value, float) for value in column) and any(isinstance(value, str) for value in column):
            values[name] = [None if value is None else float(value) for value in column]
    table = pyarrow.table(values)
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary), durable=True)
    return [path]
