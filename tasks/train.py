"""Training a model."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from clipcap.config import TrainConfig
from clipcap.embedding.encoder import resolve_device
from clipcap.storage.lake import Lake
from clipcap.training import train_model as core
from tasks.policies import stage_task

if TYPE_CHECKING:
    from clipcap.training.train import Progress

_SECONDS_BETWEEN_LINES = 10.0


@stage_task("train", "train {model_id}")
def train_model(
    key: str, data_dir: str, model_id: str, shards: list[core.Shard], config: TrainConfig, device: str, run_id: str
) -> dict[str, Any]:
    entry = core.train_model(
        Lake(data_dir), model_id, shards, config, key, run_id, resolve_device(device), _log_progress()
    )
    return entry.model_dump(mode="json")


def _log_progress() -> Any:
    """A line every few seconds and one at the end of each epoch."""
    log, last = logging.getLogger("clipcap.train"), [0.0]

    def on_step(line: Progress) -> None:
        if line.val_loss is None and time.monotonic() - last[0] < _SECONDS_BETWEEN_LINES:
            return
        last[0] = time.monotonic()
        left_s = line.seconds / max(line.step, 1) * (line.steps - line.step)
        validation = "" if line.val_loss is None else f" · val loss {line.val_loss:.3f}"
        log.info(
            "train     epoch %d, step %d of %d · loss %.3f%s · %.0f captions/s · %.0f s left",
            line.epoch, line.step, line.steps, line.loss, validation, line.samples_per_s, left_s,
        )  # fmt: skip

    return on_step
