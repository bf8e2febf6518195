"""How far a metric would move if other images of the same kind had been scored: percentile bootstrap over images.

Efron and Tibshirani 1993, chapters 13 and 16. A resample draws as many images as there are, with replacement; it is
kept as how often each image was drawn, so that every metric of a block of resamples is one product of matrices. A
metric that is a mean is resampled as a mean. BLEU and METEOR are functions of sums of counts over the corpus, and are
computed from the resampled sums by the same formulas. What a metric takes from the whole set stays fixed: CIDEr keeps
the document frequencies of the images that were evaluated.

Legend: N images, R resamples, K columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipcap.errors import DataError
from clipcap.metrics.corpus_sums import FROM_SUMS, MEANS_OF_COUNTS

RESAMPLES, CONFIDENCE = 1000, 0.95
_BLOCK_VALUES = 1 << 22  # 32 MiB of weights at a time, whatever the number of images
_TIE = 1e-12


class Interval(NamedTuple):
    """Percentiles of a metric, or of a difference, over the resamples."""

    low: float
    high: float


class Difference(NamedTuple):
    """Two models on the same images, the candidate minus the baseline."""

    interval: Interval | None
    """None for metrics that are no mean and no function of sums: a resample repeats images, and so has fewer distinct
    words than any set of as many images."""
    wins: int | None
    """Images on which the candidate's value is higher; None where an image alone has none."""
    ties: int | None
    losses: int | None


@dataclass(frozen=True)
class Sample:
    """What each image contributes to the metrics of an evaluation."""

    keys: list[str]
    values: dict[str, np.ndarray]
    """metric -> (N) float64: its value on each image."""
    counts: dict[str, np.ndarray]
    """Name in ``FROM_SUMS`` -> (N, K) float64 of whole numbers, or nearly."""

    @classmethod
    def of(cls, per_image: Mapping[str, Mapping[str, float]], counts: pa.Table | None) -> Sample:
        """From the parts of :class:`clipcap.metrics.evaluate.Scores`, in the order of the keys' text."""
        some: Sequence[str] = list(next(iter(per_image.values()))) if per_image else []
        if counts is not None:
            some = counts["key"].to_pylist()
        keys = sorted(some)
        values = {name: np.array([each[key] for key in keys], np.float64) for name, each in per_image.items()}
        found = {}
        if counts is not None:
            rows = counts.sort_by("key")
            for name, group in FROM_SUMS.items():
                if set(group.columns) <= set(rows.column_names):
                    found[name] = np.column_stack([rows[c].to_numpy().astype(np.float64) for c in group.columns])
        return cls(keys, values, found)

    def means(self) -> dict[str, np.ndarray]:
        """metric -> (N): those that are the mean of these."""
        counted = {metric for group in FROM_SUMS.values() for metric in group.metrics}
        found = {name: values for name, values in self.values.items() if name not in counted}
        for metric, (group, column) in MEANS_OF_COUNTS.items():
            if group in self.counts:
                found[metric] = self.counts[group][:, FROM_SUMS[group].columns.index(column)]
        return found


def intervals(
    sample: Sample, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, Interval]:
    """An interval for each metric that is a mean over images or a function of sums over them.

    Args:
        resamples: 0 gives none.
        confidence: share of the resamples that lie inside, 0 to 1.
        seed: equal seeds draw the same images.
    """
    if not resamples or not sample.keys:
        return {}
    means = sample.means()
    found: dict[str, list[np.ndarray]] = {}
    for weights in draw(len(sample.keys), resamples, seed):
        for name, block in _resampled(weights, means, sample.counts).items():
            found.setdefault(name, []).append(block)
    return {name: percentiles(np.concatenate(blocks), confidence) for name, blocks in found.items()}


def differences(
    candidate: Sample,
    baseline: Sample,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Difference]:
    """Paired bootstrap (Koehn 2004): both models are scored on the very same resamples.

    Metrics that only one of the two has are left out. Exchanging the two changes the signs and nothing else, and a
    model differs from itself by exactly 0.

    Raises:
        DataError: they were scored on different images.
    """
    if candidate.keys != baseline.keys:
        both = len(set(candidate.keys) & set(baseline.keys))
        raise DataError(
            f"the two were scored on different images: {len(candidate.keys)} and {len(baseline.keys)}, {both} of them "
            "on both sides; score both on the same images"
        )
    ours, theirs = candidate.means(), baseline.means()
    # Differences are taken first and then resampled: equal values cancel exactly, in whatever order they are summed.
    means = {name: _gains(values, theirs[name]) for name, values in ours.items() if name in theirs}
    counted = candidate.counts.keys() & baseline.counts.keys()
    found: dict[str, list[np.ndarray]] = {}
    for weights in draw(len(candidate.keys), resamples, seed) if candidate.keys else ():
        block = _resampled(weights, means, {})
        first = _resampled(weights, {}, {name: candidate.counts[name] for name in counted})
        second = _resampled(weights, {}, {name: baseline.counts[name] for name in counted})
        block |= {name: values - second[name] for name, values in first.items()}
        for name, values in block.items():
            found.setdefault(name, []).append(values)
    outcome = {}
    with_values = [name for name in candidate.values if name in baseline.values]
    for name in dict.fromkeys([*with_values, *found]):
        interval = percentiles(np.concatenate(found[name]), confidence) if name in found else None
        if name not in with_values:
            outcome[name] = Difference(interval, None, None, None)
            continue
        gains = _gains(candidate.values[name], baseline.values[name])
        wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
        outcome[name] = Difference(interval, wins, len(gains) - wins - losses, losses)
    return outcome


def _gains(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Differences image by image; the last bits, which the order of a sum decides, are none."""
    gains = ours - theirs
    gains[np.abs(gains) <= _TIE] = 0
    return np.asarray(gains)


def draw(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Resamples, some at a time: (block, N) float64, how often each image was drawn.

    The same whatever the size of the blocks.
    """
    random = np.random.default_rng(seed)
    size = max(1, _BLOCK_VALUES // images)
    for start in range(0, resamples, size):
        block = np.empty((min(size, resamples - start), images))
        for row in block:
            row[:] = np.bincount(random.integers(images, size=images), minlength=images)
        yield block


def _resampled(
    weights: np.ndarray, means: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """metric -> (R) values on the resamples."""
    found: dict[str, np.ndarray] = {}
    if means:
        columns = weights @ np.column_stack(list(means.values())) / weights.shape[1]
        found.update(zip(means, columns.T, strict=True))
    for name, values in counts.items():
        group = FROM_SUMS[name]
        found.update(zip(group.metrics, group.value(weights @ values), strict=True))
    return found


def percentiles(values: np.ndarray, confidence: float) -> Interval:
    """The values that cut off the same number of resamples at both ends.

    Values of the list and nothing between them, so that negated ones give the negated interval exactly.
    """
    ordered = np.sort(values)
    outside = max(int((1 - confidence) / 2 * (len(ordered) + 1) + 1e-9) - 1, 0)
    return Interval(float(ordered[outside]), float(ordered[len(ordered) - 1 - outside]))
