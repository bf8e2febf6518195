"""Captions in a file of JSON lines that a stopped command goes on with: finished rows are neither lost nor repeated."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clipcap.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clipcap.captioning import CaptionedImage


class CaptionFile:
    """Appends rows; knows those that it holds already.

    An image is the same one while its name, size and time of change are (as ``make`` and ``rsync`` see it: a hash would
    read every file again). What is behind a URL is not asked again. Failed images are tried again; one that fails as
    before gets no second row. Only digests are held, 16 bytes for each row.

    Args:
        path: ``*.jsonl``; made where it is not there.
        model: name of the model that captions.
        made_by: digest of the model's weights and of the settings of decoding.

    Raises:
        ConfigError: the file is of another kind, or holds rows of another model or other settings.
        DataError: it cannot be written, holds something else, or another command writes to it.
    """

    def __init__(self, path: Path, model: str, made_by: str) -> None:
        if path.suffix != ".jsonl":
            raise ConfigError(f"--out {path}: captions are stored as JSON lines, so name a file that ends in .jsonl")
        self.path, self.model, self.made_by = path, model, made_by
        self.kept = 0
        """Captioned images that the file had when it was opened."""
        self.passed = 0
        """Images that ``missing`` has passed over so far, since they have their row."""
        self._seen: set[bytes] = set()
        self._begun: dict[str, tuple[int | None, int | None]] = {}
        try:
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise DataError(f"--out {path} cannot be written: {error.strerror}; name another file") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def missing(self, images: Iterable[str]) -> Iterator[str]:
        """Those without a row of theirs, once each."""
        for image in images:
            state = _state(image)
            key = _digest(image, *state, "")
            if key not in self._seen:
                self._seen.add(key)
                self._begun[image] = state  # of before it is read: one that changes meanwhile is captioned again
                yield image
            else:
                self.passed += 1

    def append(self, rows: Iterable[CaptionedImage]) -> None:
        """Writes rows; what was written before a kill stays."""
        for row in rows:
            size, changed = self._begun.pop(row.image) if row.image in self._begun else _state(row.image)
            stored = {**asdict(row), "size": size, "changed_ns": changed, "model": self.model, "made_by": self.made_by}
            key = _digest(row.image, size, changed, row.reason)
            if row.status != "ok" and key in self._seen:
                continue
            self._seen.add(key)
            try:
                self._file.write(json.dumps(stored).encode() + b"\n")  # ASCII: holds names of any bytes, and no codes
                self._file.flush()
            except OSError as error:
                raise DataError(f"{self.path} cannot be written: {error.strerror}; the same command goes on") from None

    def close(self) -> None:
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another command writes to {self.path}: wait for it, or name another file") from None

    def _read(self) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):  # a kill in the middle of a row: it is captioned again
                self._file.truncate(end)
                break
            end += len(line)
            row = self._parse(line, number)
            if row["made_by"] != self.made_by:
                differs = "another model" if row["model"] != self.model else "other weights or settings"
                raise ConfigError(
                    f"{self.path} holds captions by {row['model']!r}, and this command has {differs} ({self.model!r}): "
                    "name another file with --out, or repeat the options that it was begun with"
                )
            is_good = row["status"] == "ok"
            self._seen.add(_digest(row["image"], row["size"], row["changed_ns"], "" if is_good else row["reason"]))
            self.kept += is_good

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            for name in ("image", "status", "reason", "size", "changed_ns", "model", "made_by"):
                row[name]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"line {number} of {self.path} is no row of clipcap caption, and nothing was changed: name another file"
            ) from None
        return row


def _state(image: str) -> tuple[int | None, int | None]:
    """Size in bytes and time of change; (None, None) for a URL or what is not there."""
    try:
        stat = None if "://" in image else os.stat(image)
    except (OSError, ValueError):
        stat = None
    return (None, None) if stat is None else (stat.st_size, stat.st_mtime_ns)


def _digest(*parts: object) -> bytes:
    return blake2b(json.dumps(parts).encode(), digest_size=16).digest()
