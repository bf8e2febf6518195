"""Small lakes of images with references, captioned by models that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.config import CaptionConfig, EvaluateConfig
from clipcap.embedding.store import EmbeddingInfo, write_embeddings
from clipcap.metrics.evaluate_model import evaluate_key, evaluate_model
from clipcap.storage.entries import describe
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard

REFERENCES = {
    "0-0": ["a red ball on the grass", "the ball is red"], "0-1": ["two dogs play in the snow", "dogs play"],
    "0-2": ["a cat sits on a mat", "a cat"], "1-0": ["a man rides a horse", "a man on a horse"],
    "1-1": ["a child eats an apple", "an apple and a child"], "1-2": ["a blue car on a road", "the car is blue"],
}  # fmt: skip
"""Test images of two shards; each shard also has one training image."""
TRAINING = {"0-9": ["A red ball!", "a bird"], "1-9": ["two dogs play"]}
RUN = "20260101T000000Z-aaaaaa"


class SmallLake:
    """What the stages before evaluation leave, made by hand."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake(root)
        self.shards = [self._shard(number) for number in range(2)]

    def _entry(self, stage: str, name: str, kind: str, path: Path, **meta: Any) -> Entry:
        record = describe(self.lake, kind, path)
        return Entry(stage=stage, id=f"{stage}/{name}", key=record.sha256, files=[record], meta=meta,
                     created_at=datetime.now(UTC))  # fmt: skip

    def _shard(self, number: int) -> Shard:
        names = {"batch_id": "toy-00000000", "shard_id": f"shard-{number}"}
        keys = [key for key in [*REFERENCES, *TRAINING] if key.startswith(f"{number}-")]
        rows = [{"sample_key": key, "captions": REFERENCES.get(key) or TRAINING[key],
                 "split": "test" if key in REFERENCES else "train"} for key in keys]  # fmt: skip
        path = self.lake.shard(names["batch_id"], names["shard_id"], "parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        download = self._entry("download", names["shard_id"], "shard", path, **names)
        vectors = np.eye(4, dtype=np.float32)[: len(keys)] * (1 if number else 3)  # of one shard they are normalised
        info = EmbeddingInfo(encoder="toy", encoder_hash="h", clip_dim=4, preprocessing_hash="p",
                             normalized=bool(number))  # fmt: skip
        path = self.lake.embeddings("toy@h", names["batch_id"], names["shard_id"])
        write_embeddings(path, info, keys, [""] * len(keys), vectors)
        return Shard(download, self._entry("embed", names["shard_id"], "embeddings", path, **names))

    def evaluate(
        self,
        model_id: str,
        captions: dict[str, str],
        run_id: str = RUN,
        training: list[Entry] | None = None,
        **settings: Any,
    ) -> Entry:
        """Scores captions as those of a model."""
        path = self.lake.captions(model_id, run_id, "shard-0")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"sample_key": list(captions), "caption": list(captions.values())}), path)
        written = [self._entry("caption", f"{model_id}/{run_id}", "captions", path)]
        config = EvaluateConfig(**{"clip_score": False, "resamples": 50, **settings})
        key = evaluate_key(written, self.shards, config, training)
        return evaluate_model(
            self.lake, None, model_id, written, self.shards, config, CaptionConfig(), key, run_id, training
        )

    def rows(self, entry: Entry, kind: str) -> list[dict[str, Any]]:
        return pq.read_table(self.lake.absolute(entry.file(kind).path)).to_pylist()


@pytest.fixture
def small(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path / "lake")


@pytest.fixture
def by_toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[float]]], None]:
    """The encoder of the small lake: texts are the vectors that it is given, all others are (1, 1, 1, 1)."""
    from clipcap.embedding import encoder as encoders
    from clipcap.metrics.clip_score import PROMPT

    class Model:
        def encode_text(self, tokens: object) -> None: ...

    class Toy:
        hash, model = "h", Model()

        def __init__(self, texts: dict[str, list[float]]) -> None:
            self.texts = texts

        def encode_text(self, texts: list[str]) -> np.ndarray:
            return np.array([self.texts.get(text.removeprefix(PROMPT), [1, 1, 1, 1]) for text in texts], np.float32)

    def use(texts: dict[str, list[float]]) -> None:
        monkeypatch.setattr(encoders, "get_encoder", lambda name, device: Toy(texts))

    return use
