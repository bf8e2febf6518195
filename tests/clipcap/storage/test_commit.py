"""A file at its final name is whole: kills at every point, two processes that want one name, full read-back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.errors import ShardError
from clipcap.storage import commit as module
from clipcap.storage.commit import (
    commit,
    commit_bytes,
    commit_table,
    scratch_folder,
    sha256_of,
    writing,
    writing_folder,
)
from clipcap.storage.lake import Lake

fork = multiprocessing.get_context("fork")


def killed_in_child(action, monkeypatch: pytest.MonkeyPatch, target, name: str) -> None:
    """Runs ``action`` in a forked process that SIGKILLs itself when it calls ``target.name``."""

    def child() -> None:
        setattr(target, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        action()
        os._exit(3)  # never reached where the killing point is on the way

    process = fork.Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch, point: str):
    final = tmp_path / "file"
    commit_bytes(b"old", final)
    killed_in_child(lambda: commit_bytes(b"new and longer", final), monkeypatch, os, point)
    assert final.read_bytes() == b"old"
    left = [file for file in tmp_path.iterdir() if file != final]
    assert all(file.name.startswith(".") for file in left), "what is unfinished must not look like a result"


def test_a_kill_before_the_rename_leaves_no_new_file(tmp_path: Path, monkeypatch):
    final = tmp_path / "table.parquet"
    killed_in_child(lambda: commit_table(pa.table({"a": [1]}), final), monkeypatch, os, "replace")
    assert not final.exists()


def test_the_data_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch):
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy(descriptor: int) -> None:
        events.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"rename {b}"), replace(a, b)))
    final = tmp_path / "file"
    commit_bytes(b"x", final)
    assert events == ["fsync file", f"rename {final}", "fsync folder"]


def test_of_two_processes_exactly_one_creates(tmp_path: Path, forked):
    final, rounds, processes = tmp_path / "file", 30, 2
    barrier, won = fork.Barrier(processes), fork.Queue()

    def compete(number: int) -> None:
        for turn in range(rounds):
            barrier.wait(20)
            name = final.with_name(f"{turn}")
            if commit_bytes(f"{number}".encode() * 1000, name, exclusive=True):
                won.put((turn, number))
        won.close()
        won.join_thread()

    workers = [forked(compete, n) for n in range(processes)]
    for worker in workers:
        worker.start()
    winners = [won.get(timeout=20) for _ in range(rounds)]
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    assert won.empty()
    assert sorted(turn for turn, _ in winners) == list(range(rounds))
    for turn, number in winners:
        assert (tmp_path / f"{turn}").read_bytes() == f"{number}".encode() * 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(map(str, range(rounds))), "losers tidy up"


def test_exclusive_leaves_what_is_there(tmp_path: Path):
    final = tmp_path / "file"
    assert commit_bytes(b"first", final, exclusive=True) is True
    assert commit_bytes(b"second", final, exclusive=True) is False
    assert final.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_file_from_another_file_system_is_copied_aside_first(tmp_path: Path, monkeypatch, exclusive: bool):
    source, final = tmp_path / "elsewhere" / "file", tmp_path / "lake" / "file"
    source.parent.mkdir()
    source.write_bytes(b"content")
    real_stat = Path.stat

    class OtherDevice:
        st_dev = -1

    monkeypatch.setattr(Path, "stat", lambda self, **k: OtherDevice() if self == source else real_stat(self, **k))
    moves: list[str] = []
    replace, link = os.replace, os.link
    monkeypatch.setattr(os, "replace", lambda a, b: (moves.append(str(a)), replace(a, b)))
    monkeypatch.setattr(os, "link", lambda a, b: (moves.append(str(a)), link(a, b)))
    assert commit(source, final, exclusive)
    assert final.read_bytes() == b"content"
    assert os.path.dirname(moves[0]) == str(final.parent), "the rename happens inside the target's folder"
    assert not os.path.exists(source)
    assert list(final.parent.iterdir()) == [final]


def test_a_block_that_raises_commits_nothing(tmp_path: Path):
    final = tmp_path / "file"
    final.write_bytes(b"old")
    with pytest.raises(RuntimeError), writing(final) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError
    assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_table_that_cannot_be_read_back_is_not_committed(tmp_path: Path, monkeypatch):
    final = tmp_path / "table.parquet"
    write = pq.write_table
    monkeypatch.setattr(module.pq, "write_table", lambda table, *a, **k: write(table.slice(1), *a, **k))
    with pytest.raises(ShardError, match="wrote 3 rows and read back 2"):
        commit_table(pa.table({"a": [1, 2, 3]}), final)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path: Path):
    final = tmp_path / "model"
    for text in ("one", "two"):
        with writing_folder(final) as folder:
            (folder / "lm").mkdir()
            (folder / "lm" / text).write_text(text)
            assert not (final / "lm" / text).exists()
        assert [p.name for p in (final / "lm").iterdir()] == [text]
    with pytest.raises(RuntimeError), writing_folder(final) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert [p.name for p in final.iterdir()] == ["lm"]
    assert list(tmp_path.iterdir()) == [final]


def test_sha256_of_is_that_of_the_bytes(tmp_path: Path):
    file = tmp_path / "abc"
    file.write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_scratch_goes_away_and_is_private(tmp_path: Path):
    lake = Lake(tmp_path)
    with scratch_folder(lake, "x") as one, scratch_folder(lake, "x") as two:
        assert one != two and one.is_dir() and two.is_dir() and one.parent == lake.scratch
    assert list(lake.scratch.iterdir()) == []
