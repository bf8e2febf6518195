"""The caption stage scores what it writes: by the stored embedding, whatever the model read, and only where it can."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig
from clipcap.decoding.caption_shard import caption_key, caption_shard
from clipcap.embedding import encoder as encoders
from clipcap.embedding.encoder import get_encoder
from clipcap.embedding.store import EmbeddingInfo, write_embeddings
from clipcap.errors import ModelError
from clipcap.metrics.clip_score import PROMPT
from clipcap.model.build import build_captioner
from clipcap.storage.entries import describe
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, write_ledger
from clipcap.storage.records import Entry

BATCH, SHARD, RUN = "toy-00000000", "00000000-00000", "20260101T000000Z-aaaaaa"
GREEDY = CaptionConfig(beam_size=1, max_new_tokens=4)
IMAGES = 5


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture(scope="module")
def captioners() -> dict[str, Any]:
    """Untrained ones for the sample's encoder: of its embedding, and of its tower's 768 features."""
    config = TrainConfig(
        prefix_length=2, mapper_hidden=8,
        language_model=LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300),
    )  # fmt: skip
    made = {}
    for kind, dim in (("embedding", 256), ("tower", 768)):
        name = "builtin:sample" + ("#tower" if kind == "tower" else "")
        made[kind] = build_captioner(
            config, ["a red square", "a green circle"], dim, model_id=f"toy-{kind}", encoder=name,
            encoder_hash=get_encoder(name, "cpu").hash, features=kind,
        )  # fmt: skip
    return made


def embedded(lake: Lake, kind: str = "embedding", normalized: bool = False, encoder: str = "builtin:sample") -> Entry:
    """A shard whose embeddings and features are random."""
    random = np.random.default_rng(0)
    name = encoder + ("#tower" if kind == "tower" else "")
    vectors = random.normal(size=(IMAGES, 256))
    if normalized:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [f"00000000-{number:07d}" for number in range(IMAGES)]
    more: dict[str, Any] = {"features": "tower", "feature_dim": 768} if kind == "tower" else {}
    info = EmbeddingInfo(
        encoder=name, encoder_hash=get_encoder(name, "cpu").hash if "sample" in name else "h", clip_dim=256,
        preprocessing_hash="p", normalized=normalized, **more,
    )  # fmt: skip
    path = lake.embeddings("toy@h", BATCH, SHARD)
    features = random.normal(size=(IMAGES, 768)) if kind == "tower" else None
    write_embeddings(path, info, keys, [""] * IMAGES, vectors, features)
    ledger = lake.ledger("embed", BATCH, SHARD)
    write_ledger(ledger, "embed", BATCH, SHARD, [Outcome(key, "ok", "", "") for key in keys])
    return Entry(
        stage="embed", id=f"embed/{SHARD}", key="k", created_at=datetime.now(UTC),
        files=[describe(lake, "embeddings", path), describe(lake, "ledger", ledger)],
        meta={"batch_id": BATCH, "shard_id": SHARD},
    )  # fmt: skip


def rows(lake: Lake, entry: Entry) -> list[dict[str, Any]]:
    return pq.read_table(lake.absolute(entry.file("captions").path)).to_pylist()


@pytest.mark.parametrize(("kind", "normalized"), [("embedding", False), ("embedding", True), ("tower", False)])
def test_each_caption_is_scored_against_the_embedding_of_its_own_image(lake, captioners, kind, normalized):
    embed = embedded(lake, kind, normalized)
    written = rows(lake, caption_shard(lake, embed, captioners[kind], GREEDY, "k" * 64, RUN))
    stored = pq.read_table(lake.absolute(embed.file("embeddings").path)).to_pylist()
    texts = get_encoder("builtin:sample", "cpu").encode_text([PROMPT + row["caption"] for row in written])
    assert [row["sample_key"] for row in written] == [row["sample_key"] for row in stored]
    for row, image, text in zip(written, stored, texts, strict=True):
        vector = np.array(image["clip_embedding"], np.float64)
        cosine = vector @ text / np.linalg.norm(vector) / np.linalg.norm(text)
        assert row["clip_score"] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    assert len({row["clip_score"] for row in written}) > 1


def test_scores_are_left_out_where_they_are_not_wanted_and_no_encoder_is_loaded(lake, captioners, monkeypatch):
    embed = embedded(lake)
    monkeypatch.setattr(encoders, "get_encoder", lambda *_: pytest.fail("no encoder is needed"))
    config = GREEDY.model_copy(update={"clip_score": False})
    written = rows(lake, caption_shard(lake, embed, captioners["embedding"], config, "k" * 64, RUN))
    assert [row["clip_score"] for row in written] == [None] * IMAGES
    assert all(row["caption"] is not None for row in written)


def test_scores_are_null_where_the_encoder_has_no_text_tower(lake, captioners, monkeypatch):
    monkeypatch.setattr("clipcap.decoding.caption_shard.text_encoder", lambda info, device: None)
    written = rows(lake, caption_shard(lake, embedded(lake), captioners["embedding"], GREEDY, "k" * 64, RUN))
    assert [row["clip_score"] for row in written] == [None] * IMAGES


def test_an_encoder_that_is_gone_says_how_to_caption_without_it(lake, captioners):
    captioner = captioners["embedding"]
    settings = captioner.settings
    captioner.settings = settings.model_copy(update={"encoder_hash": ""})
    try:
        with pytest.raises(ModelError, match=r"no folder /gone.*caption\.clip_score"):
            caption_shard(lake, embedded(lake, encoder="local-dir:/gone"), captioner, GREEDY, "k" * 64, RUN)
    finally:
        captioner.settings = settings


def test_the_key_knows_whether_captions_are_scored_and_by_what(lake):
    embed = embedded(lake)
    other = embed.model_copy(update={"files": [embed.files[0].model_copy(update={"sha256": "0"}), *embed.files[1:]]})
    config = GREEDY.model_copy(update={"clip_score": False})
    keys = {caption_key(embed, "w", GREEDY), caption_key(embed, "w", config), caption_key(other, "w", GREEDY)}
    assert len(keys) == 3
