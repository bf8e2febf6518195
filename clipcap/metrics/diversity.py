"""How varied a set of captions is; no references needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def distinct(captions: Sequence[str], n: int) -> float:
    """Share of different n-grams among all n-grams of tokenized captions (Li et al. 2016); 0 where there is none."""
    split = [caption.split() for caption in captions]
    ngrams = [tuple(tokens[i : i + n]) for tokens in split for i in range(len(tokens) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def vocabulary(captions: Sequence[str]) -> float:
    """Number of different tokens."""
    return float(len({token for caption in captions for token in caption.split()}))


def unique_share(captions: Sequence[str]) -> float:
    """Share of different captions among all captions."""
    return len(set(captions)) / len(captions)


def mean_length(captions: Sequence[str]) -> float:
    """Mean number of tokens of a caption."""
    return sum(len(caption.split()) for caption in captions) / len(captions)


DIVERSITY: dict[str, Callable[[Sequence[str]], float]] = {
    "distinct_1": lambda captions: distinct(captions, 1),
    "distinct_2": lambda captions: distinct(captions, 2),
    "vocabulary": vocabulary,
    "unique_share": unique_share,
    "mean_length": mean_length,
}
"""Metric name -> function of the tokenized captions."""
