"""All of it: land, download, embed, train, caption, evaluate, publish."""

from __future__ import annotations

from typing import Any

from prefect import flow

from clipcap.config import load_config
from clipcap.dataset.land import read_landing
from flows.caption import caption
from flows.compare import compare_with_production
from flows.download import download, land
from flows.embed import embed
from flows.estimate import require_room
from flows.evaluate import evaluate
from flows.names import run_name
from flows.notify import tell
from flows.plan import make_plan, plan_stages
from flows.publish import publish
from flows.stages import RunContext
from flows.train import train


@flow(name="pipeline", flow_run_name=run_name("pipeline"), on_failure=[tell], on_crashed=[tell])
def pipeline(
    config: str = "sample",
    overrides: list[str] | None = None,
    data_dir: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Captions a dataset from its source to its report.

    Args:
        config: A .toml file or the name of a shipped one.
        overrides: Settings that go before the file's: section.key=value each.
        data_dir: The lake's root; else the config's, CLIPCAP_DATA_DIR, ./data.
        limit: Land only the first rows of the source.
        dry_run: Only say what would be done, how long it would take and whether it fits on the disk.
        force: Begin even what does not fit on the disk by the estimate.

    Returns:
        run_id, batch_id, model_id, split, images, metrics and intervals of the evaluation, and the report's path. Of a
        dry run its plan.
    """
    context = RunContext.of(load_config(config, overrides or []), "pipeline", data_dir)
    if dry_run:
        return make_plan(context, limit)
    landing = read_landing(context.config, limit)
    require_room(context, plan_stages(context, landing), force)
    batch = land(context, landing)
    shards = embed(context, download(context, batch))
    model = train(context, shards)
    captions = caption(context, shards, model)
    scores = evaluate(context, model, captions, shards)
    compare_with_production(context, scores)
    report = publish(context)
    return {
        "run_id": context.run_id,
        "batch_id": batch.meta["batch_id"],
        "model_id": model.meta["model_id"],
        "split": scores.meta["split"] if scores else "",
        "images": scores.meta["images"] if scores else 0,
        "metrics": scores.meta["metrics"] if scores else {},
        "intervals": scores.meta["intervals"] if scores else {},
        "report": report,
    }
