"""Scoring a model."""

from __future__ import annotations

from typing import Any

from clipcap.config import CaptionConfig, EvaluateConfig
from clipcap.decoding.caption_shard import get_captioner
from clipcap.embedding.encoder import resolve_device
from clipcap.metrics import evaluate_model as core
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import Entry
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
) -> dict[str, Any]:
    lake = Lake(data_dir)
    captioner = (
        get_captioner(lake.at_hand(lake.model(model_id)), resolve_device(device)) if config.shuffled_control else None
    )
    return core.evaluate_model(lake, captioner, model_id, captions, shards, config, decoding, key, run_id).model_dump(
        mode="json"
    )
