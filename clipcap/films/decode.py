"""A film, decoded in a process of its own: what it cannot read, or dies of, is a reason and no end of the batch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clipcap.config import FilmConfig
from clipcap.errors import ConfigError, SourceError
from clipcap.films.address import Span
from clipcap.films.shots import Signal, choose_frames
from clipcap.pace import Pace

SCAN_VERSION = 1
"""Raised where another choice of frames is made of the same film: what was remembered is forgotten."""
OnProgress = Callable[[float, float], None]
"""Called with seconds of the film that are done, and its length."""
log = logging.getLogger("clipcap.films")


@dataclass
class Scan:
    """What was found in a film."""

    sha256: str
    spans: list[Span] = field(default_factory=list)
    problem: str = ""
    """Why there are no spans, or why they do not reach to the film's end."""
    frames: int = 0
    """Frames that were looked at."""
    end_s: float = 0.0


def scan_film(film: Path, config: FilmConfig, on_progress: OnProgress | None = None) -> Scan:
    """Finds the shots of a film and the frames that stand for it.

    What was found is kept in the user's cache folder: landing after a dry run, or after a kill, looks at no film twice.

    Raises:
        ConfigError: PyAV is not installed.
        SourceError: the file cannot be opened.
    """
    must_have()
    try:
        with film.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{film} cannot be read: {error.strerror}") from None
    known = _cached(sha256, config)
    if known.is_file():
        try:
            facts = json.loads(known.read_text(encoding="utf-8"))
            return Scan(**{**facts, "spans": [Span(**span) for span in facts["spans"]]})
        except (ValueError, TypeError, KeyError, OSError):
            log.warning("%s is damaged and made again", known)
    with tempfile.TemporaryDirectory(prefix="clipcap-film-") as folder:
        out = Path(folder) / "signal.npz"
        done, problem = _work(["scan", str(film), str(out)], config.timeout_s, on_progress)
        if problem:
            return Scan(sha256, problem=problem)  # not kept: a machine that was short of memory may have more next time
        with np.load(out, allow_pickle=False) as arrays:
            time_s, change, level, spread, sharpness = arrays["facts"].T
            signal = Signal(time_s, change, level, spread, sharpness, arrays["small"], float(arrays["end_s"]))
    spans = choose_frames(signal, config)
    shortfall = done["shortfall"] if spans else "every frame of it is black or of one colour"
    found = Scan(sha256, spans, shortfall, done["frames"], done["end_s"])
    _keep(known, found)
    return found


def grab_frames(
    film: Path, times: list[float], folder: Path, timeout_s: float = 60.0, on_progress: OnProgress | None = None
) -> list[Path | str]:
    """Writes frames of a film as JPEGs into ``folder``.

    Args:
        times: seconds, ascending, as :func:`scan_film` gives them.
        folder: exists; ``<number>.jpg`` of a time is the file.
        timeout_s: seconds without a frame after which the film is given up.

    Returns:
        for each time its file, or the reason why there is none.
    """
    must_have()
    if not film.is_file():
        return [f"its film is not there any more ({film.name})"] * len(times)
    asked = folder / "times.json"
    asked.write_text(json.dumps(times), encoding="utf-8")
    _, problem = _work(["grab", str(film), str(folder), str(asked)], timeout_s, on_progress)
    asked.unlink()
    reason = f"its film: {problem}" if problem else "its film has no frame at this time any more"
    files = [folder / f"{number}.jpg" for number in range(len(times))]
    return [file if file.is_file() else reason for file in files]


def must_have() -> None:
    """Raises ConfigError where PyAV is not installed."""
    if find_spec("av") is None:
        raise ConfigError("films need PyAV, which is not installed here: pip install 'clipcap-pipeline[film]'")


def _work(arguments: list[str], timeout_s: float, on_progress: OnProgress | None) -> tuple[dict[str, Any], str]:
    """Runs the worker: what it found, or the problem."""
    command = [sys.executable, "-c", "from clipcap.films.worker import main; main()", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        while True:
            try:
                line = lines.get(timeout=timeout_s)
            except queue.Empty:
                return {}, f"it was given up: nothing could be decoded for {timeout_s:.0f} s"
            if not line:
                code = process.wait()
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
                return {}, f"it ended its decoder {how}"
            said = json.loads(line)
            if "problem" in said:
                return {}, str(said["problem"])
            if "done" in said:
                return said["done"], ""
            if on_progress:
                on_progress(said["seconds"], said["of"])
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _read(stream: Any, lines: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def progress_lines(name: str) -> OnProgress:
    """Log lines while a film is looked at."""
    began, pace = time.monotonic(), Pace()

    def on_progress(seconds: float, of: float) -> None:
        if pace.is_due():
            share = f", {100 * min(seconds / of, 1):.0f} %" if of else ""
            rate = seconds / (time.monotonic() - began)
            log.info("film      %s: %.0f s looked at%s · %.0f x real time", name, seconds, share, rate)

    return on_progress


def _cached(sha256: str, config: FilmConfig) -> Path:
    from clipcap.storage.entries import digest

    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = digest([SCAN_VERSION, sha256, config.model_dump(exclude={"timeout_s"})])
    return root / "clipcap" / "films" / f"{key[:32]}.json"


def _keep(path: Path, found: Scan) -> None:
    from clipcap.storage.commit import commit_bytes

    try:
        commit_bytes(json.dumps(asdict(found)).encode(), path)
    except Exception as error:  # a home that cannot be written to costs time only
        log.debug("%s cannot be kept: %s", path, error)
