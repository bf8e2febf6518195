"""A lake on an object store, through real fsspec file systems: what is committed is there, whole, and read once."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.errors import ConfigError, DataError, TransientError
from clipcap.storage import mirror as module
from clipcap.storage.commit import commit, commit_bytes, commit_table, scratch_folder, writing, writing_folder
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import Entry, EntryIndex, Recorder, commit_generation, read_current


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
