"""Landing a batch and downloading a shard."""

from __future__ import annotations

from typing import Any

from clipcap.config import DownloadConfig
from clipcap.dataset import download, land
from clipcap.storage.lake import Lake
from tasks.policies import stage_task
from tasks.progress import show_download


@stage_task("land", "land {landing.batch_id}")
def land_batch(key: str, data_dir: str, landing: land.Landing, run_id: str) -> dict[str, Any]:
    return land.land(Lake(data_dir), landing, run_id).model_dump(mode="json")


@stage_task("download", "download {job.shard_id}")
def download_shard(
    key: str, data_dir: str, job: land.ShardJob, config: DownloadConfig, run_id: str, host_map: dict[str, str]
) -> dict[str, Any]:
    lake = Lake(data_dir)
    with show_download(lake, job.shard_id, job.stop - job.start):
        return download.download_shard(lake, job, config, key, run_id, host_map).model_dump(mode="json")
