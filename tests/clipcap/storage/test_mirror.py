"""A lake on an object store, through real fsspec file systems: what is committed is there, whole, and read once."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.errors import ConfigError, DataError, TransientError
from clipcap.storage import mirror as module
from clipcap.storage.commit import commit, commit_bytes, commit_table, scratch_folder, writing, writing_folder
from clipcap.storage.entries import Recorder
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import EntryIndex, commit_generation, read_current
from clipcap.storage.records import Entry


@pytest.fixture
def url(tmp_path: Path, monkeypatch) -> str:
    """A store in memory, which is no store for threads: here one request at a time is answered, as a whole."""
    monkeypatch.setenv("CLIPCAP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_mirrors", {})
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
    return "memory://bucket/lake"


def elsewhere(url: str, tmp_path: Path, monkeypatch, name: str = "other") -> Lake:
    """The same lake as another machine sees it."""
    monkeypatch.setenv("CLIPCAP_CACHE_DIR", str(tmp_path / name))
    module._mirrors.clear()
    return Lake(url)


def stored(url: str) -> set[str]:
    store, base = fsspec.core.url_to_fs(url)
    return {name[len(base.rstrip("/")) + 1 :] for name in store.find(base)}


def entry_of(lake: Lake, number: int, text: bytes = b"x") -> Entry:
    path = lake.ledger("embed", "batch", f"shard-{number}")
    with Recorder(lake, "embed", f"embed/{number}", f"key{number}", "run", shard_id=f"shard-{number}") as out:
        commit_bytes(text, path)
        out.add("ledger", path)
    return out.entry


def test_what_is_committed_is_in_the_store_and_read_elsewhere(url: str, tmp_path: Path, monkeypatch):
    lake = Lake(url)
    table = pa.table({"sample_key": ["a", "b"]})
    path = lake.urls("batch")
    commit_table(table, path)
    assert stored(url) == {"batches/batch/urls.parquet"}
    other = elsewhere(url, tmp_path, monkeypatch)
    assert other.root != lake.root and not (other.root / "batches").exists()
    assert pq.read_table(other.absolute("batches/batch/urls.parquet")).equals(table)
    assert pq.read_table(other.at_hand(other.urls("batch"))).equals(table)


def test_unfinished_work_and_what_a_failed_block_wrote_stay_out(url: str):
    lake = Lake(url)
    with scratch_folder(lake, "x") as folder:
        (folder / "a").write_bytes(b"1")
        commit(folder / "a", folder / "b")
    with pytest.raises(RuntimeError), writing(lake.report("run")) as aside:
        aside.write_text("half")
        raise RuntimeError
    commit_bytes(b"local", lake.catalog)
    assert stored(url) == set()


def test_a_model_folder_arrives_whole_with_its_config_last(url: str, tmp_path: Path, monkeypatch):
    lake, order = Lake(url), []
    put = module.Mirror.put
    monkeypatch.setattr(module.Mirror, "put", lambda *a: order.append(a[2]) or put(*a))
    with writing_folder(lake.model("m")) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "lm").mkdir()
        (folder / "lm" / "weights").write_bytes(b"123")
        (folder / "mapping.safetensors").write_bytes(b"12")
    assert order[-1] == "models/m/config.json" and len(order) == 3
    other = elsewhere(url, tmp_path, monkeypatch)
    assert (other.at_hand(other.model("m")) / "lm" / "weights").read_bytes() == b"123"


def test_one_of_two_creates_a_name(url: str):
    lake, results = Lake(url), []
    start = threading.Barrier(6)

    def create(number: int) -> None:
        start.wait()
        results.append((commit_bytes(str(number).encode(), lake.manifest(1), exclusive=True), number))

    threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [number for is_first, number in results if is_first]
    assert lake.read_bytes(lake.manifest(1)) == str(winner).encode()
    assert not commit_bytes(b"late", lake.manifest(1), exclusive=True)


def test_a_file_that_was_replaced_elsewhere_is_fetched_again(url: str, tmp_path: Path, monkeypatch):
    here = Lake(url)
    entry_of(here, 1, b"old")
    monkeypatch.setattr(module, "_mirrors", {})
    monkeypatch.setenv("CLIPCAP_CACHE_DIR", str(tmp_path / "other"))
    there = Lake(url)
    name = there.relative(there.ledger("embed", "batch", "shard-1"))
    assert there.absolute(name).read_bytes() == b"old"
    here.mirror.put(_file(tmp_path, b"new"), name)
    assert there.absolute(name).read_bytes() == b"new", "of the same size, so its version tells"


def _file(folder: Path, data: bytes) -> Path:
    (folder / "data").write_bytes(data)
    return folder / "data"


def test_it_is_fetched_once(url: str, tmp_path: Path, monkeypatch):
    entry_of(Lake(url), 1)
    other, fetched = elsewhere(url, tmp_path, monkeypatch), []
    get = other.mirror.store.get_file
    monkeypatch.setattr(other.mirror.store, "get_file", lambda *a, **k: fetched.append(a[0]) or get(*a, **k))
    for _ in range(3):
        other.absolute(other.relative(other.ledger("embed", "batch", "shard-1")))
    assert len(fetched) == 1


def test_entries_are_found_by_whoever_looks_and_an_object_that_is_gone_is_a_miss(url: str, tmp_path, monkeypatch):
    entries = [entry_of(Lake(url), number) for number in range(3)]
    other = elsewhere(url, tmp_path, monkeypatch)
    index = EntryIndex(other)
    assert [index.find(e.id, e.key) for e in entries] == entries
    generation = commit_generation(other, entries)
    assert generation.number == 1 and read_current(other) == generation
    assert not any(name.startswith("manifests/pending") for name in stored(url))
    third = elsewhere(url, tmp_path, monkeypatch, "third")
    assert read_current(third) == generation
    third.delete_all([third.ledger("embed", "batch", "shard-1")])
    assert [EntryIndex(third).find(e.id, e.key) is None for e in entries] == [False, True, False]


def test_two_that_publish_at_once_lose_nothing(url: str):
    lake = Lake(url)
    entries = [entry_of(lake, number) for number in range(8)]
    threads = [threading.Thread(target=commit_generation, args=(lake, [entry])) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = read_current(lake)
    assert final.number == 8 and set(final.entries) == {entry.id for entry in entries}


def test_faults_of_the_store_are_worth_another_try_and_refusals_are_not(url: str, monkeypatch):
    lake = Lake(url)
    for error, kind in ((TimeoutError("slow"), TransientError), (PermissionError("no"), DataError)):
        monkeypatch.setattr(lake.mirror.store, "cat_file", lambda *_, e=error, **__: (_ for _ in ()).throw(e))
        with pytest.raises(kind, match=r"CURRENT: the store"):
            read_current(lake)


def counting(monkeypatch, lake: Lake, *requests: str) -> list[str]:
    """Which of these requests the store was asked, from now on."""
    asked: list[str] = []
    inside = threading.local()  # what the store in memory asks itself is no request
    for name in requests:
        request = getattr(lake.mirror.store, name)

        def counted(*args, name=name, request=request, **options):
            if getattr(inside, "request", None):
                return request(*args, **options)
            asked.append(name)
            inside.request = name
            try:
                return request(*args, **options)
            finally:
                inside.request = None

        monkeypatch.setattr(lake.mirror.store, name, functools.wraps(request)(counted))
    return asked


def test_many_files_are_looked_up_in_one_listing(url: str, tmp_path: Path, monkeypatch):
    entries = [entry_of(Lake(url), number, str(number).encode()) for number in range(100)]
    other = elsewhere(url, tmp_path, monkeypatch)
    asked = counting(monkeypatch, other, "find", "info", "get_file")
    names = [entry.file("ledger").path for entry in entries]
    assert [f.read_bytes() for f in other.absolute_all(names)] == [str(number).encode() for number in range(100)]
    assert Counter(asked) == {"find": 1, "get_file": 100}
    assert other.absolute_all(names) == [other.root / name for name in names] and Counter(asked)["get_file"] == 100


def test_what_a_killed_run_recorded_is_read_by_one_listing(url: str, tmp_path: Path, monkeypatch):
    entries = [entry_of(Lake(url), number) for number in range(30)]
    other = elsewhere(url, tmp_path, monkeypatch)
    asked = counting(monkeypatch, other, "find", "info", "get_file", "exists")
    index = EntryIndex(other)
    assert Counter(asked) == {"find": 1, "get_file": 30}
    assert all(index.find(entry.id, entry.key) for entry in entries) and Counter(asked)["find"] == 2


def test_a_kill_between_the_store_and_the_rename_leaves_no_old_copy(url: str, tmp_path: Path):
    lake = Lake(url)
    name = entry_of(lake, 1, b"old").file("ledger").path
    lake.mirror.put(_file(tmp_path, b"new"), name)  # and no rename here
    assert (lake.root / name).read_bytes() == b"old"
    assert lake.absolute(name).read_bytes() == b"new"


def test_a_copy_of_what_the_store_lost_is_no_file_of_the_lake(url: str):
    lake = Lake(url)
    name = entry_of(lake, 1).file("ledger").path
    lake.mirror.store.rm_file(f"{lake.mirror.base}/{name}")
    with pytest.raises(FileNotFoundError):
        lake.absolute(name).read_bytes()
    lake.delete_all([lake.root / name])  # gone already


def test_a_short_answer_is_asked_for_again_and_never_kept(url: str, tmp_path: Path, monkeypatch):
    name = entry_of(Lake(url), 1, b"whole").file("ledger").path
    other = elsewhere(url, tmp_path, monkeypatch)
    get, answers = other.mirror.store.get_file, [b"who", b"whole"]
    monkeypatch.setattr(other.mirror.store, "get_file", lambda _, to: Path(to).write_bytes(answers.pop(0)))
    assert other.absolute(name).read_bytes() == b"whole"
    (other.root / name).unlink()
    monkeypatch.setattr(other.mirror.store, "get_file", lambda _, to: Path(to).write_bytes(b"who"))
    with pytest.raises(TransientError, match="changes while it is read"):
        other.absolute(name)
    assert not (other.root / name).exists()
    monkeypatch.setattr(other.mirror.store, "get_file", get)
    assert other.absolute(name).read_bytes() == b"whole"


@pytest.mark.parametrize("newer", [b"longer than before", b"NEWER"])
def test_an_object_that_is_replaced_while_its_parts_come_is_read_as_one(url: str, tmp_path: Path, monkeypatch, newer):
    name = entry_of(Lake(url), 1, b"older").file("ledger").path
    other = elsewhere(url, tmp_path, monkeypatch)
    monkeypatch.setattr(module, "_IN_PARTS", 2)
    store, get = other.mirror.store, other.mirror.store.get_file

    def replaced_after_a_part(remote: str, to: str) -> None:
        store.pipe_file(remote, newer)
        Path(to).write_bytes(b"ol" + newer[2:])
        monkeypatch.setattr(store, "get_file", get)

    monkeypatch.setattr(store, "get_file", replaced_after_a_part)
    assert other.absolute(name).read_bytes() == newer


def test_a_creation_whose_answer_was_lost_is_ours(url: str, monkeypatch):
    lake = Lake(url)
    create = lake.mirror.store.pipe_file

    def lose(*args, mode="overwrite"):
        create(*args, mode=mode)
        create(*args, mode=mode)  # the client tries again, and the name is taken: by itself

    monkeypatch.setattr(lake.mirror.store, "pipe_file", lose)
    assert commit_bytes(b"mine", lake.manifest(1), exclusive=True)
    assert not commit_bytes(b"other", lake.manifest(1), exclusive=True)
    assert lake.read_bytes(lake.manifest(1)) == b"mine"


def test_a_store_without_exclusive_creation_looks_first(url: str, monkeypatch):
    lake = Lake(url)
    write = lake.mirror.store.pipe_file
    monkeypatch.setattr(lake.mirror.store, "pipe_file", lambda name, data: write(name, data))
    assert [commit_bytes(data, lake.manifest(1), exclusive=True) for data in (b"1", b"2")] == [True, False]
    assert lake.read_bytes(lake.manifest(1)) == b"1"


def test_a_model_that_is_written_again_keeps_nothing_of_the_old_one(url: str):
    lake = Lake(url)
    for name in ("adapters", "weights"):
        with writing_folder(lake.model("m")) as folder:
            (folder / name).write_text(name)
            (folder / "config.json").write_text("{}")
    assert stored(url) == {"models/m/weights", "models/m/config.json"}


def test_a_bucket_that_is_not_there_is_one_clear_line(url: str, monkeypatch):
    lake = Lake(url)

    def refuse(*_, **__):
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(lake.mirror.store, "put_file", refuse)
    with pytest.raises(DataError, match=r"CURRENT cannot be written .*does the bucket exist\?"):
        commit_bytes(b"1", lake.current)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(module, "_mirrors", {})
    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "_registry", {})  # classes found so far
    with pytest.raises(ConfigError, match=r"s3fs.*pip install 'clipcap-pipeline\[s3\]'"):
        Lake("s3://bucket/lake")


def test_an_unknown_kind_of_url_is_one_clear_line(monkeypatch):
    with pytest.raises(ConfigError, match="the lake nonsense://x cannot be reached"):
        Lake("nonsense://x")


def test_urls_stay_urls(monkeypatch):
    monkeypatch.setenv("CLIPCAP_DATA_DIR", "s3://bucket/lake")
    assert resolve_data_dir() == "s3://bucket/lake"
    assert resolve_data_dir("file:///somewhere/lake") == Path("/somewhere/lake")
    assert resolve_data_dir("here") == Path("here").resolve()


def test_a_local_lake_has_no_mirror(tmp_path: Path):
    lake = Lake(tmp_path)
    assert lake.mirror is None and lake.absolute("a/b") == tmp_path / "a" / "b" == lake.at_hand(tmp_path / "a" / "b")
