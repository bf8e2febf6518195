"""Worker processes: the same pixels in the same order; an image that kills or holds its worker costs itself."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcap.embedding import decode_pool as module
from clipcap.embedding.decode import Preprocessing, decode
from clipcap.embedding.decode_pool import CHUNK, DecodePool, decode_all, resolve_workers
from clipcap.errors import TransientError

TO = Preprocessing(16, 20, (0.5,) * 3, (0.5,) * 3, resize_mode="squash")


def image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed % 40, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def mixed(count: int) -> list[bytes]:
    """Good images of different sizes and, at every fifth place, something broken."""
    return [b"<html>" * (n % 3) if n % 5 == 3 else image(n) for n in range(count)]


def flat(images, workers: int) -> list:
    return [result for chunk in decode_all(images, TO, workers) for result in chunk.results]


def same(left: list, right: list) -> bool:
    return [r if isinstance(r, str) else r.tobytes() for r in left] == [
        r if isinstance(r, str) else r.tobytes() for r in right
    ]


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left():
    yield
    module.get_pool.cache_clear()


def test_a_broken_image_loses_no_other_and_the_order_stays():
    images = mixed(50)
    results = flat(images, 0)
    assert len(results) == 50
    for number, (data, result) in enumerate(zip(images, results, strict=True)):
        if number % 5 == 3:
            assert isinstance(result, str) and result.startswith("cannot be decoded")
        else:
            np.testing.assert_array_equal(result, decode(data, TO))


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_in_the_same_order(workers: int):
    images = mixed(8 * CHUNK + 3)
    assert same(flat(iter(images), workers), flat(images, 0))
    assert flat([], workers) == []
    assert same(flat([images[0]], workers), [decode(images[0], TO)])


def test_the_processes_outlive_a_stream():
    pool = module.get_pool(TO, 2)
    flat(mixed(CHUNK), 2)
    before = [worker.process.pid for worker in pool._running]
    flat(mixed(5 * CHUNK), 2)
    assert [worker.process.pid for worker in pool._running] == before and len(before) == 2


def test_streams_side_by_side_keep_apart():
    images = {n: [image(100 * n + k) for k in range(70)] for n in range(3)}
    results: dict[int, list] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: flat(images[n], 2)})) for n in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, data in images.items():
        assert same(results[number], [decode(one, TO) for one in data])


def test_the_stream_is_not_read_far_ahead():
    taken = 0

    def stream():
        nonlocal taken
        for _ in range(2000):
            taken += 1
            yield b"<html>"

    chunks = decode_all(stream(), TO, workers=2)
    first = next(chunks)
    assert len(first.results) == CHUNK and taken <= CHUNK * 8
    assert sum(len(chunk.results) for chunk in chunks) == 2000 - CHUNK


@pytest.mark.parametrize("workers", [0, 2])
def test_what_breaks_in_the_stream_comes_out(workers: int):
    def stream():
        yield b"<html>"
        raise RuntimeError("the tar ends")

    with pytest.raises(RuntimeError, match="the tar ends"):
        list(decode_all(stream(), TO, workers))


HOSTILE = """
import os, time
from clipcap.embedding import decode_worker
from clipcap.embedding.decode import decode

def dangerous(data, preprocessing):
    if data.startswith(b"CRASH"):
        os.abort()
    if data.startswith(b"EXIT"):
        os._exit(3)
    while data.startswith(b"HANG"):
        time.sleep(1)
    return decode(data, preprocessing)

def work(*arguments):
    decode_worker.decode = dangerous
    decode_worker.work(*arguments)
"""


@pytest.fixture
def hostile_pool(tmp_path: Path, monkeypatch):
    """Workers with a decoder that can be told to crash, to leave or to hang."""
    (tmp_path / "hostile_decoder.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    import hostile_decoder

    monkeypatch.setattr(module, "work", hostile_decoder.work)
    pool = DecodePool(TO, 2, timeout_s=2.0)
    yield pool
    pool.close()
    sys.modules.pop("hostile_decoder")


def test_an_image_that_kills_or_holds_its_worker_costs_only_itself(hostile_pool: DecodePool):
    images = [image(n) for n in range(2 * CHUNK)]
    images[0], images[5], images[CHUNK - 1], images[CHUNK + 3] = b"CRASH", b"HANG", b"CRASH", b"EXIT"
    futures = [hostile_pool.submit(images[:CHUNK]), hostile_pool.submit(images[CHUNK:])]
    results = [result for future in futures for result in future.result(timeout=120).results]
    reasons = {number: result for number, result in enumerate(results) if isinstance(result, str)}
    assert reasons == {
        0: "cannot be decoded: it ended its decoder by SIGABRT",
        5: "cannot be decoded: it did not end within 2 s",
        CHUNK - 1: "cannot be decoded: it ended its decoder by SIGABRT",
        CHUNK + 3: "cannot be decoded: it ended its decoder with status 3",
    }
    for number, result in enumerate(results):
        if number not in reasons:
            np.testing.assert_array_equal(result, decode(images[number], TO))


def test_a_worker_that_is_killed_from_outside_costs_nothing(hostile_pool: DecodePool):
    images = [image(n) for n in range(CHUNK)]
    hostile_pool.submit(images).result(timeout=60)
    stopped = hostile_pool._running[0].process
    os.kill(stopped.pid, signal.SIGSTOP)  # holds what it is given, so that the kill comes in the middle
    futures = [hostile_pool.submit(images) for _ in range(3)]
    time.sleep(0.3)
    os.kill(stopped.pid, signal.SIGKILL)
    for future in futures:
        assert same(future.result(timeout=60).results, [decode(data, TO) for data in images])


def test_an_image_alone_whose_worker_dies_twice_is_given_up(hostile_pool: DecodePool):
    chunk = hostile_pool.submit([b"EXIT"]).result(timeout=60)
    assert chunk.results == ["cannot be decoded: it ended its decoder with status 3"]


def test_a_pool_that_ended_refuses_what_it_has_and_what_comes(hostile_pool: DecodePool):
    under_way = hostile_pool.submit([b"HANG"])
    time.sleep(0.5)
    hostile_pool.close()
    for future in (under_way, hostile_pool.submit([image(0)])):
        with pytest.raises(TransientError, match=r"embed\.workers = 0"):
            future.result(timeout=10)


def test_where_no_process_can_be_started_the_caller_hears_of_it(monkeypatch):
    def refuse(*_):
        raise OSError("out of processes")

    monkeypatch.setattr(module, "_Worker", refuse)
    pool = DecodePool(TO, 2)
    with pytest.raises(TransientError, match="out of processes"):
        pool.submit([image(0)]).result(timeout=10)


def test_minus_one_is_a_process_for_each_core():
    assert resolve_workers(-1) == len(os.sched_getaffinity(0))
    assert resolve_workers(3) == 3
