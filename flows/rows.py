"""How rows of SQL are printed: kindly as a table, exactly as CSV and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from flows import console

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 1_000
"""Rows of a table; nobody reads more, and a million would take minutes to lay out."""
_AT_ONCE = 10_000


def print_rows(table: pa.Table, as_json: bool = False, as_csv: bool = False, is_spreadsheet: bool = False) -> None:
    """Prints a result. CSV and JSON hold the values as they are; in a table they are shortened.

    Args:
        table: the rows.
        as_json: an array of objects.
        as_csv: comma-separated, with a header.
        is_spreadsheet: in CSV, put an apostrophe before texts that a spreadsheet would run as formulas.
    """
    names = unique(table.column_names)
    if as_json:
        _print_json(table, names)
    elif as_csv:
        _print_csv(table, names, is_spreadsheet)
    else:
        rows = (map(kindly, row) for row in _rows(table, MOST_ROWS))
        shown = [dict(zip(names, row, strict=True)) for row in rows]
        console.print_table(shown, columns=names)
        if table.num_rows > MOST_ROWS:
            more = table.num_rows - MOST_ROWS
            typer.echo(f"{more:,} more rows: add a limit, or take --csv or --json", err=True)


def unique(names: list[str]) -> list[str]:
    """Column names, a repeated one with a number: caption, caption_1."""
    found: dict[str, int] = {}
    result: list[str] = []
    for name in names:
        count = found[name] = found.get(name, -1) + 1
        result.append(f"{name}_{count}" if count else name)
    return result


def kindly(value: Any) -> str:
    """A value in a cell: times to the second, a line for each item of a list, a vector by its first numbers."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:,.4f}" if value == 0 or 1e-3 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, bytes):
        return value[:16].hex() + (f" … {len(value):,} bytes" if len(value) > 16 else "")
    if isinstance(value, dict):
        return json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, list):
        if value and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            start = ", ".join(kindly(item) for item in value[:3])
            return f"[{start}, … {len(value)} numbers]" if len(value) > 8 else f"[{', '.join(map(kindly, value))}]"
        return "\n".join(kindly(item) for item in value)
    return str(value)


def plain(value: Any) -> Any:
    """A value as JSON has it: ISO 8601 times, null for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):  # an entry of a map
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | bool | None) else str(value)


def _rows(table: pa.Table, most: int | None = None) -> Iterator[tuple[Any, ...]]:
    for batch in table.slice(0, most).to_batches(max_chunksize=_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _print_csv(table: pa.Table, names: list[str], is_spreadsheet: bool) -> None:
    def cell(value: Any) -> Any:
        exact = value if isinstance(value, float) else plain(value)
        return json.dumps(exact, ensure_ascii=False) if isinstance(exact, list | dict) else exact

    records = (dict(zip(names, map(cell, row), strict=True)) for row in _rows(table))
    console.print_csv(records, names, is_spreadsheet)


def _print_json(table: pa.Table, names: list[str]) -> None:
    records = (dict(zip(names, map(plain, row), strict=True)) for row in _rows(table))
    if sys.stdout.isatty():
        return console.print_json(list(records))
    sys.stdout.write("[")
    for number, record in enumerate(records):
        sys.stdout.write((", " if number else "") + console.json_text(record))
    sys.stdout.write("]\n")
    return None
