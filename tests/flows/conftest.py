"""One small run of the whole chain, made once, and copies of its lake to do things to."""

from __future__ import annotations

import io
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.storage.records import Entry

Cli = Callable[..., tuple[int, str, str]]

SCENES = 60
SMALL = [
    f"sample.scenes={SCENES}", "download.shard_size=40", "download.parallel_shards=2", "embed.workers=0",
    "train.epochs=1", "train.mapper_hidden=32", "train.language_model.layers=1", "train.language_model.heads=2",
    "train.language_model.hidden_size=32", "caption.beam_size=2", "caption.max_new_tokens=10",
]  # fmt: skip
"""Overrides that make the sample small: two shards, a model that has learnt next to nothing."""


@dataclass(frozen=True)
class SmallRun:
    """A finished run of the pipeline."""

    lake: Lake
    overrides: list[str]
    port: int
    """The configured one, which somebody else had while the run was under way."""
    outcome: dict[str, Any]
    scenes: int = SCENES

    def again(self, lake: Lake, *more: str) -> dict[str, Any]:
        """Runs the pipeline once more, on ``lake``, with more overrides."""
        from flows.pipeline import pipeline

        return pipeline("sample", [*self.overrides, *more], str(lake.root))

    def entries(self, lake: Lake | None = None) -> dict[str, Entry]:
        return read_current(lake or self.lake).entries


@contextmanager
def somebody_else() -> Iterator[int]:
    """A port of 127.0.0.1 on which a stranger answers 410 to everything."""

    class Gone(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(410)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gone)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def small_run(prefect_harness: None, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """The sample through the whole chain, while its port is taken. Read it; change only copies of its lake."""
    from flows.pipeline import pipeline

    lake = Lake(tmp_path_factory.mktemp("small") / "lake")
    with somebody_else() as port:
        overrides = [*SMALL, f"serve.port={port}"]
        outcome = pipeline("sample", overrides, str(lake.root))
    return SmallRun(lake, overrides, port, outcome)


@pytest.fixture(scope="session")
def small() -> list[str]:
    """The overrides of the small run, but for the port."""
    return SMALL


@pytest.fixture
def copied(small_run: SmallRun, tmp_path: Path) -> Lake:
    """The lake of the small run, copied with its times."""
    shutil.copytree(small_run.lake.root, tmp_path / "lake")
    return Lake(tmp_path / "lake")


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    """A folder of three new pictures, each with its captions beside it."""
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        picture = scene(9_000 + number, seed=1)
        render(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("\n".join(captions(picture)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds ports that nobody has."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def clipcap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, with ``stdin`` where it is given: (exit code, stdout, stderr)."""
    from flows.cli import main

    def run(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clipcap", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect server is configured, even where earlier tests have one."""
    from flows import events

    monkeypatch.setattr(events, "_api_url", lambda: None)
