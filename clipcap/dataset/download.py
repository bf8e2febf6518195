"""Downloading one shard: img2dataset fetches through the guard; its statistics are believed, never its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import DownloadConfig
from clipcap.dataset.extract import extract
from clipcap.dataset.guard.policy import Policy
from clipcap.dataset.land import ShardJob
from clipcap.dataset.shards import Fetched, pack_shard
from clipcap.errors import ConfigError, TransientError
from clipcap.storage.commit import scratch_folder
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import write_ledger
from clipcap.storage.records import Entry

VERSION = 3
SCHEME = "guard"  # of clipcap.dataset.guard.worker, which only img2dataset's processes import
_FACTS = ["sample_key", "key", "status", "error_message", "sha256"]


def download_key(lake: Lake, job: ShardJob, config: DownloadConfig, urls: pa.Table | None = None) -> str:
    """Cache key: the shard's rows and what decides which images are kept, not how fast they are fetched."""
    rows = job.read(lake, urls).select(["sample_key", "url", "captions", "split"]).to_pylist()
    return digest([VERSION, rows, config.decides()])


def download_shard(
    lake: Lake,
    job: ShardJob,
    config: DownloadConfig,
    key: str,
    run_id: str = "",
    host_map: Mapping[str, str] | None = None,
) -> Entry:
    """Fetches a shard's URLs, or copies what is in tars already, and commits its tar, its parquet and its ledger.

    Args:
        key: from :func:`download_key`.
        host_map: where a host of the URLs really is, for example ``{"127.0.0.1:8765": "127.0.0.1:43121"}``.

    Raises:
        TransientError: img2dataset did not account for every row; trying again may help.
    """
    rows = job.read(lake)
    with (
        Recorder(
            lake, "download", f"download/{job.batch_id}/{job.shard_id}", key, run_id,
            batch_id=job.batch_id, shard_id=job.shard_id,
        ) as out,
        scratch_folder(lake, f"download-{job.shard_id}") as folder,
    ):  # fmt: skip
        if "location" in rows.column_names:
            fetched = extract(rows, folder / "00000.tar", config.max_image_bytes)
        else:
            fetched = _fetch(rows, folder, config, host_map or {})
        raw_tars = sorted(folder.glob("*.tar"))
        tar = lake.shard(job.batch_id, job.shard_id, "tar")
        table = lake.shard(job.batch_id, job.shard_id, "parquet")
        outcomes = pack_shard(rows, fetched, raw_tars, tar, table, job, config)
        ledger = lake.ledger("download", job.batch_id, job.shard_id)
        out.rows = write_ledger(ledger, "download", job.batch_id, job.shard_id, outcomes)
        out.add("shard_tar", tar)
        out.add("shard", table)
        out.add("ledger", ledger)
    return out.entry


def _fetch(rows: pa.Table, folder: Path, config: DownloadConfig, host_map: Mapping[str, str]) -> dict[str, Fetched]:
    """Runs img2dataset on the rows; what it says of each, by sample_key."""
    urls = [f"{SCHEME}:{url}" for url in rows["url"].to_pylist()]
    todo, policy = folder / "urls.parquet", folder / "policy.json"
    policy.write_text(Policy.of(config, host_map).dumps(), encoding="utf-8")
    pq.write_table(pa.table({"sample_key": rows["sample_key"], "url": urls}), todo)
    options = {
        "url_list": todo,
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": '["sample_key"]',
        "output_folder": folder / "out",
        "output_format": "webdataset",
        "number_sample_per_shard": max(-(-rows.num_rows // config.processes), 2),
        "processes_count": config.processes,
        "distributor": config.distributor,
        "thread_count": config.threads,
        "policy": policy,
        "retries": 0,  # the guard asks again, and only where that may help
        "disallowed_header_directives": "[]",  # the guard obeys them, before it reads a body
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": "sha256",
        "incremental_mode": "incremental",  # the folder is new; "overwrite" deletes its own temporary folder
        "enable_wandb": False,
    }
    # A process of its own: img2dataset calls signal.signal, which only a main thread may.
    command = [sys.executable, "-c", "from clipcap.dataset.guard.worker import main; main()"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    environment.setdefault("PYSPARK_PYTHON", sys.executable)
    _must_have(config.distributor)
    log = folder / "img2dataset.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
        try:
            process.wait(timeout=120 + _slowest_s(rows.num_rows, config))
        except subprocess.TimeoutExpired as error:
            raise TransientError(f"img2dataset was stopped after {error.timeout:.0f} s without an end") from None
        finally:
            process.kill()  # where this process is interrupted, nothing goes on behind its back
            process.wait()
    return _read_results(folder, rows.num_rows, log)


def _must_have(distributor: str) -> None:
    """img2dataset returns without a word where its distributor's package is missing.

    Raises:
        ConfigError: it is not installed.
    """
    extra = {"ray": "ray", "pyspark": "spark"}.get(distributor)
    if extra and find_spec(distributor) is None:
        raise ConfigError(
            f"download.distributor: {distributor!r} is not installed here: pip install 'clipcap-pipeline[{extra}]'"
        )


def _slowest_s(rows: int, config: DownloadConfig) -> float:
    """Seconds after which not even the slowest servers are an excuse: each URL at its deadline, all on one host."""
    shares = config.processes * config.parallel_shards
    side_by_side = min(config.threads, max(config.host_connections // shares, 1))
    return config.deadline_s * (2 + rows / side_by_side) + (rows * shares / config.host_rate if config.host_rate else 0)


def _read_results(folder: Path, expected: int, log: Path) -> dict[str, Fetched]:
    """Believes only complete files: statistics that count every row, and Parquet files that have every row."""
    out, counted, tables = folder / "out", 0, []
    names = sorted({file.name[:5] for file in out.glob("0*")}) or ["00000"]
    try:
        for name in names:  # of img2dataset's own shards
            os.replace(out / f"{name}.tar", folder / f"{name}.tar")
            counted += json.loads((out / f"{name}_stats.json").read_text())["count"]
            tables.append(pq.read_table(out / f"{name}.parquet").select(_FACTS))
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["(it printed nothing)"]
        raise TransientError(f"img2dataset did not finish the shard ({type(error).__name__}): {last[0]}") from None
    found = sum(table.num_rows for table in tables)
    if counted != expected or found != expected:
        raise TransientError(
            f"img2dataset accounts for {counted} rows in its statistics and {found} in its parquet; expected {expected}"
        )
    return {
        row["sample_key"]: Fetched(row["key"], row["status"] == "success", row["error_message"] or "", row["sha256"])
        for table in tables
        for row in table.to_pylist()
    }
