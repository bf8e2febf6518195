"""Commands that bring embeddings in and out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import ConfigError
from flows import console
from flows.options import AsJson, DataDir, Debug, open_lake, state

app = typer.Typer()


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")],
    layout: Annotated[
        str, typer.Option("--layout", help="clip-retrieval: .npy with .parquet beside.")
    ] = "clip-retrieval",
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="ID", help="Whose embeddings, if there are several.")
    ] = "",
    batch: Annotated[str, typer.Option("--batch", metavar="ID", help="Of one batch alone.")] = "",
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Also the captions' vectors (embed.captions).")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the lake's embeddings in the layout that clip-retrieval and the tools around LAION read.

    Example: clipcap export --layout clip-retrieval --out exported
    """
    state["debug"] = debug
    _export(open_lake(data_dir), layout, out, encoder, batch, text, as_json)


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


def _export(lake: Any, layout: str, out: Path, encoder: str, batch: str, text: bool, as_json: bool) -> None:
    from clipcap.embedding.export import export_embeddings
    from clipcap.storage.manifest import read_current

    if layout != "clip-retrieval":
        raise ConfigError(f"--layout {layout}: the one that is known is clip-retrieval")

    def told(done: int, parts: int) -> None:
        console.stderr.print(f"part {done} of {parts}", style="dim")

    facts = export_embeddings(lake, read_current(lake), out, encoder, batch, text, on_part=told)
    if as_json:
        return console.print_json({**facts, "out": str(out)})
    typer.echo(f"{out}: {facts['rows']:,} embeddings of {facts['encoder_id']} in {facts['parts']} part(s)")


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
