"""Embedding: downloaded shards to embeddings."""

from __future__ import annotations

import time
from collections import Counter
from itertools import cycle

from clipcap.embedding.duplicates import duplicates_key
from clipcap.embedding.embed import embed_key
from clipcap.embedding.embed_text import embed_text_key
from clipcap.embedding.encoder import Encoder, get_encoder, list_devices
from clipcap.embedding.hash_index import HashIndex
from clipcap.embedding.rates import describe
from clipcap.errors import DataError
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard
from flows.stages import Job, RunContext, run_jobs, say


def embed_jobs(context: RunContext, downloads: list[Entry], encoder: Encoder) -> list[Job]:
    named = {"encoder": encoder.name, "features": "embedding", "token_grid": 0}  # the name says what is stored
    config = context.config.embed.model_copy(update=named)
    is_local = context.config.engine == "local"
    if not is_local and config.workers < 0:  # the cores that a shard was given, not all of the machine that it is on
        config = config.model_copy(update={"workers": context.config.ray.cpus_per_shard})
    devices = cycle(list_devices(config.device) if is_local else [config.device])  # a cluster's machine has its own
    index: list[HashIndex] = []  # built only if something is to be embedded

    def hash_index() -> HashIndex:
        if not index:
            same = (e for e in context.index.of_stage("embed") if e.meta["encoder_id"] == encoder.id)
            index.append(HashIndex(context.lake, same, encoder.precision))
        return index[0]

    def task():  # type: ignore[no-untyped-def]
        from tasks.embed import embed_shard

        return embed_shard

    def job(shard: Entry) -> Job:
        return Job(
            f"embed/{encoder.id}/{shard.meta['batch_id']}/{shard.meta['shard_id']}",
            _key(shard, encoder),
            shard.rows.get("ok", 0),
            task,
            lambda: {"shard": shard, "config": config.model_copy(update={"device": next(devices)}),
                     "run_id": context.run_id, "others": hash_index().start(shard)},
            lambda entry: hash_index().add(entry),
            lambda: hash_index().must_wait(shard),
        )  # fmt: skip

    return [job(shard) for shard in downloads]


def _key(shard: Entry, encoder: Encoder) -> str:
    """Of an adopted shard, whose images were never here, the key that its embeddings came with.

    Raises:
        DataError: another encoder is asked for than the one that made them.
    """
    adopted = shard.meta.get("adopted")
    if adopted is None:
        return embed_key(shard, encoder)
    if adopted["encoder_id"] != encoder.id:
        raise DataError(
            f"batch {shard.meta['batch_id']} came as embeddings of {adopted['encoder_id']} without its images, and "
            f"{encoder.id} is asked for: use a model of that encoder, or leave the batch out (batch_ids)"
        )
    return str(adopted["embed_key"])


def embed(context: RunContext, downloads: list[Entry], encoder_name: str = "") -> list[Shard]:
    """Embeds shards, a few at a time on each device; decoding has processes of its own.

    Args:
        encoder_name: another encoder than the configured one, for a model that was trained with it.
    """
    config = context.config.embed
    encoder = get_encoder(encoder_name or config.encoder_name, config.device, config.precision, config.compile)
    jobs = embed_jobs(context, downloads, encoder)
    parallel = config.parallel_shards * len(list_devices(config.device))
    entries = run_jobs(context, "embed", _told(context, jobs), parallel)
    if config.captions:
        run_jobs(context, "embed_text", embed_text_jobs(context, downloads, encoder))
    if config.near_duplicates and entries:
        run_jobs(context, "duplicates", [duplicates_job(context, entries)])
    return [Shard(download, entry) for download, entry in zip(downloads, entries, strict=True)]


def _told(context: RunContext, jobs: list[Job]) -> list[Job]:
    """The same jobs; after each new shard a line says how far the stage is, and which part of it limits."""
    missing = [job for job in jobs if context.index.find(job.id, job.key) is None]
    total, started, sums, done = sum(job.rows for job in missing), time.monotonic(), Counter[str](), [0, 0]

    def told(job: Job) -> Job:
        def finished(entry: Entry, before=job.done) -> None:  # type: ignore[no-untyped-def]
            before(entry)
            facts = entry.meta.get("measured", {})
            sums.update({name: facts.get(name, 0) for name in ("encoded", "decode_s", "forward_s", "write_s")})
            done[0] += 1
            done[1] += job.rows
            seconds = time.monotonic() - started
            left_s = seconds / max(done[1], 1) * (total - done[1])
            cosine = facts.get("cosine_to_float32")
            precision = (
                f" · {facts.get('precision')}, cosine to float32 {cosine:.5f}" if cosine and done[0] == 1 else ""
            )
            say(
                "embed",
                f"{done[0]} of {len(missing)} shards · {done[1]:,} of {total:,} images · "
                f"{done[1] / max(seconds, 1e-9):,.0f}/s ({describe(sums)}) · {left_s:,.0f} s left{precision}",
            )

        job.done = finished
        return job

    return [told(job) for job in jobs]


def embed_text_jobs(context: RunContext, downloads: list[Entry], encoder: Encoder) -> list[Job]:
    config = context.config.embed.model_copy(
        update={"encoder": encoder.name, "features": "embedding", "token_grid": 0, "device": str(encoder.device)}
    )

    def task():  # type: ignore[no-untyped-def]
        from tasks.embed import embed_text_shard

        return embed_text_shard

    def job(shard: Entry) -> Job:
        return Job(
            f"embed_text/{encoder.id}/{shard.meta['batch_id']}/{shard.meta['shard_id']}",
            embed_text_key(shard, encoder), shard.rows.get("ok", 0), task,
            lambda: {"shard": shard, "config": config, "run_id": context.run_id},
        )  # fmt: skip

    return [job(shard) for shard in downloads]


def duplicates_job(context: RunContext, embeds: list[Entry]) -> Job:
    """Compares a batch with itself and with the batches that landed before it, published or embedded by this run."""
    batch_id, encoder_id = embeds[0].meta["batch_id"], embeds[0].meta["encoder_id"]
    landed = {e.meta["batch_id"]: e.created_at for e in context.index.of_stage("land")}
    landed |= {e.meta["batch_id"]: e.created_at for e in context.used if e.stage == "land"}
    before = {id for id, at in landed.items() if at < landed.get(batch_id, context.started_at)} - {batch_id}
    known = context.index.generation.entries | {entry.id: entry for entry in context.used}
    earlier = sorted(
        (e for e in known.values() if e.stage == "embed" and e.meta["encoder_id"] == encoder_id
         and e.meta["batch_id"] in before),
        key=lambda entry: (landed[entry.meta["batch_id"]], entry.id),
    )  # fmt: skip
    threshold = context.config.embed.near_duplicates

    def task():  # type: ignore[no-untyped-def]
        from tasks.embed import mark_duplicates

        return mark_duplicates

    return Job(
        f"duplicates/{encoder_id}/{batch_id}", duplicates_key(embeds, earlier, threshold),
        sum(entry.rows.get("ok", 0) for entry in embeds), task,
        lambda: {"batch": embeds, "earlier": earlier, "threshold": threshold, "run_id": context.run_id},
    )  # fmt: skip
