"""What a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

from clipcap.dataset.land import Landing, read_landing
from clipcap.embedding.encoder import get_encoder
from clipcap.storage.records import Entry
from clipcap.training.train_model import TRAIN_SPLITS, Shard
from flows.caption import caption_jobs
from flows.compare import compare_job, production_scores
from flows.download import download_jobs, land_job
from flows.embed import duplicates_job, embed_jobs, embed_text_jobs
from flows.estimate import StagePlan, add_stage, room
from flows.evaluate import evaluate_job
from flows.stages import RunContext
from flows.train import train_job


def make_plan(context: RunContext, limit: int | None = None) -> dict[str, Any]:
    """Compares keys as the run would. What depends on outputs that do not exist yet counts as to do.

    Returns:
        ``stages`` (one object each), ``needed_bytes``, ``free_bytes``, ``fits``, ``data_dir``, ``batch_id`` and
        ``warnings`` (texts).
    """
    landing = read_landing(context.config, limit)
    stages = plan_stages(context, landing)
    return {
        "data_dir": context.lake.address,
        "batch_id": landing.batch_id,
        **room(context, stages),
        "stages": [asdict(stage) for stage in stages],
        "warnings": _warnings(landing),
    }


def _warnings(landing: Landing) -> list[str]:
    """What the run would meet only after hours: it is known from the source."""
    if _captioned(landing, TRAIN_SPLITS):
        return []
    return [
        "nothing to train on: no row of split train has a caption; give the rows captions and splits, or set "
        'dataset.default_split = "train"'
    ]


def _captioned(landing: Landing, splits: Collection[str]) -> int:
    """Rows of these splits that have captions: what is learned from, or scored."""
    return sum(1 for row in landing.rows if row["split"] in splits and row["captions"])


def plan_stages(context: RunContext, landing: Landing) -> list[StagePlan]:
    """Every stage of the whole chain for one source."""
    land = land_job(context, landing)
    stages: list[StagePlan] = []
    landed = add_stage(context, stages, "land", [land], 1, land.rows)
    batch = landed[0] if landed else None
    usable = len(landing.rows)
    size = context.config.download.shard_size
    shards = -(-usable // size)

    downloads = add_stage(context, stages, "download", batch and download_jobs(context, batch), shards, usable)
    config = context.config.embed
    encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
    embeds = add_stage(context, stages, "embed", downloads and embed_jobs(context, downloads, encoder), shards, usable)
    if config.captions:
        jobs = downloads and embed_text_jobs(context, downloads, encoder)
        add_stage(context, stages, "embed_text", jobs, shards, usable)
    if config.near_duplicates:
        add_stage(context, stages, "duplicates", embeds and [duplicates_job(context, embeds)], 1, usable)
    pairs = [Shard(d, e) for d, e in zip(downloads or [], embeds or [], strict=True)] if embeds else []
    taught = _captioned(landing, TRAIN_SPLITS)
    train = [replace(train_job(context, pairs), rows=taught)] if pairs else None
    models = add_stage(context, stages, "train", train, 1, taught)
    captions = add_stage(context, stages, "caption", models and caption_jobs(context, pairs, models[0]), shards, usable)
    scored = _captioned(landing, [context.config.evaluate.split])
    last = [replace(evaluate_job(context, models[0], captions, pairs), rows=scored)] if models and captions else None
    scores = add_stage(context, stages, "evaluate", last, 1, scored)
    _add_comparison(context, stages, models[0].meta["model_id"] if models else "", scores, scored)
    return stages


def _add_comparison(
    context: RunContext, stages: list[StagePlan], model_id: str, scores: list[Entry] | None, rows: int
) -> None:
    """Where another model than the planned one is in production."""
    if context.index.generation.production_model_id in ("", model_id):
        return
    baseline = production_scores(context, scores[0]) if scores else None
    if scores and baseline:
        add_stage(context, stages, "compare", [compare_job(context, scores[0], baseline)], 1, rows)
    elif not scores:
        add_stage(context, stages, "compare", None, 1, rows)
