"""What retraining would do, without doing it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clipcap.dataset.evaluation_set import count_candidates, find_evaluation_set
from clipcap.embedding.encoder import get_encoder
from clipcap.storage.records import Entry
from clipcap.training.due import count_landed, is_due
from clipcap.training.train_model import Shard
from flows.batches import landed_batches, published_shards
from flows.download import download_jobs
from flows.embed import embed_jobs
from flows.estimate import StagePlan, add_stage, add_up, room
from flows.stages import RunContext, say
from flows.train import train_job


def adopted_elsewhere(context: RunContext, batch: Entry) -> str:
    """Why a batch cannot be learned from: it came as embeddings of another encoder, without its images."""
    config = context.config.embed
    for shard in published_shards(context, batch):
        if adopted := shard.meta.get("adopted"):
            encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
            if adopted["encoder_id"] != encoder.id:
                return (
                    f"batch {batch.meta['batch_id']} came as embeddings of {adopted['encoder_id']} without its images"
                )
    return ""


def plan_retraining(context: RunContext) -> dict[str, Any]:
    """Whether a new model is due, and what training one would take.

    Returns:
        due (None where batches still have to be downloaded or embedded), reasons, new_pairs, drift,
        production_model_id, evaluation_set and its images, stages, needed_bytes, free_bytes and fits.
    """
    config, index = context.config.embed, context.index
    encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
    plans: list[list[StagePlan]] = []
    shards: list[Shard] = []
    waiting: list[str] = []
    for batch in landed_batches(context):
        if problem := adopted_elsewhere(context, batch):
            say("retrain", f"skipped: {problem}")
            continue
        stages: list[StagePlan] = []
        rows = batch.rows.get("ok", 0)
        downloads: list[Entry] | None = published_shards(context, batch)
        count = len(downloads or []) or -(-rows // context.config.download.shard_size)
        if downloads:
            stages.append(StagePlan("download", len(downloads)))
        else:
            downloads = add_stage(context, stages, "download", download_jobs(context, batch), count, rows)
        embeds = add_stage(context, stages, "embed", downloads and embed_jobs(context, downloads, encoder), count, rows)
        plans.append(stages)
        if downloads and embeds:
            shards += [Shard(download, embed) for download, embed in zip(downloads, embeds, strict=True)]
        else:
            waiting.append(batch.meta["batch_id"])
    production_id = index.generation.production_model_id
    production = next((e for e in index.of_stage("train") if e.meta["model_id"] == production_id), None)
    due = is_due(context.lake, index.generation, production, shards, context.config.retrain)
    reasons = list(due.reasons)
    if waiting:
        most = sum(count_landed(context.lake, batch_id) for batch_id in waiting)
        reasons.append(f"up to {most:,} more in what is not embedded yet: {', '.join(waiting)}")
    is_warm = context.config.retrain.start == "warm"
    training: list[StagePlan] = []
    if shards:
        job = train_job(context, shards, production if is_warm else None)
        add_stage(context, training, "train", None if waiting else [job], 1, job.rows)
    stages = add_up([*plans, training])
    gate = context.config.gate
    frozen = find_evaluation_set(index, gate.evaluation_set)
    split = context.config.evaluate.split
    images = frozen.meta["images"] if frozen else count_candidates(context.lake, shards, split)
    say("retrain", f"{'; '.join(reasons)}. Nothing was done")
    return {
        "data_dir": context.lake.address,
        "production_model_id": production_id,
        "due": due.is_due or (None if waiting else False),
        "reasons": reasons,
        "new_pairs": due.new_pairs,
        "drift": due.drift.value if due.drift else None,
        "evaluation_set": gate.evaluation_set,
        "evaluation_images": images,
        **room(context, stages),
        "stages": [asdict(stage) for stage in stages],
    }
