"""Entries are found only while their files stand; generations lose nothing, whoever writes at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clipcap.errors import DataError
from clipcap.storage import manifest
from clipcap.storage.commit import commit_bytes
from clipcap.storage.entries import Recorder, digest, read_pending, record
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex, commit_generation, read_current, read_generation
from clipcap.storage.records import Entry, Promotion, Run

fork = multiprocessing.get_context("fork")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def output(lake: Lake, name: str, key: str = "key", content: bytes = b"content") -> Entry:
    """A finished, recorded output with one real file."""
    with Recorder(lake, "embed", f"embed/{name}", key, "run", batch_id="b") as out:
        file = lake.embeddings("e", "b", name)
        commit_bytes(content, file)
        out.add("embeddings", file)
        out.rows = {"ok": 1}
    return out.entry


def run(name: str) -> Run:
    return Run(run_id=name, flow="f", started_at=NOW, finished_at=NOW)


def test_a_new_lake_has_an_empty_generation(lake: Lake):
    assert read_current(lake).number == 0
    assert EntryIndex(lake).find("embed/a", "key") is None
    assert not lake.root.exists(), "reading creates nothing"


def test_an_entry_is_found_before_and_after_it_is_published(lake: Lake):
    entry = output(lake, "a")
    assert EntryIndex(lake).find("embed/a", "key") == entry
    commit_generation(lake, [entry])
    assert read_pending(lake) == []
    assert EntryIndex(lake).find("embed/a", "key") == entry
    assert EntryIndex(lake).find("embed/a", "other key") is None
    assert EntryIndex(lake).find("embed/b", "key") is None


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "grown", "folder"])
def test_an_entry_whose_file_is_gone_or_cut_is_a_miss(lake: Lake, is_published: bool, damage: str):
    entry = output(lake, "a")
    kept = output(lake, "b")
    if is_published:
        commit_generation(lake, [entry, kept])
    file = lake.absolute(entry.files[0].path)
    if damage in ("deleted", "folder"):
        file.unlink()
    if damage == "truncated":
        os.truncate(file, 3)
    if damage == "grown":
        file.write_bytes(b"content and more")
    if damage == "folder":
        file.mkdir()
    index = EntryIndex(lake)
    assert index.find("embed/a", "key") is None
    assert index.of_stage("embed") == [kept]


def test_a_damaged_pending_entry_counts_as_not_recorded(lake: Lake):
    good = output(lake, "good")
    [file] = (lake.manifests / "pending").iterdir()
    for number, content in enumerate([b"", b"{", b"[]", b'{"stage": "embed"}', good.model_dump_json()[:-9].encode()]):
        (file.parent / f"{number}.json").write_bytes(content)
    assert read_pending(lake) == [good]
    assert EntryIndex(lake).of_stage("embed") == [good]


def test_nothing_is_recorded_where_the_stage_raises(lake: Lake):
    with pytest.raises(RuntimeError), Recorder(lake, "embed", "embed/a", "key", "run"):
        raise RuntimeError
    assert read_pending(lake) == []


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe", b"1.5"])
def test_a_damaged_current_says_what_to_do(lake: Lake, content: bytes):
    commit_generation(lake, [output(lake, "a")])
    lake.current.write_bytes(content)
    with pytest.raises(DataError, match=r"CURRENT does not hold a number.*put the number of the newest"):
        read_current(lake)


@pytest.mark.parametrize("content", [None, b"", b'{"number": 2', b'{"number": "two"}'])
def test_a_damaged_manifest_says_what_to_do_and_that_works(lake: Lake, content: bytes | None):
    first = output(lake, "a")
    commit_generation(lake, [first])
    commit_generation(lake, [output(lake, "b")])
    damaged = lake.manifest(2)
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"manifests/2.json (cannot be read|is missing).* put .* number ") as raised:
        EntryIndex(lake)
    assert "\n" not in str(raised.value)
    # what the message says: go back, then go on
    damaged.unlink(missing_ok=True)
    lake.current.write_text("1")
    assert read_current(lake).entries == {first.id: first}
    third = output(lake, "c")
    assert commit_generation(lake, [third]).entries == {first.id: first, third.id: third}


def test_the_same_entries_again_make_no_generation(lake: Lake):
    entry = output(lake, "a")
    assert commit_generation(lake, [entry]).number == 1
    assert commit_generation(lake, [entry]).number == 1
    assert commit_generation(lake, [entry], run=run("r")).number == 2
    assert [file.name for file in sorted(lake.manifests.glob("*.json"))] == ["1.json", "2.json"]


def test_a_newer_entry_replaces_the_one_with_its_id_and_drop_removes(lake: Lake):
    old, kept = output(lake, "a", "old"), output(lake, "b")
    commit_generation(lake, [old, kept])
    new = output(lake, "a", "new")
    assert commit_generation(lake, [new]).entries == {"embed/a": new, "embed/b": kept}
    assert commit_generation(lake, drop={"embed/b"}).entries == {"embed/a": new}
    assert read_generation(lake, 1).entries == {"embed/a": old, "embed/b": kept}, "older generations stay"


def test_an_entry_that_is_dropped_and_given_stays(lake: Lake):
    entry = output(lake, "a")
    commit_generation(lake, [entry])
    assert commit_generation(lake, [entry], drop={"embed/a"}).entries == {"embed/a": entry}


def test_the_model_promoted_last_is_in_production(lake: Lake):
    assert read_current(lake).production_model_id == ""
    for model in ("m1", "m2"):
        commit_generation(lake, promotion=Promotion(model_id=model, reason="better", created_at=NOW))
    assert read_current(lake).production_model_id == "m2"
    assert [promotion.model_id for promotion in read_current(lake).promotions] == ["m1", "m2"]


def test_concurrent_commits_lose_nothing(lake: Lake):
    processes, each = 2, 8
    barrier, numbers = fork.Barrier(processes), fork.Queue()

    def child(number: int) -> None:
        for turn in range(each):
            entry = output(lake, f"{number}-{turn}")
            barrier.wait(20)
            numbers.put(commit_generation(lake, [entry], run=run(f"{number}-{turn}")).number)

    workers = [fork.Process(target=child, args=(n,)) for n in range(processes)]
    for worker in workers:
        worker.start()
    got = [numbers.get(timeout=30) for _ in range(processes * each)]
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    assert sorted(got) == list(range(1, processes * each + 1)), "no number is given twice"
    final = read_current(lake)
    assert final.number == processes * each
    wanted = {f"{n}-{t}" for n in range(processes) for t in range(each)}
    assert set(final.entries) == {f"embed/{name}" for name in wanted}
    assert {r.run_id for r in final.runs} == wanted
    assert read_pending(lake) == []


def test_current_never_goes_back(lake: Lake, monkeypatch):
    """A process that was held up between its manifest and CURRENT must not undo what came after it."""
    ours, theirs = output(lake, "ours"), output(lake, "theirs")
    real, is_first = manifest.commit_bytes, [True]

    def held_up(data: bytes, final: Path, exclusive: bool = False) -> bool:
        if final == lake.current and is_first[0]:
            is_first[0] = False
            commit_generation(lake, [theirs])  # another process, from start to end
        return real(data, final, exclusive)

    monkeypatch.setattr(manifest, "commit_bytes", held_up)
    assert commit_generation(lake, [ours]).number == 1
    assert read_current(lake).number == 2
    assert set(read_current(lake).entries) == {"embed/ours", "embed/theirs"}


def test_a_commit_killed_before_current_is_taken_up_by_the_next(lake: Lake):
    first = output(lake, "a")

    def child() -> None:
        real = manifest.commit_bytes

        def deadly(data: bytes, final: Path, exclusive: bool = False) -> bool:
            if final == lake.current:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(data, final, exclusive)

        manifest.commit_bytes = deadly
        commit_generation(lake, [first], run=run("killed"))

    process = fork.Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert lake.manifest(1).exists() and read_current(lake).number == 0
    assert EntryIndex(lake).find(first.id, first.key) == first, "a finished output stays known"
    second = output(lake, "b")
    generation = commit_generation(lake, [second])
    assert generation.number == 2
    assert set(generation.entries) == {"embed/a", "embed/b"}
    assert [r.run_id for r in generation.runs] == ["killed"]


def test_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, "ü"]}) == digest({"b": [2, "ü"], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, ["a", 1], ["a1"], [["a"], 1], None, "", [], {}]
    assert len({digest(value) for value in different}) == len(different)


def test_recorded_entries_read_back_equal(lake: Lake):
    entry = Entry(stage="land", id="land/x", key="k", meta={"a": [1, {"b": "ü"}]}, created_at=NOW)
    record(lake, entry)
    assert read_pending(lake) == [entry]
