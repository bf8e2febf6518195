"""Embeddings that were made elsewhere become a batch of the lake, without an image being downloaded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipcap.dataset.land import Landing, land
from clipcap.dataset.shards import SCHEMA
from clipcap.embedding.encoder import Encoder
from clipcap.embedding.exchange import Part, find_parts, fingerprint, read_part
from clipcap.embedding.store import EmbeddingInfo, write_embeddings
from clipcap.errors import DataError
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, Status, write_ledger
from clipcap.storage.manifest import EntryIndex
from clipcap.storage.records import Entry

VERSION = 2
_NORMALIZED_WITHIN = 1e-2
_NOT_FINITE = "has values that are not finite"


def adopt_embeddings(lake: Lake, folder: Path, dataset: str, encoder: Encoder, run_id: str = "") -> list[Entry]:
    """Lands a folder in clip-retrieval's layout: a shard for each of its parts.

    The vectors are taken at their word to be of ``encoder``. They are stored as normalised, which by that layout they
    are. One that is not finite, or zero, is a failed row. What an earlier try finished is kept.

    Returns:
        The entries of landing, downloading and embedding, to be published.

    Raises:
        DataError: another layout, vectors of another size than the encoder's, or such as are not normalised.
    """
    parts = find_parts(folder)
    content = digest([VERSION, dataset, fingerprint(parts)])
    rows, clip_dim = _rows(parts, content), _clip_dim(encoder)
    index = EntryIndex(lake)
    landing = Landing(dataset, str(folder), [row for part in rows for row in part], [], content)
    entries = [index.find(f"land/{landing.batch_id}", content) or land(lake, landing, run_id)]
    for number, (part, part_rows) in enumerate(zip(parts, rows, strict=True)):
        names = {"batch_id": landing.batch_id, "shard_id": f"{content[:8]}-{number:05d}"}
        key = digest([VERSION, content, number, encoder.hash])
        made = [
            index.find(f"{stage}/{names['batch_id']}/{names['shard_id']}", key)
            for stage in ("download", f"embed/{encoder.id}")
        ]
        if made[0] is None or made[1] is None:
            made = [_shard(lake, names, part_rows, encoder, key, run_id),
                    _embeddings(lake, names, part, part_rows, encoder, clip_dim, key, run_id)]  # fmt: skip
        entries += [entry for entry in made if entry is not None]
    return entries


def _rows(parts: list[Part], content: str) -> list[list[dict[str, object]]]:
    """As in urls.parquet, part by part. A URL may stand there twice: each row has a vector of its own."""
    rows, number = [], 0
    for part in parts:
        records = read_part(part)[1]
        rows.append([{"sample_key": f"{content[:8]}-{number + n:07d}", "source_row": number + n, **record}
                     for n, record in enumerate(records)])  # fmt: skip
        number += len(records)
    return rows


def _clip_dim(encoder: Encoder) -> int:
    size = (1, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    return int(encoder.encode(np.zeros(size, np.uint8)).shape[1])


def _shard(
    lake: Lake, names: dict[str, str], rows: list[dict[str, object]], encoder: Encoder, key: str, run_id: str
) -> Entry:
    """What a download would have left, but for the images."""
    with Recorder(
        lake, "download", f"download/{names['batch_id']}/{names['shard_id']}", key, run_id, **names,
        adopted={"encoder_id": encoder.id, "embed_key": key},
    ) as out:  # fmt: skip
        table = [
            {"sample_key": r["sample_key"], **names, "image_url": r["url"], "member": "", "sha256": "", "width": 0,
             "height": 0, "format": "", "size_bytes": 0, "captions": r["captions"], "split": r["split"]}
            for r in rows
        ]  # fmt: skip
        path = lake.shard(names["batch_id"], names["shard_id"], "parquet")
        commit_table(pa.Table.from_pylist(table, schema=SCHEMA), path)
        ledger = lake.ledger("download", names["batch_id"], names["shard_id"])
        outcomes = [Outcome(str(r["sample_key"]), "ok", "", str(r["url"])) for r in rows]
        out.rows = write_ledger(ledger, "download", names["batch_id"], names["shard_id"], outcomes)
        out.add("shard", path)
        out.add("ledger", ledger)
    return out.entry


def _embeddings(
    lake: Lake, names: dict[str, str], part: Part, rows: list[dict[str, object]], encoder: Encoder, clip_dim: int,
    key: str, run_id: str,
) -> Entry:  # fmt: skip
    batch_id, shard_id = names["batch_id"], names["shard_id"]
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and its row fails
        vectors = np.asarray(read_part(part)[0], np.float16)
    if vectors.shape[1] != clip_dim:
        raise DataError(
            f"{part.vectors.name} holds vectors of size {vectors.shape[1]}; those of {encoder.name} have {clip_dim}"
        )
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)  # NaN and inf stay what they are
    usable = np.isfinite(lengths) & (lengths > 0)
    if usable.any() and np.abs(lengths[usable] - 1).max() > _NORMALIZED_WITHIN:
        raise DataError(
            f"{part.vectors.name} holds vectors of length {lengths[usable].min():.3g} to {lengths[usable].max():.3g}: "
            "clip-retrieval's layout holds normalised ones, divide each by its length first"
        )
    with Recorder(
        lake, "embed", f"embed/{encoder.id}/{batch_id}/{shard_id}", key, run_id, **names, encoder_id=encoder.id,
        encoder=encoder.name, clip_dim=clip_dim, made_with="adopted",
    ) as out:  # fmt: skip
        info = EmbeddingInfo(
            encoder=encoder.name, encoder_hash=encoder.hash, clip_dim=clip_dim,
            preprocessing_hash=digest(asdict(encoder.preprocessing)),
            normalized=True,
        )  # fmt: skip
        path = lake.embeddings(encoder.id, batch_id, shard_id)
        keys = [str(row["sample_key"]) for row, is_usable in zip(rows, usable, strict=True) if is_usable]
        write_embeddings(path, info, keys, [""] * len(keys), vectors[usable])
        outcomes = []
        for row, length in zip(rows, lengths.tolist(), strict=True):
            status: Status = "ok" if 0 < length < np.inf else "failed"
            reason = "" if status == "ok" else "its embedding " + ("is zero" if length == 0 else _NOT_FINITE)
            outcomes.append(Outcome(str(row["sample_key"]), status, reason, str(row["url"])))
        ledger = lake.ledger("embed", batch_id, shard_id, encoder.id)
        out.rows = write_ledger(ledger, "embed", batch_id, shard_id, outcomes)
        out.add("embeddings", path)
        out.add("ledger", ledger)
    return out.entry
