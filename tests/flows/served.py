"""Servers and workers as processes of their own, for tests that run them for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

TOOLS = Path(sys.executable).parent


def free_of_prefect() -> dict[str, str]:
    """This environment without anybody's settings of Prefect and of clipcap."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CLIPCAP_"))}


def eventually(found: Callable[[], Any], what: str, seconds: float = 120, every_s: float = 0.5) -> Any:
    """The first true answer of ``found``, asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(every_s)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


@contextmanager
def running(command: list[str], cwd: Path, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; when the block ends it is asked to stop, and in the end made to."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(TOOLS / command[0]), *command[1:]], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=stream, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind in its session
            process.wait(timeout=30)


def wait_for_server(process: subprocess.Popen[bytes], api: str, log: Path) -> None:
    def healthy() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{api}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    eventually(healthy, "server", 180)
