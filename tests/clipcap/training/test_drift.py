"""Drift: silent on more of the same, loud on something else, and the same however much there is of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from clipcap.training.drift import FEWEST, Drift, _auc, measure_drift, sample_embeddings

CLIP_DIM = 64
SPREAD = np.linspace(1.0, 0.05, CLIP_DIM)


def draw(random: np.random.Generator, count: int, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    """Vectors as encoders give them: a common direction, and spreads that fall off."""
    vectors = random.normal(size=(count, CLIP_DIM)) * SPREAD
    vectors[:, :4] *= spread
    vectors[:, 5] += shift * SPREAD[5]
    return vectors + 3.0 * SPREAD


def test_more_of_the_same_is_no_drift():
    random = np.random.default_rng(0)
    found = [measure_drift(draw(random, 400), draw(random, count)) for count in (50, 200) for _ in range(60)]
    units = np.array([drift.value / drift.noise for drift in found])
    assert abs(units.mean()) < 0.5 and units.std() < 1.4, "the standard error is about what it says"
    assert np.mean([drift.at_least > 0 for drift in found]) < 0.06
    assert max(drift.at_least for drift in found) < 0.2


@pytest.mark.parametrize(("shift", "spread"), [(1.5, 1.0), (0.0, 2.5)])
def test_new_subjects_and_a_change_of_spread_are_seen(shift: float, spread: float):
    random = np.random.default_rng(1)
    drift = measure_drift(draw(random, 2_000), draw(random, 500, shift, spread))
    assert drift.at_least > 0.2 and (drift.old, drift.new) == (2_000, 500)


def test_the_value_does_not_grow_with_the_number_of_images_and_its_noise_shrinks():
    random = np.random.default_rng(2)
    few, many = (measure_drift(draw(random, n), draw(random, n, 1.0)) for n in (1_000, 8_000))
    assert few.value == pytest.approx(many.value, abs=3 * few.noise)
    assert many.noise < few.noise / 2 and many.at_least > few.at_least - 0.02


def test_lengths_say_nothing_and_order_says_nothing():
    random = np.random.default_rng(3)
    old, new = draw(random, 300), draw(random, 300, 1.0)
    drift = measure_drift(old, new)
    assert measure_drift(old * 5, new).value == pytest.approx(drift.value, abs=1e-3)
    assert measure_drift(random.permutation(old), new).value == pytest.approx(drift.value, abs=0.1)
    assert measure_drift(new, old).value == pytest.approx(drift.value, abs=0.1), "nor which side is which"


def test_few_images_raise_no_alarm():
    random = np.random.default_rng(4)
    drift = measure_drift(draw(random, 500), draw(random, FEWEST - 1, 50.0))
    assert drift.at_least == 0.0 and drift.noise == float("inf")
    assert measure_drift(draw(random, 500), draw(random, FEWEST, 50.0)).at_least > 0.5
    assert Drift(0.5, 0.1, 50, 50).at_least == pytest.approx(0.5 - 0.2326, abs=1e-3)
    constant = np.ones((100, CLIP_DIM))
    assert measure_drift(constant, constant).value == pytest.approx(0.0, abs=0.3), "vectors that are all the same"


def test_auc_counts_pairs():
    random = np.random.default_rng(5)
    old, new = random.integers(0, 6, 40), random.integers(1, 8, 30)
    pairs = [(n > o) + (n == o) / 2 for n in new for o in old]
    assert _auc(old.astype(float), new.astype(float)) == pytest.approx(np.mean(pairs))


def test_a_sample_of_the_lake_holds_captioned_training_images_alone(tiny):
    from clipcap.storage.manifest import EntryIndex
    from clipcap.training.train_model import Shard

    tiny.commit()
    store_again(tiny)
    index = EntryIndex(tiny.lake)
    downloads = {e.meta["shard_id"]: e for e in index.of_stage("download")}
    shards = [Shard(downloads[e.meta["shard_id"]], e) for e in index.of_stage("embed")]
    np.testing.assert_array_equal(sample_embeddings(tiny.lake, shards), [[1, 3, 0, -0.5]])  # row 3; 5 and 6 failed
    assert sample_embeddings(tiny.lake, []).shape == (0, 0)


def store_again(tiny) -> None:
    """The tiny lake's embeddings with the metadata that readers ask for."""
    from clipcap.embedding.store import EmbeddingInfo, write_embeddings
    from clipcap.storage.entries import describe
    from clipcap.storage.manifest import commit_generation, read_current

    entries = []
    for entry in read_current(tiny.lake).of_stage("embed"):
        rows = tiny.rows(entry.file("embeddings").path)
        path = tiny.lake.absolute(entry.file("embeddings").path)
        info = EmbeddingInfo(encoder="toy", encoder_hash=entry.meta["encoder_id"], clip_dim=4, preprocessing_hash="p")
        vectors = np.array([row["clip_embedding"] for row in rows], np.float16).reshape(len(rows), 4)
        write_embeddings(path, info, [r["sample_key"] for r in rows], [r["sha256"] for r in rows], vectors)
        files = [f if f.kind != "embeddings" else describe(tiny.lake, "embeddings", path) for f in entry.files]
        entries.append(entry.model_copy(update={"files": files}))
    commit_generation(tiny.lake, entries)


@pytest.mark.slow
def test_photographs_of_one_subject_drift_and_a_random_part_does_not(shared: Path):
    """Real embeddings of real photographs: snow against everything else, chosen by the words of their captions."""
    from clipcap.embedding.decode import decode
    from clipcap.embedding.encoder import get_encoder

    images = json.loads((shared / "flickr8k" / "dataset_flickr8k.json").read_text())["images"]

    def is_snow(image: dict) -> bool:
        return bool(re.search(r"\bsnow\b", " ".join(s["raw"].lower() for s in image["sentences"])))

    snow = [image for image in images if is_snow(image)][:60]
    others = [image for image in images if not is_snow(image)][:240]
    encoder = get_encoder(f"local-dir:{shared / 'encoder'}", "cpu", "float32")

    def embed(some: list[dict]) -> np.ndarray:
        files = [shared / "flickr8k" / "images" / image["filename"] for image in some]
        parts = [files[start : start + 60] for start in range(0, len(files), 60)]
        pixels = ([decode(file.read_bytes(), encoder.preprocessing) for file in part] for part in parts)
        return np.concatenate([encoder.encode(np.stack(part)) for part in pixels])

    new, old = embed(snow), embed(others)
    assert measure_drift(old, new).at_least > 0.4
    assert measure_drift(old[60:], old[:60]).at_least < 0.1
