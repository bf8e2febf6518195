"""How a stage's task behaves, shown by a tiny task.

Covered: only TransientError is tried again, three times at most, with growing delays and jitter; one key is computed
once, and keys of two tasks never meet; the small result is JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from clipcap.errors import ConfigError, DataError, TransientError
from tasks.policies import stage_task

pytestmark = pytest.mark.usefixtures("prefect_harness")


class Tiny:
    """A stage's task that fails as it is told, and counts how often it is called."""

    def __init__(self, name: str, failures: list[Exception], results: Path) -> None:
        self.failures, self.calls = failures, 0

        @stage_task(name, "tiny {key}")
        def tiny(key: str) -> dict[str, Any]:
            self.calls += 1
            if self.failures:
                raise self.failures.pop(0)
            return {"key": key, "call": self.calls}

        self.run: Callable[[str], dict[str, Any]] = tiny.with_options(retry_delay_seconds=0, result_storage=results)
        self.task = tiny


def test_what_may_heal_is_tried_again(tmp_path: Path) -> None:
    tiny = Tiny("heals", [TransientError("busy"), TransientError("still busy")], tmp_path)
    assert tiny.run("a") == {"key": "a", "call": 3}


def test_it_is_given_up_after_three_more_attempts(tmp_path: Path) -> None:
    tiny = Tiny("hopeless", [TransientError(f"busy {n}") for n in range(9)], tmp_path)
    with pytest.raises(TransientError, match="busy 3"):
        tiny.run("a")
    assert tiny.calls == 4


@pytest.mark.parametrize("error", [DataError("broken"), ConfigError("wrong"), ValueError("a bug")])
def test_nothing_else_is_tried_again(tmp_path: Path, error: Exception) -> None:
    tiny = Tiny("fails", [error], tmp_path)
    with pytest.raises(type(error), match=str(error)):
        tiny.run("a")
    assert tiny.calls == 1


def test_what_takes_too_long_is_given_up_and_not_begun_again(tmp_path: Path) -> None:
    started = []

    @stage_task("hangs", "hangs {key}")
    def hangs(key: str) -> dict[str, Any]:
        started.append(key)
        while True:
            time.sleep(0.01)

    @flow
    def waits() -> None:
        hangs.with_options(timeout_seconds=0.3, retry_delay_seconds=0, result_storage=tmp_path).submit("a").result()

    with pytest.raises(TimeoutError, match=r"0\.3 second"):
        waits()
    assert started == ["a"]


def test_delays_double_and_are_jittered(tmp_path: Path) -> None:
    task = Tiny("delays", [], tmp_path).task
    assert (task.retries, task.retry_delay_seconds) == (3, [2, 4, 8])
    assert task.retry_jitter_factor and task.retry_jitter_factor > 0


def test_a_key_is_computed_once(tmp_path: Path) -> None:
    tiny = Tiny("cached", [], tmp_path)
    assert [tiny.run("a"), tiny.run("a"), tiny.run("b")] == [
        {"key": "a", "call": 1}, {"key": "a", "call": 1}, {"key": "b", "call": 2}
    ]  # fmt: skip


def test_two_tasks_never_share_a_result(tmp_path: Path) -> None:
    one, other = Tiny("one", [], tmp_path), Tiny("other", [], tmp_path)
    one.run("same")
    other.run("same")
    assert other.calls == 1


def test_the_result_is_json_in_the_folder_it_was_given(tmp_path: Path) -> None:
    Tiny("stored", [], tmp_path).run("a")
    (file,) = tmp_path.iterdir()
    assert json.loads(json.loads(file.read_text())["result"]) == {"key": "a", "call": 1}
