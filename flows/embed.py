"""Embedding: downloaded shards to embeddings."""

from __future__ import annotations

from clipcap.embedding.embed import HashIndex, embed_key
from clipcap.embedding.encoder import Encoder, get_encoder
from clipcap.storage.manifest import Entry
from clipcap.training.train_model import Shard
from flows.stages import Job, RunContext, run_jobs


def embed_jobs(context: RunContext, downloads: list[Entry], encoder: Encoder) -> list[Job]:
    named = {"encoder": encoder.name, "features": "embedding", "token_grid": 0}  # the name says what is stored
    config = context.config.embed.model_copy(update=named)
    index: list[HashIndex] = []  # built only if something is to be embedded

    def hash_index() -> HashIndex:
        if not index:
            same = (e for e in context.index.of_stage("embed") if e.meta["encoder_id"] == encoder.id)
            index.append(HashIndex(context.lake, same))
        return index[0]

    def task():  # type: ignore[no-untyped-def]
        from tasks.embed import embed_shard

        return embed_shard

    def job(shard: Entry) -> Job:
        return Job(
            f"embed/{encoder.id}/{shard.meta['batch_id']}/{shard.meta['shard_id']}",
            embed_key(shard, encoder),
            shard.rows.get("ok", 0),
            task,
            lambda: {"shard": shard, "config": config, "run_id": context.run_id,
                     "others": hash_index().files_for(shard)},
            lambda entry: hash_index().add(entry),
        )  # fmt: skip

    return [job(shard) for shard in downloads]


def embed(context: RunContext, downloads: list[Entry], encoder_name: str = "") -> list[Shard]:
    """Embeds shards one after the other: the encoder has the whole device, decoding its own processes.

    Args:
        encoder_name: another encoder than the configured one, for a model that was trained with it.
    """
    encoder = get_encoder(encoder_name or context.config.embed.encoder_name, context.config.embed.device)
    entries = run_jobs(context, "embed", embed_jobs(context, downloads, encoder))
    return [Shard(download, entry) for download, entry in zip(downloads, entries, strict=True)]
