"""The evaluate stage: what it writes for the set and for each image, and what its key knows."""

from __future__ import annotations

import pytest

from clipcap.errors import ConfigError
from clipcap.metrics.compare import read_scores
from clipcap.metrics.evaluate import KNOWN, score
from clipcap.metrics.evaluate_model import evaluate_key, scored_on

CAPTIONS = {
    "0-0": "A red ball.", "0-1": "two dogs play", "0-2": "a cat on a mat", "1-0": "a man on a horse",
    "1-1": "a girl", "1-2": "a car",
}  # fmt: skip


def references(small) -> dict[str, list[str]]:
    rows = [row for shard in small.shards for row in small.rows(shard.download, "shard")]
    return {row["sample_key"]: row["captions"] for row in rows if row["split"] == "test"}


def test_values_are_those_of_score_and_every_row_has_its_interval(small):
    entry = small.evaluate("ours", CAPTIONS, confidence=0.8, seed=4)
    expected = score(CAPTIONS, references(small), KNOWN)
    intervals = expected.intervals(50, 0.8, 4)
    rows = {row["metric"]: row for row in small.rows(entry, "corpus")}
    assert list(rows) == list(KNOWN)
    for name, row in rows.items():
        assert row["value"] == pytest.approx(expected.corpus[name], abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx(intervals.get(name, (None, None)), abs=1e-12), name
        assert (row["images"], row["split"], row["model_id"]) == (6, "test", "ours")
    assert entry.meta["metrics"] == {name: row["value"] for name, row in rows.items()}
    assert rows["vocabulary"]["low"] is None and rows["cider"]["low"] < rows["cider"]["high"]


def test_what_is_stored_is_read_back_as_it_was_scored(small):
    entry = small.evaluate("ours", CAPTIONS)
    expected = score(CAPTIONS, references(small), KNOWN)
    found = read_scores(small.lake, entry)
    assert found.corpus == expected.corpus and found.per_image == expected.per_image
    assert found.counts.sort_by("key").equals(expected.counts.sort_by("key"))
    assert found.intervals(30) == expected.intervals(30)


def test_no_resamples_leave_the_intervals_empty(small):
    rows = small.rows(small.evaluate("ours", CAPTIONS, resamples=0), "corpus")
    assert {(row["low"], row["high"]) for row in rows} == {(None, None)}


def test_clip_scores_of_every_image_whether_its_vector_is_normalised_or_not(small, by_toy):
    """Images are (3, 0, 0, 0), (0, 3, 0, 0), … in the first shard, and unit vectors in the second."""
    by_toy({"A red ball.": [5, 0, 0, 0], "two dogs play": [0, 0, 1, 0], "a man on a horse": [1, 0, 0, 0],
            "a girl": [1, 1, 1, 1], "a car": [0, 0, 0, -1]})  # fmt: skip
    entry = small.evaluate("ours", CAPTIONS, clip_score=True)
    found = {(row["sample_key"], row["metric"]): row["value"] for row in small.rows(entry, "per_image")}
    expected = {"0-0": 2.5, "0-1": 0, "0-2": 1.25, "1-0": 2.5, "1-1": 1.25, "1-2": 0}
    assert {key: found[key, "clip_score"] for key in expected} == pytest.approx(expected, abs=1e-3)
    # Its references are (1, 1, 1, 1): the cosine to the caption is a half, and 2 * 2.5 * 0.5 / 3 = 5/6.
    assert found["0-0", "ref_clip_score"] == pytest.approx(5 / 6, abs=1e-3)
    corpus = {row["metric"]: row for row in small.rows(entry, "corpus")}
    assert corpus["clip_score"]["value"] == pytest.approx(sum(expected.values()) / 6, abs=1e-3)
    assert corpus["clip_score"]["low"] < corpus["clip_score"]["value"] < corpus["clip_score"]["high"]
    assert entry.meta["clip_encoder"] == "h"


def test_an_encoder_without_a_text_tower_leaves_clip_scores_out(small, by_toy, monkeypatch):
    by_toy({})
    monkeypatch.setattr("clipcap.metrics.evaluate_model.text_encoder", lambda info, device: None)
    entry = small.evaluate("ours", CAPTIONS, clip_score=True)
    assert not any("clip" in row["metric"] for row in small.rows(entry, "corpus") + small.rows(entry, "per_image"))
    assert entry.meta["clip_encoder"] == ""


def test_captions_are_novel_that_are_no_training_caption_whatever_their_case_and_punctuation(small):
    entry = small.evaluate("ours", CAPTIONS, training=[shard.download for shard in small.shards])
    found = {r["sample_key"]: r["value"] for r in small.rows(entry, "per_image") if r["metric"] == "novel_share"}
    assert found == {"0-0": 0, "0-1": 0, "0-2": 1, "1-0": 1, "1-1": 1, "1-2": 1}
    [row] = [row for row in small.rows(entry, "corpus") if row["metric"] == "novel_share"]
    assert row["value"] == pytest.approx(4 / 6) and row["low"] < row["value"] < row["high"]
    # References of test images are no training captions: "a man on a horse" is one of them.


def test_where_the_training_captions_are_unknown_nothing_is_said_of_novelty(small):
    entry = small.evaluate("ours", CAPTIONS)
    assert "novel_share" not in {row["metric"] for row in small.rows(entry, "corpus")}


def test_java_metrics_that_are_not_installed_stop_before_anything_is_written(small, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="java-metrics"):
        small.evaluate("ours", CAPTIONS, java_metrics=["meteor"])
    assert not small.lake.metrics("ours", "20260101T000000Z-aaaaaa", "corpus").exists()


def test_the_key_knows_the_training_captions_and_the_settings(small):
    from clipcap.config import EvaluateConfig

    training = [shard.download for shard in small.shards]
    keys = {
        evaluate_key([], small.shards, EvaluateConfig(), None),
        evaluate_key([], small.shards, EvaluateConfig(), training),
        evaluate_key([], small.shards, EvaluateConfig(), training[:1]),
        evaluate_key([], small.shards, EvaluateConfig(seed=1), training),
        evaluate_key([], small.shards, EvaluateConfig(clip_score=False), training),
    }
    assert len(keys) == 5
    assert evaluate_key([], small.shards, EvaluateConfig(), training[::-1]) in keys


def test_what_was_scored_is_the_images_and_their_references():
    first = scored_on({"a": ["x", "y"], "b": ["z"]})
    assert first == scored_on({"b": ["z"], "a": ["x", "y"]})
    assert first != scored_on({"a": ["x"], "b": ["z"]}) != scored_on({"a": ["x"]})
