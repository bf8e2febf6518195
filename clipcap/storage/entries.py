"""One finished output of one stage: what makes its entry, and whether its files stand as they were recorded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clipcap.storage.commit import commit_bytes, sha256_of
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry, FileRecord

log = logging.getLogger("clipcap.storage")


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=os.fspath)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(lake: Lake, kind: str, path: Path) -> FileRecord:
    """The record of a file that has its final name."""
    return FileRecord(kind=kind, path=lake.relative(path), sha256=sha256_of(path), size_bytes=path.stat().st_size)


class Recorder:
    """Times one output of a stage and records its entry when its files stand.

    Used as ``with Recorder(...) as out: …; out.add(kind, path); out.rows = …``; the entry is ``out.entry`` after the
    block, and nothing is recorded where the block raises.
    """

    def __init__(self, lake: Lake, stage: str, entry_id: str, key: str, run_id: str, **meta: Any) -> None:
        self.lake, self.stage, self.id, self.key, self.run_id = lake, stage, entry_id, key, run_id
        self.meta = {"run_id": run_id, **meta}
        self.files: list[FileRecord] = []
        self.rows: dict[str, int] = {}
        self.entry: Entry

    def add(self, kind: str, path: Path) -> None:
        self.files.append(describe(self.lake, kind, path))

    def __enter__(self) -> Recorder:
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.entry = record(
                self.lake,
                Entry(
                    stage=self.stage, id=self.id, key=self.key, files=self.files, rows=self.rows, meta=self.meta,
                    run_id=self.run_id, created_at=datetime.now(UTC), duration_s=time.perf_counter() - self._start,
                ),
            )  # fmt: skip


def pending_file(lake: Lake, entry_id: str, key: str) -> Path:
    """Where an entry stands until a generation holds it."""
    name = hashlib.sha256(f"{entry_id}\0{key}".encode()).hexdigest()[:32]
    return lake.manifests / "pending" / f"{name}.json"


def record(lake: Lake, entry: Entry) -> Entry:
    """Makes a finished output known to every later run, before anything is published."""
    commit_bytes(entry.model_dump_json(indent=1).encode(), pending_file(lake, entry.id, entry.key))
    return entry


def read_pending(lake: Lake) -> list[Entry]:
    """Recorded entries that no generation holds yet; a damaged one counts as not recorded."""
    entries = []
    for file in lake.files_in(lake.manifests / "pending", ".json"):
        try:
            entries.append(Entry.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            continue
    return entries


def stands(lake: Lake, entry: Entry) -> bool:
    """Whether each file of an entry is there as it was recorded.

    Of a file with the right size that was touched since, as in a copied lake, the bytes are read; if they are the
    recorded ones, its time is set back, so that it is read once. A store replaces objects whole: there sizes decide.
    """
    return all(_is_as_recorded(lake, file, entry.created_at) for file in entry.files)


def _is_as_recorded(lake: Lake, file: FileRecord, recorded_at: datetime) -> bool:
    if lake.mirror:
        return lake.size_of(file.path) == file.size_bytes
    path = lake.root / file.path
    try:
        stat = path.stat()
        if stat.st_size != file.size_bytes or stat.st_mtime <= recorded_at.timestamp():
            return stat.st_size == file.size_bytes
        with path.open("rb") as stream:
            is_same = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            if is_same:
                with suppress(OSError):  # another user's, or a read-only lake
                    os.utime(stream.fileno(), (stat.st_atime, int(recorded_at.timestamp())))
    except OSError:
        return False
    if not is_same:
        log.warning("%s was changed since it was made: it is made again", path)
    return is_same
