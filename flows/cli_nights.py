"""Commands of operations: landing, the night, and maintenance, each without a server where there is none."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.errors import ConfigError, NightFailed
from flows import console
from flows.options import AsJson, DataDir, Debug, Limit, Set, open_lake, state

if TYPE_CHECKING:
    from clipcap.config import Config

app = typer.Typer()
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Begin even what does not fit on the disk by the estimate.")]


@app.command()
def land(
    source: Annotated[
        str,
        typer.Argument(help="URLs (.parquet .csv .tsv .jsonl), a folder, a Karpathy or COCO .json, webdataset .tar."),
    ] = "",
    inbox: Annotated[str, typer.Option("--inbox", metavar="FOLDER", help="What lies whole in a watched folder.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", help="Names the batch; of an inbox, its files do.")] = "images",
    images: Annotated[str, typer.Option("--images", help="A .json: folder or base URL of its files.")] = "",
    split: Annotated[str, typer.Option("--split", help="Of rows that name none: train, val or test.")] = "",
    limit: Limit = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Register a batch; the nightly run captions it.

    Example: clipcap land urls.csv --dataset holiday
    """
    state["debug"] = debug
    if bool(source) == bool(inbox):
        raise typer.BadParameter("name either a source or --inbox FOLDER")
    if source.startswith(("http://", "https://")) and ".tar" not in source:
        raise ConfigError(f"{source} is on the web: fetch it first, or land a .csv whose column url names the "
                          "images")  # fmt: skip
    from clipcap.config import parse_config
    from clipcap.warehouse.catalog import ensure_catalog
    from flows.landing import land_inbox, land_source

    paths = {"source": source, "images": images}
    anchored = {k: str(Path(v).resolve()) if v and "://" not in v else v for k, v in paths.items()}
    watched = {"folder": str(Path(inbox).resolve())} if inbox else {}
    settings = parse_config(
        {"dataset": {"name": dataset, "default_split": split, **anchored}, "inbox": watched}, "clipcap land"
    )
    lake = open_lake(data_dir, must_exist=False)
    found = land_inbox(lake, settings) if inbox else [land_source(lake, settings, limit)]
    if not lake.mirror and lake.exists(lake.current):
        ensure_catalog(lake)  # of a bucket, the next question or run makes it: it would fetch every table of the lake
    if inbox:
        return _say_inbox(found, data_dir, as_json)
    [facts] = found
    if as_json:
        return console.print_json(facts)
    counts = ", ".join(f"{count:,} {status}" for status, count in facts["rows"].items())
    typer.echo(f"{facts['batch_id']}: {counts}{'' if facts['is_new'] else ' (landed before)'} in {lake.address}")
    told = (
        "the event clipcap.batch.landed was emitted: deployments that listen to it start"
        if facts["event_emitted"] else "no event was emitted (no Prefect server was reached)"
    )  # fmt: skip
    typer.echo(f"{told}; {_next(data_dir)}", err=True)


def _say_inbox(rows: list[dict[str, Any]], data_dir: str | None, as_json: bool) -> None:
    if as_json:
        console.print_json(rows)
    elif rows:
        console.print_table(rows, columns=("name", "status", "batch_id", "reason"))
    else:
        typer.echo("the inbox is empty")
    if any(row["batch_id"] for row in rows) and not as_json:
        typer.echo(_next(data_dir), err=True)
    if any(row["status"] in ("failed", "refused") for row in rows):
        raise typer.Exit(1)


def _next(data_dir: str | None) -> str:
    """What captions a batch that has landed."""
    where = f" --data-dir {shlex.quote(data_dir)}" if data_dir else ""
    return f"the nightly deployment finds the batch and captions it, or now: clipcap nightly{where}"


@app.command()
def nightly(
    config: Annotated[str, typer.Argument(help="A .toml file, or a shipped name: sample, coco …")] = "sample",
    set_: Set = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Another model than production's.")] = "",
    batch: Annotated[
        list[str] | None, typer.Option("--batch", metavar="ID", help="Only this one; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
    force: Force = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Caption every batch that the production model has not captioned, as the deployment does every night.

    Example: clipcap nightly my.toml --dry-run
    """
    state["debug"] = debug
    _check(config, set_)
    console.quiet_prefect(debug)
    from flows.nightly import caption_nightly

    try:
        with _stoppable():
            outcome = caption_nightly(config, set_ or [], data_dir, model, batch or [], dry_run, force)
    except NightFailed as error:
        if as_json:
            console.print_json(error.summary)
        raise
    if as_json:
        return console.print_json(outcome)
    if dry_run:
        return _print_night(outcome)
    counts = " · ".join(f"{count} {name}" for name, count in outcome["batches"].items())
    typer.echo(f"batches: {counts} · {outcome['captions']:,} captions")
    typer.echo(outcome["report"])


def _print_night(plan: dict[str, Any]) -> None:
    from flows.results import stage_rows

    columns = ("batch_id", "images", "status", "outputs_cached", "outputs_to_do", "reason")
    console.print_table(plan["batches"], columns=columns, title=f"batches of {plan['data_dir']}")
    if plan["inbox"]:
        rows = [{**row, "images": row["rows"].get("ok")} for row in plan["inbox"]]
        console.print_table(rows, columns=("name", "images", "status", "reason"), title="inbox, landed by the night")
    console.print_table(stage_rows(plan["stages"]), title=f"with {plan['model_id']}")
    typer.echo(console.room(plan))


@app.command()
def maintenance(
    config: Annotated[str, typer.Argument(help="A .toml file, or a shipped name: sample, coco …")] = "sample",
    set_: Set = None,
    dry_run: DryRun = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove what nobody can need any more, as the section maintenance of the config says.

    Example: clipcap maintenance my.toml --dry-run
    """
    state["debug"] = debug
    settings = _check(config, set_)
    open_lake(data_dir or settings.data_dir or None)
    console.quiet_prefect(debug)
    from flows.maintenance import cleanup

    with _stoppable():
        outcome = cleanup(config, set_ or [], data_dir, dry_run)
    if as_json:
        return console.print_json(outcome)
    rows = [{**row, "size": console.human_bytes(row["size_bytes"])} for row in outcome["removed"]]
    if rows:
        console.print_table(rows, columns=("kind", "path", "size", "age_days"))
    total = console.human_bytes(sum(row["size_bytes"] for row in rows))
    typer.echo(f"{console.counted(len(rows), 'thing')}, {total}: {'nothing was removed' if dry_run else 'removed'}")


def _check(config: str, overrides: list[str] | None) -> Config:
    """The configuration, validated before any flow starts."""
    from clipcap.config import load_config

    return load_config(config, overrides or [])


@contextlib.contextmanager
def _stoppable() -> Any:
    """What libraries print is no part of the result, and Ctrl-C is one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
