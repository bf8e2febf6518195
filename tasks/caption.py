"""Captioning a shard."""

from __future__ import annotations

from typing import Any

from clipcap.config import CaptionConfig
from clipcap.decoding import caption_shard as core
from clipcap.decoding.caption_shard import get_captioner
from clipcap.embedding.encoder import resolve_device
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from tasks.policies import stage_task


@stage_task("caption", "caption {embed.meta[shard_id]} with {model_id}")
def caption_shard(
    key: str, data_dir: str, model_id: str, embed: Entry, config: CaptionConfig, device: str, run_id: str
) -> dict[str, Any]:
    lake = Lake(data_dir)
    captioner = get_captioner(lake.at_hand(lake.model(model_id)), resolve_device(device))
    return core.caption_shard(lake, embed, captioner, config, key, run_id).model_dump(mode="json")
