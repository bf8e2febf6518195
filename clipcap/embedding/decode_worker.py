"""What runs in a process that decodes images: its loop, and limits so that no image takes the machine with it."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from clipcap.embedding.decode import Preprocessing, decode
from clipcap.errors import ImageDecodeError

CHUNK = 16
"""Images handed to a worker at a time."""
TIMEOUT_S = 60.0
"""Seconds after which an image is taken for one that never ends."""
MEMORY_BYTES = 4 * 2**30
"""What a worker may take beyond its start: 179 million pixels, Pillow's own limit, with alpha and a copy, and room."""

Decoded = np.ndarray | str
"""Pixels as :func:`clipcap.embedding.decode.decode` gives them, or the reason why there are none."""


def decode_here(images: Iterable[bytes], preprocessing: Preprocessing) -> list[Decoded]:
    """Decodes in this process."""
    results: list[Decoded] = []
    for data in images:
        try:
            results.append(decode(data, preprocessing))
        except ImageDecodeError as error:
            results.append(str(error))
    return results


def work(tasks: Connection, pixels: Any, position: Any, preprocessing: Preprocessing) -> None:
    """A worker's life: takes chunks, writes pixels where the parent sees them, answers with reasons and seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    limit_memory()
    room = np.frombuffer(pixels, np.uint8).reshape(CHUNK, preprocessing.height, preprocessing.width, 3)
    while True:
        try:
            chunk = tasks.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        started, reasons = time.process_time(), [""] * len(chunk)
        _limit_seconds(started + TIMEOUT_S * len(chunk))
        for number, data in enumerate(chunk):
            position.value = number
            [result] = decode_here([data], preprocessing)
            if isinstance(result, str):
                reasons[number] = result
            else:
                room[number] = result
        try:
            tasks.send_bytes(json.dumps([reasons, time.process_time() - started]).encode())
        except OSError:
            return


def limit_memory() -> None:
    """Beyond what a worker has now: an image that wants more is a MemoryError and a reason, not the machine's end."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # only Linux says what a process has
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_seconds(seconds: float) -> None:
    """Of processor time since the worker began: one whose parent was killed while it hangs ends by itself."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1 if hard < 0 else min(int(seconds) + 1, hard), hard))
