"""Drift: how well a linear classifier tells new embeddings from those that a model has learned from.

The statistic is D = 2 AUC - 1 of a classifier on images that it was not fitted to (a classifier two-sample test,
Lopez-Paz and Oquab 2017): 0 where the two are alike, 1 where every new image can be told from every old one. It does
not grow with the number of images, as a p-value's evidence does, so one threshold serves a batch of a thousand and one
of a hundred thousand. And its noise is known: on held-out images AUC is the Mann-Whitney statistic, whose standard
error without drift is that of ranks alone, whatever embeddings look like. What is compared with a threshold is the
lower end of the interval, so that few images raise no alarm.

The classifier is Fisher's discriminant, with shrinkage, on embeddings of length 1 and on the squares of their first
principal components: the first sees new subjects, the second also a change of spread.

Legend: N images, C clip_dim, F features of the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.storage.lake import Lake

if TYPE_CHECKING:
    from clipcap.training.train_model import Shard

SAMPLE = 10_000
"""Images of each side that are looked at; more make the noise no smaller than any threshold needs."""
FEWEST = 40
"""Images of a side below which nothing is said."""
_Z = 2.326  # one-sided 99 %
_COMPONENTS = 32
_FILES = 200  # of each side: a larger lake is looked at in a random part of its files


@dataclass(frozen=True)
class Drift:
    """What was found."""

    value: float
    """D, -1 to 1; about 0 without drift."""
    noise: float
    """Standard error of D without drift; infinite where there are too few images."""
    old: int
    """Images looked at."""
    new: int

    @property
    def at_least(self) -> float:
        """D is at least this, with 99 % confidence; never below 0."""
        return max(0.0, self.value - _Z * self.noise)


def measure_drift(old: np.ndarray, new: np.ndarray) -> Drift:
    """D between two sets of embeddings.

    Args:
        old: (N, C) float, of any lengths; what was learned from.
        new: (N', C).
    """
    if min(len(old), len(new)) < FEWEST:
        return Drift(0.0, float("inf"), len(old), len(new))
    features = _features(np.concatenate([old, new]))
    is_new = np.repeat([False, True], [len(old), len(new)])
    fold = np.random.default_rng(0).permutation(len(is_new)) % 2
    found = []
    for part in (0, 1):
        fit, held_out = fold != part, fold == part
        direction = _discriminant(features[fit & ~is_new], features[fit & is_new])
        found.append(_auc(features[held_out & ~is_new] @ direction, features[held_out & is_new] @ direction))
    n, m = len(old), len(new)
    # Of one fold, with half of the images: what the folds find is not independent, so their mean counts as no better.
    return Drift(2 * float(np.mean(found)) - 1, float(2 * np.sqrt((n + m + 2) / (6 * n * m))), n, m)


def _features(embeddings: np.ndarray) -> np.ndarray:
    """(N, C) → (N, F) of variance 1: embeddings of length 1, and squares of their first principal components."""
    x = embeddings.astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x -= x.mean(axis=0)
    _, axes = np.linalg.eigh(x.T @ x)
    squares = np.square(x @ axes[:, ::-1][:, :_COMPONENTS])
    features: np.ndarray = np.concatenate([x, squares], axis=1)
    features -= features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-12)
    return features


def _discriminant(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The direction (F) that separates the means best, within-class covariance shrunk to its diagonal."""
    within = np.concatenate([old - old.mean(axis=0), new - new.mean(axis=0)])
    covariance = within.T @ within / len(within)
    shrinkage = min(0.95, max(0.05, covariance.shape[0] / (2 * min(len(old), len(new)))))
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance) + 1e-6)
    return np.linalg.solve(covariance, new.mean(axis=0) - old.mean(axis=0))


def _auc(old: np.ndarray, new: np.ndarray) -> float:
    """Probability that a new score is above an old one; ties count half."""
    _, place, counts = np.unique(np.concatenate([old, new]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[len(old) :].sum() - len(new) * (len(new) + 1) / 2) / (len(old) * len(new)))


def sample_embeddings(lake: Lake, shards: Sequence[Shard], limit: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """About ``limit`` embeddings, float16 (N, C), drawn evenly from captioned images of the training splits.

    One file is in memory at a time; of a lake with very many only a random part is read.
    """
    from clipcap.embedding.store import stream_embeddings
    from clipcap.training.train_model import TRAIN_SPLITS

    random = np.random.default_rng(seed)
    shards = [shards[i] for i in sorted(random.permutation(len(shards))[:_FILES])]
    wanted = [(shard, _captioned(lake, shard, TRAIN_SPLITS)) for shard in shards]
    rate = min(1.0, limit / max(1, sum(len(keys) for _, keys in wanted)))
    found = []
    for shard, keys in wanted:
        if not len(keys):
            continue
        for table, vectors in stream_embeddings(lake.absolute(shard.embed.file("embeddings").path), ["sample_key"]):
            is_wanted = np.asarray(pc.is_in(table["sample_key"], keys))
            found.append(vectors[is_wanted & (random.random(len(vectors)) < rate)])
    return np.concatenate(found) if found else np.empty((0, 0), np.float16)


def _captioned(lake: Lake, shard: Shard, splits: Sequence[str]) -> pa.Array:
    """Keys of the shard's images in ``splits`` that have a caption."""
    path = lake.absolute(shard.download.file("shard").path)
    table = pq.read_table(path, columns=["sample_key", "captions", "split"])
    is_wanted = pc.and_(
        pc.is_in(table["split"], pa.array(splits, pa.string())),
        pc.greater(pc.list_value_length(table["captions"]), 0),
    )
    return table["sample_key"].filter(is_wanted).combine_chunks()
