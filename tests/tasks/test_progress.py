"""What long work says: lines some seconds apart, also while somebody else's program says nothing."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

import pytest

from clipcap import pace
from clipcap.storage.lake import Lake
from tasks.progress import show_download


def test_lines_keep_their_distance(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    lines = pace.Pace(10.0)
    said = []
    for now in (100.0, 109.9, 110.0, 119.9, 120.5, 121.0):
        if lines.is_due(at_once=now == 121.0):
            said.append(now)
    assert said == [110.0, 120.5, 121.0]


def test_a_download_says_what_has_arrived_until_it_ends(tmp_path: Path):
    lake, said = Lake(tmp_path / "lake"), queue.SimpleQueue()
    tar = lake.scratch / "download-0a1b-00000-f00d" / "out" / "00000.tar"
    tar.parent.mkdir(parents=True)
    tar.write_bytes(bytes(3 * 2**20))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.put(record.getMessage())

    log, handler, threads = logging.getLogger("clipcap.download"), Handler(), threading.active_count()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with show_download(lake, "0a1b-00000", 1_200, every_s=0.01):
            line = said.get(timeout=60)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert line.startswith("download  shard 0a1b-00000: 1,200 rows, 3.0 MiB arrived in ")
    assert threading.active_count() == threads
