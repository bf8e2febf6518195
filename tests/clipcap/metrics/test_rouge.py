"""ROUGE-L: the definition, the empty caption, and the bit-parallel rows against a table."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from clipcap.metrics.rouge import BestMatches, longest_common_subsequence, rouge_l, rouge_l_many


def by_table(first, second):
    """The usual table."""
    row = [0] * (len(second) + 1)
    for token in first:
        above = row
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if token == other else max(above[place + 1], row[-1]))
    return row[-1]


def by_definition(candidate, references):
    own = candidate.split(" ")
    common = [(by_table(own, other), len(other)) for other in (text.split(" ") for text in references)]
    precision, recall = max(c / len(own) for c, _ in common), max(c / length for c, length in common)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if precision and recall else 0


def random_text(rng, longest):
    return " ".join(rng.choice("abcde") for _ in range(rng.randint(0, longest)))


@pytest.mark.parametrize("longest", [4, 12, 63, 64, 65, 66, 150])
def test_many_pairs_give_what_the_definition_gives(longest):
    """To the last bit; shorter and longer than the 64 bits of a row, empty ones among them."""
    rng = random.Random(longest)
    candidates = [random_text(rng, longest) for _ in range(40)]
    candidates += [" ".join(rng.choice("abcde") for _ in range(longest))]  # one that fills the row
    references = [[random_text(rng, longest) for _ in range(rng.randint(1, 5))] for _ in candidates]
    expected = [by_definition(*pair) for pair in zip(candidates, references, strict=True)]
    assert rouge_l_many(candidates, references).tolist() == expected
    assert [rouge_l(*pair) for pair in zip(candidates, references, strict=True)] == expected
    assert max(expected) > 0.3 and len(set(expected)) > 10


def test_references_may_come_in_any_order_and_in_batches():
    rng = random.Random(0)
    pairs = [(image, text) for image in range(6) for text in ([1, 2, 3], [image, 2], [3, 1, image, 9])]
    rng.shuffle(pairs)
    candidates = pa.array([[image, 2, 3] for image in range(6)], pa.list_(pa.int32()))

    def scores(batch):
        best = BestMatches(6)
        for start in range(0, len(pairs), batch):
            owners, lists = zip(*pairs[start : start + batch], strict=True)
            best.add(np.arange(6), candidates, np.array(owners), pa.array(lists, pa.list_(pa.int32())))
        return best.scores().tolist()

    assert scores(1) == scores(4) == scores(100)
    assert scores(1)[1] > 0


def test_the_best_precision_and_the_best_recall_are_taken_apart():
    """Precision 3/4 comes from the long reference, recall 1 from the short one."""
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l("a b c x", ["a b c d e f", "x"]) == pytest.approx(expected)


def test_an_empty_caption_is_one_empty_token():
    assert rouge_l("", ["a b"]) == 0
    assert rouge_l("", ["a b", ""]) == pytest.approx(1)
    assert rouge_l_many([], []).tolist() == []


def test_only_single_spaces_part_tokens():
    assert rouge_l("3\u00a01/2 cups", ["3 1/2 cups"]) < 1
    assert rouge_l("3\u00a01/2 cups", ["3\u00a01/2 cups"]) == pytest.approx(1)


def test_common_subsequence_agrees_with_trying_every_one():
    rng = random.Random(0)
    for _ in range(200):
        first, second = ([rng.choice("abc") for _ in range(rng.randint(0, 7))] for _ in range(2))
        longest = max(
            size
            for size in range(len(first) + 1)
            if {tuple(c) for c in combinations(first, size)} & {tuple(c) for c in combinations(second, size)}
        )
        assert longest_common_subsequence(first, second) == longest == by_table(first, second)
