"""Decoding in worker processes that outlive a bad image, a shard and each other.

An image that crashes its worker (a fault in a C library, the kernel's out-of-memory killer) or keeps it busy for too
long is tried once more, alone, in a new process; if it does so again it gets a reason and its neighbours their pixels.
Pixels come back through shared memory and reasons as JSON: nothing that a worker says is unpickled.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np

from clipcap.embedding.decode import Preprocessing
from clipcap.embedding.decode_worker import CHUNK, TIMEOUT_S, Decoded, decode_here, work
from clipcap.errors import TransientError

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in an unknown state

class Chunk(NamedTuple):
    """What became of some images."""

    results: list[Decoded]
    decode_s: float
    """Processor seconds that decoding took."""


class _Request:
    """What one call of :meth:`DecodePool.submit` asked for."""

    def __init__(self, count: int) -> None:
        self.future: Future[Chunk] = Future()
        self._results: list[Decoded] = [""] * count
        self._missing, self._decode_s = count, 0.0

    def answer(self, number: int, result: Decoded, seconds: float) -> None:
        self._results[number] = result
        self._missing -= 1
        self._decode_s += seconds
        if not self._missing:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                self.future.set_result(Chunk(self._results, self._decode_s))


@dataclass
class _Item:
    """One image on its way."""

    data: bytes
    request: _Request
    number: int
    tries: int = 0


class _Worker:
    def __init__(self, preprocessing: Preprocessing) -> None:
        shape = (CHUNK, preprocessing.height, preprocessing.width, 3)
        shared = _SPAWN.RawArray("B", int(np.prod(shape)))
        self.position = _SPAWN.RawValue("i", 0)
        self.pixels = np.frombuffer(shared, np.uint8).reshape(shape)
        self.tasks, theirs = _SPAWN.Pipe()
        arguments = (theirs, shared, self.position, preprocessing)
        self.process = _SPAWN.Process(target=work, args=arguments, daemon=True, name="clipcap-decode")
        self.process.start()
        theirs.close()
        self.chunk: list[_Item] = []
        self._seen, self._since = -1, 0.0

    def give(self, chunk: list[_Item]) -> None:
        self.chunk, self.position.value = chunk, 0
        self._seen, self._since = -1, time.monotonic()
        with contextlib.suppress(OSError):  # it died while it was idle: the loop notices when it listens
            self.tasks.send([item.data for item in chunk])

    def is_stuck(self, timeout_s: float) -> bool:
        """Whether the image under way takes longer than that."""
        if self.position.value != self._seen:
            self._seen, self._since = self.position.value, time.monotonic()
        return time.monotonic() - self._since > timeout_s

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.tasks.close()


class DecodePool:
    """Worker processes, and the thread that feeds them.

    Args:
        preprocessing: of the encoder; decides the pixels' size.
        workers: processes.
        timeout_s: seconds that an image may take.
    """

    def __init__(self, preprocessing: Preprocessing, workers: int, timeout_s: float = TIMEOUT_S) -> None:
        self.preprocessing, self.workers, self.timeout_s = preprocessing, workers, timeout_s
        self._waiting: queue.SimpleQueue[list[_Item]] = queue.SimpleQueue()
        self._again: deque[list[_Item]] = deque()
        self._running: list[_Worker] = []
        self._ended = ""
        self._wake_reader, self._wake_writer = _SPAWN.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._loop, name="clipcap-decode", daemon=True)
        self._thread.start()

    def submit(self, images: list[bytes]) -> Future[Chunk]:
        """Decodes at most :data:`CHUNK` images, later; the chunks of several callers take turns.

        Raises:
            TransientError: from the future, where the pool has ended.
        """
        request = _Request(len(images))
        self._waiting.put([_Item(data, request, number) for number, data in enumerate(images)])
        if self._ended:
            self._refuse_all()
        self._wake()
        return request.future

    def close(self) -> None:
        """Ends the processes; what was not decoded never will be."""
        self._ended = self._ended or "it was closed"
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_writer.send_bytes(b".")

    def _loop(self) -> None:
        try:
            while not self._ended:
                while len(self._running) < self.workers:  # at the start all at once, later in the place of a lost one
                    self._running.append(_Worker(self.preprocessing))
                self._give_out()
                busy = [worker for worker in self._running if worker.chunk]
                ready = wait([self._wake_reader, *(worker.tasks for worker in busy)], timeout=1.0 if busy else None)
                if self._wake_reader in ready:
                    self._wake_reader.recv_bytes()
                for worker in busy:
                    if worker.tasks in ready:
                        self._take(worker)
                    elif worker.is_stuck(self.timeout_s):
                        self._lost(worker, f"cannot be decoded: it did not end within {self.timeout_s:.0f} s")
        except Exception as error:  # a process cannot be started, for example: whoever waits must hear of it
            self._ended = str(error) or type(error).__name__
        for worker in self._running:
            self._again.append(worker.chunk)
            worker.end()
        self._refuse_all()

    def _refuse_all(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._again.append(self._waiting.get_nowait())
        for item in (item for chunk in self._again for item in chunk):
            if not item.request.future.done():
                error = TransientError(f"image decoding has stopped ({self._ended}); set embed.workers = 0")
                with contextlib.suppress(InvalidStateError):
                    item.request.future.set_exception(error)
        self._again.clear()

    def _give_out(self) -> None:
        """Hands chunks to idle workers; those that are tried again go first."""
        while self._again or not self._waiting.empty():
            worker = next((worker for worker in self._running if not worker.chunk), None)
            if worker is None:
                return
            chunk = self._again.popleft() if self._again else self._waiting.get()
            if not chunk[0].request.future.cancelled():
                worker.give(chunk)

    def _take(self, worker: _Worker) -> None:
        """The answer of a worker, or its end."""
        try:
            reasons, seconds = json.loads(worker.tasks.recv_bytes())
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            self._lost(worker, f"cannot be decoded: it ended its decoder {how}")
            return
        pixels = worker.pixels[: len(worker.chunk)].copy()  # the worker writes the next chunk into the same memory
        for number, item in enumerate(worker.chunk):
            item.request.answer(item.number, reasons[number] or pixels[number], seconds / len(pixels))
        worker.chunk = []

    def _lost(self, worker: _Worker, reason: str) -> None:
        """The image that a worker died of, or hangs on, is tried once more alone; the others of its chunk as well."""
        self._running.remove(worker)
        suspect = worker.chunk.pop(worker.position.value)
        worker.end()
        suspect.tries += 1
        if suspect.tries == 2:
            suspect.request.answer(suspect.number, reason, 0.0)
        else:
            self._again.append([suspect])
        if worker.chunk:
            self._again.append(worker.chunk)


def resolve_workers(workers: int) -> int:
    """-1 to the number of cores that this process may use."""
    if workers >= 0:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def get_pool(preprocessing: Preprocessing, workers: int) -> DecodePool:
    """The pool of this process for an encoder; shards share it, and it ends with the process."""
    pool = DecodePool(preprocessing, workers)
    atexit.register(pool.close)
    return pool


def decode_all(images: Iterable[bytes], preprocessing: Preprocessing, workers: int) -> Iterator[Chunk]:
    """Decodes a stream in ``workers`` processes (0: in this one), in order, with a bounded number under way.

    Yields:
        what became of the next images, at most :data:`CHUNK` at a time.

    Raises:
        TransientError: no worker can be started.
    """
    chunks = _chunked(images)
    if workers == 0:
        for chunk in chunks:
            started = time.thread_time()
            results = decode_here(chunk, preprocessing)
            yield Chunk(results, time.thread_time() - started)
        return
    pool = get_pool(preprocessing, workers)
    under_way: deque[Future[Chunk]] = deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(chunk))
            if len(under_way) > 3 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _chunked(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    stream = iter(images)
    while chunk := list(itertools.islice(stream, CHUNK)):
        yield chunk
