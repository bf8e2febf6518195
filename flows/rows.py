"""How rows of SQL are printed: kindly as a table, exactly as CSV and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from flows import console
from flows.cells import cut, kindly, plain

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 1_000
"""Rows of a table; nobody reads more, and a million would take minutes to lay out."""
_AT_ONCE = 10_000


def print_rows(
    table: pa.Table, as_json: bool = False, as_csv: bool = False, is_spreadsheet: bool = False, is_full: bool = False
) -> None:
    """Prints a result. CSV and JSON hold the values as they are; in a table they are shortened.

    Args:
        table: the rows.
        as_json: an array of objects.
        as_csv: comma-separated, with a header.
        is_spreadsheet: in CSV, put an apostrophe before texts that a spreadsheet would run as formulas.
        is_full: cut no text in a table, however long.
    """
    names = unique(table.column_names)
    if as_json:
        _print_json(table, names)
    elif as_csv:
        _print_csv(table, names, is_spreadsheet)
    else:
        whole = [[kindly(value) for value in row] for row in _rows(table, MOST_ROWS)]
        shown = whole if is_full else [[cut(text) for text in row] for row in whole]
        console.print_table([dict(zip(names, row, strict=True)) for row in shown], columns=names)
        if shown != whole:
            typer.echo("long texts are cut, as the … shows: take --full, --csv or --json", err=True)
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
