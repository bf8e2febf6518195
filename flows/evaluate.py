"""Evaluation: captions of one split against their references."""

from __future__ import annotations

from clipcap.metrics.evaluate_model import evaluate_key, read_references
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard
from flows.stages import Job, RunContext, run_jobs, say


def evaluate_job(context: RunContext, model: Entry, captions: list[Entry], shards: list[Shard]) -> Job:
    model_id, config = model.meta["model_id"], context.config.evaluate
    training = training_entries(context, model)
    key = evaluate_key(captions, shards, config, training)

    def task():  # type: ignore[no-untyped-def]
        from tasks.evaluate import evaluate_model

        return evaluate_model

    return Job(
        f"evaluate/{model_id}/{config.split}/{key[:12]}", key, sum(c.rows.get("ok", 0) for c in captions), task,
        lambda: {"model_id": model_id, "captions": captions, "shards": shards, "config": config,
                 "decoding": context.config.caption, "device": context.config.embed.device,
                 "run_id": context.run_id, "training": training},
    )  # fmt: skip


def training_entries(context: RunContext, model: Entry) -> list[Entry] | None:
    """Download entries of the shards that the model was trained on; None where one is gone, or the model was imported.

    Training records which files of embeddings it read, and these stand beside their shard's download.
    """
    known = [*context.index.of_stage("embed"), *context.index.of_stage("download"), *context.used]
    embeds = {entry.file("embeddings").path: entry for entry in known if entry.stage == "embed"}
    downloads = {(e.meta["batch_id"], e.meta["shard_id"]): e for e in known if e.stage == "download"}
    read = [embeds.get(path) for path in model.meta.get("embeddings", [])]
    found = [downloads.get((e.meta["batch_id"], e.meta["shard_id"])) if e else None for e in read]
    training = [entry for entry in found if entry is not None]
    return training if training and len(training) == len(found) else None


def evaluate(context: RunContext, model: Entry, captions: list[Entry], shards: list[Shard]) -> Entry | None:
    """Scores the configured split; None where none of its images has a reference."""
    if not read_references(context.lake, shards, context.config.evaluate.split):
        say("evaluate", f"skipped: no image of split {context.config.evaluate.split!r} has a reference caption")
        return None
    return run_jobs(context, "evaluate", [evaluate_job(context, model, captions, shards)])[0]
