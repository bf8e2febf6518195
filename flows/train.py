"""Training: the shards of a batch to a model."""

from __future__ import annotations

from collections.abc import Sequence

from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard, model_id_of, train_key
from flows.stages import Job, RunContext, run_jobs, say

FEW_CAPTIONS = 1000


def train_job(
    context: RunContext, shards: list[Shard], start: Entry | None = None, leave_out: Sequence[str] = ()
) -> Job:
    config = context.config.train
    key = train_key(shards, config, start, leave_out)
    model_id = model_id_of(context.config.dataset.name, config, key)

    def task():  # type: ignore[no-untyped-def]
        from tasks.train import train_model

        return train_model

    return Job(
        f"train/{model_id}", key, sum(shard.embed.rows.get("ok", 0) for shard in shards), task,
        lambda: {"model_id": model_id, "shards": shards, "config": config, "device": context.config.embed.device,
                 "run_id": context.run_id, "start": start, "leave_out": leave_out},
    )  # fmt: skip


def train(context: RunContext, shards: list[Shard], start: Entry | None = None, leave_out: Sequence[str] = ()) -> Entry:
    """Trains on all shards.

    Args:
        start: a model whose weights are the first ones.
        leave_out: keys of images that are not learned from.
    """
    entry = run_jobs(context, "train", [train_job(context, shards, start, leave_out)])[0]
    captions = entry.meta.get("train_captions", FEW_CAPTIONS)
    if start is None and captions < FEW_CAPTIONS:
        say("train", f"learnt from {captions:,} captions alone: expect little of a model of fewer than a few thousand")
    return entry
