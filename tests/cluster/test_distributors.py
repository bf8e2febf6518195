"""img2dataset's own distributors: the same account of every row, whoever fetches it."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcap.config import DownloadConfig
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.land import URLS_SCHEMA, ShardJob
from clipcap.errors import ConfigError
from clipcap.storage.lake import Lake

BATCH, ROWS = "spread-0a1b2c3d", 23


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    for number in range(0, ROWS, 2):  # every second one is not there
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "PNG")
        (folder / f"{number}.png").write_bytes(stream.getvalue())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetched(root: Path, address: str, **options: object) -> tuple[dict[str, int], list[dict]]:
    lake, job = Lake(root), ShardJob(BATCH, "0a1b2c3d-00000", 0, ROWS)
    rows = [{"sample_key": f"0a1b2c3d-{n:07d}", "url": f"{address}/{n}.png", "captions": [str(n)], "split": "",
             "source_row": n} for n in range(ROWS)]  # fmt: skip
    lake.urls(BATCH).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=URLS_SCHEMA), lake.urls(BATCH))
    here = address.removeprefix("http://")
    config = DownloadConfig(retries=0, timeout_s=10, threads=2, allow_hosts=(here,), host_rate=0, **options)
    entry = download_shard(lake, job, config, download_key(lake, job, config))
    return entry.rows, pq.read_table(lake.absolute(entry.file("shard").path)).to_pylist()


@pytest.fixture(scope="module")
def expected(address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], list[dict]]:
    rows, table = fetched(tmp_path_factory.mktemp("one") / "lake", address)
    assert rows == {"ok": 12, "failed": 11} and [row["captions"] for row in table] == [
        [str(n)] for n in range(0, 23, 2)
    ]
    return rows, table


@pytest.mark.parametrize("processes", [2, 3, 30])
def test_slices_in_several_processes(address: str, expected, tmp_path: Path, processes: int):
    assert fetched(tmp_path / "lake", address, processes=processes) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("distributor", ["ray", "pyspark"])
def test_on_a_cluster(address: str, expected, tmp_path: Path, distributor: str):
    pytest.importorskip(distributor, reason=f"needs the extra of {distributor}")
    if distributor == "pyspark" and shutil.which("java") is None:
        pytest.skip("Spark needs a Java runtime")
    assert fetched(tmp_path / "lake", address, processes=2, distributor=distributor) == expected


def test_a_distributor_that_is_not_installed_is_one_clear_line(address: str, tmp_path: Path, monkeypatch):
    from clipcap.dataset import download as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pyspark" else find_spec(name))
    with pytest.raises(ConfigError, match=r"'pyspark' is not installed here: pip install 'clipcap-pipeline\[spark\]'"):
        fetched(tmp_path / "lake", address, distributor="pyspark")
