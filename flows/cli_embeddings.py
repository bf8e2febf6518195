"""Commands that bring embeddings in and out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import ConfigError
from flows import console
from flows.options import AsJson, DataDir, Debug, model_folder, open_lake, state

app = typer.Typer()


_ONLY_FOR = {
    "clip-retrieval": ("encoder", "batch", "text"),
    "huggingface": ("max_shard_size", "licence"),
    "onnx": ("max_new_tokens", "pixels"),
}
"""Layout → the options that mean something there, besides --out."""


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="The new folder; of onnx, the new file.")],
    model: Annotated[
        str, typer.Argument(metavar="[DIR_or_ID]", help="huggingface, onnx: a model; the one in production by default.")
    ] = "",
    layout: Annotated[
        str,
        typer.Option(
            "--layout", help="clip-retrieval: embeddings as .npy with .parquet beside. huggingface, onnx: a model."
        ),
    ] = "clip-retrieval",
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="ID", help="Whose embeddings, if there are several.")
    ] = "",
    batch: Annotated[str, typer.Option("--batch", metavar="ID", help="Of one batch alone.")] = "",
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Also the captions' vectors (embed.captions).")
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="huggingface: largest file of weights, as 5GB.")
    ] = "",
    licence: Annotated[
        str, typer.Option("--licence", metavar="ID", help="huggingface: of the model, for its card, as mit.")
    ] = "",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=0, help="onnx: longest caption; 0 is as the model says.")
    ] = 0,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="onnx: begin with pictures, the image encoder in the same file.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the lake's embeddings, or a model, as other tools read them.

    Example: clipcap export --layout huggingface --out my-model
    """
    state["debug"] = debug
    options = {"encoder": encoder, "batch": batch, "text": text, "max_shard_size": max_shard_size, "licence": licence,
               "max_new_tokens": max_new_tokens, "pixels": pixels}  # fmt: skip
    if layout not in _ONLY_FOR:
        raise ConfigError(f"--layout {layout}: expected {', '.join(_ONLY_FOR)}")
    strange = [f"--{name.replace('_', '-')}" for name, value in options.items()
               if value and name not in _ONLY_FOR[layout]]  # fmt: skip
    strange += ["DIR_or_ID"] if model and layout == "clip-retrieval" else []
    if strange:
        raise ConfigError(f"--layout {layout} does not read {strange[0]}: leave it out")
    if layout == "clip-retrieval":
        _export_embeddings(open_lake(data_dir), out, encoder, batch, text, as_json)
    elif layout == "huggingface":
        _export_huggingface(model, data_dir, out, max_shard_size, licence, as_json)
    else:
        _export_onnx(model, data_dir, out, max_new_tokens, pixels, as_json)


@app.command("import-embeddings")
def import_embeddings(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With img_emb/ and metadata/ of clip-retrieval.")],
    encoder: Annotated[str, typer.Option("--encoder", help="The encoder that made them, as in embed.encoder.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Names the batch.")] = "imported",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a batch of embeddings that clip-retrieval wrote; its images are never downloaded.

    Example: clipcap import-embeddings laion --encoder ViT-B-32-quickgelu/openai --dataset laion
    """
    state["debug"] = debug
    from clipcap.config import parse_config

    parse_config({"dataset": {"name": dataset}, "embed": {"encoder": encoder}}, "clipcap import-embeddings")
    _import(open_lake(data_dir, must_exist=False), folder, encoder, dataset, device, as_json)


def _lake_of(folder: Path, model: str, data_dir: str | None) -> Any:
    """The lake that a model is of; None for a folder that lies elsewhere."""
    from clipcap.storage.lake import Lake

    if folder != Path(model):
        return open_lake(data_dir)
    root = folder.absolute().parents[1]
    return Lake(root) if folder.parent.name == "models" and (root / "CURRENT").is_file() else None


def _export_huggingface(
    model: str, data_dir: str | None, out: Path, max_shard_size: str, licence: str, as_json: bool
) -> None:
    from clipcap.cards.model_card import card_of
    from clipcap.export.huggingface import LARGEST_FILE, export_huggingface

    folder = model_folder(model, data_dir)
    card = card_of(folder, licence, _lake_of(folder, model, data_dir))
    facts = export_huggingface(folder, out, card, max_shard_size or LARGEST_FILE)
    if as_json:
        return console.print_json(facts)
    rows = [{"file": name, "size": console.human_bytes(size)} for name, size in facts["files"].items()]
    console.print_table(rows, title=str(out))
    for name, reason in facts["left_out"].items():
        typer.echo(f"without {name}: {reason}", err=True)
    typer.echo(f"to have the same model back: {facts['import_command']}")


def _export_onnx(
    model: str, data_dir: str | None, out: Path, max_new_tokens: int, pixels: bool, as_json: bool
) -> None:
    from clipcap.export.onnx import export_onnx, some_embeddings
    from clipcap.model.checkpoint import read_settings

    folder = model_folder(model, data_dir)
    lake = _lake_of(folder, model, data_dir)
    real = some_embeddings(lake, read_settings(folder).encoder_hash) if lake else None
    facts = export_onnx(folder, out, max_new_tokens=max_new_tokens, pixels=pixels, embeddings=real)
    if as_json:
        return console.print_json(facts)
    size, largest = console.human_bytes(facts["size_bytes"]), max(facts["differences"].values())
    typer.echo(f"{out}: {facts['input']} to at most {facts['max_new_tokens']} token ids, {size}")
    typer.echo(
        f"the same captions as torch on {facts['checked_on']} inputs; numbers differ by at most {largest:.1g} of the "
        "largest"
    )


def _export_embeddings(lake: Any, out: Path, encoder: str, batch: str, text: bool, as_json: bool) -> None:
    from clipcap.embedding.export import export_embeddings
    from clipcap.storage.manifest import read_current

    def told(done: int, parts: int) -> None:
        console.stderr.print(f"part {done} of {parts}", style="dim")

    facts = export_embeddings(lake, read_current(lake), out, encoder, batch, text, on_part=told)
    if as_json:
        return console.print_json({**facts, "out": str(out)})
    parts = console.counted(facts["parts"], "part")
    typer.echo(f"{out}: {facts['rows']:,} embeddings of {facts['encoder_id']} in {parts}")


def _import(lake: Any, folder: Path, encoder: str, dataset: str, device: str, as_json: bool) -> None:
    from clipcap.embedding.adopt import adopt_embeddings
    from clipcap.embedding.encoder import get_encoder
    from clipcap.storage.lake import new_run_id
    from clipcap.warehouse.publish import publish

    run_id, started = new_run_id(), datetime.now(UTC)
    entries = adopt_embeddings(lake, folder, dataset, get_encoder(encoder, device), run_id)
    config = {"folder": str(folder), "encoder": encoder, "dataset": dataset}
    published = publish(lake, entries, run_id, "import-embeddings", started, config)
    embeds = [entry for entry in entries if entry.stage == "embed"]
    rows = {status: sum(e.rows.get(status, 0) for e in embeds) for status in ("ok", "failed")}
    facts = {"batch_id": entries[0].meta["batch_id"], "encoder_id": embeds[0].meta["encoder_id"], "rows": rows,
             "is_new": published.is_new}  # fmt: skip
    if as_json:
        return console.print_json(facts)
    typer.echo(f"{facts['batch_id']}: {rows['ok']:,} embeddings of {facts['encoder_id']}, {rows['failed']:,} failed"
               f"{'' if published.is_new else ' (imported before)'} in {lake.address}")  # fmt: skip
