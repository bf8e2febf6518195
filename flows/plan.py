"""What a run would do, without doing it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from clipcap.dataset.land import read_landing
from clipcap.embedding.encoder import get_encoder
from clipcap.storage.manifest import Entry
from clipcap.training.train_model import Shard
from flows.caption import caption_jobs
from flows.download import download_jobs, land_job
from flows.embed import duplicates_job, embed_jobs, embed_text_jobs
from flows.evaluate import evaluate_job
from flows.stages import Job, RunContext
from flows.train import train_job


@dataclass
class StagePlan:
    """One stage of a plan; estimates are null until this lake has measured the stage once."""

    stage: str
    shards_cached: int = 0
    shards_to_do: int = 0
    rows_to_do: int = 0
    estimated_s: float | None = 0.0
    estimated_bytes: int | None = 0


def make_plan(context: RunContext, limit: int | None = None) -> dict[str, Any]:
    """Compares keys as the run would. What depends on outputs that do not exist yet counts as to do.

    Returns:
        ``stages`` (one object each), ``free_bytes``, ``data_dir`` and ``batch_id``.
    """
    landing = read_landing(context.config, limit)
    land = land_job(context, landing)
    stages = [_judge(context, "land", [land])]
    batch = context.index.find(land.id, land.key)
    usable = len(landing.rows)
    size = context.config.download.shard_size
    shards = -(-usable // size)

    downloads = _next(context, stages, "download", batch and download_jobs(context, batch), shards, usable)
    config = context.config.embed
    encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
    embeds = _next(context, stages, "embed", downloads and embed_jobs(context, downloads, encoder), shards, usable)
    if config.captions:
        jobs = downloads and embed_text_jobs(context, downloads, encoder)
        _next(context, stages, "embed_text", jobs, shards, usable)
    if config.near_duplicates:
        _next(context, stages, "duplicates", embeds and [duplicates_job(context, embeds)], 1, usable)
    pairs = [Shard(d, e) for d, e in zip(downloads or [], embeds or [], strict=True)] if embeds else []
    models = _next(context, stages, "train", [train_job(context, pairs)] if pairs else None, 1, usable)
    captions = _next(context, stages, "caption", models and caption_jobs(context, pairs, models[0]), shards, usable)
    last = [evaluate_job(context, models[0], captions, pairs)] if models and captions else None
    _next(context, stages, "evaluate", last, 1, usable)
    return {
        "data_dir": context.lake.address,
        "batch_id": landing.batch_id,
        "free_bytes": _free_bytes(context),
        "stages": [asdict(stage) for stage in stages],
    }


def _next(
    context: RunContext, stages: list[StagePlan], stage: str, jobs: list[Job] | None, shards: int, rows: int
) -> list[Entry] | None:
    """Adds a stage's plan; its entries if all of them stand, else None, so that what follows is to do as well."""
    if not jobs:
        stages.append(_estimate(context, StagePlan(stage, shards_to_do=shards, rows_to_do=rows)))
        return None
    stages.append(_judge(context, stage, jobs))
    entries = [context.index.find(job.id, job.key) for job in jobs]
    found = [entry for entry in entries if entry is not None]
    return found if len(found) == len(jobs) else None


def _judge(context: RunContext, stage: str, jobs: list[Job]) -> StagePlan:
    missing = [job for job in jobs if context.index.find(job.id, job.key) is None]
    plan = StagePlan(stage, len(jobs) - len(missing), len(missing), sum(job.rows for job in missing))
    return _estimate(context, plan)


def _estimate(context: RunContext, plan: StagePlan) -> StagePlan:
    """Seconds and bytes from what this stage took for each row in this lake so far."""
    if not plan.shards_to_do:
        return plan
    measured = [entry for entry in context.index.of_stage(plan.stage) if sum(_rows(entry).values())]
    rows = sum(sum(_rows(entry).values()) for entry in measured)
    plan.estimated_s = sum(e.duration_s for e in measured) / rows * plan.rows_to_do if rows else None
    size = sum(file.size_bytes for entry in measured for file in entry.files)
    plan.estimated_bytes = int(size / rows * plan.rows_to_do) if rows else None
    return plan


def _rows(entry: Entry) -> dict[str, int]:
    count = entry.meta.get("train_images") or entry.meta.get("images")
    return entry.rows or ({"images": count} if count else {})


def _free_bytes(context: RunContext) -> int:
    folder = context.lake.root
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
