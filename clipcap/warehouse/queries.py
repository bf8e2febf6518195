"""Questions to the catalog: one statement in, an Arrow table out, nothing in the lake changed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from clipcap.errors import DataError, WarehouseError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current, read_generation
from clipcap.storage.records import Generation
from clipcap.warehouse.catalog import build_catalog, connect, ensure_catalog, one_line, statement, statements
from clipcap.warehouse.hints import LIST, explain


@dataclass(frozen=True)
class View:
    """One view of the catalog as ``clipcap sql --list`` prints it."""

    name: str
    comment: str
    columns: list[dict[str, str]]
    """Of each column: name, type, comment."""


@dataclass(frozen=True)
class Macro:
    """One macro of the catalog."""

    name: str
    signature: str
    """With the values of what may be left out: "similar_to(sample_key, k := 10, encoder := '')"."""
    comment: str
    is_table: bool
    """Whether it stands after FROM."""
    parameters: list[str] = field(default_factory=list)


def query(lake: Lake, sql: str, parameters: dict[str, Any] | None = None, as_of: str = "") -> pa.Table:
    """Runs one reading statement on the catalog, which is built first where it is missing or stale.

    The statement reaches the lake's files and no others; the catalog is attached read-only.

    Args:
        lake: the lake.
        sql: one SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or PIVOT statement.
        parameters: values for each ``$name`` in it.
        as_of: a run: the lake as it stood when that run was published; empty for now.

    Returns:
        The rows; times in UTC.

    Raises:
        WarehouseError: the statement is wrong, is not a single one, or would do something else than read; or the
            generation of ``as_of`` is not kept any more.
    """
    _must_read(sql)
    with _catalog(lake, as_of) as catalog, connect(lake, catalog, only_lake=True) as connection:
        try:
            return connection.sql(sql, params=parameters).to_arrow_table()
        except duckdb.Error as error:
            raise WarehouseError(explain(connection, error)) from None


def list_views(lake: Lake) -> list[View]:
    """The catalog's views, each with its comment and its columns' comments; the ``source_*`` views are left out."""
    with connect(lake, ensure_catalog(lake, may_be_old=True)) as connection:
        rows = connection.execute(statement("reports/list_views.sql")).fetchall()
    return [View(name=name, comment=comment, columns=columns) for name, comment, columns in rows]


def list_macros(lake: Lake) -> list[Macro]:
    """The catalog's macros with parameters and comments, those that give tables first."""
    texts = "\n".join(file.read_text(encoding="utf-8") for file in statements("macros"))
    signatures = dict(re.findall(r"^create macro (\w+)\((.*)\) as\b", texts, re.MULTILINE))
    with connect(lake, ensure_catalog(lake, may_be_old=True)) as connection:
        rows = connection.execute(statement("reports/list_macros.sql")).fetchall()
    return [
        Macro(name, f"{name}({signatures[name]})", comment, is_table, parameters)
        for name, comment, is_table, parameters in rows
    ]


def generation_as_of(lake: Lake, run_id: str) -> Generation:
    """The oldest kept generation in which a run is the newest one.

    Raises:
        WarehouseError: there was no such run, or what was published then is not kept any more.
    """
    runs = [run.run_id for run in read_current(lake).runs]
    if run_id not in runs:
        raise WarehouseError(f'there is no run {run_id!r}: `clipcap sql "select run_id from runs"` shows them')
    kept = sorted(int(f.stem) for f in lake.files_in(lake.manifests, ".json") if f.stem.isdigit())
    low, high = 0, len(kept) - 1  # runs are only ever added, so whether a generation has one is monotonic
    while low < high:
        middle = (low + high) // 2
        try:
            has_run = run_id in {run.run_id for run in read_generation(lake, kept[middle]).runs}
        except DataError:
            has_run = False
        low, high = (low, middle) if has_run else (middle + 1, high)
    generation = read_generation(lake, kept[low])
    if generation.runs and generation.runs[-1].run_id == run_id:
        return generation
    raise WarehouseError(
        f"what stood when run {run_id} was published is not kept any more (maintenance.keep_generations); from "
        f"captions_as_of('{run_id}') tells what is still known"
    )


@contextmanager
def _catalog(lake: Lake, as_of: str) -> Iterator[Path]:
    if not as_of:
        yield ensure_catalog(lake, may_be_old=True)
        return
    with tempfile.TemporaryDirectory(prefix="clipcap-as-of-") as folder:
        yield build_catalog(lake, generation_as_of(lake, as_of), Path(folder) / "catalog.duckdb")


def _must_read(sql: str) -> None:
    """Refuses what is not exactly one reading statement, before it runs."""
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise WarehouseError(f"{one_line(error)} ({LIST})") from None
    if len(found) != 1:
        raise WarehouseError(f"expected one SQL statement, got {len(found)}: run them one by one")
    kind = found[0].type
    is_pivot = kind == duckdb.StatementType.MULTI and "pivot" in sql.lower()
    if kind != duckdb.StatementType.SELECT and not is_pivot:
        raise WarehouseError(f"the catalog is read-only: expected a SELECT, got a statement of type {kind.name}")
