"""Collection: what nobody can need goes, what somebody may read stays, and a kill at any moment does no harm.

Covers: the two bounds of generations; files of kept generations, of pending entries, of nobody; unfinished work; a dry
run; a kill before every single deletion; runs that publish or make a file again meanwhile; a lake on an object store.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from clipcap.errors import DataError
from clipcap.storage import collect as module
from clipcap.storage import mirror
from clipcap.storage.collect import Collected, collect
from clipcap.storage.commit import commit_bytes, scratch_folder
from clipcap.storage.entries import Recorder
from clipcap.storage.lake import Lake
from clipcap.storage.lock import one_at_a_time
from clipcap.storage.manifest import EntryIndex, commit_generation, read_current, read_generation
from clipcap.storage.records import Entry

DAY = timedelta(days=1)


def captions(lake: Lake, run: str, shard: str = "s") -> Entry:
    """An output that each run makes anew in a folder of its own, as captions are."""
    with Recorder(lake, "caption", f"caption/m/{shard}", run, run, model_id="m", shard_id=shard) as out:
        path = lake.captions("m", run, shard)
        commit_bytes(run.encode() * 10, path)
        out.add("captions", path)
    return out.entry


def publish(lake: Lake, run: str, *entries: Entry) -> None:
    commit_generation(lake, entries or [captions(lake, run)])


def names(result: Collected, kind: str = "file") -> list[str]:
    return [item.path for item in result.removed if item.kind == kind]


def age(path: Path, days: float) -> None:
    then = (datetime.now(UTC) - days * DAY).timestamp()
    os.utime(path, (then, then))


def manifests(lake: Lake) -> list[int]:
    return sorted(int(file.stem) for file in lake.manifests.glob("*.json"))


def assert_whole(lake: Lake) -> None:
    """Every generation that can be read has all of its files, and so has every recorded entry."""
    for number in manifests(lake):
        for entry in read_generation(lake, number).entries.values():
            assert all((lake.root / file.path).is_file() for file in entry.files), number


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def five(lake: Lake) -> Lake:
    """Five generations, each with other captions, all of them made now."""
    for run in "abcde":
        publish(lake, run)
    return lake


def later(days: float) -> datetime:
    return datetime.now(UTC) + days * DAY


def test_the_newest_generations_are_kept_with_their_files(five: Lake):
    result = collect(five, keep_generations=3, keep_days=7, now=later(8))
    assert result.kept_generations == [3, 4, 5] == manifests(five)
    assert names(result, "generation") == ["manifests/1.json", "manifests/2.json"]
    assert names(result) == ["captions/m/a/s.parquet", "captions/m/b/s.parquet"]
    assert result.size_bytes > 20 and all(item.age_days >= 8 for item in result.removed)
    assert {path.name for path in (five.root / "captions/m").iterdir()} == {"c", "d", "e"}, "no empty folders"
    assert_whole(five)
    assert collect(five, 3, 7, now=later(8)).removed == [], "once is enough"


def test_nothing_younger_than_the_days_is_removed(five: Lake):
    assert collect(five, keep_generations=1, keep_days=7, now=later(6)).removed == []
    assert manifests(five) == [1, 2, 3, 4, 5]


def test_the_days_of_a_generation_count_from_when_another_took_its_place(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """Generation 1 was made a year ago and read until an hour ago."""
    for number, run in enumerate("abc", start=1):
        publish(lake, run)
        old = datetime.now(UTC) - timedelta(days={1: 365, 2: 0.04, 3: 0.04}[number])
        text = lake.manifest(number).read_text()
        made = read_generation(lake, number).created_at.isoformat().replace("+00:00", "Z")
        assert made in text
        lake.manifest(number).write_text(text.replace(made, old.isoformat().replace("+00:00", "Z")))
        age(lake.captions("m", run, "s"), 365)
    assert collect(lake, keep_generations=2, keep_days=1).removed == []
    assert names(collect(lake, keep_generations=2, keep_days=0)) == ["captions/m/a/s.parquet"]


def test_two_generations_stay_whatever_is_asked(five: Lake):
    """A catalog may be one generation behind CURRENT."""
    assert collect(five, keep_generations=1, keep_days=0).kept_generations == [4, 5]
    assert_whole(five)


def test_a_file_that_a_kept_generation_shares_stays(lake: Lake):
    shared = captions(lake, "a", "shared")
    publish(lake, "a", shared, captions(lake, "a"))
    for run in "bcd":
        publish(lake, run)
    assert names(collect(lake, 2, 0)) == ["captions/m/a/s.parquet", "captions/m/b/s.parquet"]
    assert EntryIndex(lake).find(shared.id, "a") == shared


def test_what_is_recorded_and_not_yet_published_stays(five: Lake):
    waiting = captions(five, "killed", "other")
    age(five.captions("m", "killed", "other"), 100)
    assert "captions/m/killed/other.parquet" not in names(collect(five, 2, 0))
    assert EntryIndex(five).find(waiting.id, "killed") == waiting


def test_files_of_nobody_go_where_only_stages_write(five: Lake):
    for path in ("captions/m/x/s.parquet", "ledger/embed/b/x.parquet", "models/mine/config.json", "notes/todo.txt"):
        (five.root / path).parent.mkdir(parents=True, exist_ok=True)
        (five.root / path).write_text("x")
        age(five.root / path, 8)
    (five.root / "captions/m/x/young.parquet").write_text("x")
    assert names(collect(five, 10, 7)) == ["captions/m/x/s.parquet", "ledger/embed/b/x.parquet"]
    assert (five.root / "models/mine/config.json").exists() and (five.root / "notes/todo.txt").exists()
    assert (five.root / "captions/m/x/young.parquet").exists()


def test_a_model_goes_with_the_last_generation_that_names_it(five: Lake):
    with Recorder(five, "train", "train/old", "k", "r", model_id="old") as out:
        commit_bytes(b"weights", five.model("old") / "lm" / "weights")
        out.add("model", five.model("old") / "lm" / "weights")
    publish(five, "f", out.entry)
    commit_generation(five, [captions(five, "g")], drop=["train/old"])
    publish(five, "h")
    assert "models/old/lm/weights" not in names(collect(five, 3, 0))
    publish(five, "i")
    assert "models/old/lm/weights" in names(collect(five, 2, 0))
    assert not five.model("old").exists()


def test_unfinished_work_goes_when_nothing_in_it_changes_any_more(five: Lake):
    with scratch_folder(five, "download") as live, one_at_a_time(five, "train/m k"):
        (live / "x.tar").write_text("x")
        killed, training = five.scratch / "download-0a1b2c3d", five.scratch / "training" / "m-0123"
        aside, model = five.root / "ledger/.x.parquet.0a1b2c3d", five.root / "models/.m.0a1b2c3d"
        for folder in (killed, training, model, aside.parent):
            folder.mkdir(parents=True)
        for file in (killed / "x.tar", training / "last.pt", model / "config.json", aside):
            file.write_text("x")
        [lock] = (five.scratch / "locks").iterdir()
        for path in (lock, lock.parent, killed / "x.tar", killed, aside, model / "config.json", model, training, live):
            age(path, 9)
        found = names(collect(five, 10, 7), "temporary")
        assert found == [".scratch/download-0a1b2c3d", "ledger/.x.parquet.0a1b2c3d", "models/.m.0a1b2c3d"]
        assert (live / "x.tar").exists() and (training / "last.pt").exists(), "a checkpoint of today"
        assert not killed.exists() and not aside.exists() and not model.exists()
        assert lock.exists(), "a training may hold it for days"
        age(training / "last.pt", 0.5)
        assert names(collect(five, 10, 0), "temporary") == [], "never work of the last day"


def test_a_dry_run_tells_all_and_touches_nothing(five: Lake):
    before = {path: path.stat().st_mtime_ns for path in five.root.rglob("*")}
    told = collect(five, 2, 0, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in five.root.rglob("*")} == before
    assert told.is_dry_run and len(names(told)) == 3
    done = collect(five, 2, 0)
    assert [(item.kind, item.path, item.size_bytes) for item in told.removed] == [
        (item.kind, item.path, item.size_bytes) for item in done.removed
    ]


def test_a_lake_without_a_generation_loses_nothing(lake: Lake):
    (lake.root / "batches/b").mkdir(parents=True)
    (lake.root / "batches/b/urls.parquet").write_text("x")
    age(lake.root / "batches/b/urls.parquet", 100)
    assert collect(lake, 2, 0).removed == []


def test_a_manifest_that_is_kept_and_cannot_be_read_stops_it(five: Lake):
    five.manifest(4).write_text("{")
    with pytest.raises(DataError, match=r"nothing was removed: .*4\.json"):
        collect(five, 2, 0)
    assert manifests(five) == [1, 2, 3, 4, 5] and (five.root / "captions/m/a/s.parquet").exists()


def test_an_old_manifest_that_cannot_be_read_goes(five: Lake):
    five.manifest(2).write_text("{")
    assert names(collect(five, 2, 0)) == [f"captions/m/{run}/s.parquet" for run in "abc"]


def test_generations_beyond_current_are_kept(five: Lake):
    """Its run was killed between its manifest and CURRENT; the next one builds on it."""
    commit_bytes(b"3", five.current)
    assert collect(five, 2, 0).kept_generations == [2, 3, 4, 5]
    assert_whole(five)


class Killed(Exception):
    pass


def test_a_kill_before_any_deletion_leaves_a_whole_lake_and_the_next_one_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def build(name: str) -> Lake:
        lake = Lake(tmp_path / name)
        for run in "abcde":
            publish(lake, run)
        with Recorder(lake, "train", "train/old", "k", "r", model_id="old") as out:
            commit_bytes(b"weights", lake.model("old") / "weights")
            out.add("model", lake.model("old") / "weights")
        publish(lake, "f", out.entry)
        for run in "ghi":
            commit_generation(lake, [captions(lake, run)], drop=["train/old"])
        return lake

    def left(lake: Lake) -> list[str]:
        return sorted(path.relative_to(lake.root).as_posix() for path in lake.root.rglob("*"))

    undisturbed = build("undisturbed")
    collect(undisturbed, 3, 0)
    unlink, steps = Path.unlink, 0
    while True:
        lake, remaining = build(f"killed-{steps}"), steps

        def counted(path: Path, missing_ok: bool = False) -> None:
            nonlocal remaining
            if path.name.startswith("."):  # commit's own, beside the final name
                return unlink(path, missing_ok)
            remaining -= 1
            if remaining < 0:
                raise Killed
            return unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", counted)
        try:
            collect(lake, 3, 0)
            break
        except Killed:
            monkeypatch.setattr(Path, "unlink", unlink)
        assert_whole(lake)
        collect(lake, 3, 0)
        assert left(lake) == left(undisturbed), steps
        steps += 1
    assert steps == 6 + 6 + 6, "six manifests, their files, and the manifests that were set aside"


def test_a_run_that_publishes_or_makes_a_file_again_meanwhile_keeps_it(five: Lake, monkeypatch: pytest.MonkeyPatch):
    """Between the look and the deletion an old file becomes part of a generation, and another is written again."""
    orphan, again = five.captions("m", "x", "s"), five.captions("m", "y", "s")
    for path in (orphan, again):
        commit_bytes(b"old", path)
        age(path, 8)
    looked = module._temporary

    def meanwhile(*arguments: object) -> object:
        with Recorder(five, "caption", "caption/m/x", "x", "x") as out:
            out.add("captions", orphan)
        commit_generation(five, [out.entry])
        os.utime(again)
        return looked(*arguments)

    monkeypatch.setattr(module, "_temporary", meanwhile)
    assert names(collect(five, 2, 7)) == []
    assert orphan.exists() and again.exists()
    assert read_current(five).number == 6


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Lake]:
    """A lake on a store in memory, as one machine after another sees it."""
    monkeypatch.setattr(mirror, "_mirrors", {})
    store, alone = fsspec.filesystem("memory"), threading.RLock()
    store.store.clear()

    def in_turn(request):
        @functools.wraps(request)
        def answer(*args, **options):
            with alone:
                return request(*args, **options)

        return answer

    for name in ("pipe_file", "put_file", "cat_file", "get_file", "find", "info", "exists", "rm_file"):
        monkeypatch.setattr(type(store), name, in_turn(getattr(type(store), name)))
    count = iter(range(9))

    def machine() -> Lake:
        monkeypatch.setenv("CLIPCAP_CACHE_DIR", str(tmp_path / f"cache-{next(count)}"))
        mirror._mirrors.clear()
        return Lake("memory://bucket/lake")

    return machine


def test_a_lake_in_a_bucket(stored: Callable[[], Lake]):
    lake = stored()
    for run in "abcd":
        publish(lake, run)
    other = stored()
    assert collect(other, 2, 7).removed == []
    result = collect(other, 2, 7, now=later(8))
    assert names(result) == ["captions/m/a/s.parquet", "captions/m/b/s.parquet"]
    assert next(item.size_bytes for item in result.removed if item.kind == "file") == 10
    left = set(stored().stored())
    assert left == {"CURRENT", "manifests/3.json", "manifests/4.json", *(f"captions/m/{r}/s.parquet" for r in "cd")}
