"""What happens to a lake behind its back: files that are gone, changed, cut; lakes that are moved, copied and renamed.

Each time the next run makes again what is not as it was recorded, nothing else, and publishes what an undisturbed lake
holds; or one error says what to do.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from warm import Fault, Outcome, Warm, published

from clipcap.errors import DataError
from clipcap.storage.entries import record, stands
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex, find_recorded, read_current
from clipcap.storage.records import Entry, FileRecord
from clipcap.warehouse import query

Run = Callable[..., Outcome]
SLOW = pytest.mark.slow  # `make faults` takes all


def files(lake: Path) -> dict[str, tuple[str, Path]]:
    """For each kind of file the entry and the path of one."""
    entries = read_current(Lake(lake)).entries.values()
    return {file.kind: (entry.id, lake / file.path) for entry in entries for file in entry.files}


def delete(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    """A torn tar, a parquet without its footer, half a JSON."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def flip(file: Path) -> None:
    """Other bytes of the same length at the same path."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 16] = bytes(255 - byte for byte in data[middle : middle + 16])
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [pytest.param(delete, marks=SLOW), pytest.param(cut, marks=SLOW), flip])
def test_what_was_damaged_is_made_again_and_nothing_else(lake: Path, calm: Any, runs_on: Run, damage: Any):
    damaged = files(lake)
    assert {"urls", "shard_tar", "shard", "ledger", "embeddings", "model", "captions", "corpus"} <= set(damaged)
    for _, file in damaged.values():
        damage(file)
    again = runs_on(lake)
    assert sorted(again.made) == sorted({entry for entry, _ in damaged.values()})
    assert published(lake) == calm.published
    assert runs_on(lake).made == []


def test_files_that_were_touched_are_read_once_and_stand(lake: Path, runs_on: Run):
    for file in lake.rglob("*.*"):
        file.touch()
    [tar] = [file for file in lake.rglob("*-00000.tar")]
    before = tar.stat().st_mtime
    assert runs_on(lake).made == []
    assert tar.stat().st_mtime < before, "its bytes were compared, and need not be again"


def test_the_bytes_of_a_file_that_was_touched_decide(tmp_path: Path):
    lake, file = Lake(tmp_path), tmp_path / "captions" / "a.parquet"
    file.parent.mkdir()
    file.write_bytes(b"as it was")
    digest = hashlib.sha256(b"as it was").hexdigest()
    made = FileRecord(kind="captions", path="captions/a.parquet", size_bytes=9, sha256=digest)
    entry = record(lake, Entry(stage="caption", id="caption/a", key="k", files=[made], created_at=datetime.now(UTC)))
    assert stands(lake, entry)
    file.write_bytes(b"as it IS.")
    assert not stands(lake, entry) and EntryIndex(lake).find("caption/a", "k") is None
    file.write_bytes(b"as it was")
    assert stands(lake, entry) and find_recorded(lake, "caption/a", "k") == entry


def test_a_truncated_manifest_says_what_to_do_and_that_helps(lake: Path, calm: Any, warm: Warm, runs_on: Run):
    runs_on(lake, overrides=["caption.beam_size=1"])
    number = read_current(Lake(lake)).number
    cut(lake / "manifests" / f"{number}.json")
    failed = warm.run(lake, calm.config)
    assert (failed.status, failed.error, failed.made) == (1, "DataError", [])
    assert f"{number}.json" in failed.message and "move it away" in failed.message and "CURRENT" in failed.message
    (lake / "manifests" / f"{number}.json").unlink()
    (lake / "CURRENT").write_text(str(number - 1))
    runs_on(lake)
    assert published(lake) == calm.published


@pytest.mark.parametrize("content", ["", "half", "\0\0\0\0"])
def test_a_current_without_a_number_says_what_to_do_and_that_helps(
    lake: Path, calm: Any, warm: Warm, runs_on: Run, content: str
):
    (lake / "CURRENT").write_text(content)
    with pytest.raises(DataError, match="CURRENT does not hold a number: put the number of the newest file of"):
        published(lake)
    if content == "":
        failed = warm.run(lake, calm.config)
        assert (failed.status, failed.error, failed.made) == (1, "DataError", [])
    newest = max(int(file.stem) for file in (lake / "manifests").glob("*.json"))
    (lake / "CURRENT").write_text(str(newest))
    assert published(lake) == calm.published


@SLOW
def test_a_current_that_lags_behind_is_moved_on_by_the_next_run(lake: Path, calm: Any, runs_on: Run):
    """As a copy that took CURRENT first: no later generation is lost or overwritten."""
    runs_on(lake, overrides=["caption.beam_size=1"])
    newest = read_current(Lake(lake))
    (lake / "CURRENT").write_text("1")
    runs_on(lake, overrides=["caption.beam_size=2", "caption.max_new_tokens=5"])
    now = read_current(Lake(lake))
    assert now.number == newest.number + 1
    assert [run.run_id for run in now.runs[:-1]] == [run.run_id for run in newest.runs]


def count_captions(lake: Path) -> int:
    """As a person asks, who may read nothing but the lake."""
    return query(Lake(lake), "select count(*) as n from captions")["n"][0].as_py()


ODD = "Lake – Über [old] 50% o'neil #1 {a,b} & co;"


def test_a_lake_moves_to_a_folder_with_an_odd_name(lake: Path, calm: Any, runs_on: Run):
    moved = lake.with_name(ODD)
    shutil.move(lake, moved)
    assert published(moved) == calm.published
    assert runs_on(moved).made == []
    assert query(Lake(moved), "select count(*) as n from captions")["n"].to_pylist() == [
        len(calm.published["captions"])
    ]


@SLOW
def test_a_lake_begins_in_a_folder_with_an_odd_name(calm: Any, runs_on: Run, tmp_path: Path):
    runs_on(tmp_path / ODD)
    assert published(tmp_path / ODD) == calm.published


def test_a_lake_behind_a_link_and_a_part_of_it_on_another_disk(lake: Path, calm: Any, runs_on: Run, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("batches", "captions"):
        shutil.move(lake / name, elsewhere / name)
        (lake / name).symlink_to(elsewhere / name)
    link = tmp_path / "link"
    link.symlink_to(lake)
    assert published(link) == calm.published
    assert runs_on(link).made == []
    runs_on(link, overrides=["caption.beam_size=1"])
    assert count_captions(link) == len(calm.published["captions"])


@pytest.mark.parametrize("second", ["named CURRENT", pytest.param("named embeddings/", marks=SLOW)])
def test_a_copy_that_was_made_while_a_run_wrote_heals(warm: Warm, calm: Any, runs_on: Run, tmp_path: Path, second: str):
    """Half of the folders as they were early in the run, the other half as they were later."""
    copy = tmp_path / "copy"
    copy.mkdir()
    lines = calm.outcome.boundaries
    at = [next(n for n, line in enumerate(lines, 1) if line.startswith(start)) for start in ("named ledger/", second)]
    assert at[0] < at[1]
    assert warm.run(tmp_path / "lake", calm.config, Fault(copy_to=str(copy), copy_at=(at[0], at[1]))).status == 0
    first = warm.run(copy, calm.config)
    if first.status:  # CURRENT was copied, and the manifest that it names was not there yet
        assert (first.error, first.made) == ("DataError", [])
        assert "is missing" in first.message and f"delete {copy / 'CURRENT'}" in first.message
        (copy / "CURRENT").unlink()
        first = runs_on(copy)
    assert first.made, "the copy was not whole"
    assert published(copy) == calm.published


def test_a_copy_of_a_lake_stands_without_its_times(lake: Path, calm: Any, runs_on: Run, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(lake, copy, copy_function=shutil.copyfile)
    assert runs_on(copy).made == []
    assert published(copy) == calm.published


@SLOW
def test_the_clock_goes_back(lake: Path, calm: Any, runs_on: Run, warm: Warm, tmp_path: Path):
    """A lake that was begun a year in the future; then the clock is right, and then a year late."""
    future = tmp_path / "future"
    begun = warm.run(future, calm.config, Fault(clock_days=365))
    assert begun.status == 0 and begun.result["run_id"] > f"{datetime.now(UTC) + timedelta(days=300):%Y}"
    runs = [warm.run(future, calm.config, Fault(clock_days=days), overrides=[f"caption.max_new_tokens={tokens}"])
            for days, tokens in ((0, 5), (-365, 6))]  # fmt: skip
    assert [run.status for run in runs] == [0, 0], [run.message for run in runs]
    for tokens in (5, 6):
        runs_on(lake, overrides=[f"caption.max_new_tokens={tokens}"])
    assert published(future) == published(lake)
    generation = read_current(Lake(future))
    assert [run.run_id for run in generation.runs] == [run.result["run_id"] for run in (begun, *runs)]
    assert runs_on(future, overrides=["caption.max_new_tokens=6"]).made == [], "nothing is too old or too young"

    from clipcap.storage.collect import collect

    collected = collect(Lake(future), keep_generations=2, keep_days=0, now=datetime.now(UTC) - timedelta(days=900))
    assert collected.removed == [], "nothing is older than a clock that is late"
    assert published(future) == published(lake)
