"""The scorer in memory against the DuckDB statement, the published values, and the definition."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from clipcap.errors import DataError
from clipcap.metrics.cider import END, CiderD
from clipcap.metrics.coco import ngram_metrics


def words(texts):
    return [text.split() for text in texts]


def by_statement(candidates, references):
    """(N) CIDEr-D of one candidate for each image."""
    keys = [str(place) for place in range(len(candidates))]
    values = ngram_metrics(
        {key: " ".join(text) for key, text in zip(keys, candidates, strict=True)},
        {key: [" ".join(text) for text in image] for key, image in zip(keys, references, strict=True)},
        bleu=False,
    )["cider"]
    return np.array([values[1][key] for key in keys]), values[0]


def random_text(rng, vocabulary, longest=9):
    return [rng.choice(vocabulary) for _ in range(rng.randint(0, longest))]


@pytest.mark.parametrize("seed", range(30))
def test_it_equals_the_statement_on_random_sets(seed):
    """Few words, so that n-grams repeat; some that no reference has; empty captions on both sides; a single image."""
    rng = random.Random(seed)
    images = rng.choice([1, 2, 3, 8, 30])
    references = [[random_text(rng, "abcde") for _ in range(rng.randint(1, 4))] for _ in range(images)]
    candidates = [random_text(rng, "abcdexyz") for _ in range(images)]
    expected, mean = by_statement(candidates, references)
    scores = CiderD(references).score(candidates, range(images))
    assert scores.dtype == np.float64
    assert scores == pytest.approx(expected, abs=1e-9)
    assert scores.mean() == pytest.approx(mean, abs=1e-9)


def test_it_equals_the_reference_implementation_on_the_coco_example(shared):
    folder = shared / "fixtures" / "coco_example"
    candidates = json.loads((folder / "candidates_ptb.json").read_text())
    references = json.loads((folder / "references_ptb.json").read_text())
    texts = words(candidates[key][0] for key in candidates)
    sets = [words(references[key]) for key in candidates]
    scores = CiderD(sets).score(texts, range(len(texts)))
    expected, _ = by_statement(texts, sets)
    assert np.abs(scores - expected).max() < 1e-9
    assert scores.mean() == pytest.approx(0.5997905185184199, abs=1e-9)


def test_candidates_are_scored_each_by_itself_in_any_order_and_number():
    rng = random.Random(1)
    references = [[random_text(rng, "abcdef") for _ in range(3)] for _ in range(20)]
    scorer = CiderD(references)
    images = [rng.randrange(20) for _ in range(200)]
    candidates = [random_text(rng, "abcdefxy") for _ in images]
    together = scorer.score(candidates, images)
    alone = [scorer.score([text], [image])[0] for text, image in zip(candidates, images, strict=True)]
    assert together == pytest.approx(alone, abs=1e-12)
    assert together.max() > 1 and len(set(together)) > 100
    assert scorer.score([], []).shape == (0,)


def test_frequencies_are_those_of_all_references_and_not_of_the_scored_images():
    rng = random.Random(2)
    references = [[random_text(rng, "abcdef") for _ in range(2)] for _ in range(12)]
    candidates = [random_text(rng, "abcdef") for _ in references]
    expected, _ = by_statement(candidates, references)
    assert CiderD(references).score(candidates[:2], [0, 1]) == pytest.approx(expected[:2], abs=1e-9)
    assert CiderD(references[:2]).score(candidates[:2], [0, 1]) != pytest.approx(expected[:2], abs=1e-3)


def test_an_unseen_ngram_that_repeats_makes_a_longer_vector_than_two_different_ones():
    """Both share one word with the reference; x twice has the norm 2, x and y have the norm sqrt(2)."""
    scorer = CiderD([words(["a"]), words(["b"])])
    twice, different = scorer.score(words(["a x x", "a x y"]), [0, 0])
    assert twice / different == pytest.approx(np.sqrt(1 + 2) / np.sqrt(1 + 4))


def test_images_without_references_are_no_documents_and_have_no_score():
    references = [words(["a b c", "a b"]), [], words(["c d e"])]
    with_gap, without = CiderD(references), CiderD([references[0], references[2]])
    candidates = words(["a b", "d e"])
    assert with_gap.score(candidates, [0, 2]).tolist() == without.score(candidates, [0, 1]).tolist()
    assert with_gap.score(candidates, [0, 2]).min() > 0
    with pytest.raises(DataError, match="first to image 1 of 3"):
        with_gap.score(candidates, [0, 1])
    for outside in (3, -1):
        with pytest.raises(DataError, match=f"first to image {outside} of 3"):
            with_gap.score(candidates, [0, outside])
    with pytest.raises(DataError, match="2 captions needs the image of each, got 1"):
        with_gap.score(candidates, [0])


@pytest.mark.parametrize("references", [[[[]], [[]]], [words(["a"]), words(["b"])]])
def test_references_shorter_than_an_order_score_what_they_have(references):
    candidates = words(["a b c d e", ""])
    expected, _ = by_statement(candidates, references)
    assert CiderD(references).score(candidates, [0, 1]) == pytest.approx(expected, abs=1e-9)


def test_with_the_end_as_a_token_a_caption_cut_in_the_middle_scores_less():
    """What rewards need: by words alone the cut caption is no worse than one that ends where the references go on."""
    references = [words(["a dog in a park", "a dog in a field"]), words(["two cats", "two cats sleep"])]
    whole, cut = ["a", "dog", "in", "a", "field"], ["a", "dog", "in", "a"]
    with_end = CiderD([[[*text, END] for text in image] for image in references])
    finished, unfinished, ended_badly = with_end.score([[*whole, END], whole, [*cut, END]], [0, 0, 0])
    assert finished > unfinished and finished > ended_badly
    without = CiderD(references).score([whole, cut], [0, 0])
    drop, drop_with_end = 1 - without[1] / without[0], 1 - ended_badly / finished
    assert drop_with_end > drop
