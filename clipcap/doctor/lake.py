"""Checks of a lake: its disk, what is published, its catalog, what was left over, and the model in production."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from clipcap.doctor.finding import Check, Finding
from clipcap.doctor.weights import encoder, language_model
from clipcap.errors import ClipCapError
from clipcap.storage.lake import Lake

LITTLE_ROOM = 2 * 2**30


def checks_of_lake(lake: Lake) -> list[tuple[str, Check]]:
    """The checks, for one lake. They write nothing but a probe beside it, which is removed."""
    checks: list[tuple[str, Check]] = [
        ("disk", lambda: disk(lake)), ("room", lambda: room(lake)), ("published", lambda: published(lake)),
        ("catalog", lambda: catalog(lake)), ("files", lambda: files(lake)),
        ("left over", lambda: left_over(lake)), ("production model", lambda: production(lake)),
        ("encoder", lambda: encoder(lake)), ("language model", lambda: language_model(lake)),
    ]  # fmt: skip
    return checks


def disk(lake: Lake) -> Finding:
    """A commit writes aside, flushes and renames: all three must work in the lake's folder."""
    folder = _folder(lake)
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    other = probe.with_suffix(".moved")
    try:
        with probe.open("wb") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
        os.replace(probe, other)
    except OSError as error:
        mend = "name a folder of yours on a local disk with --data-dir, or mend its permissions"
        return Finding("disk", "broken", f"{folder} cannot be written: {error.strerror}", mend)
    finally:
        probe.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return Finding("disk", "ok", f"{folder} takes writes, fsync and rename")


def room(lake: Lake, least: int = LITTLE_ROOM) -> Finding:
    free = shutil.disk_usage(_folder(lake)).free
    shown = f"{free / 2**30:,.1f} GiB free"
    if free >= least:
        return Finding("room", "ok", shown)
    return Finding("room", "warning", shown, "free some space, or see what `clipcap maintenance` would remove")


def published(lake: Lake) -> Finding:
    """CURRENT and the manifest that it names."""
    from clipcap.storage.manifest import read_current

    if not lake.exists(lake.current):
        return Finding("published", "warning", f"no lake at {lake.address} yet", "`clipcap run sample` makes one")
    try:
        generation = read_current(lake)
    except ClipCapError as error:
        return Finding("published", "broken", str(error), "see docs/storage.md; older manifests still stand")
    return Finding("published", "ok", f"generation {generation.number}, {len(generation.runs):,} runs")


def catalog(lake: Lake) -> Finding:
    """Whether the catalog shows what is published; it is made again when it is next asked."""
    from clipcap.storage.manifest import read_current
    from clipcap.warehouse.catalog import _shows, _wanted

    if not lake.exists(lake.current):
        return Finding("catalog", "not checked", "no lake yet")
    if _shows(lake) == _wanted(read_current(lake)):
        return Finding("catalog", "ok", "as published")
    return Finding("catalog", "warning", "missing, stale or locked", "`clipcap sql --list` builds it again")


def files(lake: Lake) -> Finding:
    """Every file that is published, by its size."""
    from clipcap.storage.manifest import read_current

    records = [file for entry in read_current(lake).entries.values() for file in entry.files]
    missing = [file.path for file in records if lake.size_of(file.path) != file.size_bytes]
    if not missing:
        return Finding("files", "ok", f"{len(records):,} published, all there")
    shown = f"{len(missing):,} of {len(records):,} are gone or of another size, the first {missing[0]}"
    return Finding("files", "broken", shown, "run the same `clipcap run` again: it makes what is missing")


def production(lake: Lake) -> Finding:
    from clipcap.storage.manifest import read_current

    model_id = read_current(lake).production_model_id if lake.exists(lake.current) else ""
    if not model_id:
        mend = "`clipcap run` trains one; `clipcap models promote` names one"
        return Finding("production model", "warning", "none", mend)
    if not lake.exists(lake.model(model_id) / "config.json"):
        mend = "put its folder back, or `clipcap models promote` another"
        return Finding("production model", "broken", f"{model_id} is named, and its folder is gone", mend)
    return Finding("production model", "ok", model_id)


def left_over(lake: Lake) -> Finding:
    """What killed runs left, by the rules of ``clipcap maintenance``; old generations are no fault."""
    from clipcap.storage.collect import collect

    if not lake.exists(lake.current):
        return Finding("left over", "not checked", "no lake yet")
    every_generation = 2**31
    found = collect(lake, keep_generations=every_generation, dry_run=True)
    if not found.removed:
        return Finding("left over", "ok", "nothing that is older than a week")
    shown = f"{len(found.removed):,} of no use, {found.size_bytes / 2**20:,.1f} MiB, the first {found.removed[0].path}"
    return Finding("left over", "warning", shown, "`clipcap maintenance --dry-run` lists it, without the flag it goes")


def _folder(lake: Lake) -> Path:
    """The lake's root, or the nearest folder above that exists."""
    return next(folder for folder in (lake.root, *lake.root.absolute().parents) if folder.is_dir())
