"""Nightly captioning: every batch of the lake that the production model has not captioned yet."""

from __future__ import annotations

from typing import Any

from prefect import flow

from clipcap.config import load_config
from clipcap.errors import DataError
from clipcap.storage.manifest import Entry
from clipcap.training.train_model import Shard
from flows.batches import downloaded, landed_batches
from flows.caption import caption
from flows.embed import embed
from flows.evaluate import evaluate
from flows.publish import publish
from flows.stages import RunContext, say


@flow(name="caption-nightly", flow_run_name="nightly {config}")
def caption_nightly(
    config: str = "sample",
    overrides: list[str] | None = None,
    data_dir: str | None = None,
    model_id: str = "",
    batch_ids: list[str] | None = None,
) -> dict[str, Any]:
    """Downloads, embeds, captions, scores where there are references, and publishes what is new.

    Batches are found in the lake, so a lost event loses nothing.

    Args:
        config: a .toml file or the name of a shipped one.
        overrides: section.key=value each.
        data_dir: the lake's root.
        model_id: another model than the one in production.
        batch_ids: only these batches (a backfill); all by default.
    """
    context = RunContext.of(load_config(config, overrides or []), "caption-nightly", data_dir)
    model = _model(context, model_id)
    batches = landed_batches(context, batch_ids)
    say("nightly", f"{len(batches)} batch(es), model {model.meta['model_id']}")
    context.used.append(model)
    shards: list[Shard] = []
    captions: list[Entry] = []
    for batch in batches:
        context.used.append(batch)
        new = embed(context, downloaded(context, batch), model.meta["encoder"])
        captions += caption(context, new, model)
        shards += new
    if captions:
        evaluate(context, model, captions, shards)
    report = publish(context)
    made = [entry for entry in context.used if entry.run_id == context.run_id]
    if not made:
        say("nightly", "nothing new: every batch is captioned by this model already")
    return {"run_id": context.run_id, "model_id": model.meta["model_id"], "new": len(made), "report": report}


def _model(context: RunContext, model_id: str) -> Entry:
    """The asked-for model, else the one in production.

    Raises:
        DataError: there is none.
    """
    wanted = model_id or context.index.generation.production_model_id
    models = {entry.meta["model_id"]: entry for entry in context.index.of_stage("train")}
    if not wanted:
        raise DataError(
            f"the lake {context.lake.address} has no model in production: `clipcap run` trains the first one"
        )
    if wanted not in models:
        raise DataError(f"there is no model {wanted!r} in the lake; there are: {', '.join(models) or 'none'}")
    return models[wanted]
