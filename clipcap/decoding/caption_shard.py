"""The caption stage: one file of embeddings to one file of captions."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import CaptionConfig
from clipcap.embedding.store import Embeddings, read_embeddings
from clipcap.errors import EmbeddingError, ModelError
from clipcap.metrics.clip_score import clip_scores, text_encoder
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, write_ledger
from clipcap.storage.records import Entry

if TYPE_CHECKING:
    from clipcap.model.captioner import Captioner

VERSION = 3

SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("batch_id", pa.string()),
        ("shard_id", pa.string()),
        ("model_id", pa.string()),
        ("run_id", pa.string()),
        ("caption", pa.string()),
        ("log_probability", pa.float64()),
        ("tokens", pa.int32()),
        ("clip_score", pa.float64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


@lru_cache(maxsize=2)
def get_captioner(folder: Path, device: str) -> Captioner:
    """A stored model, loaded once in a process; shards share it. A model's folder never changes: its id is its key."""
    from clipcap.model.checkpoint import load_captioner

    return load_captioner(folder, device)


def caption_key(embed: Entry, weights_hash: str, config: CaptionConfig) -> str:
    """Cache key: embeddings, model weights, and what decides a caption (the batch size does not)."""
    return digest([VERSION, embed.file("embeddings").sha256, weights_hash, config.model_dump(exclude={"batch_size"})])


def caption_shard(
    lake: Lake, embed: Entry, captioner: Captioner, config: CaptionConfig, key: str, run_id: str
) -> Entry:
    """Captions every embedded image of a shard, and scores each caption against its image.

    Raises:
        EmbeddingError: the embeddings are of another encoder or dimension than the model was trained with.
        ModelError: captions are to be scored or re-ranked, and the encoder cannot be loaded.
    """
    batch_id, shard_id = embed.meta["batch_id"], embed.meta["shard_id"]
    settings = captioner.settings
    with Recorder(
        lake, "caption", f"caption/{settings.model_id}/{batch_id}/{shard_id}", key, run_id,
        model_id=settings.model_id, batch_id=batch_id, shard_id=shard_id,
    ) as out:  # fmt: skip
        from clipcap.decoding.caption import generate

        stored = read_embeddings(
            [lake.absolute(embed.file("embeddings").path)],
            clip_dim=settings.clip_dim, encoder_hash=settings.encoder_hash or None, features=settings.features,
        )  # fmt: skip
        if stored.info.normalized and not settings.normalize:
            raise EmbeddingError(
                f"the embeddings of {batch_id} are normalised, and {settings.model_id} was trained on such as are not: "
                "use a model with normalize = true"
            )
        rerank = None
        if config.rerank and stored.keys:
            from clipcap.decoding.rerank import ClipRerank
            from clipcap.embedding.encoder import get_encoder

            encoder = get_encoder(stored.info.encoder, str(captioner.device))
            rerank = ClipRerank(encoder, stored.vectors, config.rerank)
        try:
            captions = generate(captioner, stored.features, config, rerank) if stored.keys else []
        except ModelError as error:  # values that are not finite, no room on the device
            raise type(error)(f"shard {shard_id}, model {settings.model_id}: {error}; nothing was stored") from error
        rows = len(captions)
        table = pa.table(
            {
                "sample_key": stored.keys,
                "batch_id": [batch_id] * rows,
                "shard_id": [shard_id] * rows,
                "model_id": [settings.model_id] * rows,
                "run_id": [run_id] * rows,
                "caption": [c.text for c in captions],
                "log_probability": [c.log_probability for c in captions],
                "tokens": [c.tokens for c in captions],
                "clip_score": _clip_scores(stored, [c.text for c in captions], config, str(captioner.device)),
                "created_at": [datetime.now(UTC)] * rows,
            },
            schema=SCHEMA,
        )
        path = lake.captions(settings.model_id, run_id, shard_id)
        commit_table(table, path)
        ledger = lake.ledger("caption", batch_id, shard_id, settings.model_id)
        out.rows = write_ledger(ledger, "caption", batch_id, shard_id, _outcomes(lake, embed, table))
        out.add("captions", path)
        out.add("ledger", ledger)
    return out.entry


def _clip_scores(stored: Embeddings, captions: list[str], config: CaptionConfig, device: str) -> list[float | None]:
    """CLIPScore of each caption by the encoder that embedded the images; the key holds its hash, with the embeddings.

    Always of ``clip_embedding``, whatever else of the image the model read.
    """
    encoder = text_encoder(stored.info, device) if config.clip_score and captions else None
    if encoder is None:
        return [None] * len(captions)
    scores: list[float | None] = clip_scores(encoder, stored.vectors, captions).tolist()
    return scores


def _outcomes(lake: Lake, embed: Entry, captions: pa.Table) -> list[Outcome]:
    """One for each image that was embedded; an empty caption is a failure with its reason."""
    by_key = dict(zip(captions["sample_key"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    inputs = pq.read_table(
        lake.absolute(embed.file("ledger").path), columns=["sample_key", "image_url"], filters=[("status", "=", "ok")]
    )
    return [
        Outcome(row["sample_key"], "ok", "", row["image_url"])
        if by_key.get(row["sample_key"])
        else Outcome(row["sample_key"], "failed", "the model wrote an empty caption", row["image_url"])
        for row in inputs.to_pylist()
    ]
