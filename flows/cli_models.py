"""Commands about models: what there is, what is in production, and retraining."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import DataError, ModelError
from flows import complete, console
from flows.cells import score
from flows.options import AsJson, DataDir, Debug, Set, open_lake, state

app = typer.Typer()
models_app = typer.Typer(no_args_is_help=True, help="The models of a lake. Example: clipcap models list")
app.add_typer(models_app, name="models")


@models_app.command("list")
def models_list(data_dir: DataDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Every model with its facts and scores. Example: clipcap models list"""
    state["debug"] = debug
    from flows.results import models

    rows = models(open_lake(data_dir))
    if as_json:
        return console.print_json(rows)
    columns = ("model_id", "is_production", "mapper", "language_model", "best_val_loss", "split", "bleu_4", "cider")
    return console.print_table(rows, columns=columns)


@models_app.command("show")
def models_show(
    model_id: Annotated[
        str, typer.Argument(help="As `clipcap models list` prints it.", autocompletion=complete.models)
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One model: its facts, its scores with intervals, and what was decided about it.

    Example: clipcap models show sample-mlp-0a1b2c3d
    """
    state["debug"] = debug
    from clipcap.warehouse.catalog import statement
    from clipcap.warehouse.queries import query
    from flows.results import models

    lake = open_lake(data_dir)
    rows = models(lake)
    found = next((row for row in rows if row["model_id"] == model_id), None)
    if found is None:
        known = ", ".join(row["model_id"] for row in rows) or "none yet"
        raise ModelError(f"there is no model {model_id!r} in the lake; there are: {known}")
    about = {
        part: query(lake, statement(f"reports/model_{part}.sql"), {"model_id": model_id}).to_pylist()
        for part in ("scores", "decisions", "promotions")
    }
    if as_json:
        decisions = [{**row, "evidence": json.loads(row["evidence"])} for row in about["decisions"]]
        return console.print_json({**found, **about, "decisions": decisions})
    console.print_table([{"fact": name, "value": score(name, value)} for name, value in found.items()])
    scores = [{**row, "value": score(row["metric"], row["value"])} for row in about["scores"]]
    console.print_table(scores, title="Scores, the newest of each split")
    if about["decisions"]:
        rows = [{k: v for k, v in row.items() if k != "evidence"} for row in about["decisions"]]
        console.print_table(rows, title="Decisions of the gate")
    if about["promotions"]:
        console.print_table(about["promotions"], title="In and out of production")


@models_app.command("add")
def models_add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="As `clipcap import-weights` makes one.")],
    name: Annotated[str, typer.Option("--name", help="What its id begins with; else the folder's name.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy a model that was made elsewhere into the lake; nights use it once it is promoted.

    Example: clipcap models add my-model --name coco
    """
    state["debug"] = debug
    from clipcap.storage.lake import new_run_id
    from clipcap.storage.manifest import commit_generation
    from clipcap.training.add_model import add_model
    from clipcap.warehouse.catalog import refresh_catalog

    lake = open_lake(data_dir, must_exist=False)
    with console.working(f"loading {folder.name} …"):
        entry, is_new = add_model(lake, folder, name, new_run_id())
    commit_generation(lake, [entry])
    refresh_catalog(lake)
    model_id = entry.meta["model_id"]
    if as_json:
        return console.print_json({"model_id": model_id, "is_new": is_new, **entry.meta})
    typer.echo(f"{model_id}{'' if is_new else ' (added before)'} in {lake.address}")
    typer.echo(f'to let nights use it: clipcap models promote {model_id} --reason "…"', err=True)


@models_app.command("promote")
def models_promote(
    model_id: Annotated[
        str, typer.Argument(help="As `clipcap models list` prints it.", autocompletion=complete.models)
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the view promotions.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put a model into production, whatever the gate says.

    Example: clipcap models promote sample-mlp-0a1b2c3d --reason "longer captions were asked for"
    """
    state["debug"] = debug
    from clipcap.training.registry import promote

    lake = open_lake(data_dir)
    _told(lake, promote(lake, model_id, reason), as_json)


@models_app.command("rollback")
def models_rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the view promotions.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Go back to the model that was in production before; again, to the one before that.

    Example: clipcap models rollback --reason "captions repeat themselves"
    """
    state["debug"] = debug
    from clipcap.training.registry import rollback

    lake = open_lake(data_dir)
    _told(lake, rollback(lake, reason), as_json)


def _told(lake: Any, promotion: Any, as_json: bool) -> None:
    """Shows SQL, listeners and the person what changed."""
    from clipcap.warehouse.catalog import refresh_catalog
    from flows.events import emit

    refresh_catalog(lake)
    facts = {name: getattr(promotion, name) for name in ("model_id", "previous_model_id", "reason", "is_rollback")}
    emitted = emit("clipcap.model.promoted", promotion.model_id, {**facts, "by": "hand"})
    if as_json:
        return console.print_json({**facts, "event_emitted": emitted})
    before = f"; before it {promotion.previous_model_id}" if promotion.previous_model_id else ""
    typer.echo(f"in production: {promotion.model_id}{before}")
    can_go_back = promotion.previous_model_id and not promotion.is_rollback
    back = "; `clipcap models rollback` goes back" if can_go_back else ""
    typer.echo(f"the nightly run captions what it has not captioned yet{back}", err=True)
    if not emitted:
        typer.echo("no event was emitted (no Prefect server was reached)", err=True)


@models_app.command("freeze")
def models_freeze(
    name: Annotated[str, typer.Option("--name", help="Of the new evaluation set.")],
    split: Annotated[str, typer.Option("--split", help="Images of this split that have captions.")] = "test",
    batch: Annotated[list[str] | None, typer.Option("--batch", metavar="ID", help="Only of these batches.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Freeze an evaluation set; it is used where gate.evaluation_set names it.

    Example: clipcap models freeze --name 2027 --split test
    """
    state["debug"] = debug
    from clipcap.config import parse_config
    from clipcap.dataset.evaluation_set import find_evaluation_set, freeze, freeze_key, lake_shards
    from clipcap.storage.manifest import EntryIndex, commit_generation
    from clipcap.warehouse.catalog import refresh_catalog

    parse_config({"gate": {"evaluation_set": name}, "evaluate": {"split": split}}, "clipcap models freeze")
    lake = open_lake(data_dir)
    index = EntryIndex(lake)
    known = find_evaluation_set(index, name)
    if known is not None:
        raise DataError(
            f"there is an evaluation set {name!r} already ({known.meta['images']:,} images, "
            f"{known.created_at:%Y-%m-%d}), and sets never change: choose another name"
        )
    shards = lake_shards(index, batch or [])
    entry = freeze(lake, name, shards, split, freeze_key(shards, split))
    commit_generation(lake, [entry])
    refresh_catalog(lake)
    facts = {name: entry.meta[name] for name in ("name", "images", "references", "source_split", "batch_ids")}
    if as_json:
        return console.print_json(facts)
    typer.echo(f"{name}: {facts['images']:,} images, {facts['references']:,} references of split {split}")
    typer.echo(f'the gate uses it with [gate] evaluation_set = "{name}"', err=True)


@app.command()
def retrain(
    config: Annotated[str, typer.Argument(help="A .toml file, or a shipped name: sample, coco …")],
    set_: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Train although nothing is due.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what is due, and do nothing.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a new model if one is due, compare it with production, and promote it only if it is better.

    Example: clipcap retrain configs/sample.toml --set retrain.min_new_pairs=500
    """
    state["debug"] = debug
    from clipcap.config import load_config

    settings = load_config(config, set_ or [])
    open_lake(data_dir or settings.data_dir or None)
    console.quiet_prefect(debug)
    from flows.retrain import retrain as run_retrain

    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = run_retrain(config=config, overrides=set_ or [], data_dir=data_dir, force=force, dry_run=dry_run)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    if as_json:
        return console.print_json(outcome)
    for reason in outcome["reasons"]:
        typer.echo(reason)
    if dry_run:
        due = {True: "a new model is due", False: "no new model is due", None: "not known before all is embedded"}
        return typer.echo(due[outcome["due"]])
    if outcome["verdict"]:
        typer.echo(f"{outcome['model_id']} {outcome['verdict']}: {outcome['reason']}")
        return typer.echo(outcome["report"])
    return typer.echo(outcome["reason"])
