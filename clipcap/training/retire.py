"""Old models leave the newest generation, and stay in the archive.

A lake that trains every week would otherwise keep every model and every caption that any of them ever wrote. What a
retired model scored stays in SQL; its weights get a second name below ``archive/models`` (a hard link, which takes no
room), so that they outlive the collection of the generations that named them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clipcap.errors import DataError
from clipcap.storage.commit import writing_folder
from clipcap.storage.entries import read_pending
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Entry, Generation
from clipcap.training.registry import production_line

_DROPPED = ("train", "caption")
"""Stages whose entries go: weights and captions are what takes room."""


@dataclass(frozen=True)
class Retired:
    """One model that left, or would leave."""

    model_id: str
    size_bytes: int
    """Of the files that no generation names once older ones are collected."""
    age_days: float
    archive: str
    """Relative to the lake."""


def retire_models(
    lake: Lake, keep_models: int = 5, keep_days: float = 7.0, dry_run: bool = False, now: datetime | None = None
) -> list[Retired]:
    """Takes models out of the newest generation that are neither new nor of use.

    Kept are the model in production and the one that a rollback goes to, the newest ``keep_models`` of the others,
    everything younger than ``keep_days``, and whatever an unpublished output belongs to. A lake in a bucket keeps all:
    its archive would be a copy.

    Raises:
        DataError: one of them went into production meanwhile; nothing was changed.
    """
    now = now or datetime.now(UTC)
    if lake.mirror:
        return []
    generation = read_current(lake)
    pending = {entry.meta.get("model_id") for entry in read_pending(lake)}
    others = [
        entry for entry in sorted(generation.of_stage("train"), key=lambda entry: entry.created_at, reverse=True)
        if entry.meta["model_id"] not in _in_use(generation)
    ]  # fmt: skip
    leaving = [
        entry for entry in others[keep_models:]
        if entry.created_at < now - timedelta(days=keep_days) and entry.meta["model_id"] not in pending
    ]  # fmt: skip
    if not leaving:
        return []
    names = {str(entry.meta["model_id"]) for entry in leaving}
    gone = [e for e in generation.entries.values() if e.stage in _DROPPED and e.meta.get("model_id") in names]
    retired = [_describe(lake, entry, gone, now) for entry in leaving]
    if not dry_run:
        for one in retired:
            _archive(lake.model(one.model_id), lake.root / one.archive)

        def still_unused(base: Generation) -> None:
            if used := names & _in_use(base):
                raise DataError(f"{', '.join(sorted(used))} went into production meanwhile; nothing was retired")

        commit_generation(lake, promotion=still_unused, drop={entry.id for entry in gone})
    return retired


def _in_use(generation: Generation) -> set[str]:
    return set(production_line(generation.promotions)[-2:])


def _describe(lake: Lake, train: Entry, gone: list[Entry], now: datetime) -> Retired:
    model_id = str(train.meta["model_id"])
    size = sum(file.size_bytes for e in gone if e.meta["model_id"] == model_id for file in e.files)
    archive = lake.relative(lake.root / "archive" / "models" / lake.model(model_id).name)
    return Retired(model_id, size, round((now - train.created_at).total_seconds() / 86_400, 3), archive)


def _archive(folder: Path, archive: Path) -> None:
    if archive.exists() or not folder.is_dir():
        return
    with writing_folder(archive) as aside:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = aside / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, target)
