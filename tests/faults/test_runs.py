"""Runs that meet each other, and sources that are not what they should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warm import (
    RETRAINING,
    SCENES,
    SETTINGS,
    Fault,
    Outcome,
    Warm,
    check_whole,
    make_source,
    published,
    recorded,
    unfinished,
)

from clipcap.config import load_config
from clipcap.dataset.land import land, read_landing
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current

Run = Callable[..., Outcome]


def test_two_runs_at_once_share_the_work(warm: Warm, calm: Any, tmp_path: Path, runs_on: Run):
    lake = tmp_path / "lake"
    begun = [warm.start(lake, calm.config) for _ in range(3)]
    ended = [warm.wait(run) for run in begun]
    assert [run.status for run in ended] == [0, 0, 0], [run.message for run in ended]
    made = Counter(id for run in ended for id in run.made)
    assert made == Counter(calm.outcome.made), "each output was made, and by one of them"
    assert published(lake) == calm.published
    check_whole(lake)
    assert unfinished(lake) == []
    assert runs_on(lake).made == [], "what is published is what lies there"


def test_a_night_and_a_retraining_at_once(warm: Warm, calm: Any, grown: Path, tmp_path: Path):
    """One batch landed, and both begin with it: a landing starts a retraining, and it is two o'clock."""
    orders: list[dict[str, Any]] = [{"flow": "nightly"}, {"flow": "retrain", "overrides": RETRAINING}]
    lakes = {name: Path(shutil.copytree(grown, tmp_path / name)) for name in ("together", "in turn")}
    begun = [warm.start(lakes["together"], calm.config, **order) for order in orders]
    ended = [warm.wait(run) for run in begun]
    in_turn = [warm.run(lakes["in turn"], calm.config, **order) for order in orders]
    assert [run.status for run in ended + in_turn] == [0] * 4, [run.message for run in ended]
    assert ended[1].result["verdict"] == in_turn[1].result["verdict"] == "promoted"
    assert max(Counter(id for run in ended for id in run.made).values()) == 1, "each output was made by one of them"
    for lake in lakes.values():
        check_whole(lake)
        assert unfinished(lake) == []
        assert warm.run(lake, calm.config, flow="nightly").status == 0, "with the new model"
    together, alone = (published(lake) for lake in lakes.values())
    assert together["latest_captions"] == alone["latest_captions"] and together["decisions"] == alone["decisions"]


def test_a_run_beside_one_that_dies_waits_for_nothing(warm: Warm, calm: Any, tmp_path: Path):
    lake = tmp_path / "lake"
    killed = warm.start(lake, calm.config, Fault(kill_at=70, hold_s=2))
    while not killed[1].exists() or killed[1].read_text().count("\n") < 70:
        time.sleep(0.02)  # it is in the middle of a shard
    other = warm.start(lake, calm.config)
    assert warm.wait(killed).status == -9
    ended = warm.wait(other)
    assert ended.status == 0, ended.message
    assert published(lake) == calm.published


NIGHT = "import sys; from flows.nightly import caption_nightly; caption_nightly(sys.argv[1], [], sys.argv[2])"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nightly_runs_at_once_in_processes_of_their_own(lake: Path, calm: Any, tmp_path: Path, warm: Warm):
    """The whole thing: Prefect, img2dataset, a batch whose last shard is a single image; and the same night once."""
    config = make_source(tmp_path / "night", SCENES + 2)
    config.write_text(config.read_text().replace("shard_size = 13", "shard_size = 12"))
    landing = read_landing(load_config(str(config)))
    assert len(landing.rows) % 12 == 1, "the last shard is one image"
    alone = Path(shutil.copytree(lake, tmp_path / "alone"))
    for root in (lake, alone):
        commit_generation(Lake(root), [land(Lake(root), landing)])

    def start(root: Path, number: int) -> subprocess.Popen[str]:
        environment = os.environ | {"PREFECT_HOME": str(tmp_path / f"home{number}"), "OMP_NUM_THREADS": "1"}
        environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "180"
        command = [sys.executable, "-c", NIGHT, str(config), str(root)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    nights = [start(lake, 1), start(lake, 2)]
    told = [night.communicate(timeout=400)[0] for night in nights]
    assert [night.returncode for night in nights] == [0, 0], told
    once = start(alone, 3)
    assert once.communicate(timeout=400) and once.returncode == 0
    assert published(lake) == published(alone)
    check_whole(lake)
    assert [path for path in unfinished(lake) if not path.startswith(".prefect/")] == []
    entries = read_current(Lake(lake)).entries
    assert set(entries) == set(read_current(Lake(alone)).entries)


def test_a_list_that_grew_is_a_batch_of_its_own_and_known_images_are_not_embedded_again(
    lake: Path, warm: Warm, calm: Any, tmp_path: Path
):
    before = recorded(lake)
    grown = warm.run(lake, make_source(tmp_path / "grown", SCENES + 4))
    assert grown.status == 0, grown.message
    assert grown.encoded == 4
    rows = published(lake)
    for name in ("captions", "ledger", "ledger_history", "embeddings", "images", "metrics"):
        assert all(row in rows[name] for row in calm.published[name]), f"the rows of the first batch stand: {name}"
    assert len(rows["images"]) == len(calm.published["images"]) * 2 + 4
    assert {id: entry for id, entry in recorded(lake).items() if id in before} == before


def test_a_batch_of_which_nothing_can_be_had_is_published_as_failed_rows(
    lake: Path, warm: Warm, calm: Any, tmp_path: Path
):
    make_source(tmp_path / "none")
    rows = [{"url": f"http://127.0.0.1:8797/none-{n}.jpg", "caption": "nothing", "split": "test"} for n in range(3)]
    (tmp_path / "none" / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "none" / "kill.toml"
    first = warm.run(tmp_path / "new", config)
    assert (first.status, first.error) == (1, "DataError") and "nothing to train on" in first.message
    landed = land(Lake(lake), read_landing(load_config(str(config))))
    commit_generation(Lake(lake), [landed])
    night = warm.run(lake, config, flow="nightly")
    assert night.status == 0, night.message
    now = published(lake)
    assert now["captions"] == calm.published["captions"]
    new = [row for row in now["ledger"] if row not in calm.published["ledger"]]
    assert [(row[3], row[4]) for row in new] == [("download", "failed")] * 3


@pytest.mark.slow
def test_a_last_shard_of_one_image(warm: Warm, calm: Any, tmp_path: Path):
    landed = [id for id in calm.outcome.made if id.startswith("download/")]
    rows = sum(line[4] != "duplicate" for line in calm.published["ledger"])
    run = warm.run(tmp_path / "lake", calm.config, overrides=[f"download.shard_size={(rows - 1) // 2}"])
    assert run.status == 0 and len(landed) == 3
    sizes = [entry.rows for id, entry in recorded(tmp_path / "lake").items() if id.startswith("download/")]
    assert sorted(sum(size.values()) for size in sizes) == [1, (rows - 1) // 2, (rows - 1) // 2]
    now = published(tmp_path / "lake")

    def by_image(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return sorted((row[0], row[1], row[4]) for row in rows)

    assert [row[:2] for row in by_image(now["captions"])] == [row[:2] for row in by_image(calm.published["captions"])]


@pytest.mark.parametrize("what", ["parquet without its footer", "parquet of no rows", "torn tar"])
def test_a_source_that_cannot_be_read_changes_nothing(lake: Path, warm: Warm, tmp_path: Path, what: str, calm: Any):
    source = tmp_path / "list.parquet"
    rows = [{"url": f"http://127.0.0.1:8797/{n:03d}.jpg", "caption": "a", "split": "train"} for n in range(20)]
    if "parquet" in what:
        pq.write_table(pa.Table.from_pylist(rows).slice(0, 0 if "no rows" in what else 20), source)
        if "footer" in what:
            source.write_bytes(source.read_bytes()[:-40])
    else:
        source = tmp_path / "list.tar"
        with tarfile.open(source, "w") as tar:
            for file in sorted((calm.config.parent / "images").glob("00*.jpg")):
                tar.add(file, file.name)
        source.write_bytes(source.read_bytes()[:700])
    config = tmp_path / "kill.toml"
    config.write_text(SETTINGS.replace('"list.jsonl"', f'"{source}"').replace('folder = "images"', 'folder = ""'))
    before = {file: file.stat().st_mtime_ns for file in lake.rglob("*") if file.is_file()}
    refused = warm.run(lake, config)
    assert (refused.status, refused.error) == (1, "SourceError"), (refused.status, refused.error, refused.message)
    assert source.name in refused.message and "\n" not in refused.message
    assert {file: file.stat().st_mtime_ns for file in lake.rglob("*") if file.is_file()} == before
