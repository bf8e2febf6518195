"""Which batches a night still has to caption, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clipcap.embedding.encoder import Encoder, get_encoder
from clipcap.errors import DataError
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard
from flows.batches import published_shards
from flows.caption import caption_jobs
from flows.download import download_jobs
from flows.embed import duplicates_job, embed_jobs, embed_text_jobs
from flows.estimate import StagePlan, add_stage, add_up, room
from flows.stages import RunContext


@dataclass
class BatchPlan:
    """One batch under one model."""

    batch: Entry
    stages: list[StagePlan] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    """All of them, if they are downloaded and embedded."""
    captions: list[Entry] = field(default_factory=list)
    """All of them, if they are captioned."""
    is_published: bool = False
    """Whether everything stands and a generation shows it: then there is nothing to do."""
    problem: str = ""
    """Why this model cannot caption it, whatever is done."""

    @property
    def batch_id(self) -> str:
        return str(self.batch.meta["batch_id"])


def plan_night(context: RunContext, model: Entry, batches: list[Entry]) -> list[BatchPlan]:
    """Compares the keys of every shard with the manifest; opens no file of what is published."""
    config = context.config.embed
    encoder = get_encoder(model.meta["encoder"], config.device, config.precision, config.compile)
    return [_plan(context, model, encoder, batch) for batch in batches]


def _plan(context: RunContext, model: Entry, encoder: Encoder, batch: Entry) -> BatchPlan:
    plan, config = BatchPlan(batch), context.config
    rows = batch.rows.get("ok", 0)
    count = -(-rows // config.download.shard_size)
    stages = plan.stages
    downloads: list[Entry] | None = published_shards(context, batch)
    if downloads:
        stages.append(StagePlan("download", len(downloads)))
        count = len(downloads)
    else:
        downloads = add_stage(context, stages, "download", download_jobs(context, batch), count, rows)
    try:
        jobs = downloads and embed_jobs(context, downloads, encoder)
    except DataError as error:  # it came as embeddings of another encoder
        plan.problem = str(error)
        return plan
    embeds = add_stage(context, stages, "embed", jobs, count, rows)
    others: list[Entry | None] = []
    if config.embed.captions:
        jobs = downloads and embed_text_jobs(context, downloads, encoder)
        others += add_stage(context, stages, "embed_text", jobs, count, rows) or [None]
    if config.embed.near_duplicates:
        jobs = embeds and [duplicates_job(context, embeds)]
        others += add_stage(context, stages, "duplicates", jobs, 1, rows) or [None]
    if downloads and embeds:
        plan.shards = [Shard(download, embed) for download, embed in zip(downloads, embeds, strict=True)]
    jobs = caption_jobs(context, plan.shards, model) if plan.shards else None
    plan.captions = add_stage(context, stages, "caption", jobs, count, rows) or []
    made = [*(downloads or []), *(embeds or []), *plan.captions, *others]
    plan.is_published = bool(plan.captions) and all(e is not None and context.index.is_published(e) for e in made)
    return plan


def _plan_new(context: RunContext, rows: int) -> list[StagePlan]:
    """A batch that has not landed yet: all of it is to do."""
    config = context.config
    shards = -(-rows // config.download.shard_size)
    stages: list[StagePlan] = []
    add_stage(context, stages, "land", None, 1, rows)
    add_stage(context, stages, "download", None, shards, rows)
    add_stage(context, stages, "embed", None, shards, rows)
    if config.embed.captions:
        add_stage(context, stages, "embed_text", None, shards, rows)
    if config.embed.near_duplicates:
        add_stage(context, stages, "duplicates", None, 1, rows)
    add_stage(context, stages, "caption", None, shards, rows)
    return stages


def describe(
    context: RunContext, model: Entry, plans: list[BatchPlan], inbox: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The plan of a dry run, as one JSON object.

    Args:
        inbox: rows of ``land_inbox``; what would land by them, and be captioned, is planned too.
    """
    to_do = [plan for plan in plans if not plan.is_published and not plan.problem]
    new = [_plan_new(context, row["rows"]["ok"]) for row in inbox if row["rows"]]
    stages = add_up([*new, *(plan.stages for plan in plans)])
    return {
        "data_dir": context.lake.address,
        "model_id": model.meta["model_id"],
        **room(context, stages),
        "stages": [asdict(stage) for stage in stages],
        "batches": [row_of(plan) for plan in plans],
        "to_do": len(to_do) + len(new),
    }


def row_of(plan: BatchPlan) -> dict[str, Any]:
    """A batch of a plan, or of what a night did, for tables."""
    cached, to_do = (sum(getattr(stage, name) for stage in plan.stages) for name in ("shards_cached", "shards_to_do"))
    status = "skipped" if plan.problem or plan.is_published else "to do"
    reason = plan.problem or ("captioned already" if plan.is_published else "")
    return {
        "batch_id": plan.batch_id, "images": plan.batch.rows.get("ok", 0), "status": status, "outputs_cached": cached,
        "outputs_to_do": to_do, "reason": reason,
    }  # fmt: skip
