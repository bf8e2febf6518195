"""Maintenance: what nobody can need any more goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow

from clipcap.config import load_config
from clipcap.storage.collect import collect
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import roll_forward
from clipcap.training.retire import retire_models
from clipcap.warehouse.catalog import ensure_catalog
from flows.artifacts import show_table
from flows.console import human_bytes
from flows.names import run_name
from flows.notify import configure, tell
from flows.stages import say

_MOST_ROWS = 500
"""Rows of the table that a run shows; the log and the sums count all."""


@flow(name="maintenance", flow_run_name=run_name("cleanup"), on_failure=[tell], on_crashed=[tell])
def cleanup(
    config: str = "sample", overrides: list[str] | None = None, data_dir: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Retires old models; removes old generations, files that none of the kept ones names, and unfinished work.

    Safe beside runs and readers: nothing that a kept generation or a finished, unpublished output names is touched,
    and nothing younger than maintenance.keep_days.

    Args:
        config: A .toml file or the name of a shipped one; its section [maintenance] says what is kept.
        overrides: Settings that go before the file's: section.key=value each.
        data_dir: The lake's root; else the config's, CLIPCAP_DATA_DIR, ./data.
        dry_run: Only say what would go.

    Returns:
        dry_run, counts and size_bytes by kind (model, generation, file, temporary, result), kept_generations, and
        removed: a row of kind, path, size_bytes and age_days for each.
    """
    settings = load_config(config, overrides or [])
    configure(settings.notify)
    keep = settings.maintenance
    lake = Lake(resolve_data_dir(data_dir, settings.data_dir))
    if not dry_run:
        roll_forward(lake)
    retired = retire_models(lake, keep.keep_models, keep.keep_days, dry_run)
    if retired and not dry_run:
        ensure_catalog(lake)
    collected = collect(lake, keep.keep_generations, keep.keep_days, dry_run)
    rows = [
        {"kind": "model", "path": f"models/{one.model_id} (archived in {one.archive})", "size_bytes": one.size_bytes,
         "age_days": one.age_days} for one in retired
    ]  # fmt: skip
    rows += [
        {"kind": item.kind, "path": item.path, "size_bytes": item.size_bytes, "age_days": item.age_days}
        for item in collected.removed
    ]
    rows += _old_results(lake, keep.keep_days, dry_run)
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = counts.setdefault(row["kind"], {"count": 0, "size_bytes": 0})
        sums["count"] += 1
        sums["size_bytes"] += row["size_bytes"]
    verb = "would go" if dry_run else "gone"
    for kind, sums in counts.items():
        say("cleanup", f"{sums['count']:,} {kind}(s) {verb} · {human_bytes(sums['size_bytes'])}")
    if not rows:
        say("cleanup", "nothing to remove")
    show_table("cleanup", f"what {verb} in {lake.address}", rows[:_MOST_ROWS])
    return {"dry_run": dry_run, "counts": counts, "kept_generations": collected.kept_generations, "removed": rows}


def _old_results(lake: Lake, keep_days: float, dry_run: bool) -> list[dict[str, Any]]:
    """Prefect's small results below the lake: the lake itself is the cache, so that old ones say nothing new."""
    now = time.time()

    def old() -> Iterator[tuple[Path, int, float]]:
        for file in sorted(lake.prefect_results.glob("*")):
            stat = file.stat()
            age_days = (now - stat.st_mtime) / 86_400
            if file.is_file() and age_days > keep_days:
                yield file, stat.st_size, round(age_days, 3)

    rows = []
    for file, size, age_days in old():
        if not dry_run:
            file.unlink(missing_ok=True)
        rows.append({"kind": "result", "path": lake.relative(file), "size_bytes": size, "age_days": age_days})
    return rows
