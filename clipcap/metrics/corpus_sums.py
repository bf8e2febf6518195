"""BLEU and METEOR from sums over a corpus, for many corpora at once: the formulas alone, without any caption.

BLEU as ``sql/metrics`` computes it (its constants included). METEOR 1.5 (Denkowski and Lavie 2014) with its weights
for English, from the statistics that its program gives for each caption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_TINY, _SMALL = 1e-15, 1e-9
"""BLEU's guards against zero; they show in every value."""
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])
"""METEOR's weights of exact, stem, synonym and paraphrase matches."""

METEOR_COLUMNS = (
    "candidate_length", "reference_length", "candidate_function_words", "reference_function_words",
    *(f"{side}_{kind}_{matcher}" for matcher in ("exact", "stem", "synonym", "paraphrase")
      for kind in ("content", "function") for side in ("candidate", "reference")),
    "chunks", "candidate_matches", "reference_matches",
)  # fmt: skip
"""What METEOR's program says of one caption, in its order."""


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4.

    Args:
        sums: (…, 10) columns ``correct_1`` … ``correct_4``, ``guessed_1`` … ``guessed_4``, ``candidate_length`` and
            ``reference_length``, summed over a corpus (one image is one, too).

    Returns:
        (4, …), 0 to 1.
    """
    correct, guessed, lengths = sums[..., :4], sums[..., 4:8], sums[..., 8:]
    precisions = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (lengths[..., 0] + _TINY) / (lengths[..., 1] + _SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return np.moveaxis(precisions ** (1 / np.arange(1, 5)), -1, 0) * brevity


def meteor(sums: np.ndarray) -> np.ndarray:
    """METEOR.

    Args:
        sums: (…, 23) ``METEOR_COLUMNS``, summed over a corpus.

    Returns:
        (1, …), 0 to 1.
    """
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    chunks, in_candidate, in_reference = np.moveaxis(sums[..., 20:], -1, 0)

    def share(side: int) -> np.ndarray:
        """Weighted matches over weighted length: precision of side 0, recall of side 1."""
        found = (matches[..., side] * _DELTA + matches[..., side + 2] * (1 - _DELTA)) @ _MATCHERS
        length, function = sums[..., side], sums[..., side + 2]
        return _ratio(found, _DELTA * (length - function) + (1 - _DELTA) * function)

    precision, recall = share(0), share(1)
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragments = _ratio(chunks, (in_candidate + in_reference) / 2)
    is_whole = (in_candidate == sums[..., 0]) & (in_reference == sums[..., 1]) & (chunks == 1)
    penalty = np.where(is_whole, 0.0, _GAMMA * fragments**_BETA)
    return np.asarray(mean * (1 - penalty))[np.newaxis]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)
    return ratio


@dataclass(frozen=True)
class Sums:
    """Metrics that follow from sums of some columns over the images."""

    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    value: Callable[[np.ndarray], np.ndarray]
    """(…, columns) to (metrics, …)."""


FROM_SUMS = {
    "bleu": Sums(
        ("bleu_1", "bleu_2", "bleu_3", "bleu_4"),
        (*(f"{name}_{n}" for name in ("correct", "guessed") for n in range(1, 5)), "candidate_length",
         "reference_length"),
        bleu,
    ),
    "meteor": Sums(("meteor",), tuple(f"meteor_{name}" for name in METEOR_COLUMNS), meteor),
}  # fmt: skip
MEANS_OF_COUNTS = {"mean_length": ("bleu", "candidate_length")}
"""metric -> the column whose mean it is."""
