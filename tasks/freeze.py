"""Freezing an evaluation set."""

from __future__ import annotations

from typing import Any

from clipcap.dataset import evaluation_set as core
from clipcap.storage.lake import Lake
from clipcap.training.train_model import Shard
from tasks.policies import stage_task


@stage_task("freeze", "freeze {name}")
def freeze_evaluation_set(
    key: str, data_dir: str, name: str, shards: list[Shard], split: str, run_id: str
) -> dict[str, Any]:
    return core.freeze(Lake(data_dir), name, shards, split, key, run_id).model_dump(mode="json")
