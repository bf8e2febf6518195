"""The real img2dataset against a real server on loopback: what it fetches, what it says, and when it is not believed.

One run of it is shared by most tests here; a second one shows that two downloads give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcap.config import DownloadConfig, SampleConfig
from clipcap.dataset import download as module
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.land import URLS_SCHEMA, ShardJob, plan_shards
from clipcap.dataset.sample import sample_rows
from clipcap.dataset.serve import serve_sample
from clipcap.dataset.shards import read_shard
from clipcap.errors import TransientError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex

SAMPLE = SampleConfig(scenes=12, image_size=64)
CONFIG = DownloadConfig(threads=8, timeout_s=5, retries=2, min_image_size=32)
BATCH = "sample-0a1b2c3d"
JOB = ShardJob(BATCH, "0a1b2c3d-00000", 0, 100)


def closed_port() -> int:
    """One that nothing listens on, taken by nobody while the tests run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def landed(lake: Lake, rows: list[dict]) -> ShardJob:
    numbered = [
        {"sample_key": f"0a1b2c3d-{n:07d}", "captions": [], "split": "", "source_row": n} | row
        for n, row in enumerate(rows)
    ]
    path = lake.urls(BATCH)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(numbered, schema=URLS_SCHEMA), path)
    return plan_shards(BATCH, len(rows), 1000)[0]


class Downloaded:
    def __init__(self, root: Path, port: int, local: list[Path]) -> None:
        """The sample as it would land (its one duplicate is refused there), and files of this machine."""
        self.lake = Lake(root)
        rows = list({row["url"]: row for row in sample_rows(SAMPLE, port)}.values())
        rows += [{"url": file.as_uri()} for file in local]
        self.job = landed(self.lake, rows)
        self.rows = pq.read_table(self.lake.urls(BATCH)).to_pylist()
        self.key = download_key(self.lake, self.job, CONFIG)
        with serve_sample(SAMPLE, port) as host_map:
            self.entry = download_shard(self.lake, self.job, CONFIG, self.key, "run", host_map)
        self.tar, self.table = (self.lake.shard(BATCH, self.job.shard_id, kind) for kind in ("tar", "parquet"))

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """By the last part of the URL."""
        ledger = pq.read_table(self.lake.ledger("download", BATCH, self.job.shard_id)).to_pylist()
        return {row["image_url"].rpartition("/")[2]: (row["status"], row["reason"]) for row in ledger}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local files")
    Image.new("RGB", (50, 40), "red").save(folder / "a photo #1 100% ü.png")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return closed_port()


@pytest.fixture(scope="module")
def done(tmp_path_factory, folder: Path, port: int) -> Downloaded:
    files = [folder / "a photo #1 100% ü.png", folder / "gone.jpg"]
    return Downloaded(tmp_path_factory.mktemp("one") / "lake", port, files)


def test_every_row_has_one_outcome(done: Downloaded):
    ledger = pq.read_table(done.lake.ledger("download", BATCH, done.job.shard_id)).to_pylist()
    assert [row["sample_key"] for row in ledger] == [row["sample_key"] for row in done.rows]
    assert sum(done.entry.rows.values()) == len(done.rows) == 12 + 7 + 2
    assert done.entry.rows == {"ok": 12 + 3 + 1, "failed": 3, "filtered": 1, "opted_out": 1}


def test_planted_trouble_ends_with_its_own_reason(done: Downloaded):
    outcomes = done.outcomes()
    assert outcomes["missing.jpg"] == ("failed", "not downloaded: HTTP Error 404: Not Found")
    assert outcomes["tiny.jpg"] == ("filtered", "16 x 16 pixels, below the minimum edge of 32")
    assert outcomes["opted_out.jpg"] == ("opted_out", "the server's X-Robots-Tag header forbids this use")
    assert outcomes["text.jpg"][0] == "failed" and "not an image of a known kind" in outcomes["text.jpg"][1]
    assert outcomes["slow.jpg"] == ("ok", "")
    assert outcomes["unavailable.jpg"] == ("ok", ""), "healed when it was asked again"
    assert outcomes["truncated.jpg"] == ("ok", ""), "the embed stage finds out"
    assert all(outcomes[f"{n:06d}.jpg"] == ("ok", "") for n in range(12))


def test_files_of_this_machine(done: Downloaded, folder: Path):
    outcomes = done.outcomes()
    assert outcomes["gone.jpg"][0] == "failed" and "No such file" in outcomes["gone.jpg"][1]
    [row] = [row for row in read_shard(done.tar, done.table)[0] if row["format"] == "png"]
    [file] = folder.iterdir()
    assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (row["width"], row["height"]) == (50, 40)


def test_bytes_are_kept_as_they_were_served(done: Downloaded, port: int):
    rows, stream = read_shard(done.tar, done.table)
    with serve_sample(SAMPLE, port) as host_map:
        for row, data in zip(rows, stream, strict=True):
            assert hashlib.sha256(data).hexdigest() == row["sha256"] and len(data) == row["size_bytes"]
            if "/scenes/" in row["image_url"]:
                url = row["image_url"]
                for asked, real in host_map.items():
                    url = url.replace(asked, real)
                with urllib.request.urlopen(url, timeout=10) as answer:
                    assert answer.read() == data


def test_the_shard_is_sorted_and_carries_captions_and_splits(done: Downloaded):
    table = pq.read_table(done.table)
    keys = table["sample_key"].to_pylist()
    assert keys == sorted(keys)
    wanted = {row["sample_key"]: (row["url"], row["captions"], row["split"]) for row in done.rows}
    for row in table.to_pylist():
        assert (row["image_url"], row["captions"], row["split"]) == wanted[row["sample_key"]]
        assert (row["batch_id"], row["shard_id"]) == (BATCH, done.job.shard_id)
    with tarfile.open(done.tar) as archive:
        names = [name for name in archive.getnames() if not name.endswith(".json")]
    assert names == table["member"].to_pylist()


def test_nothing_is_left_behind_and_the_entry_stands(done: Downloaded):
    assert list(done.lake.scratch.iterdir()) == []
    assert EntryIndex(done.lake).find(f"download/{BATCH}/{done.job.shard_id}", done.key) == done.entry
    assert [file.kind for file in done.entry.files] == ["shard_tar", "shard", "ledger"]


def test_two_downloads_give_the_same_bytes_on_whatever_port(done: Downloaded, tmp_path: Path, folder: Path, port: int):
    with socket.socket() as taken:  # the preferred port is in use, so the host map comes into play
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        again = Downloaded(tmp_path / "lake", port, [folder / "a photo #1 100% ü.png", folder / "gone.jpg"])
    assert again.tar.read_bytes() == done.tar.read_bytes()
    assert pq.read_table(again.table).equals(pq.read_table(done.table))
    assert again.outcomes() == done.outcomes()
    assert again.key == done.key


class TestKey:
    ROWS = [{"url": f"http://a/{n}", "captions": ["c"], "split": "train"} for n in range(3)]

    def key(self, lake: Lake, rows: list[dict], **config) -> str:
        return download_key(lake, landed(lake, rows), CONFIG.model_copy(update=config))

    def test_rows_and_limits_decide_it(self, tmp_path: Path):
        lake = Lake(tmp_path)
        key = self.key(lake, self.ROWS)
        assert self.key(lake, self.ROWS) == key
        for column, value in (("url", "http://b/"), ("captions", []), ("split", "val")):
            assert self.key(lake, [*self.ROWS[:2], self.ROWS[2] | {column: value}]) != key
        assert self.key(lake, self.ROWS[:2]) != key
        assert self.key(lake, self.ROWS, min_image_size=33) != key
        assert self.key(lake, self.ROWS, max_image_pixels=99) != key
        for name, value in (("max_image_bytes", 9), ("robots", False), ("ports", (80,)), ("allow_hosts", ("a",))):
            assert self.key(lake, self.ROWS, **{name: value}) != key, name

    def test_speed_does_not(self, tmp_path: Path):
        lake = Lake(tmp_path)
        key = self.key(lake, self.ROWS)
        assert self.key(lake, self.ROWS, threads=99, timeout_s=99, retries=9, parallel_shards=9) == key
        assert self.key(lake, self.ROWS, deadline_s=9, host_rate=0, host_connections=1, user_agent="x") == key
        assert self.key(lake, self.ROWS, ports=(8443, 8080, 443, 80)) == key


class TestUnfinished:
    """img2dataset's place is taken by a process that leaves what a broken run of it leaves."""

    GOOD_ROW = {"sample_key": "0a1b2c3d-0000000", "key": "000000000", "status": "failed_to_download",
                "error_message": "HTTP Error 404: Not Found", "sha256": None}  # fmt: skip

    @pytest.fixture
    def attempt(self, tmp_path: Path, monkeypatch):
        """Writes files into the output folder, exits with a code, and downloads."""

        def attempt(files: dict[str, bytes], code: int = 0, rows: int = 1):
            class Process(module.subprocess.Popen):
                def __init__(self, command: list[str], **options) -> None:
                    out = next(Path(word.partition("=")[2]) for word in command if "output_folder" in word)
                    out.mkdir()
                    for name, content in files.items():
                        (out / name).write_bytes(content)
                    print_and_exit = f"import sys; print('something happened'); sys.exit({code})"
                    super().__init__([command[0], "-c", print_and_exit], **options)

            monkeypatch.setattr(module.subprocess, "Popen", Process)
            lake = Lake(tmp_path / "lake")
            job = landed(lake, [{"url": f"http://127.0.0.1:1/{n}"} for n in range(rows)])
            try:
                return download_shard(lake, job, CONFIG, "key")
            finally:
                self.left = [file.name for file in lake.root.rglob("*") if file.is_file()]

        return attempt

    def results(self, rows: list[dict], counted: int) -> dict[str, bytes]:
        table, tar = io.BytesIO(), io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), table)
        tarfile.open(fileobj=tar, mode="w").close()
        return {
            "00000_stats.json": json.dumps({"count": counted}).encode(),
            "00000.parquet": table.getvalue(),
            "00000.tar": tar.getvalue(),
        }

    def test_the_stand_in_is_believed_where_it_is_complete(self, attempt):
        assert attempt(self.results([self.GOOD_ROW], 1)).rows == {"failed": 1}

    @pytest.mark.parametrize("missing", ["00000_stats.json", "00000.parquet", "00000.tar"])
    def test_a_file_that_is_missing(self, attempt, missing: str):
        files = self.results([self.GOOD_ROW], 1)
        del files[missing]
        with pytest.raises(TransientError, match=r"did not finish the shard .*: something happened"):
            attempt(files)
        assert self.left == ["urls.parquet"], "nothing half-written"

    @pytest.mark.parametrize("code", [0, 1])
    def test_nothing_written_at_all_whatever_the_exit_code(self, attempt, code: int):
        with pytest.raises(TransientError, match="did not finish the shard"):
            attempt({}, code)

    @pytest.mark.parametrize("name", ["00000_stats.json", "00000.parquet", "00000.tar"])
    def test_a_file_that_is_cut(self, attempt, name: str):
        files = self.results([self.GOOD_ROW | {"status": "success", "sha256": "0" * 64}], 1)
        files[name] = files[name][:9]
        with pytest.raises(TransientError):
            attempt(files)
        assert self.left == ["urls.parquet"]

    def test_statistics_that_count_fewer_rows(self, attempt):
        with pytest.raises(TransientError, match=r"accounts for 0 rows in its .* and 1 in its parquet; expected 1"):
            attempt(self.results([self.GOOD_ROW], 0))

    def test_a_parquet_with_fewer_rows(self, attempt):
        with pytest.raises(TransientError, match="2 rows in its statistics and 1 in its parquet; expected 2"):
            attempt(self.results([self.GOOD_ROW], 2), rows=2)

    def test_a_row_twice_in_the_place_of_another(self, attempt):
        with pytest.raises(TransientError, match="0a1b2c3d-0000001"):
            attempt(self.results([self.GOOD_ROW, self.GOOD_ROW], 2), rows=2)

    def test_one_that_never_ends_is_stopped(self, attempt, monkeypatch):
        wait = module.subprocess.Popen.wait
        monkeypatch.setattr(
            module.subprocess.Popen, "wait", lambda self, timeout=None: wait(self, 0 if timeout else None)
        )
        with pytest.raises(TransientError, match="was stopped after 0 s without an end"):
            attempt(self.results([self.GOOD_ROW], 1))
