"""Embedding a shard."""

from __future__ import annotations

from typing import Any

from clipcap.config import EmbedConfig
from clipcap.embedding import embed
from clipcap.embedding.encoder import get_encoder
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import Entry
from tasks.policies import stage_task
from tasks.progress import show_embedding


@stage_task("embed", "embed {shard.meta[shard_id]}")
def embed_shard(
    key: str, data_dir: str, shard: Entry, config: EmbedConfig, run_id: str, others: list[str]
) -> dict[str, Any]:
    encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
    with show_embedding(shard.meta["shard_id"]) as on_batch:
        entry = embed.embed_shard(Lake(data_dir), shard, encoder, config, key, run_id, others, on_batch)
    return entry.model_dump(mode="json")
