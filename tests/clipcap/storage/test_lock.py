"""Locks of outputs: one holder at a time, in threads and processes; a killed one holds nothing up."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from clipcap.storage.lake import Lake
from clipcap.storage.lock import one_at_a_time, remove_abandoned


def held(lake: Lake) -> list[Path]:
    return list((lake.scratch / "locks").iterdir())


def test_one_thread_at_a_time_and_nothing_is_left(tmp_path: Path):
    lake, inside, most = Lake(tmp_path), [0], []

    def enter() -> None:
        for _ in range(50):
            with one_at_a_time(lake, "embed/a k"):
                inside[0] += 1
                most.append(inside[0])
                assert len(held(lake)) == 1
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 300 and held(lake) == []


def test_other_names_do_not_wait(tmp_path: Path):
    with one_at_a_time(Lake(tmp_path), "embed/a k"), one_at_a_time(Lake(tmp_path), "embed/b k"):
        assert len(held(Lake(tmp_path))) == 2


def test_a_process_that_is_killed_holds_nothing_up(tmp_path: Path):
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with one_at_a_time(Lake(tmp_path), "embed/a k"):
            os.write(tell, b"held")
            signal.pause()
    assert os.read(ready, 4) == b"held"
    entered = threading.Event()

    def enter() -> None:
        with one_at_a_time(Lake(tmp_path), "embed/a k"):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.is_set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    thread.join(60)
    assert entered.is_set()


def test_what_killed_processes_left_is_removed_and_what_is_held_stays(tmp_path: Path):
    lake = Lake(tmp_path)
    with one_at_a_time(lake, "train/a k"):
        (lake.scratch / "locks" / "left").touch()
        remove_abandoned(lake)
        [file] = held(lake)
        assert file.name != "left"
    remove_abandoned(lake)
    assert held(lake) == []
