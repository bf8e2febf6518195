"""Captioning: embedded shards and a model to captions."""

from __future__ import annotations

from clipcap.decoding.caption_shard import caption_key
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard, weights_digest
from flows.stages import Job, RunContext, run_jobs


def caption_jobs(context: RunContext, shards: list[Shard], model: Entry) -> list[Job]:
    model_id, weights = model.meta["model_id"], weights_digest(model)

    def task():  # type: ignore[no-untyped-def]
        from tasks.caption import caption_shard

        return caption_shard

    def job(shard: Shard) -> Job:
        embed = shard.embed
        return Job(
            f"caption/{model_id}/{embed.meta['batch_id']}/{embed.meta['shard_id']}",
            caption_key(embed, weights, context.config.caption),
            embed.rows.get("ok", 0),
            task,
            lambda: {"model_id": model_id, "embed": embed, "config": context.config.caption,
                     "device": context.config.embed.device, "run_id": context.run_id},
        )  # fmt: skip

    return [job(shard) for shard in shards]


def caption(context: RunContext, shards: list[Shard], model: Entry) -> list[Entry]:
    return run_jobs(context, "caption", caption_jobs(context, shards, model))
