"""Landing and downloading: a source to a batch, a batch to shards."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow.parquet as pq

from clipcap.config import Config
from clipcap.dataset.download import download_key
from clipcap.dataset.land import Landing, plan_shards
from clipcap.errors import ConfigError
from clipcap.storage.records import Entry
from flows.console import counted
from flows.stages import Job, RunContext, run_jobs, say


def land_job(context: RunContext, landing: Landing) -> Job:
    def task():  # type: ignore[no-untyped-def]
        from tasks.download import land_batch

        return land_batch

    return Job(
        f"land/{landing.batch_id}", landing.content, len(landing.rows) + len(landing.refused), task,
        lambda: {"landing": landing, "run_id": context.run_id},
    )  # fmt: skip


def land(context: RunContext, landing: Landing) -> Entry:
    """Lands a source that was read; the same rows again are the same batch."""
    return run_jobs(context, "land", [land_job(context, landing)])[0]


def download_jobs(context: RunContext, batch: Entry, host_map: dict[str, str] | None = None) -> list[Job]:
    """``host_map`` may be filled until the jobs are submitted."""

    def task():  # type: ignore[no-untyped-def]
        from tasks.download import download_shard

        return download_shard

    def job(shard):  # type: ignore[no-untyped-def]
        return Job(
            f"download/{shard.batch_id}/{shard.shard_id}",
            context.keys[shard.shard_id],
            shard.stop - shard.start,
            task,
            lambda: {"job": shard, "config": context.config.download, "run_id": context.run_id,
                     "host_map": dict(host_map or {})},
        )  # fmt: skip

    batch_id = batch.meta["batch_id"]
    shards = plan_shards(batch_id, batch.rows["ok"], context.config.download.shard_size)
    if any(shard.shard_id not in context.keys for shard in shards):
        urls = pq.read_table(context.lake.at_hand(context.lake.urls(batch_id)))
        config = context.config.download
        context.keys |= {shard.shard_id: download_key(context.lake, shard, config, urls) for shard in shards}
    return [job(shard) for shard in shards]


def download(context: RunContext, batch: Entry) -> list[Entry]:
    """Downloads a batch. A batch whose shards all stand starts no server."""
    host_map: dict[str, str] = {}
    jobs = download_jobs(context, batch, host_map)
    missing = [job for job in jobs if not context.index.find(job.id, job.key)]
    if missing:
        say("download", f"{sum(job.rows for job in missing):,} rows to do, in {counted(len(missing), 'shard')} …")
    with local_server(context.config) if missing else nullcontext({}) as found:
        host_map.update(found)
        return run_jobs(context, "download", jobs, context.config.download.parallel_shards)


def local_server(config: Config) -> AbstractContextManager[dict[str, str]]:
    """The loopback server that the configuration asks for, as a context that yields its host map.

    Raises:
        ConfigError: the folder to serve does not exist.
    """
    from clipcap.dataset.serve import serve_folder, serve_sample

    if config.dataset.source == "builtin:sample":
        return serve_sample(config.sample, config.serve.port)
    if not config.serve.folder:
        return nullcontext({})
    folder = Path(config.serve.folder)
    if not folder.is_dir():
        raise ConfigError(f"serve.folder: there is no folder {folder}")
    return serve_folder(folder, config.serve.port)
