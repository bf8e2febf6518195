"""What is still to be made takes: seconds and bytes from what this lake has measured, and whether they fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clipcap.config import Config
from clipcap.errors import NoRoomError
from clipcap.storage.records import Entry
from flows.console import human_bytes
from flows.stages import Job, RunContext

_BYTES_OF_A_ROW = {
    "land": 300, "embed": 4_000, "embed_text": 20_000, "duplicates": 200, "caption": 600, "evaluate": 600
}  # fmt: skip
"""Before a stage was measured once; images and models have fields of their own in ``[limits]``."""


@dataclass
class StagePlan:
    """One stage of a plan; estimates are null until this lake has measured the stage once."""

    stage: str
    shards_cached: int = 0
    shards_to_do: int = 0
    rows_to_do: int = 0
    estimated_s: float | None = 0.0
    estimated_bytes: int | None = 0


def add_stage(
    context: RunContext, stages: list[StagePlan], stage: str, jobs: list[Job] | None, shards: int, rows: int
) -> list[Entry] | None:
    """Adds a stage's plan; its entries if all of them stand, else None, so that what follows is to do as well.

    Args:
        jobs: None where they depend on outputs that do not exist yet: then ``shards`` and ``rows`` are to do.
    """
    if not jobs:
        stages.append(estimate(context, StagePlan(stage, shards_to_do=shards, rows_to_do=rows)))
        return None
    entries = [context.index.find(job.id, job.key) for job in jobs]
    missing = [job for job, entry in zip(jobs, entries, strict=True) if entry is None]
    plan = StagePlan(stage, len(jobs) - len(missing), len(missing), sum(job.rows for job in missing))
    stages.append(estimate(context, plan))
    return None if missing else [entry for entry in entries if entry is not None]


def estimate(context: RunContext, plan: StagePlan) -> StagePlan:
    """Seconds and bytes from what this stage took for each row in this lake so far."""
    if plan.shards_to_do:
        rates = _rates(context, plan.stage)
        plan.estimated_s = rates[0] * plan.rows_to_do if rates else None
        plan.estimated_bytes = int(rates[1] * plan.rows_to_do) if rates else None
    return plan


def _rates(context: RunContext, stage: str) -> tuple[float, float] | None:
    if stage not in context.rates:
        measured = [(entry, sum(_rows(entry).values())) for entry in context.index.of_stage(stage)]
        rows = sum(count for _, count in measured)
        seconds = sum(entry.duration_s for entry, count in measured if count)
        size = sum(file.size_bytes for entry, count in measured if count for file in entry.files)
        context.rates[stage] = (seconds / rows, size / rows) if rows else None
    return context.rates[stage]


def add_up(plans: Iterable[list[StagePlan]]) -> list[StagePlan]:
    """Stages of several batches as one plan, in the order in which they first appear."""
    total: dict[str, StagePlan] = {}
    for plan in (stage for stages in plans for stage in stages):
        sums = total.setdefault(plan.stage, StagePlan(plan.stage))
        sums.shards_cached += plan.shards_cached
        sums.shards_to_do += plan.shards_to_do
        sums.rows_to_do += plan.rows_to_do
        sums.estimated_s = _plus(sums.estimated_s, plan.estimated_s)
        sums.estimated_bytes = _plus(sums.estimated_bytes, plan.estimated_bytes)
    return list(total.values())


def _plus(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other


def _rows(entry: Entry) -> dict[str, int]:
    count = entry.meta.get("train_images") or entry.meta.get("images")
    return entry.rows or ({"images": count} if count else {})


def needed_bytes(config: Config, stages: Iterable[StagePlan]) -> int:
    """All that the plan would write; what was never measured counts as ``[limits]`` says.

    A shard that is packed lies on the disk twice for a moment, and so does each that is downloaded beside it.
    """
    total = 0
    for plan in stages:
        size = plan.estimated_bytes
        if size is None:
            size = _assumed(config, plan)
        total += size
        if plan.stage == "download" and plan.shards_to_do:
            total += size * min(config.download.parallel_shards, plan.shards_to_do) // plan.shards_to_do
    return total


def _assumed(config: Config, plan: StagePlan) -> int:
    if plan.stage == "download":
        return int(plan.rows_to_do * config.limits.image_kib * 1024)
    if plan.stage == "train":
        return int(config.limits.model_mib * 2**20)
    return plan.rows_to_do * _BYTES_OF_A_ROW.get(plan.stage, 1_000)


def free_bytes(context: RunContext) -> int:
    """Of the disk that the lake, or the mirror of one in a bucket, is on."""
    folder = context.lake.root
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def room(context: RunContext, stages: Iterable[StagePlan]) -> dict[str, int | bool]:
    """``needed_bytes``, ``free_bytes``, and ``fits``: whether both agree with what is to be left free."""
    needed, free = needed_bytes(context.config, stages), free_bytes(context)
    reserve = int(context.config.limits.keep_free_gib * 2**30)
    return {"needed_bytes": needed, "free_bytes": free, "fits": not needed or needed + reserve <= free}


def require_room(context: RunContext, stages: Iterable[StagePlan], force: bool = False) -> None:
    """Refuses to begin what cannot end.

    Raises:
        NoRoomError: the estimate does not fit beside what is to be kept free.
    """
    found = room(context, stages)
    if force or not context.config.limits.check_disk or found["fits"]:
        return
    reserve = context.config.limits.keep_free_gib
    raise NoRoomError(
        f"the disk of {context.lake.root} has {human_bytes(found['free_bytes'])} free, and this run needs about "
        f"{human_bytes(found['needed_bytes'])} beside the {reserve:g} GiB that are to stay free "
        "(limits.keep_free_gib); nothing was begun. Make room (`clipcap maintenance` removes what nobody needs), take "
        "fewer batches, or start it all the same with --force (a deployment: force=true)"
    )
