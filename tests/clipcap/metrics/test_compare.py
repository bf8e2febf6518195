"""The compare stage and its function: rows, what may be compared, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap.config import EvaluateConfig
from clipcap.errors import DataError
from clipcap.metrics.compare import (
    SCHEMA,
    can_compare,
    compare,
    compare_entries,
    compare_key,
    compare_models,
    comparison_rows,
)
from clipcap.metrics.evaluate import KNOWN, score
from clipcap.storage.entries import read_pending

IMAGES = json.loads((Path(__file__).resolve().parents[2] / "golden" / "captions.json").read_text())["images"]
REFERENCES = {key: image["references"] for key, image in IMAGES.items()}
OURS = {
    "0-0": "a red ball on grass", "0-1": "two dogs play in snow", "0-2": "a cat on a mat", "1-0": "a man on a horse",
    "1-1": "a girl", "1-2": "a car",
}  # fmt: skip
THEIRS = OURS | {"0-0": "a ball", "0-1": "a dog", "1-1": "a child eats an apple"}


@pytest.fixture(scope="module")
def scores():
    ours = {key: image["candidate"] for key, image in IMAGES.items()}
    theirs = {key: image["references"][-1] for key, image in IMAGES.items()}
    return score(ours, REFERENCES, KNOWN), score(theirs, REFERENCES, KNOWN)


def by_metric(rows) -> dict:
    return {row["metric"]: row for row in rows}


def test_a_row_for_each_metric_with_both_values_and_their_difference(scores):
    rows = by_metric(compare(*scores, resamples=100))
    assert list(rows) == list(KNOWN)
    for name, row in rows.items():
        assert (row["candidate_value"], row["baseline_value"]) == (scores[0].corpus[name], scores[1].corpus[name])
        assert row["difference"] == row["candidate_value"] - row["baseline_value"]
        assert row["images"] == len(IMAGES)
        if name in scores[0].per_image:
            assert row["wins"] + row["ties"] + row["losses"] == len(IMAGES)
            assert row["low"] <= row["difference"] <= row["high"]
    for name in ("distinct_1", "vocabulary", "unique_share"):
        assert {rows[name][field] for field in ("low", "high", "wins", "ties", "losses")} == {None}
    assert rows["mean_length"]["low"] is not None and rows["mean_length"]["wins"] is None


def test_exchanging_the_two_changes_signs_and_nothing_else(scores):
    there, back = by_metric(compare(*scores, resamples=60)), by_metric(compare(*scores[::-1], resamples=60))
    for name, row in there.items():
        other = back[name]
        assert row["difference"] == -other["difference"], name
        assert (row["wins"], row["ties"], row["losses"]) == (other["losses"], other["ties"], other["wins"]), name
        if row["low"] is not None:
            assert (row["low"], row["high"]) == (-other["high"], -other["low"]), name


def test_a_model_against_itself_is_0_everywhere(scores):
    for row in compare(scores[0], scores[0], resamples=60):
        assert row["difference"] == 0 and row["low"] in (0, None) and row["high"] in (0, None), row
        assert row["ties"] in (len(IMAGES), None)


def test_metrics_that_one_alone_has_are_left_out(scores):
    fewer = score({key: image["candidate"] for key, image in IMAGES.items()}, REFERENCES, ["cider", "bleu_1"])
    assert list(by_metric(compare(fewer, scores[1], resamples=10))) == ["cider", "bleu_1"]
    with pytest.raises(DataError, match="no metric in common"):
        compare(score({"1": "a"}, {"1": ["a"]}, ["cider"]), score({"1": "a"}, {"1": ["a"]}, ["rouge_l"]))


# Of two models in a lake


def test_the_stage_writes_what_the_function_finds(small):
    ours, theirs = small.evaluate("ours", OURS), small.evaluate("theirs", THEIRS)
    config = EvaluateConfig(resamples=80, seed=3)
    key = compare_key(ours, theirs, config)
    entry = compare_models(small.lake, ours, theirs, config, key, "20260101T000000Z-bbbbbb")
    assert entry.id == f"compare/ours/theirs/test/{key[:12]}"
    assert [(file.kind, file.path) for file in entry.files] == [
        ("comparison", "metrics/ours/20260101T000000Z-bbbbbb/versus_theirs.parquet")
    ]
    assert entry in read_pending(small.lake)
    rows = comparison_rows(small.lake, entry)
    assert set(rows[0]) == set(SCHEMA.names)
    expected = by_metric(compare_entries(small.lake, ours, theirs, 80, seed=3))
    for row in rows:
        named = (row["candidate_model_id"], row["baseline_model_id"], row["run_id"], row["split"])
        assert named == ("ours", "theirs", "20260101T000000Z-bbbbbb", "test")
        assert {name: row[name] for name in expected[row["metric"]]} == expected[row["metric"]]
    assert (by_metric(rows)["rouge_l"]["wins"], by_metric(rows)["rouge_l"]["losses"]) == (2, 1)


def test_the_key_changes_with_either_model_and_with_the_resamples(small):
    ours, theirs, config = small.evaluate("ours", OURS), small.evaluate("theirs", THEIRS), EvaluateConfig()
    keys = {
        compare_key(ours, theirs, config), compare_key(theirs, ours, config), compare_key(ours, ours, config),
        compare_key(ours, theirs, EvaluateConfig(seed=1)), compare_key(ours, theirs, EvaluateConfig(resamples=9)),
    }  # fmt: skip
    assert len(keys) == 5
    assert compare_key(ours, theirs, EvaluateConfig(shuffled_control=True)) in keys


def test_models_of_other_images_are_not_compared(small):
    ours, theirs = small.evaluate("ours", OURS), small.evaluate("theirs", {"0-0": "a ball", "0-1": "a dog"})
    assert not can_compare(ours, theirs)
    with pytest.raises(DataError, match="ours and theirs were not evaluated on the same images and references"):
        compare_entries(small.lake, ours, theirs)


def test_evaluations_from_before_this_stage_are_not_compared(small):
    ours = small.evaluate("ours", OURS)
    old = ours.model_copy(update={"meta": {**ours.meta, "scored_on": ""}})
    assert not can_compare(ours, old) and not can_compare(old, old)
    without = ours.model_copy(update={"files": [file for file in ours.files if file.kind != "ngram_counts"]})
    with pytest.raises(DataError, match="evaluated before counts were kept"):
        compare_entries(small.lake, ours, without)


def test_clip_scores_of_different_encoders_are_left_out(small, by_toy):
    by_toy({})
    ours, theirs = (small.evaluate(name, captions, clip_score=True) for name, captions in
                    (("ours", OURS), ("theirs", THEIRS)))  # fmt: skip
    assert {"clip_score", "ref_clip_score"} <= set(by_metric(compare_entries(small.lake, ours, theirs, 10)))
    other = theirs.model_copy(update={"meta": {**theirs.meta, "clip_encoder": "another"}})
    assert not {"clip_score", "ref_clip_score"} & set(by_metric(compare_entries(small.lake, ours, other, 10)))
