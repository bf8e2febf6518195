"""Captions as numbers of words: the two readings, and which captions repeat themselves."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from clipcap.metrics.words import Vocabulary, repeats

TEXTS = ["a dog", "", "a  dog", "3\u00a01/2 dogs", "dog \u2003", " "]


def is_numbered(lists, texts, split):
    """Whether equal numbers stand for equal words, and only for them."""
    pairs = {
        pair for row, text in zip(lists.to_pylist(), texts, strict=True) for pair in zip(split(text), row, strict=True)
    }
    return len(pairs) == len({word for word, _ in pairs}) == len({number for _, number in pairs})


def test_the_two_readings_part_where_space_is_odd():
    texts = pa.array(TEXTS)
    vocabulary = Vocabulary()
    words, tokens = vocabulary.both(texts)
    assert [len(row) for row in words] == [2, 0, 2, 3, 1, 0]
    assert [len(row) for row in tokens] == [2, 1, 3, 2, 2, 2]
    assert is_numbered(words, TEXTS, str.split) and is_numbered(tokens, TEXTS, lambda text: text.split(" "))
    assert vocabulary.words(texts) == words and vocabulary.tokens(texts) == tokens
    same, others = vocabulary.words_and_other_tokens(texts)
    assert same == words
    assert others.to_pylist() == [None, *tokens.to_pylist()[1:]]


def test_a_word_keeps_its_number_over_batches():
    vocabulary = Vocabulary()
    first = vocabulary.words(pa.array(["a dog"])).to_pylist()
    assert vocabulary.words(pa.array(["dog cat a", "a dog"])).to_pylist() == [[first[0][1], 3, first[0][0]], first[0]]
    assert vocabulary.words(pa.array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize("large", [0, 2_000_000_000])
def test_captions_with_a_pair_that_comes_twice_are_found(large):
    """All of them; and with words too large for the keys, true for every caption."""
    rng = random.Random(0)
    rows = [[rng.randint(1, 6) for _ in range(rng.randint(0, 9))] for _ in range(300)]
    rows.append([large or 1] * 2)
    expected = [max(Counter(pairwise(row)).values(), default=0) > 1 for row in rows]
    assert 50 < sum(expected) < 250
    lists = pa.array(rows, pa.list_(pa.int32()))
    assert repeats(lists).dtype == np.bool_
    assert repeats(lists).tolist() == ([True] * len(rows) if large else expected)
    assert repeats(lists[40:90]).tolist() == expected[40:90]
