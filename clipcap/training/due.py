"""Whether a new model is due: enough new pairs, or new images that are unlike those that production learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.config import RetrainConfig
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry, Generation
from clipcap.training.drift import Drift, measure_drift, sample_embeddings

if TYPE_CHECKING:
    from clipcap.training.train_model import Shard


@dataclass(frozen=True)
class Due:
    """What was counted and measured, and what follows."""

    is_due: bool
    reasons: tuple[str, ...]
    """Each with its figure and its limit."""
    new_pairs: int
    """Captions of embedded images in training splits of batches that nothing has learned from yet."""
    new_images: int
    waiting_pairs: int
    """Those that a refused candidate has learned from and production has not."""
    batch_ids: tuple[str, ...]
    """Batches that the new pairs are in."""
    drift: Drift | None
    """None where it was not asked for, or there is nothing to compare."""

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def is_due(
    lake: Lake, generation: Generation, production: Entry | None, shards: Sequence[Shard], config: RetrainConfig
) -> Due:
    """Counts and measures what landed since production was trained.

    What a refused candidate has learned from is not new any more: it did not help, and a night later it would not
    either. It is learned from again together with what comes next.

    Args:
        production: the entry of the model in production; None where there is none.
        shards: all that the lake has, embedded by one encoder.
    """
    learned = set(production.meta["batch_ids"]) if production else set()
    tried = tried_batches(generation) - learned
    new = [s for s in shards if s.embed.meta["batch_id"] not in learned | tried]
    counts: dict[str, tuple[int, int]] = {}
    for shard in new:
        images, pairs = count_pairs(lake, shard)
        before = counts.get(shard.embed.meta["batch_id"], (0, 0))
        counts[shard.embed.meta["batch_id"]] = (before[0] + images, before[1] + pairs)
    new_images, new_pairs = (sum(count[i] for count in counts.values()) for i in (0, 1))
    waiting = sum(count_pairs(lake, s)[1] for s in shards if s.embed.meta["batch_id"] in tried)

    enough = new_pairs >= config.min_new_pairs
    reasons = [f"{new_pairs:,} new pairs {'≥' if enough else '<'} {config.min_new_pairs:,}"]
    if waiting:
        reasons.append(f"{waiting:,} more were learned from by a candidate that was refused")
    drift, drifted = None, False
    if config.drift_threshold and new_images and learned:
        old = [s for s in shards if s.embed.meta["batch_id"] in learned]
        drift = measure_drift(sample_embeddings(lake, old), sample_embeddings(lake, new))
        drifted = drift.at_least >= config.drift_threshold
        reasons.append(_told(drift, drifted, config.drift_threshold))
    batch_ids = tuple(sorted(batch_id for batch_id, (images, _) in counts.items() if images))
    return Due(enough or drifted, tuple(reasons), new_pairs, new_images, waiting, batch_ids, drift)


def tried_batches(generation: Generation) -> set[str]:
    """Batches that a candidate has learned from which was refused in favour of the model in production."""
    return {
        batch_id
        for decision in generation.decisions
        if decision.verdict == "refused" and decision.production_model_id == generation.production_model_id
        for batch_id in decision.evidence.get("batch_ids", [])
    }


def count_pairs(lake: Lake, shard: Shard) -> tuple[int, int]:
    """Embedded images of the training splits that have a caption, and their captions; no caption or vector is kept."""
    from clipcap.training.train_model import TRAIN_SPLITS

    path = lake.absolute(shard.download.file("shard").path)
    table = pq.read_table(path, columns=["sample_key", "captions", "split"])
    embedded = pq.read_table(lake.absolute(shard.embed.file("embeddings").path), columns=["sample_key"])["sample_key"]
    captions = pc.list_value_length(table["captions"])
    is_new = pc.and_(
        pc.is_in(table["split"], pa.array(TRAIN_SPLITS, pa.string())),
        pc.and_(pc.is_in(table["sample_key"], embedded.combine_chunks()), pc.greater(captions, 0)),
    )
    return pc.sum(is_new).as_py() or 0, pc.sum(captions.filter(is_new)).as_py() or 0


def count_landed(lake: Lake, batch_id: str) -> int:
    """Captions of a landed batch's training splits: no more pairs than that will come of it."""
    from clipcap.training.train_model import TRAIN_SPLITS

    table = pq.read_table(lake.at_hand(lake.urls(batch_id)), columns=["captions", "split"])
    is_training = pc.is_in(table["split"], pa.array(TRAIN_SPLITS, pa.string()))
    return pc.sum(pc.list_value_length(table["captions"]).filter(is_training)).as_py() or 0


def _told(drift: Drift, drifted: bool, threshold: float) -> str:
    if drift.noise == float("inf"):
        return f"drift unknown: {drift.new:,} new images against {drift.old:,} are too few"
    return (
        f"drift {drift.value:.2f}, at least {drift.at_least:.2f} {'≥' if drifted else '<'} {threshold:g} "
        f"({drift.new:,} new images against {drift.old:,})"
    )
