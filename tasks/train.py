"""Training a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipcap.config import TrainConfig
from clipcap.embedding.encoder import resolve_device
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from clipcap.training import train_model as core
from tasks.policies import stage_task
from tasks.progress import show_training


@stage_task("train", "train {model_id}")
def train_model(
    key: str,
    data_dir: str,
    model_id: str,
    shards: list[core.Shard],
    config: TrainConfig,
    device: str,
    run_id: str,
    start: Entry | None = None,
    leave_out: Sequence[str] = (),
) -> dict[str, Any]:
    with show_training() as on_step:
        entry = core.train_model(
            Lake(data_dir), model_id, shards, config, key, run_id, resolve_device(device), on_step, start, leave_out
        )
    return entry.model_dump(mode="json")
