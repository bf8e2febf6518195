"""Frozen evaluation sets: found where there is one, made where there is none."""

from __future__ import annotations

from clipcap.dataset.evaluation_set import count_candidates, entry_id, find_evaluation_set, freeze_key
from clipcap.storage.records import Entry
from clipcap.training.gate import too_few
from clipcap.training.train_model import Shard
from flows.stages import Job, RunContext, run_jobs, say


def freeze_job(context: RunContext, name: str, shards: list[Shard], split: str) -> Job:
    def task():  # type: ignore[no-untyped-def]
        from tasks.freeze import freeze_evaluation_set

        return freeze_evaluation_set

    return Job(
        entry_id(name), freeze_key(shards, split), sum(shard.embed.rows.get("ok", 0) for shard in shards), task,
        lambda: {"name": name, "shards": shards, "split": split, "run_id": context.run_id},
    )  # fmt: skip


def evaluation_set(context: RunContext, shards: list[Shard]) -> tuple[Entry | None, str]:
    """The gate's evaluation set; made of ``evaluate.split`` when it is first needed and there are images enough.

    Returns:
        Its entry, or None and why nothing can be judged.
    """
    gate = context.config.gate
    found = find_evaluation_set(context.index, gate.evaluation_set)
    if found is not None:
        context.used.append(found)
        images = found.meta["images"]
        say("freeze", f"cached · {gate.evaluation_set} · {images:,} images")
        return (found, "") if images >= gate.min_images else (None, too_few(images, gate))
    images = count_candidates(context.lake, shards, context.config.evaluate.split)
    if images < gate.min_images:
        return None, too_few(images, gate)
    made = run_jobs(
        context, "freeze", [freeze_job(context, gate.evaluation_set, shards, context.config.evaluate.split)]
    )
    say("freeze", f"{gate.evaluation_set} · {images:,} images of split {context.config.evaluate.split}")
    return made[0], ""
