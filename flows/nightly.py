"""Nightly captioning: every batch of the lake that the production model has not captioned yet."""

from __future__ import annotations

from typing import Any

from prefect import flow

from clipcap.config import load_config
from clipcap.errors import DataError
from clipcap.storage.manifest import Entry
from clipcap.training.train_model import Shard
from flows.caption import caption
from flows.download import download
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
    batches = _batches(context, batch_ids or [])
    say("nightly", f"{len(batches)} batch(es), model {model.meta['model_id']}")
    context.used.append(model)
    shards: list[Shard] = []
    captions: list[Entry] = []
    for batch in batches:
        context.used.append(batch)
        new = embed(context, _downloaded(context, batch), model.meta["encoder"])
        captions += caption(context, new, model)
        shards += new
    if captions:
        evaluate(context, model, captions, shards)
    report = publish(context)
    made = [entry for entry in context.used if entry.run_id == context.run_id]
    if not made:
        say("nightly", "nothing new: every batch is captioned by this model already")
    return {"run_id": context.run_id, "model_id": model.meta["model_id"], "new": len(made), "report": report}


def _batches(context: RunContext, wanted: list[str]) -> list[Entry]:
    """The wanted batches, all by default.

    Raises:
        DataError: one of them did not land.
    """
    in_order = sorted(context.index.of_stage("land"), key=lambda entry: entry.created_at)
    landed = {entry.meta["batch_id"]: entry for entry in in_order}
    if unknown := [batch_id for batch_id in wanted if batch_id not in landed]:
        raise DataError(f"no batch {', '.join(unknown)} in the lake; there are: {', '.join(landed) or 'none'}")
    return [landed[batch_id] for batch_id in wanted or landed]


def _downloaded(context: RunContext, batch: Entry) -> list[Entry]:
    """A batch's shards as they were published, however they were cut and filtered; downloaded where there are none.

    Batches land and are downloaded under many configurations. A night run under another shard size than a batch's
    own must not fetch that batch again, least of all from a server of a sample that is described otherwise now.
    """
    published = context.index.generation.entries
    stand = [
        entry for entry in context.index.of_stage("download")
        if entry.meta["batch_id"] == batch.meta["batch_id"] and published.get(entry.id) == entry
    ]  # fmt: skip
    if sum(sum(entry.rows.values()) for entry in stand) != batch.rows["ok"]:
        return download(context, batch)
    context.used += stand
    say("download", f"{len(stand)} cached")
    return stand


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
