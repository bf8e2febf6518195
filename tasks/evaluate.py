"""Scoring a model."""

from __future__ import annotations

from typing import Any

from clipcap.config import CaptionConfig, EvaluateConfig
from clipcap.decoding.caption_shard import get_captioner
from clipcap.embedding.encoder import resolve_device
from clipcap.metrics import evaluate_model as core
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard
from tasks.policies import stage_task


@stage_task("evaluate", "evaluate {model_id}")
def evaluate_model(
    key: str,
    data_dir: str,
    model_id: str,
    captions: list[Entry],
    shards: list[Shard],
    config: EvaluateConfig,
    decoding: CaptionConfig,
    device: str,
    run_id: str,
    training: list[Entry] | None = None,
) -> dict[str, Any]:
    lake, device = Lake(data_dir), resolve_device(device)
    captioner = get_captioner(lake.at_hand(lake.model(model_id)), device) if config.shuffled_control else None
    entry = core.evaluate_model(
        lake, captioner, model_id, captions, shards, config, decoding, key, run_id, training, device
    )
    return entry.model_dump(mode="json")
