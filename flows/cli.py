"""The command line. Thin: each command is one or two calls into the library, and imports late to start fast."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap import __version__
from clipcap.errors import ClipCapError, ConfigError
from flows import (
    cli_alt_text,
    cli_caption,
    cli_cards,
    cli_doctor,
    cli_embeddings,
    cli_films,
    cli_metrics,
    cli_models,
    cli_nights,
    cli_sql,
    complete,
    console,
)
from flows.options import AsJson, DataDir, Debug, Limit, Set, model_folder, state

app = typer.Typer(
    name="clipcap", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Images in; captions, metrics and SQL out. Every command has an example under --help.",
)  # fmt: skip
app.add_typer(cli_caption.app)
app.add_typer(cli_nights.app)
app.add_typer(cli_embeddings.app)
app.add_typer(cli_sql.app)
app.add_typer(cli_metrics.app)
app.add_typer(cli_models.app)
app.add_typer(cli_cards.app)
app.add_typer(cli_doctor.app)
app.add_typer(cli_films.app, name="film")
app.add_typer(cli_alt_text.app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"clipcap {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    console.show_log()


@app.command()
def run(
    config: Annotated[
        str,
        typer.Argument(help="A .toml file, or a shipped name: sample, coco …", autocompletion=complete.configs),
    ],
    set_: Set = None,
    limit: Limit = None,
    dry_run: cli_nights.DryRun = False,
    force: cli_nights.Force = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Land, download, embed, train, caption, evaluate and publish, reusing all that stands.

    Example: clipcap run configs/sample.toml --set train.epochs=3
    """
    state["debug"] = debug
    from clipcap.config import load_config
    from flows import results

    settings = load_config(config, set_ or [])
    if dry_run:
        from flows.plan import make_plan
        from flows.stages import RunContext

        plan = make_plan(RunContext.of(settings, "pipeline", data_dir), limit)
        return console.print_json(plan) if as_json else results.print_plan(plan)
    results.validate_inputs(settings, limit)
    console.quiet_prefect(debug)
    from flows.pipeline import pipeline

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print (Ray does) is no part of the result
            outcome = pipeline(config=config, overrides=set_ or [], data_dir=data_dir, limit=limit, force=force)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    return console.print_json(outcome) if as_json else results.print_run(_lake_of(settings, data_dir), outcome)


def _lake_of(settings: Any, data_dir: str | None) -> Any:
    from clipcap.storage.lake import Lake, resolve_data_dir

    return Lake(resolve_data_dir(data_dir, settings.data_dir))


@app.command("import-weights")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.pt|DIR", help="A checkpoint of the published code, or what --layout huggingface wrote."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new model folder.")],
    encoder: Annotated[str, typer.Option("--encoder", help="Its encoder; else OpenAI's of that size.")] = "",
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Embeddings L2-normalised; else a transformer's are."),
    ] = None,
    hidden_size: Annotated[int, typer.Option("--hidden-size", min=1, help="An MLP mapper alone: the LM's.")] = 768,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Attention heads of a transformer mapper.")] = 8,
    language_model: Annotated[
        str, typer.Option("--language-model", help="A mapper alone: hub name or folder of the LM it learned with.")
    ] = "gpt2",
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="Hub name or folder; else the LM's.")] = "",
    gpt_heads: Annotated[int, typer.Option("--gpt-heads", min=0, help="Of gpt.*; 0: one for each 64 of its size.")] = 0,
    eos_id: Annotated[int, typer.Option("--eos-id", min=0, help='Token that ends a caption: 13 is GPT-2\'s ".".')] = 13,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Turn a published ClipCap checkpoint, or a model in the hub's layout, into a model folder.

    Example: clipcap import-weights coco_weights.pt --out models/coco
    """
    state["debug"] = debug
    if file.is_dir():
        from clipcap.export.huggingface import import_huggingface

        made_of = import_huggingface(file, out)
        return console.print_json(made_of) if as_json else typer.echo(f"{out}: the same tensors as {file}")
    from clipcap.model.published_weights import ImportOptions
    from clipcap.model.published_weights import import_weights as import_file

    made = import_file(
        file, out,
        ImportOptions(
            hidden_size=hidden_size, heads=heads, encoder=encoder, normalize=normalize, language_model=language_model,
            tokenizer=tokenizer, gpt_heads=gpt_heads, eos_id=eos_id,
        ),
    )  # fmt: skip
    if as_json:
        facts = {"model": str(out), "sha256": made.sha256, "tuned": made.settings.tuned}
        return console.print_json({**facts, "read": made.read, "assumed": made.assumed})
    rows = [{"fact": name, "value": value, "source": "read off the tensors"} for name, value in made.read.items()]
    rows += [{"fact": name, "value": value, "source": "assumed"} for name, value in made.assumed.items()]
    console.print_table(rows, title=f"{file.name} in {out}")
    typer.echo("no tensor shows what is assumed: where it is wrong, remove the folder and import again with its option")


@app.command("export-weights")
def export_weights(
    model: Annotated[str, typer.Argument(metavar="DIR_or_ID", help="A model's folder, or a model id of the lake.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.pt", help="The new checkpoint.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model as a checkpoint that the published code loads.

    Example: clipcap export-weights models/coco --out coco_weights.pt
    """
    state["debug"] = debug
    from clipcap.model.published_export import export_weights as export_folder

    facts = export_folder(model_folder(model, data_dir), out)
    if as_json:
        return console.print_json(facts)
    size = console.human_bytes(facts["size_bytes"])
    typer.echo(f"{out}: {facts['tensors']} tensors, {facts['parameters']:,} parameters, {size}")
    typer.echo(f"to have the same model back: {facts['import_command']}")


def main() -> None:
    """Runs the command line; every expected error becomes one clear line and its exit code."""
    try:
        app()
    except ClipCapError as error:
        if state["debug"]:
            raise
        kind = "config" if isinstance(error, ConfigError) else "error"
        typer.echo(f"{kind}: {console.message(error)}", err=True)
        _let_go(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if state["debug"]:
            raise
        typer.echo(
            f"unexpected: {type(error).__name__}: {console.message(error)} (add --debug for the traceback)", err=True
        )
        _let_go(error)
        sys.exit(1)


def _let_go(error: BaseException | None) -> None:
    """Empties the frames that an error holds: Prefect keeps errors to the end, and DuckDB complains of its objects."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
