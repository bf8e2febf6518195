"""ROUGE-L (Lin 2004) in the form of the COCO caption evaluation."""

from __future__ import annotations

from collections.abc import Sequence

_BETA = 1.2
"""How much recall counts against precision."""


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of one tokenized caption against its tokenized references, 0 to 1.

    The best precision and the best recall may come from two different references. Tokens are what lies between single
    spaces, so an empty caption has one (empty) token: it scores 1 against an empty reference and 0 otherwise.

    Args:
        candidate: tokens joined by spaces.
        references: at least one, tokens joined by spaces.
    """
    tokens = candidate.split(" ")
    precision = recall = 0.0
    for reference in references:
        other = reference.split(" ")
        common = longest_common_subsequence(tokens, other)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(other))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token lists.

    A row of the usual table grows by 0 or 1 from cell to cell, so it fits into the bits of one integer (Hyyrö 2004):
    a zero bit is a step, and one addition advances the whole row.
    """
    places: dict[str, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()
