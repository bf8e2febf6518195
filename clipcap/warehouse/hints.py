"""What to do about a statement that DuckDB refuses: the nearest name, and the views that have a column."""

from __future__ import annotations

import difflib
import re

import duckdb

from clipcap.warehouse.catalog import one_line, statement

LIST = "`clipcap sql --list` shows the views and macros"
_COLUMN = re.compile(r'(?:Referenced column|have a column named|column) "(?P<name>[^"]+)"')
_RELATION = re.compile(r"(?P<kind>Table|Table Function|Scalar Function) with name (?P<name>\S+) does not exist")


def explain(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> str:
    """DuckDB's message in one line, with a suggestion where a name is unknown.

    Args:
        connection: on the catalog that the statement ran on.
        error: what DuckDB raised.
    """
    text = one_line(error)
    if isinstance(error, duckdb.BinderException) and (found := _COLUMN.search(text)) and "GROUP BY" not in text:
        told = re.split(r"\s*Candidate bindings", text)[0]
        return f"{told} ({_about_column(connection, found['name'])})"
    if found := _RELATION.search(text):
        told = text.partition(" Did you mean")[0]
        return f"{told} ({_about_relation(connection, found['kind'], found['name'])})"
    return f"{text} ({LIST})"


def _about_column(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    views = connection.execute(statement("reports/list_views.sql")).fetchall()
    homes: dict[str, list[str]] = {}
    for view, _, columns in views:
        for column in columns:
            homes.setdefault(column["name"], []).append(view)
    if name in homes:
        return f"{name} is a column of {', '.join(homes[name])}"
    near = difflib.get_close_matches(name.lower(), homes, n=1)
    return f"did you mean {near[0]}, of {', '.join(homes[near[0]])}?" if near else LIST


def _about_relation(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> str:
    views = [view for view, *_ in connection.execute(statement("reports/list_views.sql")).fetchall()]
    macros = connection.execute(statement("reports/list_macros.sql")).fetchall()
    tables = {macro: is_table for macro, _, is_table, _ in macros}
    name = name.strip('"')
    if kind == "Scalar Function":
        if tables.get(name):
            return f"{name} gives a table: from {name}(…)"
        known = list(tables)
    elif name in tables:
        return f"{name} is a macro: from {name}(…)"
    elif name in views:
        return f"{name} is a view, without brackets: from {name}"
    else:
        known = [*views, *tables]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? {LIST}" if near else LIST
