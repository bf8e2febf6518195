"""Collects garbage: generations beyond retention, files that no kept generation names, unfinished work that was left.

A reader keeps its generation open for hours while new ones are published, so a generation counts as old from the day
on which another took its place, not from the day of its making. What pending entries name is never touched: it is
finished work that the next run publishes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clipcap.errors import DataError
from clipcap.storage.commit import commit_bytes
from clipcap.storage.entries import pending_file, read_pending
from clipcap.storage.lake import Lake
from clipcap.storage.lock import remove_abandoned
from clipcap.storage.manifest import parse_generation, read_current, read_generation
from clipcap.storage.records import Generation

MADE_BY_STAGES = ("batches", "captions", "duplicates", "embeddings", "ledger", "metrics", "text_embeddings")
"""Folders in which every file is some entry's. Elsewhere (models, reports) people put files of their own."""
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}")  # what clipcap.storage.commit writes before it has its name
_ONE_DAY = timedelta(days=1)  # no unfinished work is younger: a live run's must stay, whatever keep_days says


@dataclass(frozen=True)
class Removed:
    """One thing that was removed, or would be."""

    kind: str
    """generation, file, or temporary (a scratch folder, or what a killed process was writing)."""
    path: str
    """Relative to the lake."""
    size_bytes: int
    age_days: float
    """Since its last change; of a generation since another took its place."""


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would remove."""

    is_dry_run: bool
    kept_generations: list[int]
    removed: list[Removed] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.removed)


def collect(
    lake: Lake,
    keep_generations: int = 10,
    keep_days: float = 7.0,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Collected:
    """Removes what nobody can need any more. Safe beside readers and runs, and safe to kill: the next one goes on.

    Manifests are set aside first (``manifests/removed/``), then files are deleted, then the manifests that were set
    aside: a manifest that can still be read never names a file that was collected.

    Args:
        lake: the lake.
        keep_generations: the newest are kept, and never fewer than two: the catalog may be one behind.
        keep_days: nothing younger is removed, whatever else is said; longer than any reader's connection and than any
            run. 0 is for a lake that nobody else uses at the moment.
        dry_run: only say what would be removed.
        now: the present, for tests.

    Returns:
        What was removed with sizes, generations first.

    Raises:
        DataError: CURRENT or the manifest of a kept generation cannot be read; nothing was removed.
    """
    now = now or datetime.now(UTC)
    before = now - timedelta(days=keep_days)
    pending = _pending(lake)  # first: what is published meanwhile moves from here to a generation
    kept, old = _split(lake, keep_generations, before)
    needed, outlived = pending | _named(lake, kept), _set_aside(lake)
    for number in old:
        with suppress(DataError):
            outlived |= _named(lake, [number])

    generations = [_generation(lake, number, now - replaced) for number, replaced in sorted(old.items())]
    files = [
        Removed("file", name, size, _days(now - changed))
        for name, (size, changed) in sorted(lake.stored().items())
        if kept  # else nothing says what is needed
        and name not in needed
        and (name.partition("/")[0] in MADE_BY_STAGES or name in outlived)
        and changed is not None
        and changed < before
    ]
    temporary = list(_temporary(lake, min(before, now - _ONE_DAY), now))
    if not dry_run:
        for number in sorted(old):
            commit_bytes(lake.read_bytes(lake.manifest(number)), lake.manifests / "removed" / f"{number}.json")
            lake.delete_all([lake.manifest(number)])
        # A run that began earlier may have made, recorded or published one of these again since.
        needed = _pending(lake) | _named(lake, _split(lake, keep_generations, before)[0].keys() - kept.keys())
        files = [item for item in files if item.path not in needed and not _is_made_again(lake, item.path, before)]
        lake.delete_all(lake.root / item.path for item in files)
        _remove_empty_folders(lake, outlived.union(item.path for item in files))
        for item in temporary:
            _delete_tree(lake.root / item.path)
        remove_abandoned(lake)
        current = read_current(lake).entries  # holds what a run published that was killed before it forgot it
        published = [entry for entry in read_pending(lake) if current.get(entry.id) == entry]
        lake.delete_all(pending_file(lake, entry.id, entry.key) for entry in published)
        lake.delete_all(_manifests_set_aside(lake))
    return Collected(dry_run, sorted(kept), [*generations, *files, *temporary])


def _split(lake: Lake, keep: int, before: datetime) -> tuple[dict[int, datetime], dict[int, datetime]]:
    """Numbers to keep and numbers to remove, each with the time at which the next generation took its place."""
    current = read_current(lake).number
    numbers = sorted((int(f.stem) for f in lake.files_in(lake.manifests, ".json") if f.stem.isdigit()), reverse=True)
    newest = set([number for number in numbers if number <= current][: max(keep, 2)])
    kept: dict[int, datetime] = {}
    old: dict[int, datetime] = {}
    replaced = datetime.max.replace(tzinfo=UTC)
    for number in numbers:
        # Beyond CURRENT: its run is about to move CURRENT, or was killed before that.
        is_kept = number > current or number in newest or replaced >= before
        (kept if is_kept else old)[number] = replaced
        with suppress(DataError):  # one that is kept is read again, and then it is an error
            replaced = read_generation(lake, number).created_at
    return kept, old


def _named(lake: Lake, numbers: Iterable[int]) -> set[str]:
    """Paths of all files of some generations."""
    names: set[str] = set()
    for number in numbers:
        try:
            names |= _paths(read_generation(lake, number))
        except DataError as error:
            raise DataError(f"nothing was removed: {error}") from None
    return names


def _paths(generation: Generation) -> set[str]:
    return {file.path for entry in generation.entries.values() for file in entry.files}


def _pending(lake: Lake) -> set[str]:
    return {file.path for entry in read_pending(lake) for file in entry.files}


def _generation(lake: Lake, number: int, age: timedelta) -> Removed:
    path = lake.relative(lake.manifest(number))
    return Removed("generation", path, lake.size_of(path) or 0, _days(age))


def _manifests_set_aside(lake: Lake) -> list[Path]:
    return lake.files_in(lake.manifests / "removed", ".json")


def _set_aside(lake: Lake) -> set[str]:
    """Paths named by manifests that a collection set aside before it was killed."""
    names: set[str] = set()
    for file in _manifests_set_aside(lake):
        with suppress(OSError, ValueError, DataError):
            names |= _paths(parse_generation(file.read_bytes()))
    return names


def _is_made_again(lake: Lake, name: str, before: datetime) -> bool:
    """Whether a file was written again since the lake was listed; a store says so only in another listing."""
    try:
        return not lake.mirror and (lake.root / name).stat().st_mtime >= before.timestamp()
    except OSError:
        return False


def _temporary(lake: Lake, before: datetime, now: datetime) -> Iterator[Removed]:
    """Unfinished work on this machine in which nothing has changed for long; no process can still be at it."""
    # A lock may be held for as long as a training takes, and is then as old.
    kept = ("training", "locks")
    tops = [path for path in (*lake.scratch.glob("*"), *lake.scratch.glob("training/*")) if path.name not in kept]
    tops += [path for path in lake.root.glob(".*") if _ASIDE.fullmatch(path.name)]
    for folder in lake.root.glob("[!.]*"):
        tops += [path for path in folder.rglob(".*") if _ASIDE.fullmatch(path.name)]
    for top in sorted(tops):
        try:
            stats = [(path.stat(), path.is_file()) for path in (top, *top.rglob("*"))]
        except OSError:
            continue  # its process has just finished with it
        changed = datetime.fromtimestamp(max(stat.st_mtime for stat, _ in stats), UTC)
        if changed < before:
            size = sum(stat.st_size for stat, is_file in stats if is_file)
            yield Removed("temporary", lake.relative(top), size, _days(now - changed))


def _delete_tree(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty_folders(lake: Lake, names: Iterable[str]) -> None:
    """Folders of one run or one model, in which no other run writes."""
    folders = {folder for name in names for folder in Path(name).parents}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        top, depth = (folder.parts or ("",))[0], len(folder.parts)
        if (top in ("captions", "metrics") and depth == 3) or (top == "models" and depth >= 2):
            with suppress(OSError):
                (lake.root / folder).rmdir()


def _days(age: timedelta) -> float:
    return round(age.total_seconds() / 86_400, 3)
