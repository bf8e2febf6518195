"""Embeddings of a lake in clip-retrieval's layout (:mod:`clipcap.embedding.exchange`), a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.embedding.exchange import Part
from clipcap.embedding.store import read_info, stream_embeddings
from clipcap.errors import DataError
from clipcap.metrics.clip_score import unit
from clipcap.storage.commit import writing
from clipcap.storage.entries import digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry, Generation

PART_ROWS = 100_000
_FLOAT16 = "<f2"
_MADE_OF = b"clipcap"


@dataclass(frozen=True)
class _Source:
    """Entries of one shard that an export reads."""

    embed: Entry
    download: Entry
    text: Entry | None

    @property
    def digest(self) -> list[str]:
        files = [self.embed.file("embeddings"), self.download.file("shard")]
        files += [self.text.file("text_embeddings")] if self.text else []
        return [file.sha256 for file in files]


def export_embeddings(
    lake: Lake,
    generation: Generation,
    out: Path,
    encoder_id: str = "",
    batch_id: str = "",
    with_text: bool = False,
    part_rows: int = PART_ROWS,
    on_part: Callable[[int, int], None] = lambda done, parts: None,
) -> dict[str, int | str]:
    """Writes the published embeddings of one encoder, a piece at a time.

    Parts that stand from an earlier try are kept; those of an earlier export that are none of this one's are deleted.

    Args:
        encoder_id: may be left out where there is one.
        batch_id: of one batch alone.
        with_text: also the vector of each image's first caption; zeros for an image without one.
        part_rows: a part ends with the shard that reaches so many.
        on_part: called with the number of parts that stand and of all.

    Returns:
        ``encoder_id``, ``rows`` and ``parts``.

    Raises:
        DataError: no such embeddings, several encoders to choose from, captions that were not embedded, or a folder
            that holds somebody else's parts.
    """
    sources = _sources(generation, encoder_id, batch_id, with_text)
    groups = list(_groups(sources, part_rows))
    digits, rows = len(str(len(groups))), 0
    parts = [
        Part(out / "img_emb" / f"img_emb_{n:0{digits}d}.npy", out / "metadata" / f"metadata_{n:0{digits}d}.parquet")
        for n in range(len(groups))
    ]
    _delete_others(out, parts, with_text)
    for number, (part, group) in enumerate(zip(parts, groups, strict=True)):
        made_of = digest([source.digest for source in group])
        if not _stands(part, made_of, with_text):
            _write(lake, part, group, made_of)
        rows += pq.read_metadata(part.metadata).num_rows
        on_part(number + 1, len(parts))
    return {"encoder_id": sources[0].embed.meta["encoder_id"], "rows": rows, "parts": len(parts)}


def _sources(generation: Generation, encoder_id: str, batch_id: str, with_text: bool) -> list[_Source]:
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
    texts = {e.id: e for e in generation.of_stage("embed_text")} if with_text else {}
    sources = [
        _Source(e, shards[e.meta["batch_id"], e.meta["shard_id"]], texts.get(e.id.replace("embed/", "embed_text/", 1)))
        for e in chosen
    ]
    lacking = sorted({source.embed.meta["batch_id"] for source in sources if with_text and source.text is None})
    if lacking:
        raise DataError(
            f"the captions of {', '.join(lacking)} have no embeddings of {wanted}: run with embed.captions = true, or "
            "export without --text"
        )
    return sources


def _groups(sources: list[_Source], part_rows: int) -> Iterator[list[_Source]]:
    group: list[_Source] = []
    rows = 0
    for source in sources:
        group.append(source)
        rows += source.embed.rows.get("ok", 0)
        if rows >= part_rows:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _delete_others(out: Path, parts: list[Part], with_text: bool) -> None:
    """Whoever reads the folder reads all of it, so that nothing else may lie there."""
    wanted = {file for part in parts for file in (part.vectors, part.metadata, *([part.texts] if with_text else []))}
    there = [*out.glob("metadata/metadata_*.parquet"), *out.glob("img_emb/img_emb_*.npy"),
             *out.glob("text_emb/text_emb_*.npy")]  # fmt: skip
    foreign = [file for file in there if file.suffix == ".parquet" and not _made_of(file)]
    if foreign:
        raise DataError(f"{foreign[0]} was not exported by clipcap: choose an empty folder for --out")
    for file in there:
        if file not in wanted:
            file.unlink()


def _made_of(metadata: Path) -> bytes:
    try:
        said: dict[bytes, bytes] = pq.read_schema(metadata).metadata or {}
        return said.get(_MADE_OF, b"")
    except (OSError, pa.ArrowInvalid):
        return b""


def _stands(part: Part, made_of: str, with_text: bool) -> bool:
    files = [part.vectors, *([part.texts] if with_text else [])]
    return all(file.is_file() for file in files) and _made_of(part.metadata) == made_of.encode()


def _write(lake: Lake, part: Part, group: list[_Source], made_of: str) -> None:
    """One part, at most a shard's rows and 20,000 vectors in memory; its metadata last, which say that it is whole."""
    paths = lake.absolute_all(source.embed.file("embeddings").path for source in group)
    info = read_info(paths[0])
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    with ExitStack() as files:
        table_file = files.enter_context(writing(part.metadata))
        images = files.enter_context(files.enter_context(writing(part.vectors)).open("wb"))
        streams = [images]
        if group[0].text:
            streams.append(files.enter_context(files.enter_context(writing(part.texts)).open("wb")))
        for stream in streams:
            header = {"descr": _FLOAT16, "fortran_order": False, "shape": (rows, info.clip_dim)}
            np.lib.format.write_array_header_1_0(stream, header)
        table_writer: pq.ParquetWriter | None = None
        for source, path in zip(group, paths, strict=True):
            facts = pq.read_table(lake.absolute(source.download.file("shard").path))
            texts = _first_captions(lake, source.text) if source.text else None
            for named, vectors in stream_embeddings(path, ("sample_key", "sha256")):
                images.write(unit(vectors).astype(_FLOAT16).tobytes())
                if texts is not None:
                    streams[1].write(_aligned(named["sample_key"], *texts, dim=info.clip_dim).tobytes())
                table = _metadata(named, facts, info.encoder).replace_schema_metadata({_MADE_OF: made_of.encode()})
                if table_writer is None:
                    table_writer = files.enter_context(pq.ParquetWriter(table_file, table.schema))
                table_writer.write_table(table)
        if table_writer is None:  # every image failed
            empty = _metadata(pa.table({"sample_key": [], "sha256": []}, _NAMED), facts.slice(0, 0), info.encoder)
            pq.write_table(empty.replace_schema_metadata({_MADE_OF: made_of.encode()}), table_file)


_NAMED = pa.schema([("sample_key", pa.string()), ("sha256", pa.string())])


def _first_captions(lake: Lake, text: Entry) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Keys of the images that have a caption, and unit vectors of each one's first (N, D)."""
    columns = ["sample_key", "clip_embedding"]
    path = lake.absolute(text.file("text_embeddings").path)
    table = pq.read_table(path, columns=columns, filters=[("caption_number", "=", 0)])
    flat = table["clip_embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = unit(flat.reshape(len(table), -1)) if len(table) else np.empty((0, 0))
    return table["sample_key"], vectors.astype(_FLOAT16)


def _aligned(wanted: pa.ChunkedArray, keys: pa.ChunkedArray, vectors: np.ndarray, dim: int) -> np.ndarray:
    places = pc.fill_null(pc.index_in(wanted, keys.combine_chunks()), -1).to_numpy()
    found = np.zeros((len(places), dim), _FLOAT16)
    found[places >= 0] = vectors[places[places >= 0]]
    return found


def _metadata(named: pa.Table, facts: pa.Table, encoder: str) -> pa.Table:
    """A row for each of ``named``, with what the shard's Parquet says of it."""
    rows = facts.take(pc.index_in(named["sample_key"], facts["sample_key"].combine_chunks()))
    captions = rows["captions"].combine_chunks()
    has_one = pc.greater(pc.fill_null(pc.list_value_length(captions), 0), 0)
    first = pc.list_element(pc.if_else(has_one, captions, pa.scalar([""], captions.type)), 0)
    return pa.table(
        {
            "image_path": named["sample_key"],
            "caption": first,
            "url": rows["image_url"],
            "captions": captions,
            "split": rows["split"],
            "width": rows["width"],
            "height": rows["height"],
            "sha256": named["sha256"],
            "encoder": pa.array([encoder] * len(rows), pa.string()),
        }
    )
