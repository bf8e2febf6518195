"""ROUGE-L (Lin 2004) in the form of the COCO caption evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clipcap.metrics.words import Vocabulary

_BETA = 1.2
"""How much recall counts against precision."""

_BITS = 64
"""Tokens of a candidate that fit into one machine word."""


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of one tokenized caption against its tokenized references, 0 to 1.

    The best precision and the best recall may come from two different references. Tokens are what lies between single
    spaces, so an empty caption has one (empty) token: it scores 1 against an empty reference and 0 otherwise.

    Args:
        candidate: tokens joined by spaces.
        references: at least one, tokens joined by spaces.
    """
    return float(rouge_l_many([candidate], [references])[0])


def rouge_l_many(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """:func:`rouge_l` of many captions at once.

    Args:
        candidates: (N) captions, tokens joined by spaces.
        references: (N) for each at least one, tokens joined by spaces.

    Returns:
        (N) float64.
    """
    vocabulary = Vocabulary()
    ours = vocabulary.tokens(pa.array(candidates, pa.string()))
    theirs = vocabulary.tokens(pa.array([text for image in references for text in image], pa.string()))
    counts = np.array([len(image) for image in references], dtype=np.int64)
    best = BestMatches(len(candidates))
    best.add(np.arange(len(candidates)), ours, np.arange(len(candidates)).repeat(counts), theirs)
    return best.scores()


class BestMatches:
    """The best precision and the best recall of each image so far: references may come in any order, in any batches.

    Args:
        images: how many; they are numbered from 0 on.
    """

    def __init__(self, images: int) -> None:
        self._precision, self._recall = np.zeros(images), np.zeros(images)

    def add(self, images: np.ndarray, candidates: pa.ListArray, owners: np.ndarray, references: pa.ListArray) -> None:
        """Compares references with candidates.

        Args:
            images: (N) the image of each candidate.
            candidates: (N) lists of numbers of tokens, none empty.
            owners: (R) for each reference the place of its candidate.
            references: (R) lists of numbers of tokens, none empty.
        """
        first, second = _Tokens.of(candidates), _Tokens.of(references)
        common = _common(first, second, owners)
        np.maximum.at(self._precision, images[owners], common / first.lengths[owners])
        np.maximum.at(self._recall, images[owners], common / second.lengths)

    def scores(self) -> np.ndarray:
        """(images) ROUGE-L, 0 where nothing is in common or nothing was added."""
        precision, recall = self._precision, self._recall
        weight = recall + _BETA**2 * precision
        return np.divide((1 + _BETA**2) * precision * recall, weight, out=np.zeros(len(weight)), where=weight > 0)


class _Tokens:
    """Lists of numbers, one after another."""

    def __init__(self, lengths: np.ndarray, numbers: np.ndarray) -> None:
        self.lengths, self.numbers = lengths, numbers
        self.starts = np.cumsum(lengths) - lengths
        self.rows = np.arange(len(lengths)).repeat(lengths)

    @classmethod
    def of(cls, lists: pa.ListArray) -> _Tokens:
        return cls(np.diff(lists.offsets.to_numpy()), lists.flatten().to_numpy().astype(np.int64))


def _common(candidates: _Tokens, references: _Tokens, owners: np.ndarray) -> np.ndarray:
    """(R) length of the longest common subsequence of each reference and its candidate.

    :func:`longest_common_subsequence` for all pairs side by side: step t reads token t of every reference that has one.
    """
    matches = _matches(candidates, references, owners)
    by_length = np.argsort(-references.lengths, kind="stable")
    starts, lengths = references.starts[by_length], references.lengths[by_length]
    rows = np.full(len(owners), ~np.uint64(0))
    active = np.searchsorted(-lengths, -np.arange(lengths.max(initial=0)), side="left")  # pairs with more than t tokens
    for step, count in enumerate(active):
        row = rows[:count]
        match = row & matches[starts[:count] + step]
        rows[:count] = (row + match) | (row - match)
    common = np.empty(len(owners), dtype=np.int64)
    common[by_length] = np.bitwise_count(~rows)
    for place in (candidates.lengths[owners] > _BITS).nonzero()[0]:
        common[place] = longest_common_subsequence(_list(candidates, owners[place]), _list(references, place))
    return common


def _matches(candidates: _Tokens, references: _Tokens, owners: np.ndarray) -> np.ndarray:
    """(tokens of the references) uint64: bit i says that token i of the candidate is the same. Candidates longer than
    64 tokens get bits that mean nothing."""
    size = 1 + max(candidates.numbers.max(initial=0), references.numbers.max(initial=0))
    keys = candidates.rows * size + candidates.numbers
    order = np.argsort(keys, kind="stable")
    places = np.arange(len(keys)) - candidates.starts[candidates.rows]
    bits = (np.uint64(1) << (places % _BITS).astype(np.uint64))[order]
    known, first = np.unique(keys[order], return_index=True)
    masks = np.bitwise_or.reduceat(bits, first)
    wanted = owners[references.rows] * size + references.numbers
    found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[found] == wanted, masks[found], np.uint64(0))


def _list(tokens: _Tokens, row: int) -> list[int]:
    start = tokens.starts[row]
    numbers: list[int] = tokens.numbers[start : start + tokens.lengths[row]].tolist()
    return numbers


def longest_common_subsequence(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of the longest common subsequence of two token lists.

    A row of the usual table grows by 0 or 1 from cell to cell, so it fits into the bits of one integer (Hyyrö 2004):
    a zero bit is a step, and one addition advances the whole row.
    """
    places: dict[object, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()
