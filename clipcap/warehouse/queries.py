"""Questions to the catalog: one statement in, an Arrow table out, nothing in the lake changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from clipcap.errors import WarehouseError
from clipcap.storage.lake import Lake
from clipcap.warehouse.catalog import connect, ensure_catalog, one_line, statement

HINT = "`clipcap sql --list` shows the views and their columns"


@dataclass(frozen=True)
class View:
    """One view of the catalog as ``clipcap sql --list`` prints it."""

    name: str
    comment: str
    columns: list[dict[str, str]]
    """Of each column: name, type, comment."""


def query(lake: Lake, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
    """Runs one reading statement on the catalog, which is built first where it is missing or stale.

    The statement reaches the lake's files and no others; the catalog is attached read-only.

    Args:
        lake: the lake.
        sql: one SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or PIVOT statement.
        parameters: values for each ``$name`` in it.

    Returns:
        The rows; times in UTC.

    Raises:
        WarehouseError: the statement is wrong, is not a single one, or would do something else than read.
    """
    ensure_catalog(lake)
    _must_read(sql)
    with connect(lake, only_lake=True) as connection:
        try:
            return connection.sql(sql, params=parameters).to_arrow_table()
        except duckdb.Error as error:
            raise WarehouseError(f"{one_line(error)} ({HINT})") from None


def list_views(lake: Lake) -> list[View]:
    """The catalog's views, each with its comment and its columns' comments; the ``source_*`` views are left out."""
    ensure_catalog(lake)
    with connect(lake) as connection:
        rows = connection.execute(statement("reports/list_views.sql")).fetchall()
    return [View(name=name, comment=comment, columns=columns) for name, comment, columns in rows]


def _must_read(sql: str) -> None:
    """Refuses what is not exactly one reading statement, before it runs."""
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise WarehouseError(f"{one_line(error)} ({HINT})") from None
    if len(found) != 1:
        raise WarehouseError(f"expected one SQL statement, got {len(found)}: run them one by one")
    kind = found[0].type
    is_pivot = kind == duckdb.StatementType.MULTI and "pivot" in sql.lower()
    if kind != duckdb.StatementType.SELECT and not is_pivot:
        raise WarehouseError(f"the catalog is read-only: expected a SELECT, got a statement of type {kind.name}")
