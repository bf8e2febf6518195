"""Bootstrap intervals and paired differences, against formulas, brute force and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipcap.errors import DataError
from clipcap.metrics import bootstrap
from clipcap.metrics.bootstrap import Sample, differences, draw, intervals, percentiles
from clipcap.metrics.corpus_sums import FROM_SUMS, METEOR_COLUMNS, bleu, meteor
from clipcap.metrics.evaluate import KNOWN, score

IMAGES = json.loads((Path(__file__).resolve().parents[2] / "golden" / "captions.json").read_text())["images"]
CANDIDATES = {key: image["candidate"] for key, image in IMAGES.items()}
REFERENCES = {key: image["references"] for key, image in IMAGES.items()}
OTHERS = {key: image["references"][0] for key, image in IMAGES.items()}
"""Captions of another "model" for the same images."""


def sample_of(scores) -> Sample:
    return Sample.of(scores.per_image, scores.counts)


def a_mean(values: np.ndarray) -> Sample:
    return Sample([f"{n:06d}" for n in range(len(values))], {"rouge_l": values}, {})


@pytest.fixture(scope="module")
def scores():
    return score(CANDIDATES, REFERENCES, KNOWN)


@pytest.fixture(scope="module")
def others():
    return score(OTHERS, REFERENCES, KNOWN)


# Against a formula


@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959964), (0.8, 1.281552)])
def test_the_interval_of_a_mean_is_that_of_the_normal_approximation(confidence, z):
    values = np.random.default_rng(1).exponential(size=5_000)
    low, high = intervals(a_mean(values), 4_000, confidence)["rouge_l"]
    half = z * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_paired_interval_is_narrower_than_that_of_two_independent_sets():
    random = np.random.default_rng(2)
    hard = random.normal(size=3_000)  # what makes an image hard is so for both
    ours, theirs = hard + random.normal(size=3_000) * 0.1 + 0.02, hard + random.normal(size=3_000) * 0.1
    low, high = differences(a_mean(ours), a_mean(theirs), 2_000)["rouge_l"].interval
    half = 1.96 * (ours - theirs).std() / math.sqrt(3_000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert 0 < low < high


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(3)
    inside = 0
    for trial in range(300):
        low, high = intervals(a_mean(random.normal(5, 2, size=80)), 200, 0.9, seed=trial)["rouge_l"]
        inside += low <= 5 <= high
    assert 0.84 < inside / 300 < 0.95  # 0.9, within three standard errors and what percentiles of 80 images lose


# Against brute force


def resampled(captions, weights):
    """The set as it was drawn, each copy of an image under a key of its own."""
    keys = [key for key, times in zip(sorted(captions), weights, strict=True) for _ in range(int(times))]
    names = [f"{number}-{key}" for number, key in enumerate(keys)]
    chosen = {name: captions[key] for name, key in zip(names, keys, strict=True)}
    return chosen, {name: REFERENCES[key] for name, key in zip(names, keys, strict=True)}


def brute_force(captions, resamples, seed):
    """metric -> values, each resample scored from raw captions as if it were the corpus."""
    found = [
        score(*resampled(captions, weights), ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "mean_length"]).corpus
        for block in draw(len(captions), resamples, seed)
        for weights in block
    ]
    return {name: np.array([corpus[name] for corpus in found]) for name in found[0]}


def test_every_resample_of_bleu_is_the_corpus_formula_on_the_images_that_were_drawn(scores):
    expected = brute_force(CANDIDATES, 12, seed=5)
    found = scores.intervals(12, 0.6, seed=5)
    for name, values in expected.items():
        ordered = np.sort(values)  # 0.2 * (12 + 1) = 2.6: the second from either end
        assert found[name] == pytest.approx((ordered[1], ordered[-2]), abs=1e-12), name


def test_every_paired_resample_scores_both_on_the_images_that_were_drawn(scores, others):
    ours, theirs = brute_force(CANDIDATES, 12, seed=6), brute_force(OTHERS, 12, seed=6)
    found = differences(sample_of(scores), sample_of(others), 12, 0.6, seed=6)
    for name, values in ours.items():
        ordered = np.sort(values - theirs[name])
        assert found[name].interval == pytest.approx((ordered[1], ordered[-2]), abs=1e-12), name


def test_cider_keeps_the_document_frequencies_of_the_evaluated_images(scores):
    values = np.array([scores.per_image["cider"][key] for key in sorted(CANDIDATES)])
    means = np.sort(np.concatenate([block @ values for block in draw(len(values), 25, 5)]) / len(values))
    assert scores.intervals(25, 0.8, seed=5)["cider"] == pytest.approx((means[1], means[-2]), abs=1e-12)


# METEOR: what its program (version 1.5, English) said of four captions, and of the four as a corpus

STATISTICS = [
    "13 9 6 4 0 0 2 2 0 0 0 0 0 0 0 0 1 1 0 0 2 3 3",
    "11 10 7 4 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 2 2 2",
    "6 9 1 2 3 3 1 1 0 0 0 0 1 1 0 0 0 0 0 0 3 5 5",
    "13 9 5 2 3 3 2 2 0 0 0 0 0 0 0 0 1 1 0 0 3 6 6",
]
SAID = [0.08403930504067629, 0.07424593967517401, 0.2588869904888879, 0.2558230825893626]


def test_meteor_from_sums_equals_what_its_program_says_of_captions_and_of_a_corpus():
    rows = np.array([line.split() for line in STATISTICS], np.float64)
    assert meteor(rows)[0] == pytest.approx(SAID, abs=1e-15)
    assert meteor(rows.sum(axis=0))[0] == pytest.approx(0.17096363458951833, abs=1e-15)
    whole = np.array("3 3 1 1 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 3 3".split(), np.float64)  # noqa: SIM905
    assert meteor(whole)[0] == 1.0
    assert meteor(np.zeros((2, 23)))[0].tolist() == [0, 0]


def test_meteor_is_resampled_from_sums():
    rows = np.array([line.split() for line in STATISTICS], np.float64)
    table = pa.table({"key": list("abcd"), **{f"meteor_{c}": rows[:, n] for n, c in enumerate(METEOR_COLUMNS)}})
    sample = Sample.of({"meteor": dict(zip("abcd", SAID, strict=True))}, table)
    values = np.sort([meteor(weights @ rows)[0] for block in draw(4, 25, 0) for weights in block])
    assert intervals(sample, 25, 0.8)["meteor"] == pytest.approx((values[1], values[-2]), abs=1e-12)


def test_bleu_from_sums_equals_the_statement(scores):
    columns = np.column_stack([scores.counts[name].to_numpy() for name in FROM_SUMS["bleu"].columns]).astype(float)
    for n, values in enumerate(bleu(columns), start=1):
        expected = [scores.per_image[f"bleu_{n}"][key] for key in scores.counts["key"].to_pylist()]
        assert values == pytest.approx(expected, abs=1e-12)
    assert bleu(columns.sum(axis=0)) == pytest.approx([scores.corpus[f"bleu_{n}"] for n in range(1, 5)], abs=1e-12)


# What always holds


def test_exchanging_the_models_changes_signs_and_nothing_else(scores, others):
    there = differences(sample_of(scores), sample_of(others), 101)
    back = differences(sample_of(others), sample_of(scores), 101)
    assert there.keys() == back.keys() >= {"bleu_4", "rouge_l", "cider", "mean_length"}
    for name, difference in there.items():
        low, high = back[name].interval
        assert difference.interval == (-high, -low), name  # exactly
        assert (difference.wins, difference.ties, difference.losses) == (
            back[name].losses, back[name].ties, back[name].wins,
        )  # fmt: skip
    assert there["bleu_1"].interval != (0, 0)


def test_a_model_differs_from_itself_by_exactly_nothing(scores):
    again = score(dict(reversed(CANDIDATES.items())), REFERENCES, KNOWN)  # in another order
    for name, difference in differences(sample_of(scores), sample_of(again), 100).items():
        assert difference.interval == (0.0, 0.0), name
        if difference.ties is not None:
            assert (difference.wins, difference.ties, difference.losses) == (0, len(CANDIDATES), 0)


def test_wins_ties_and_losses_count_images():
    ours, theirs = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 3.0 + 1e-15, 9.0])
    found = differences(a_mean(ours), a_mean(theirs), 10)["rouge_l"]
    assert (found.wins, found.ties, found.losses) == (1, 2, 1)


def test_metrics_that_are_no_mean_and_no_sum_have_no_interval(scores):
    found = scores.intervals(10)
    assert {"distinct_1", "distinct_2", "vocabulary", "unique_share"} == set(KNOWN) - set(found)
    assert list(found) == [name for name in KNOWN if name in found]


def test_the_same_seed_draws_the_same_and_another_draws_others(scores):
    assert scores.intervals(50, seed=1) == scores.intervals(50, seed=1) != scores.intervals(50, seed=2)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    at_once = np.concatenate(list(draw(7, 40, 3)))
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", 3 * 7)
    blocks = list(draw(7, 40, 3))
    assert max(map(len, blocks)) == 3 and len(blocks) == 14
    assert (np.concatenate(blocks) == at_once).all()
    assert (at_once.sum(axis=1) == 7).all()
    assert at_once.mean(axis=0) == pytest.approx(np.ones(7), abs=0.5)


def test_an_interval_holds_its_value_and_is_one_point_for_one_image(scores):
    for name, (low, high) in scores.intervals(200).items():
        assert low <= scores.corpus[name] <= high, name
    key = next(iter(CANDIDATES))
    for name, (low, high) in score({key: CANDIDATES[key]}, REFERENCES).intervals(20).items():
        assert low == high, name


def test_no_resamples_give_no_intervals_and_still_a_count(scores, others):
    assert scores.intervals(0) == {}
    found = differences(sample_of(scores), sample_of(others), 0)["cider"]
    assert found.interval is None and found.wins + found.ties + found.losses == len(CANDIDATES)


@pytest.mark.parametrize(
    ("count", "confidence", "expected"), [(1000, 0.95, (24, 975)), (999, 0.95, (24, 974)), (10, 0.95, (0, 9)),
                                          (1, 0.5, (0, 0))],
)  # fmt: skip
def test_percentiles_cut_off_the_same_number_at_both_ends(count, confidence, expected):
    values = np.random.default_rng(0).permutation(count).astype(float)
    assert percentiles(values, confidence) == expected


def test_different_images_are_refused_with_their_numbers(scores):
    fewer = score({key: CANDIDATES[key] for key in list(CANDIDATES)[:3]}, REFERENCES)
    with pytest.raises(DataError, match=rf"{len(CANDIDATES)} and 3, 3 of them on both sides"):
        differences(sample_of(scores), sample_of(fewer), 10)
