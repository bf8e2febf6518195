"""How varied a set of captions is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log

import numpy as np


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


def novel(captions: Mapping[str, str], training: Iterable[Iterable[str]]) -> dict[str, float]:
    """Which captions are none that the model was trained on: 1 for a new one, else 0. The mean is ``novel_share``.

    Args:
        captions: key -> tokenized caption, so that neither case nor punctuation makes one new.
        training: tokenized captions, a portion at a time; only those that are met again are kept.
    """
    asked = set(captions.values())
    known = {caption for portion in training for caption in portion if caption in asked}
    return {key: float(caption not in known) for key, caption in captions.items()}


def self_cider(captions: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Self-CIDEr (Wang and Chan 2019, section 3): how different the captions of one image are, 0 to 1.

    The pairwise CIDEr of an image's captions (cosines of tf-idf vectors of n-grams, averaged over n = 1..4; the
    kernel, without the penalties of CIDEr-D) is a matrix with eigenvalues l. With r = sqrt(max l) / sum sqrt(l) it is
    -log(r) to the base of their number: 0 where all are the same, 1 where no two share an n-gram.

    Args:
        captions: key -> tokenized captions of the image, two or more.
        references: key -> tokenized references; the document frequencies are theirs.

    Returns:
        key -> value; 0 where no caption has an n-gram that tells images apart.
    """
    frequency = Counter(gram for key in captions for gram in {g for text in references[key] for g in _ngrams(text)})
    log_images = log(max(1, len(captions)))

    def vectors(text: str) -> list[dict[tuple[str, ...], float]]:
        """Of each order, length 1 (or empty)."""
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(4)]
        for gram, count in Counter(_ngrams(text)).items():
            found[len(gram) - 1][gram] = count * (log_images - log(max(1, frequency[gram])))
        norms = [sum(weight**2 for weight in order.values()) ** 0.5 for order in found]
        return [
            {g: w / norm for g, w in order.items()} if norm else {} for order, norm in zip(found, norms, strict=True)
        ]

    def similarity(first: list[dict[tuple[str, ...], float]], second: list[dict[tuple[str, ...], float]]) -> float:
        return sum(w * b.get(g, 0.0) for a, b in zip(first, second, strict=True) for g, w in a.items()) / 4

    scores = {}
    for key, texts in captions.items():
        of_image = [vectors(text) for text in texts]
        kernel = np.array([[similarity(a, b) for b in of_image] for a in of_image])
        roots = np.sqrt(np.linalg.eigvalsh(kernel).clip(min=0))
        scores[key] = float(np.log(roots.sum() / roots.max()) / log(len(texts))) if roots.any() else 0.0
    return scores


def _ngrams(text: str) -> list[tuple[str, ...]]:
    tokens = text.split()
    return [tuple(tokens[start : start + n]) for n in range(1, 5) for start in range(len(tokens) - n + 1)]
