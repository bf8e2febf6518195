"""The evaluate stage: a model's captions of one split against the references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import CaptionConfig, EvaluateConfig
from clipcap.embedding.store import read_embeddings, read_info
from clipcap.errors import DataError
from clipcap.metrics.bootstrap import Interval
from clipcap.metrics.clip_score import clip_metrics, text_encoder
from clipcap.metrics.diversity import novel
from clipcap.metrics.evaluate import DEFAULT, KNOWN, Scores, score
from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

if TYPE_CHECKING:
    from clipcap.embedding.encoder import Encoder
    from clipcap.model.captioner import Captioner
    from clipcap.training.train_model import Shard

VERSION = 2

CORPUS_SCHEMA = pa.schema(
    [
        ("model_id", pa.string()),
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
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


def evaluate_key(
    captions: Sequence[Entry],
    shards: Sequence[Shard],
    config: EvaluateConfig,
    training: Sequence[Entry] | None = None,
) -> str:
    """Cache key: the captions and training captions (by what made them), the references, and the settings."""
    references = sorted(s.download.file("shard").sha256 for s in shards)
    learned = None if training is None else sorted(entry.file("shard").sha256 for entry in training)
    return digest([VERSION, sorted(c.key for c in captions), references, learned, config.model_dump()])


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
    training: Sequence[Entry] | None = None,
    device: str = "cpu",
) -> Entry:
    """Scores the captions of the split.

    Writes ``corpus`` (a row for each metric, with its interval), ``per_image``, and ``ngram_counts``: what BLEU and
    METEOR are made of, one row for each image, so that :mod:`clipcap.metrics.compare` can resample them.

    Args:
        captioner: only needed for the control, which captions the split again with exchanged embeddings.
        training: download entries of what the model was trained on, for the share of novel captions; None where that
            is not known.
        device: of the encoder's text tower.

    Raises:
        DataError: the split has no captioned image with references.
        ConfigError: METEOR or SPICE are asked for and not installed.
        ModelError: CLIPScore is asked for and the encoder cannot be loaded.
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
        by_clip = _ByClip.of(lake, shards, candidates, device) if config.clip_score else None
        scores = score(candidates, references, (*KNOWN, *config.java_metrics))
        if by_clip:
            scores = scores.plus(by_clip.score(candidates, references))
        if training:
            known = (tokenize(texts) for texts in _training_captions(lake, training))
            tokens = dict(zip(candidates, tokenize(list(candidates.values())), strict=True))
            scores = scores.plus({"novel_share": novel(tokens, known)})
        control = None
        if config.shuffled_control and captioner is not None:
            exchanged = _caption_exchanged(lake, captioner, shards, sorted(candidates), decoding)
            control = score(exchanged, references, DEFAULT)
            if by_clip:
                control = control.plus(by_clip.score(exchanged, references))
        corpus, intervals = _corpus(scores, control, config)
        out.meta |= {
            "images": len(candidates),
            "metrics": corpus,
            "intervals": intervals,
            "scored_on": scored_on({sample_key: references[sample_key] for sample_key in candidates}),
            "clip_encoder": by_clip.encoder.hash if by_clip else "",
        }
        named = {"model_id": model_id, "run_id": run_id}
        now = datetime.now(UTC)
        rows = []
        for name, value in corpus.items():
            low, high = intervals.get(name, (None, None))
            rows.append({**named, "split": config.split, "metric": name, "value": value, "low": low, "high": high,
                         "images": len(candidates), "created_at": now})  # fmt: skip
        each = [
            {**named, "sample_key": sample_key, "metric": name, "value": value}
            for name, values in scores.per_image.items()
            for sample_key, value in values.items()
        ]
        assert scores.counts is not None  # BLEU is always among the metrics
        tables = {
            "corpus": pa.Table.from_pylist(rows, schema=CORPUS_SCHEMA),
            "per_image": pa.Table.from_pylist(each, schema=PER_IMAGE_SCHEMA),
            "ngram_counts": scores.counts.rename_columns(
                ["sample_key" if name == "key" else name for name in scores.counts.column_names]
            ),
        }
        for kind, table in tables.items():
            commit_table(table, lake.metrics(model_id, run_id, kind))
            out.add(kind, lake.metrics(model_id, run_id, kind))
    return out.entry


def scored_on(references: Mapping[str, Sequence[str]]) -> str:
    """Identifies what a model was scored on: the images and their references. Only equal ones can be compared."""
    return digest(sorted((key, list(texts)) for key, texts in references.items()))[:16]


def _corpus(
    scores: Scores, control: Scores | None, config: EvaluateConfig
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Values and intervals of all metrics; those of the control end in ``_shuffled``."""
    corpus, intervals = dict(scores.corpus), scores.intervals(config.resamples, config.confidence, config.seed)
    if control is not None:
        corpus |= {f"{name}_shuffled": value for name, value in control.corpus.items()}
        others = control.intervals(config.resamples, config.confidence, config.seed)
        intervals |= {f"{name}_shuffled": interval for name, interval in others.items()}
    return corpus, intervals


def _training_captions(lake: Lake, training: Sequence[Entry]) -> Iterator[list[str]]:
    """A shard at a time."""
    from clipcap.training.train_model import TRAIN_SPLITS

    for path in lake.absolute_all(entry.file("shard").path for entry in training):
        table = pq.read_table(path, columns=["captions"], filters=[("split", "in", TRAIN_SPLITS)])
        yield list({text for texts in table["captions"].to_pylist() for text in texts or []})


class _ByClip:
    """CLIPScore of captions of the evaluated images."""

    def __init__(self, encoder: Encoder, keys: Sequence[str], images: np.ndarray) -> None:
        self.encoder, self._keys, self._images = encoder, keys, images

    @classmethod
    def of(cls, lake: Lake, shards: Sequence[Shard], keys: Mapping[str, str], device: str) -> _ByClip | None:
        """None where the encoder has no text tower. Vectors of any length do: a batch may hold imported ones.

        Raises:
            EmbeddingError: the shards are of several encoders.
        """
        paths = lake.absolute_all(s.embed.file("embeddings").path for s in shards)
        info = read_info(paths[0])
        read = [read_embeddings([path], encoder_hash=info.encoder_hash, only=keys) for path in paths]
        encoder = text_encoder(info, device)
        if encoder is None:
            return None
        return cls(encoder, [key for part in read for key in part.keys], np.concatenate([p.vectors for p in read]))

    def score(
        self, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """metric -> sample_key -> value."""
        keys = self._keys
        found = clip_metrics(
            self.encoder, self._images, [captions[key] for key in keys], [references[key] for key in keys]
        )
        return {name: dict(zip(keys, values.tolist(), strict=True)) for name, values in found.items()}


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
