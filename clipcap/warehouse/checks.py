"""Checks that stand between a candidate generation and its publication: each statement returns offending rows."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from clipcap.errors import CheckFailed, WarehouseError
from clipcap.storage.lake import Lake
from clipcap.warehouse.catalog import connect, one_line, statements

MOST_ROWS = 10_000
"""Offending rows that are read of one check; more would say nothing new."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found; no rows means that it holds."""

    name: str
    severity: str
    """"error" stops publication, "warning" is only reported."""
    grain: str
    """What one offending row stands for."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    duration_s: float = field(default=0.0, compare=False)

    @property
    def is_failed(self) -> bool:
        return bool(self.rows) and self.severity == "error"


def run_checks(connection: duckdb.DuckDBPyConnection, settings: Mapping[str, float] | None = None) -> list[CheckResult]:
    """Runs every statement of ``sql/checks`` on an open catalog.

    Args:
        connection: on the catalog.
        settings: limits by name, as in ``ChecksConfig``; each becomes a variable of the session, which its check reads
            with ``getvariable``. One that is not given is as the statement says.

    Returns:
        One result for each check, in the order of their files.

    Raises:
        WarehouseError: a check itself cannot run.
    """
    for name, value in (settings or {}).items():
        connection.execute(f"set variable {name} = {float(value)!r}")
    connection.execute("set parquet_metadata_cache = true")  # the same files are opened by many statements
    return [_run(connection, file) for file in statements("checks")]


def check_catalog(lake: Lake, path: Path, settings: Mapping[str, float] | None = None) -> list[CheckResult]:
    """Runs the checks on the catalog at ``path``, usually one of an uncommitted generation; see :func:`run_checks`.

    Returns:
        All results, so that warnings can be shown.

    Raises:
        CheckFailed: a check of severity error returned rows.
    """
    with connect(lake, path) as connection:
        results = run_checks(connection, settings)
    for result in results:
        if result.is_failed:
            raise CheckFailed(result.name, result.rows)
    return results


def _run(connection: duckdb.DuckDBPyConnection, file: Path) -> CheckResult:
    text = file.read_text(encoding="utf-8")
    header = re.match(r"-- (?P<grain>.+)\n-- severity: (?P<severity>error|warning)\n", text)
    name = file.stem.partition("_")[2]
    if header is None:
        raise WarehouseError(f"{file}: a check opens with its grain and '-- severity: error' or '-- severity: warning'")
    start = time.perf_counter()
    try:
        cursor = connection.execute(text)
        columns = [column[0] for column in cursor.description]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(MOST_ROWS)]
    except duckdb.Error as error:
        raise WarehouseError(f"check {name!r} cannot run: {one_line(error)}") from None
    return CheckResult(name, header["severity"], header["grain"], rows, time.perf_counter() - start)
