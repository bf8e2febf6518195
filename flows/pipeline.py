"""All of it: land, download, embed, train, caption, evaluate, publish."""

from __future__ import annotations

from typing import Any

from prefect import flow

from clipcap.config import load_config
from flows.caption import caption
from flows.download import download, land
from flows.embed import embed
from flows.evaluate import evaluate
from flows.publish import publish
from flows.stages import RunContext
from flows.train import train


@flow(name="pipeline", flow_run_name="pipeline {config}")
def pipeline(
    config: str = "sample", overrides: list[str] | None = None, data_dir: str | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Captions a dataset from its source to its report.

    Args:
        config: a .toml file or the name of a shipped one.
        overrides: section.key=value each.
        data_dir: the lake's root.
        limit: land only the first rows of the source.

    Returns:
        run_id, batch_id, model_id, split, images and metrics of the evaluation, and the report's path.
    """
    context = RunContext.of(load_config(config, overrides or []), "pipeline", data_dir)
    batch = land(context, limit)
    shards = embed(context, download(context, batch))
    model = train(context, shards)
    captions = caption(context, shards, model)
    scores = evaluate(context, model, captions, shards)
    report = publish(context)
    return {
        "run_id": context.run_id,
        "batch_id": batch.meta["batch_id"],
        "model_id": model.meta["model_id"],
        "split": scores.meta["split"] if scores else "",
        "images": scores.meta["images"] if scores else 0,
        "metrics": scores.meta["metrics"] if scores else {},
        "report": report,
    }
