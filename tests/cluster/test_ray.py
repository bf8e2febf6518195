"""A real Ray cluster on this machine: the same rows, vectors and captions as without it, a killed worker included."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CONFIG = """
[dataset]
name = "cluster"
source = "{tars}"
[download]
shard_size = 12
[embed]
encoder = "builtin:sample"
device = "cpu"
[train]
prefix_length = 4
epochs = 2
warmup_steps = 0
learning_rate = 1e-3
[train.language_model]
name = "scratch"
layers = 1
heads = 2
hidden_size = 32
vocab_size = 300
[caption]
beam_size = 2
max_new_tokens = 12
[ray]
cpus_per_shard = 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of pictures; two of them are the same, and one cannot be decoded."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(72):
            stream = io.BytesIO()
            seed = 3 if number == 40 else number
            colour = np.random.default_rng(seed).integers(0, 256, 3)
            pixels = np.full((64, 64, 3), colour, np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            data = stream.getvalue()[: 100 if number == 50 else None]
            record = json.dumps({"caption": f"colour {rng.integers(9)}", "split": "train" if number % 6 else "test"})
            for name, content in ((f"{number:03d}.png", data), (f"{number:03d}.json", record.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    file = folder / "cluster.toml"
    file.write_text(CONFIG.format(tars=folder / "0.tar"))
    return file


def command(config: Path, lake: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "run", str(config), "--data-dir", str(lake), "--json", *options]


def environment(tmp: Path) -> dict[str, str]:
    return {**os.environ, "PREFECT_HOME": str(tmp / "prefect"), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": "/tmp",
            "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip


def contents(lake: Path) -> dict[str, dict[str, tuple]]:
    """What an analyst would see, without names of runs and times."""
    embeddings = pa.concat_tables(pq.read_table(f) for f in sorted((lake / "embeddings").rglob("*.parquet")))
    captions = pa.concat_tables(pq.read_table(f) for f in sorted((lake / "captions").rglob("*.parquet")))
    ledger = [row for f in sorted((lake / "ledger").rglob("*.parquet")) for row in pq.read_table(f).to_pylist()]
    return {
        "embeddings": {r["sample_key"]: (r["sha256"], tuple(r["clip_embedding"])) for r in embeddings.to_pylist()},
        "captions": {r["sample_key"]: (r["caption"], round(r["log_probability"], 3)) for r in captions.to_pylist()},
        "ledger": {f"{r['stage']} {r['sample_key']}": (r["status"], r["reason"]) for r in ledger},
    }


@pytest.fixture(scope="module")
def local(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple]]:
    tmp = tmp_path_factory.mktemp("local")
    subprocess.run(command(config, tmp / "lake"), env=environment(tmp), check=True, capture_output=True)
    found = contents(tmp / "lake")
    assert len(found["embeddings"]) == 71 and len(found["captions"]) == 71
    return found


def same(ours: dict[str, dict[str, tuple]], expected: dict[str, dict[str, tuple]]) -> None:
    assert ours["ledger"] == expected["ledger"]
    assert ours["embeddings"].keys() == expected["embeddings"].keys()
    for key, (sha, vector) in expected["embeddings"].items():
        assert ours["embeddings"][key][0] == sha
        np.testing.assert_allclose(ours["embeddings"][key][1], vector, atol=2e-2, rtol=2e-2)
    assert ours["captions"].keys() == expected["captions"].keys()


def test_shards_on_ray_are_the_shards_of_one_machine(config: Path, local, tmp_path: Path):
    pytest.importorskip("prefect_ray", reason="needs the extra ray")
    lake = tmp_path / "lake"
    told = subprocess.run(command(config, lake, "--set", "engine=ray"), env=environment(tmp_path), capture_output=True,
                          text=True)  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    assert "6 new" in told.stderr
    same(contents(lake), local)
    again = subprocess.run(command(config, lake), env=environment(tmp_path), capture_output=True, text=True)
    assert again.returncode == 0 and "embed     6 cached" in again.stderr, "without Ray the same entries are found"


def ray_workers(word: str) -> list[int]:
    """Processes in which Ray runs a task of that name now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "cmdline").read_bytes().startswith(f"ray::{word}".encode()):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def test_a_worker_that_is_killed_costs_its_shard_a_second_try(config: Path, local, tmp_path: Path):
    pytest.importorskip("prefect_ray", reason="needs the extra ray")
    lake = tmp_path / "lake"
    process = subprocess.Popen(command(config, lake, "--set", "engine=ray"), env=environment(tmp_path),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    killed: list[int] = []
    deadline = time.monotonic() + 300
    while not killed and process.poll() is None and time.monotonic() < deadline:
        for pid in ray_workers("embed")[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.01)
    out, err = process.communicate(timeout=600)
    assert killed, "no worker was seen at work"
    assert process.returncode == 0, err[-3000:]
    assert json.loads(out)["images"] > 0, out[:2000]
    same(contents(lake), local)


def test_no_shard_fits_is_one_clear_line(config: Path, tmp_path: Path):
    pytest.importorskip("prefect_ray", reason="needs the extra ray")
    told = subprocess.run(command(config, tmp_path / "lake", "--set", "engine=ray", "--set", "ray.gpus_per_shard=1"),
                          env=environment(tmp_path), capture_output=True, text=True)  # fmt: skip
    assert told.returncode != 0 and "no shard fits the cluster" in told.stderr, told.stderr[-2000:]
