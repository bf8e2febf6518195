"""Commands that ask the catalog: SQL, search, checks, and the report that is made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import ConfigError, DataError
from flows import complete, console
from flows.options import AsJson, DataDir, Debug, only_one, open_lake, state

app = typer.Typer()


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT; - or nothing reads it from standard input.")] = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the statement from a file.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Every view and macro; with a view, its columns.")] = False,
    as_of: Annotated[
        str,
        typer.Option("--as-of", metavar="RUN", help="The lake as that run published it.", autocompletion=complete.runs),
    ] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, values as they are.")] = False,
    spreadsheet: Annotated[bool, typer.Option("--spreadsheet", help="CSV in which no text is a formula.")] = False,
    full: Annotated[bool, typer.Option("--full", help="A table in which no text is cut.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Query the catalog, read-only.

    Example: clipcap sql "select caption, image_url from latest_captions limit 5"
    """
    state["debug"] = debug
    only_one("are forms of one result", csv=as_csv and not spreadsheet, spreadsheet=spreadsheet, json=as_json)
    only_one("answer different questions", list=list_, file=file)
    only_one("do not meet, since the list is of the views as they are now", list=list_, as_of=as_of)
    if file is not None and statement:
        raise ConfigError("--file takes the place of a statement: give one of them")
    lake = open_lake(data_dir)
    text = "" if list_ else _statement(statement, file)
    if not text:
        return _print_list(lake, statement, as_json, as_csv)
    from clipcap.warehouse.queries import query
    from flows.rows import print_rows

    return print_rows(query(lake, text, as_of=as_of), as_json, as_csv or spreadsheet, spreadsheet, full)


def _statement(statement: str, file: Path | None) -> str:
    """What to run; empty where nothing was given."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the statement {file} cannot be read: {getattr(error, 'strerror', error)}") from None
    if statement not in ("", "-") or (not statement and sys.stdin.isatty()):
        return statement
    try:
        return sys.stdin.read().strip()
    except OSError:  # there is none
        return ""


def _print_list(lake: Any, name: str, as_json: bool, as_csv: bool) -> None:
    from clipcap.warehouse.queries import list_macros, list_views

    views, macros = list_views(lake), list_macros(lake)
    if name:
        return _print_columns(views, macros, name, as_json, as_csv)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"view": view.name, "macro": None, "comment": view.comment, "columns": view.columns} for view in views
        ]
        rows += [
            {"view": None, "macro": macro.name, "signature": macro.signature, "parameters": macro.parameters,
             "comment": macro.comment, "columns": []} for macro in macros
        ]  # fmt: skip
        return console.print_json(rows)
    if as_csv:
        rows = [{"kind": "view", "name": view.name, "comment": view.comment} for view in views]
        rows += [{"kind": "macro", "name": macro.signature, "comment": macro.comment} for macro in macros]
        return console.print_csv(rows, ("kind", "name", "comment"))
    console.print_table([{"view": view.name, "comment": view.comment} for view in views], columns=("view", "comment"))
    for title, is_table in (("macros: from NAME(…)", True), ("macros in expressions", False)):
        shown = [{"macro": m.signature, "comment": m.comment} for m in macros if m.is_table == is_table]
        console.print_table(shown, title=title, columns=("macro", "comment"))
    return None


def _print_columns(views: list[Any], macros: list[Any], name: str, as_json: bool, as_csv: bool) -> None:
    columns = next((view.columns for view in views if view.name == name), None)
    if columns is None:
        macro = next((macro for macro in macros if macro.name == name), None)
        if macro is None:
            known = ", ".join(view.name for view in views)
            raise DataError(f"there is no view or macro {name!r}; the views are: {known}")
        columns = [{"name": macro.signature, "type": "macro", "comment": macro.comment}]
    names = ("name", "type", "comment")
    if as_json:
        return console.print_json(columns)
    return console.print_csv(columns, names) if as_csv else console.print_table(columns, title=name, columns=names)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What the images should show.")] = "",
    k: Annotated[int, typer.Option("--k", min=1, help="How many.")] = 10,
    image: Annotated[Path | None, typer.Option("--image", help="A picture that they should resemble.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find the images nearest to a text or a picture, by the encoder of the model in production.

    Example: clipcap search "a dog in the snow" --k 10
    """
    state["debug"] = debug
    only_one("are forms of one result", csv=as_csv, json=as_json)
    if bool(text) == (image is not None):
        raise ConfigError("clipcap search takes a text or --image FILE: give one of them")
    lake = open_lake(data_dir)
    from clipcap.warehouse.search import search as search_lake
    from flows.rows import print_rows

    print_rows(search_lake(lake, text, image, k, device), as_json, as_csv, is_full=True)


@app.command()
def checks(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run every check of sql/checks on what is published; exit code 1 where one of severity error fires.

    Example: clipcap checks --data-dir data/sample
    """
    state["debug"] = debug
    lake = open_lake(data_dir)
    from clipcap.warehouse.catalog import connect, ensure_catalog
    from clipcap.warehouse.checks import run_checks
    from flows.cells import plain

    with connect(lake, ensure_catalog(lake)) as connection:
        results = run_checks(connection, settings_of(lake))
    if as_json:
        facts = ("name", "severity", "grain", "is_failed")
        console.print_json([{**{name: getattr(r, name) for name in facts}, "rows": plain(r.rows)} for r in results])
    else:
        shown = [
            {"check": r.name, "state": "ok" if not r.rows else "FAILED" if r.is_failed else "warning",
             "rows": f"{len(r.rows):,}" if r.rows else "", "finds": r.grain} for r in results
        ]  # fmt: skip
        console.print_table(shown, columns=("check", "state", "rows", "finds"))
        for result in (r for r in results if r.rows):
            rows = result.rows[:20]
            found = console.counted(len(result.rows), "row")
            console.print_table(rows, title=f"{result.name}: {found}, the first {len(rows)}")
    if any(result.is_failed for result in results):
        raise typer.Exit(1)


def settings_of(lake: Any) -> dict[str, Any]:
    """The settings of checks that the newest published run had."""
    from clipcap.storage.manifest import read_current

    runs = read_current(lake).runs
    return dict(runs[-1].config.get("checks", {})) if runs else {}


@app.command()
def report(
    run_id: Annotated[
        str, typer.Option("--run", help="A run id; the newest by default.", autocompletion=complete.runs)
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build the HTML report of a run.

    Example: clipcap report --open
    """
    state["debug"] = debug
    from clipcap.config import ReportConfig
    from clipcap.report.html import render_report
    from clipcap.storage.manifest import read_current

    lake = open_lake(data_dir)
    runs = read_current(lake).runs
    if not runs:
        raise DataError(f"the lake {lake.address} has no published run yet: `clipcap run` makes one")
    wanted = next((r for r in runs if r.run_id == run_id), None) if run_id else runs[-1]
    if wanted is None:
        raise DataError(f'there is no run {run_id!r}: `clipcap sql "select run_id from runs"` shows them')
    path = render_report(lake, wanted.run_id, ReportConfig.model_validate(wanted.config.get("report", {})))
    if open_:
        typer.launch(path.as_uri())
    return console.print_json({"run_id": wanted.run_id, "report": str(path)}) if as_json else typer.echo(str(path))
