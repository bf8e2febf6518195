"""Embeddings in and out in clip-retrieval's layout, which the tools around LAION read.

``img_emb/img_emb_<n>.npy`` holds float16 (N, clip_dim), L2-normalised; ``metadata/metadata_<n>.parquet`` a row for each
vector in the same order, with ``image_path``, ``caption`` and ``url``. ``<n>`` is padded to the width of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.embedding.store import read_embeddings
from clipcap.errors import DataError
from clipcap.storage.commit import sha256_of, writing
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import Entry, Generation, digest

PART_ROWS = 100_000
_MADE_OF = b"clipcap"


@dataclass(frozen=True)
class Part:
    """One pair of their files."""

    vectors: Path
    metadata: Path


def export_embeddings(
    lake: Lake,
    generation: Generation,
    out: Path,
    encoder_id: str = "",
    batch_id: str = "",
    part_rows: int = PART_ROWS,
    on_part: Callable[[int, int], None] = lambda done, parts: None,
) -> dict[str, int | str]:
    """Writes the published embeddings of one encoder; parts that stand from an earlier try are kept.

    Args:
        encoder_id: may be left out where there is one.
        batch_id: of one batch alone.
        on_part: called with the number of parts that stand and of all.

    Returns:
        ``encoder_id``, ``rows`` and ``parts``.

    Raises:
        DataError: no such embeddings, or several encoders to choose from.
    """
    embeds = [e for e in generation.of_stage("embed") if batch_id in ("", e.meta["batch_id"])]
    encoders = sorted({e.meta["encoder_id"] for e in embeds})
    if not encoder_id and len(encoders) > 1:
        raise DataError(f"there are embeddings of several encoders: choose one with --encoder: {', '.join(encoders)}")
    wanted = encoder_id or (encoders[0] if encoders else "")
    chosen = [e for e in embeds if e.meta["encoder_id"] == wanted]
    if not chosen:
        where = f" in batch {batch_id}" if batch_id else ""
        raise DataError(f"no published embeddings of {wanted or 'any encoder'}{where}; there are: {encoders or 'none'}")
    shards = {(e.meta["batch_id"], e.meta["shard_id"]): e for e in generation.of_stage("download")}
    parts = list(_parts(chosen, part_rows))
    width, rows = len(str(len(parts) - 1)), 0
    for number, entries in enumerate(parts):
        part = Part(out / "img_emb" / f"img_emb_{number:0{width}d}.npy",
                    out / "metadata" / f"metadata_{number:0{width}d}.parquet")  # fmt: skip
        made_of = digest([[e.file("embeddings").sha256, e.id] for e in entries])
        if not _stands(part, made_of):
            _write(lake, part, [(e, shards[e.meta["batch_id"], e.meta["shard_id"]]) for e in entries], made_of)
        rows += pq.read_metadata(part.metadata).num_rows
        on_part(number + 1, len(parts))
    return {"encoder_id": wanted, "rows": rows, "parts": len(parts)}


def _parts(entries: list[Entry], part_rows: int) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    rows = 0
    for entry in entries:
        part.append(entry)
        rows += entry.rows.get("ok", 0)
        if rows >= part_rows:
            yield part
            part, rows = [], 0
    if part:
        yield part


def _stands(part: Part, made_of: str) -> bool:
    try:
        metadata = pq.read_schema(part.metadata).metadata or {}
        return part.vectors.is_file() and metadata.get(_MADE_OF) == made_of.encode()
    except (OSError, pa.ArrowInvalid):
        return False


def _write(lake: Lake, part: Part, entries: list[tuple[Entry, Entry]], made_of: str) -> None:
    stored = read_embeddings(lake.absolute(embed.file("embeddings").path) for embed, _ in entries)
    facts: dict[str, dict[str, object]] = {}
    for _, download in entries:
        table = pq.read_table(lake.absolute(download.file("shard").path))
        facts.update((row["sample_key"], row) for row in table.to_pylist())
    rows = [facts[key] for key in stored.keys]
    lengths = np.linalg.norm(stored.vectors.astype(np.float32), axis=1, keepdims=True)
    half = (stored.vectors / np.maximum(lengths, 1e-12)).astype(np.float16)
    with writing(part.vectors) as aside, aside.open("wb") as stream:
        np.save(stream, half)
    table = pa.table(
        {
            "image_path": stored.keys,
            "caption": [next(iter(row["captions"]), "") for row in rows],  # type: ignore[call-overload]
            "url": [row["image_url"] for row in rows],
            "captions": pa.array([row["captions"] for row in rows], pa.list_(pa.string())),
            "split": [row["split"] for row in rows],
            "width": [row["width"] for row in rows],
            "height": [row["height"] for row in rows],
            "sha256": stored.sha256,
            "encoder": [stored.info.encoder] * len(rows),
        }
    ).replace_schema_metadata({_MADE_OF: made_of.encode()})
    with writing(part.metadata) as aside:  # last: it says that the part is whole
        pq.write_table(table, aside)


def find_parts(folder: Path) -> list[Part]:
    """Pairs of files in their layout, by number.

    Raises:
        DataError: there are none, or one of a pair is missing.
    """
    vectors = {f.stem.rpartition("_")[2]: f for f in folder.glob("img_emb/img_emb_*.npy")}
    metadata = {f.stem.rpartition("_")[2]: f for f in folder.glob("metadata/metadata_*.parquet")}
    if not vectors or vectors.keys() != metadata.keys():
        alone = ", ".join(sorted(vectors.keys() ^ metadata.keys())) or "none found"
        raise DataError(
            f"{folder} is not in clip-retrieval's layout: expected img_emb/img_emb_<n>.npy, each with its "
            f"metadata/metadata_<n>.parquet (without a partner: {alone})"
        )
    return [Part(vectors[n], metadata[n]) for n in sorted(vectors, key=lambda n: (len(n), n))]


def read_part(part: Part) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Vectors, mapped (N, clip_dim), and a record for each: ``url``, ``captions``, ``split``.

    Raises:
        DataError: they do not fit each other, or cannot be read.
    """
    try:
        vectors = np.load(part.vectors, mmap_mode="r", allow_pickle=False)
        table = pq.read_table(part.metadata)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise DataError(f"{part.vectors.name} or {part.metadata.name} cannot be read: {error}") from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != table.num_rows:
        raise DataError(
            f"{part.vectors.name} is {vectors.dtype} {vectors.shape}, {part.metadata.name} has {table.num_rows} rows: "
            "expected floats (N, clip_dim) and as many rows"
        )
    wanted = [c for c in ("image_path", "url", "caption", "captions", "split") if c in table.column_names]
    records = []
    for row in table.select(wanted).to_pylist():
        captions = row.get("captions") or ([row["caption"]] if row.get("caption") else [])
        url = row.get("url") or f"{part.vectors.resolve().as_uri()}#{row.get('image_path')}"
        records.append({"url": url, "captions": captions, "split": row.get("split") or ""})
    return vectors, records


def fingerprint(parts: list[Part]) -> str:
    """Of all their bytes."""
    return digest([[sha256_of(part.vectors), sha256_of(part.metadata)] for part in parts])
