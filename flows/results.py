"""What commands do between their arguments and what they print."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipcap.config import CaptionConfig, Config, parse_section
from clipcap.errors import ModelError
from flows import console
from flows.cells import score

if TYPE_CHECKING:
    from clipcap.embedding.encoder import Encoder
    from clipcap.model.captioner import Captioner
    from clipcap.storage.lake import Lake


def validate_inputs(config: Config, limit: int | None) -> None:
    """Fails before any flow starts where the source or the encoder cannot be used."""
    from clipcap.dataset.land import read_landing
    from clipcap.embedding.encoder_name import parse_encoder

    name = parse_encoder(config.embed.encoder)
    folder = name.model.removeprefix("local-dir:")
    if name.model != folder and not Path(folder).is_dir():
        raise ModelError(f"embed.encoder: there is no folder {folder}; correct the path after local-dir:")
    read_landing(config, limit)
    if config.train.language_model.name != "scratch":
        from clipcap.model.pretrained import find_language_model

        find_language_model(config.train.language_model.name)


def stage_rows(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages of a plan, for a table."""
    return [
        {
            "stage": stage["stage"],
            "cached": stage["shards_cached"],
            "to do": stage["shards_to_do"],
            "rows": stage["rows_to_do"],
            "bytes": console.human_bytes(stage["estimated_bytes"]),
            "time": console.human_seconds(stage["estimated_s"]),
        }
        for stage in stages
    ]


def print_plan(plan: dict[str, Any]) -> None:
    """The plan of ``--dry-run`` as a table."""
    console.print_table(stage_rows(plan["stages"]), title=f"{plan['batch_id']} in {plan['data_dir']}")
    typer.echo(console.room(plan))
    for warning in plan.get("warnings", ()):
        typer.echo(f"warning: {warning}", err=True)


def print_run(lake: Lake, outcome: dict[str, Any]) -> None:
    """Metrics, five captions beside their references, and last the report's path."""
    from clipcap.redaction import shown_url
    from clipcap.storage.manifest import read_current
    from clipcap.warehouse.catalog import statement
    from clipcap.warehouse.queries import query

    metrics, intervals = outcome["metrics"], outcome["intervals"]
    if metrics:
        rows = [
            {
                "metric": name, "value": score(name, value),
                **dict(zip(("low", "high"), intervals.get(name, ()), strict=False)),
                "embeddings exchanged": score(name, metrics.get(f"{name}_shuffled")),
            }
            for name, value in metrics.items()
            if not name.endswith("_shuffled")
        ]  # fmt: skip
        bounds = ("low", "high") if intervals else ()
        control = ("embeddings exchanged",) if any(name.endswith("_shuffled") for name in metrics) else ()
        columns = ("metric", "value", *bounds, *control)
        console.print_table(rows, title=f"{outcome['model_id']} on {outcome['images']:,} images", columns=columns)
    asked = {name: outcome[name] for name in ("model_id", "split")}
    for row in query(lake, statement("reports/five_captions.sql"), asked).to_pylist():
        typer.echo(f"\n{console.shown(shown_url(row['image_url']))}\n  caption    {console.shown(row['caption'])}")
        for reference in row["reference_captions"] or []:
            typer.echo(f"  reference  {console.shown(reference)}")
    production = read_current(lake).production_model_id
    if outcome["model_id"] != production:
        typer.echo(f"\n{outcome['model_id']} is not in production ({production} is); "
                   f"`clipcap models promote {outcome['model_id']} --reason …` puts it there")  # fmt: skip
    typer.echo(f"\n{outcome['report']}")


def load_model(folder: Path, device: str) -> tuple[Captioner, Encoder]:
    """A model and the encoder that it was trained with.

    Raises:
        ModelError: the encoder of that name has other weights here.
    """
    with _no_search_for_garbage(), console.working(f"loading {folder.name} …"):
        from clipcap.embedding.encoder import get_encoder, resolve_device
        from clipcap.model.checkpoint import load_captioner

        device = resolve_device(device)
        captioner = load_captioner(folder, device)
        settings = captioner.settings
        encoder = get_encoder(settings.encoder, device)
        if settings.encoder_hash and encoder.hash != settings.encoder_hash:
            raise ModelError(
                f"the encoder {settings.encoder!r} has other weights ({encoder.hash[:12]}) than the ones that "
                f"{folder.name} was trained with ({settings.encoder_hash[:12]}): put those back, or train with these"
            )
    if settings.encoder == "builtin:sample":
        console.stderr.print(f"{folder.name} knows drawn shapes alone, and sees them in photographs too", style="dim")
    return captioner, encoder


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """The first time, as libraries are imported: of their objects none is garbage, so none is looked at again.

    To look at them while they come and once more at the end took two of the five seconds of a first caption.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def decoding(stored: CaptionConfig, asked: dict[str, Any]) -> CaptionConfig:
    """The model's own way of decoding with what was asked for; says so where more captions need more beams."""
    config = parse_section(CaptionConfig, {**stored.model_dump(), **asked}, "clipcap caption")
    needed = max(config.num_captions, config.candidates if config.rerank else 0)
    if config.method == "sample" or needed <= config.beam_size:
        return config
    console.stderr.print(
        f"{needed} captions need as many beams: beam size {needed} instead of {config.beam_size}, so the first caption "
        "may differ from the one that a single caption would be"
    )
    return config.model_copy(update={"beam_size": needed})


def models(lake: Lake) -> list[dict[str, Any]]:
    """The models view with the newest scores of each: on a frozen evaluation set where it has some, else on a split."""
    from clipcap.warehouse.queries import query

    found = query(lake, "from metrics_by_model order by split like 'frozen-%', created_at").to_pylist()
    scores = {row["model_id"]: row for row in found}
    rows = query(lake, "from models order by created_at").to_pylist()
    return [{**scores.get(row["model_id"], {}), **row} for row in rows]
