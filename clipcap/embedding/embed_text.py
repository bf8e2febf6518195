"""Captions in the space of the images: for search, and for scores that compare a caption with its picture."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.embedding.encoder import Encoder
from clipcap.errors import EmbeddingError
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

VERSION = 1


def embed_text_key(shard: Entry, encoder: Encoder) -> str:
    """Cache key: the shard's rows with their captions, the encoder's weights, libraries that change vectors."""
    libraries = {name: version(name) for name in ("open_clip_torch", "torch")}
    return digest([VERSION, shard.file("shard").sha256, encoder.hash, libraries])


def embed_text_shard(lake: Lake, shard: Entry, encoder: Encoder, key: str, run_id: str = "") -> Entry:
    """Embeds each caption of a shard's images once, however often it stands there.

    One row for each image and caption: ``sample_key, caption_number, caption, clip_embedding`` (float16, as the
    encoder gives it, not normalised).

    Raises:
        ModelError: the encoder has no text tower.
    """
    batch_id, shard_id = shard.meta["batch_id"], shard.meta["shard_id"]
    with Recorder(
        lake, "embed_text", f"embed_text/{encoder.id}/{batch_id}/{shard_id}", key, run_id,
        batch_id=batch_id, shard_id=shard_id, encoder_id=encoder.id, encoder=encoder.name,
    ) as out:  # fmt: skip
        columns = ["sample_key", "captions"]
        rows = pq.read_table(lake.absolute(shard.file("shard").path), columns=columns).to_pylist()
        pairs = [(r["sample_key"], n, c) for r in rows for n, c in enumerate(r["captions"])]
        texts = sorted({caption for _, _, caption in pairs})
        vectors = encoder.encode_text(texts).astype(np.float16)
        if texts and not np.isfinite(vectors).all():
            first = texts[int((~np.isfinite(vectors).all(axis=1)).argmax())]
            raise EmbeddingError(
                f"shard {shard_id}: embeddings of captions are not finite in float16, first of {first!r}: the encoder "
                f"{encoder.name} is at fault; nothing was stored"
            )
        place = {text: number for number, text in enumerate(texts)}
        chosen = vectors[[place[caption] for _, _, caption in pairs]] if pairs else vectors
        dim = chosen.shape[1] if chosen.size else 1
        table = pa.table(
            {
                "sample_key": pa.array([key for key, _, _ in pairs], pa.string()),
                "caption_number": pa.array([number for _, number, _ in pairs], pa.int32()),
                "caption": pa.array([caption for _, _, caption in pairs], pa.string()),
                "clip_embedding": pa.FixedSizeListArray.from_arrays(pa.array(chosen.reshape(-1)), dim),
            }
        )
        path = lake.text_embeddings(encoder.id, batch_id, shard_id)
        commit_table(table, path, compression="none", use_dictionary=False, row_group_size=20_000)
        out.meta["captions"] = len(pairs)
        out.add("text_embeddings", path)
    return out.entry
