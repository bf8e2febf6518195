"""The evaluate stage: a model's captions of one split against the references."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import CaptionConfig, EvaluateConfig
from clipcap.embedding.store import read_embeddings
from clipcap.errors import DataError
from clipcap.metrics.evaluate import KNOWN, score
from clipcap.storage.commit import commit_table
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import Entry, Recorder, digest

if TYPE_CHECKING:
    from clipcap.model.captioner import Captioner
    from clipcap.training.train_model import Shard

VERSION = 1

CORPUS_SCHEMA = pa.schema(
    [
        ("model_id", pa.string()),
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("images", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
PER_IMAGE_SCHEMA = pa.schema(
    [
        ("model_id", pa.string()),
        ("run_id", pa.string()),
        ("sample_key", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


def evaluate_key(captions: Sequence[Entry], shards: Sequence[Shard], config: EvaluateConfig) -> str:
    """Cache key: the captions (by what made them), the references, and the settings."""
    references = sorted(s.download.file("shard").sha256 for s in shards)
    return digest([VERSION, sorted(c.key for c in captions), references, config.model_dump()])


def read_references(lake: Lake, shards: Sequence[Shard], split: str) -> dict[str, list[str]]:
    """References of every embedded image of the split that has any."""
    references = {}
    for path in lake.absolute_all(s.download.file("shard").path for s in shards):
        table = pq.read_table(path, columns=["sample_key", "captions", "split"])
        for row in table.to_pylist():
            if row["split"] == split and row["captions"]:
                references[row["sample_key"]] = row["captions"]
    return references


def evaluate_model(
    lake: Lake,
    captioner: Captioner | None,
    model_id: str,
    captions: Sequence[Entry],
    shards: Sequence[Shard],
    config: EvaluateConfig,
    decoding: CaptionConfig,
    key: str,
    run_id: str,
) -> Entry:
    """Scores the captions of the split.

    Args:
        captioner: only needed for the control, which captions the split again with exchanged embeddings.

    Raises:
        DataError: the split has no captioned image with references.
    """
    with Recorder(
        lake, "evaluate", f"evaluate/{model_id}/{config.split}/{key[:12]}", key, run_id,
        model_id=model_id, split=config.split,
    ) as out:  # fmt: skip
        references = read_references(lake, shards, config.split)
        candidates = {
            row["sample_key"]: row["caption"]
            for path in lake.absolute_all(entry.file("captions").path for entry in captions)
            for row in pq.read_table(path, columns=["sample_key", "caption"]).to_pylist()
            if row["sample_key"] in references
        }
        if not candidates:
            raise DataError(f"nothing to evaluate: no captioned image of split {config.split!r} has a reference")
        scores = score(candidates, references, KNOWN)
        corpus = dict(scores.corpus)
        if config.shuffled_control and captioner is not None:
            exchanged = _caption_exchanged(lake, captioner, shards, sorted(candidates), decoding)
            corpus |= {f"{name}_shuffled": value for name, value in score(exchanged, references).corpus.items()}
        out.meta |= {"images": len(candidates), "metrics": corpus}
        now = datetime.now(UTC)
        rows = [
            {"model_id": model_id, "run_id": run_id, "split": config.split, "metric": name, "value": value,
             "images": len(candidates), "created_at": now}
            for name, value in corpus.items()
        ]  # fmt: skip
        commit_table(pa.Table.from_pylist(rows, schema=CORPUS_SCHEMA), lake.metrics(model_id, run_id, "corpus"))
        each = [
            {"model_id": model_id, "run_id": run_id, "sample_key": sample_key, "metric": name, "value": value}
            for name, values in scores.per_image.items()
            for sample_key, value in values.items()
        ]
        commit_table(pa.Table.from_pylist(each, schema=PER_IMAGE_SCHEMA), lake.metrics(model_id, run_id, "per_image"))
        out.add("corpus", lake.metrics(model_id, run_id, "corpus"))
        out.add("per_image", lake.metrics(model_id, run_id, "per_image"))
    return out.entry


def _caption_exchanged(
    lake: Lake, captioner: Captioner, shards: Sequence[Shard], keys: list[str], decoding: CaptionConfig
) -> dict[str, str]:
    """Captions in which every image got the embedding of another one: what the language model says without looking."""
    from clipcap.decoding.caption import generate

    stored = read_embeddings(lake.absolute_all(s.embed.file("embeddings").path for s in shards))
    row_of = {key: row for row, key in enumerate(stored.keys)}
    order = np.random.default_rng(0).permutation(len(keys))
    giver = np.empty(len(keys), dtype=np.int64)
    giver[order] = np.roll(order, 1)  # a single cycle: no image keeps its own
    rows = [row_of[keys[i]] for i in giver]
    rerank = None
    if decoding.rerank:
        from clipcap.decoding.rerank import ClipRerank
        from clipcap.embedding.encoder import get_encoder

        rerank = ClipRerank(
            get_encoder(stored.info.encoder, str(captioner.device)), stored.vectors[rows], decoding.rerank
        )
    captions = generate(captioner, stored.features[rows], decoding, rerank)
    return {key: caption.text for key, caption in zip(keys, captions, strict=True)}
