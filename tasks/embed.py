"""Embedding a shard."""

from __future__ import annotations

from typing import Any

from clipcap.config import EmbedConfig
from clipcap.embedding import duplicates, embed, embed_text
from clipcap.embedding.encoder import get_encoder
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
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


@stage_task("embed_text", "embed captions of {shard.meta[shard_id]}")
def embed_text_shard(key: str, data_dir: str, shard: Entry, config: EmbedConfig, run_id: str) -> dict[str, Any]:
    encoder = get_encoder(config.encoder_name, config.device, config.precision, config.compile)
    return embed_text.embed_text_shard(Lake(data_dir), shard, encoder, key, run_id).model_dump(mode="json")


@stage_task("duplicates", "near-duplicates in {batch[0].meta[batch_id]}")
def mark_duplicates(
    key: str, data_dir: str, batch: list[Entry], earlier: list[Entry], threshold: float, run_id: str
) -> dict[str, Any]:
    return duplicates.mark_duplicates(Lake(data_dir), batch, earlier, threshold, key, run_id).model_dump(mode="json")
