"""Builds ``catalog.duckdb`` aside from one generation and swaps it in; opens it for reading.

The catalog holds views over exactly the Parquet files that the generation names (never a glob), and the small facts
of the manifest as tables. Every statement stands below ``sql/``; this module fills in names of files.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

from clipcap.errors import StorageError, WarehouseError
from clipcap.resources import resource
from clipcap.storage.commit import commit, explaining, scratch_folder
from clipcap.storage.lake import Lake
from clipcap.storage.lock import one_at_a_time
from clipcap.storage.manifest import read_current
from clipcap.storage.records import Generation
from clipcap.warehouse.facts import facts

logger = logging.getLogger(__name__)

VERSION = 2
"""Of this module's share in a catalog's contents; a change of the .sql files alone counts by itself."""

STORAGE = "v1.2.0"
"""Form of the file: that of the oldest DuckDB whose shell can still run the views."""

KINDS = {  # kind of file in the manifest → the source that shows such files
    "urls": "source_urls",
    "ledger": "source_ledger",
    "shard": "source_shards",
    "embeddings": "source_embeddings",
    "text_embeddings": "source_text_embeddings",
    "duplicates": "source_duplicates",
    "captions": "source_captions",
    "corpus": "source_corpus",
    "per_image": "source_per_image",
    "comparison": "source_comparisons",
    "evaluation_set": "source_evaluation_sets",
}


def statements(folder: str) -> list[Path]:
    """The numbered files of ``sql/<folder>``, in order."""
    return sorted((resource("sql") / folder).glob("[0-9]*.sql"))


def statement(name: str) -> str:
    """The text of one file, for example ``statement("reports/run.sql")``."""
    return (resource("sql") / name).read_text(encoding="utf-8")


def quoted(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


@cache
def catalog_version() -> str:
    """Changes with :data:`VERSION` and with every statement that makes a catalog."""
    files = [*statements("macros"), *(resource("sql") / "schema").glob("*.sql"), *statements("views")]
    text = "\0".join(file.read_text(encoding="utf-8") for file in sorted(files))
    return f"{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def build_catalog(lake: Lake, generation: Generation, target: Path | None = None) -> Path:
    """Builds the catalog of one generation aside, and gives it its name when it is whole.

    Args:
        lake: the lake; its files are named relative to the root.
        generation: what the catalog shows; need not be committed.
        target: where the catalog goes; the lake's ``catalog.duckdb`` by default.

    Returns:
        The path of the catalog.

    Raises:
        StorageError: the disk is full or read-only; the old catalog stands.
        WarehouseError: a file of the generation is missing or has other columns than docs/architecture.md says.
    """
    target = target or lake.catalog
    with scratch_folder(lake, "catalog") as folder:
        aside = folder / "catalog.duckdb"
        _fetch(lake, generation)
        try:
            with explaining(target), duckdb.connect() as connection:
                connection.execute(f"attach {quoted(str(aside))} as catalog (storage_version {quoted(STORAGE)})")
                connection.execute("use catalog")
                connection.execute(f"set variable lake = {quoted(_root(lake))}")
                connection.begin()
                _fill(connection, generation)
                connection.commit()
                connection.execute("checkpoint catalog")  # closing does it too, and says nothing where the disk is full
        except duckdb.Error as error:
            raise WarehouseError(
                f"the catalog of generation {generation.number} in {lake.address} cannot be built: {one_line(error)}; "
                "a file that was deleted or damaged is made again by the next `clipcap run`"
            ) from None
        # What someone's open shell wrote into the old catalog must not be replayed onto the new one.
        target.with_name(target.name + ".wal").unlink(missing_ok=True)
        commit(aside, target)
    return target


def ensure_catalog(lake: Lake, may_be_old: bool = False) -> Path:
    """The lake's catalog, built again if it is missing, cannot be opened, or shows another generation than CURRENT.

    Of several processes one builds and the others wait, so that none swaps in an older generation than the last.

    Args:
        lake: the lake.
        may_be_old: where the lake cannot be written to, the catalog that is there will do, whatever built it.

    Raises:
        WarehouseError: it cannot be built.
        StorageError: the lake cannot be written to.
        DataError: CURRENT or its manifest cannot be read.
    """
    if _shows(lake) == _wanted(read_current(lake)):
        return lake.catalog
    try:
        with one_at_a_time(lake, "catalog"):
            while _shows(lake) != _wanted(generation := read_current(lake)):
                build_catalog(lake, generation)
    except StorageError as error:
        shown = _shows(lake) if may_be_old else None
        if shown is None:
            raise
        logger.warning("the catalog shows generation %s, not the newest: %s", shown[0], error)
    return lake.catalog


def _wanted(generation: Generation) -> tuple[int, str, datetime]:
    # A number can come twice: whoever goes back to an older generation makes the next one anew.
    return generation.number, catalog_version(), generation.created_at


def _shows(lake: Lake) -> tuple[int, str, datetime] | None:
    """What the catalog was built from and by; None where it is missing, damaged, or locked by a shell that writes."""
    try:
        with connect(lake) as connection:
            row = connection.execute("select generation, catalog_version, created_at from catalog_info").fetchone()
    except (WarehouseError, duckdb.Error):
        return None
    return None if row is None else (row[0], row[1], row[2])


def refresh_catalog(lake: Lake) -> None:
    """After a commit: the catalog of the current generation, in the store too where the lake is in one."""
    catalog = ensure_catalog(lake)
    if lake.mirror:
        lake.mirror.put(catalog, lake.relative(catalog))


@contextmanager
def connect(lake: Lake, catalog: Path | None = None, only_lake: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the catalog and cannot write to it, from whichever folder.

    The catalog is attached to an in-memory database: DuckDB shares an instance among all who ``connect`` to a path
    in one process, so that they would see the old file after a swap.

    Args:
        lake: where the catalog's files are.
        catalog: another catalog than the lake's own.
        only_lake: statements reach no file outside the lake, and cannot change that.

    Raises:
        WarehouseError: there is no catalog, or it cannot be opened.
    """
    path = catalog or lake.catalog
    if not path.is_file():
        raise WarehouseError(f"there is no catalog at {path}: `clipcap run` makes it")
    with duckdb.connect() as connection:
        try:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(f"attach {quoted(str(path.absolute()))} as catalog (read_only)")
            connection.execute("use catalog")
        except duckdb.Error as error:
            raise WarehouseError(f"the catalog {path} cannot be opened: {one_line(error)}") from None
        connection.execute(f"set variable lake = {quoted(_root(lake))}")
        connection.execute(f"set temp_directory = {quoted(str(Path(tempfile.gettempdir()) / 'clipcap-duckdb'))}")
        if only_lake:
            connection.execute(f"set allowed_directories = [{', '.join(map(quoted, _reached(lake)))}]")
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")
        yield connection


def _reached(lake: Lake) -> list[str]:
    """The lake's folder, and where links in it lead: a lake may be a link, or have folders on another disk."""
    folders = [lake.root.absolute(), *(path for path in lake.root.iterdir() if path.is_symlink())]
    return [_root(lake), *(f"{path.resolve().as_posix().rstrip('/')}/" for path in folders)]


def one_line(error: Exception) -> str:
    """DuckDB's message without the excerpt of the statement below it."""
    lines = [line.strip() for line in str(error).partition("\n\nLINE ")[0].splitlines()]
    return " ".join(line for line in lines if line)


def _fetch(lake: Lake, generation: Generation) -> None:
    """Has all tables of the generation at hand; views open them only when they are read.

    Raises:
        WarehouseError: one is missing.
    """
    paths = {f.path for e in generation.entries.values() for f in e.files if f.kind in KINDS}
    missing = sorted(path for path in lake.absolute_all(paths) if not path.exists())
    if missing:
        raise WarehouseError(
            f"the catalog of generation {generation.number} in {lake.address} cannot be built: {len(missing):,} of its "
            f"files are missing, {lake.relative(missing[0])} first; `clipcap run` makes them again"
        )


def _root(lake: Lake) -> str:
    return lake.root.absolute().as_posix().rstrip("/") + "/"


def _fill(connection: duckdb.DuckDBPyConnection, generation: Generation) -> None:
    # Views first: while their sources are empty tables, no statement below has to open a Parquet file.
    macros = statements("macros")
    helpers = [file for file in macros if file.name < "100"]  # views call these; the others read views
    for file in (*helpers, *statements("schema"), *statements("views"), *macros[len(helpers) :]):
        connection.execute(file.read_text(encoding="utf-8"))
    for table, rows in facts(generation, catalog_version()).items():
        if rows:
            connection.register("loaded", pa.Table.from_pylist(rows))
            connection.execute(statement("schema/template_load.sql").format(table=table))
            connection.unregister("loaded")
    for kind, table in KINDS.items():
        files = sorted({f.path for entry in generation.entries.values() for f in entry.files if f.kind == kind})
        if files:
            _replace_by_view(connection, table, files)


def _replace_by_view(connection: duckdb.DuckDBPyConnection, table: str, files: list[str]) -> None:
    """The empty, documented table gives its columns, their types and comments to a view over ``files``."""
    [(comment,)] = connection.execute("select comment from duckdb_tables() where table_name = ?", [table]).fetchall()
    columns = connection.execute(
        "select column_name, data_type, comment from duckdb_columns() where table_name = ? order by column_index",
        [table],
    ).fetchall()
    connection.execute(
        statement("schema/template_view.sql").format(
            table=table,
            names=", ".join(name for name, _, _ in columns if name != "file"),
            columns=", ".join(
                f"{quoted(name)}: {{name: {quoted(name)}, type: {quoted(kind)}, default_value: null}}"
                for name, kind, _ in columns
                if name != "file"
            ),
            parts=files[0].count("/") + 1,
            files=", ".join(map(quoted, files)),
        )
    )
    connection.execute(f"comment on view {table} is {quoted(comment)}")
    for name, _, text in columns:
        connection.execute(f"comment on column {table}.{name} is {quoted(text)}")
