"""The whole chain in a bucket of a real S3 server on loopback, seen from two machines, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = ["sample.scenes=60", "download.shard_size=16", "train.epochs=1", "serve.port=8799"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    pytest.importorskip("moto", reason="needs the extra test-slow")
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def machine(endpoint: str, tmp_path: Path):
    """The environment of a machine by name: the same bucket, a cache of its own."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint}  # fmt: skip

    def environment(name: str) -> dict[str, str]:
        return {**os.environ, **keys, "CLIPCAP_CACHE_DIR": str(tmp_path / name), "PREFECT_HOME": str(tmp_path / "p"),
                "OMP_NUM_THREADS": "1"}  # fmt: skip

    import boto3

    bucket = f"b{os.getpid()}-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test",
                          aws_secret_access_key="test")  # fmt: skip
    client.create_bucket(Bucket=bucket)
    environment.bucket, environment.client = bucket, client
    return environment


def run(lake: str) -> list[str]:
    options = [part for value in SMALL for part in ("--set", value)]
    return [sys.executable, "-m", "flows.cli", "run", "sample", "--data-dir", lake, "--json", *options]


def sql(lake: str, environment: dict[str, str], statement: str) -> list[dict]:
    command = [sys.executable, "-m", "flows.cli", "sql", statement, "--data-dir", lake, "--json"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def names(machine) -> set[str]:
    pages = machine.client.get_paginator("list_objects_v2").paginate(Bucket=machine.bucket)
    return {item["Key"].removeprefix("lake/") for page in pages for item in page.get("Contents", [])}


def test_a_bucket_is_a_lake(machine):
    lake = f"s3://{machine.bucket}/lake"
    here, there = machine("here"), machine("there")
    first = subprocess.run(run(lake), env=here, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    objects = names(machine)
    assert {"CURRENT", "catalog.duckdb", "manifests/1.json"} <= objects
    assert not any(name.startswith((".", "manifests/pending")) or "/." in name for name in objects)
    outcome = json.loads(first.stdout)

    asked = time.time()
    again = subprocess.run(run(lake), env=there, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    for stage in ("download", "embed", "train", "caption", "evaluate"):
        [line] = [line for line in again.stderr.splitlines() if f" {stage} " in line]
        assert " cached" in line and " new" not in line, line
    newer = machine.client.list_objects_v2(Bucket=machine.bucket)["Contents"]
    assert not [o["Key"] for o in newer if o["LastModified"].timestamp() > asked + 1 and "embeddings" in o["Key"]]

    question = "select count(*) as n, count(distinct caption) > 1 as differ from captions"
    [counts] = sql(lake, machine("third"), question)
    assert counts["n"] == sql(lake, here, question)[0]["n"] > 50 and counts["differ"]
    assert sql(lake, there, "select model_id from models")[0]["model_id"] == outcome["model_id"]
    report = subprocess.run(
        [sys.executable, "-m", "flows.cli", "report", "--data-dir", lake], env=machine("third"), capture_output=True,
        text=True,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    assert f"reports/{outcome['run_id']}/index.html" in names(machine)


def test_two_that_publish_at_once(machine):
    lake = f"s3://{machine.bucket}/lake"
    script = """
import sys, clipcap
from clipcap.storage.commit import commit_bytes
from clipcap.storage.lake import Lake
from clipcap.storage.entries import Recorder
from clipcap.storage.manifest import commit_generation
lake, who = Lake(sys.argv[1]), sys.argv[2]
for number in range(6):
    path = lake.ledger("embed", "b", f"{who}-{number}")
    with Recorder(lake, "embed", f"embed/{who}/{number}", "k", "r") as out:
        commit_bytes(who.encode(), path)
        out.add("ledger", path)
    commit_generation(lake, [out.entry])
"""
    both = [subprocess.Popen([sys.executable, "-c", script, lake, who], env=machine(who)) for who in ("a", "b")]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    last = max(int(name.split("/")[1][:-5]) for name in names(machine) if name.startswith("manifests/"))
    body = machine.client.get_object(Bucket=machine.bucket, Key=f"lake/manifests/{last}.json")["Body"].read()
    assert last == 12 and len(json.loads(body)["entries"]) == 12


def test_a_killed_run_goes_on_from_its_shards(machine):
    lake, here = f"s3://{machine.bucket}/lake", machine("here")
    process = subprocess.Popen(run(lake), env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    while process.poll() is None and sum("embeddings/" in name for name in names(machine)) < 1:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {name for name in names(machine) if "embeddings/" in name}
    assert done and "CURRENT" not in names(machine)
    before = {name: machine.client.head_object(Bucket=machine.bucket, Key=f"lake/{name}")["ETag"] for name in done}
    again = subprocess.run(run(lake), env=machine("another"), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    after = {name: machine.client.head_object(Bucket=machine.bucket, Key=f"lake/{name}")["ETag"] for name in done}
    assert after == before
    [counts] = sql(lake, here, "select count(*) as n, count(distinct sample_key) as keys from captions")
    assert counts["n"] == counts["keys"] > 50
