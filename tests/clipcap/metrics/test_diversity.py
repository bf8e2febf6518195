"""Novelty and self-CIDEr, against numbers worked out by hand."""

from __future__ import annotations

from math import log2, sqrt

import pytest

from clipcap.metrics.diversity import novel, self_cider

# Two images, each n-gram in the references of one of them at most: every idf is log 2, and cosines are of counts.
REFERENCES = {"1": ["a b c d", "a b c e"], "2": ["u v w x"]}


def of_image(*captions: str) -> float:
    return self_cider({"1": list(captions), "2": ["u v w x", "u v w x"]}, REFERENCES)["1"]


def test_self_cider_of_two_captions_by_hand():
    # "a b c d" and "a b c e" share 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, no quadruple: cosine (3/4+2/3+1/2)/4.
    cosine = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    # The matrix ((1, c), (c, 1)) has eigenvalues 1 + c and 1 - c.
    ratio = sqrt(1 + cosine) / (sqrt(1 + cosine) + sqrt(1 - cosine))
    assert of_image("a b c d", "a b c e") == pytest.approx(-log2(ratio), abs=1e-12)


def test_self_cider_counts_words_and_weighs_them_by_how_rare_they_are():
    references = {"1": ["a b", "a c"], "2": ["a x"], "3": ["y z"], "4": ["a q"]}
    captions = {key: ["p", "p"] for key in references} | {"1": ["a a b", "a c"]}
    # idf of "a" is log(4/3), of "b" and "c" log 4; pairs: "a a" and "a b" against "a c" share none.
    a, rare = log2(4 / 3), log2(4)
    cosine = (2 * a * a) / (sqrt((2 * a) ** 2 + rare**2) * sqrt(a**2 + rare**2)) / 4
    # No triple in "a c" and none of four words: its diagonal is 2/4, the other's 3/4.
    middle, distance = (3 / 4 + 2 / 4) / 2, sqrt((1 / 8) ** 2 + cosine**2)
    largest, smallest = sqrt(middle + distance), sqrt(middle - distance)
    expected = -log2(largest / (largest + smallest))
    assert self_cider(captions, references)["1"] == pytest.approx(expected, abs=1e-12)


def test_self_cider_is_0_where_all_are_the_same_and_1_where_nothing_is_shared():
    assert of_image("a b c d", "a b c d", "a b c d") == pytest.approx(0, abs=1e-7)
    assert of_image("a b c d", "e f g h", "i j k l") == pytest.approx(1, abs=1e-12)
    assert 0 < of_image("a b c d", "a b c d", "e f g h") < of_image("a b c d", "a b x y", "e f g h") < 1


def test_self_cider_of_captions_that_say_nothing_is_0():
    assert of_image("", "") == 0
    assert self_cider({"1": ["a b", "c d"]}, {"1": ["a b c d"]}) == {"1": 0.0}  # one image: no word tells it apart


def test_novel_are_captions_that_were_in_no_portion_of_the_training():
    captions = {"1": "a dog", "2": "a cat", "3": "a dog", "4": "two cats"}
    portions = iter([["a bird", "a dog"], [], ["two cats"]])
    assert novel(captions, portions) == {"1": 0.0, "2": 1.0, "3": 0.0, "4": 0.0}
    assert set(novel(captions, []).values()) == {1.0}
