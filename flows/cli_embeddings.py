"""Commands that bring embeddings in and out; called by flows/cli.py."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from clipcap.errors import ConfigError
from flows import console


def export(lake: Any, layout: str, out: Path, encoder: str, batch: str, as_json: bool) -> None:
    from clipcap.embedding.exchange import export_embeddings
    from clipcap.storage.manifest import read_current

    if layout != "clip-retrieval":
        raise ConfigError(f"--layout {layout}: the one that is known is clip-retrieval")

    def told(done: int, parts: int) -> None:
        console.stderr.print(f"part {done} of {parts}", style="dim")

    facts = export_embeddings(lake, read_current(lake), out, encoder, batch, on_part=told)
    if as_json:
        return console.print_json({**facts, "out": str(out)})
    typer.echo(f"{out}: {facts['rows']:,} embeddings of {facts['encoder_id']} in {facts['parts']} part(s)")


def import_embeddings(lake: Any, folder: Path, encoder: str, dataset: str, device: str, as_json: bool) -> None:
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
