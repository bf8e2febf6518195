"""Landing outside the pipeline: by hand, and from the watched inbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipcap.config import Config
from clipcap.dataset import inbox
from clipcap.dataset.land import land, read_landing
from clipcap.errors import ClipCapError, SourceError, TransientError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex, commit_generation
from flows.events import emit
from flows.stages import say


def land_source(lake: Lake, config: Config, limit: int | None = None, run_id: str = "") -> dict[str, Any]:
    """Registers the configured source as a batch, publishes its entry and tells whoever listens.

    The event goes out after the commit, so that what it names is there; a lost one loses nothing, because the nightly
    run finds batches in the lake.

    Returns:
        batch_id, dataset, rows by status, is_new, event_emitted.
    """
    landing = read_landing(config, limit)
    known = EntryIndex(lake).find(f"land/{landing.batch_id}", landing.content)
    entry = known or land(lake, landing, run_id)
    commit_generation(lake, [entry])
    facts = {"batch_id": landing.batch_id, "dataset": landing.dataset, "rows": entry.rows, "is_new": known is None}
    payload = {**facts, "entry": entry.model_dump(mode="json")}
    return {**facts, "event_emitted": emit("clipcap.batch.landed", landing.batch_id, payload)}


def land_inbox(lake: Lake, config: Config, run_id: str = "", dry_run: bool = False) -> list[dict[str, Any]]:
    """Lands what lies whole in the inbox; one row for each thing that lies there.

    What cannot be used is put aside with its reason, and stops nothing.

    Returns:
        Rows of name, status ("landed", "landed before", "waiting", "refused", "failed"; in a dry run "ready" and
        "unusable"), batch_id, rows and reason.
    """
    if not config.inbox.folder:
        return []
    rows = []
    try:
        found = inbox.look(Path(config.inbox.folder), config.inbox.settle_s)
    except (SourceError, OSError) as error:  # a disk that is not mounted tonight is no reason to caption nothing
        say("inbox", f"FAILED: {error}")
        return [{"name": "inbox", "status": "failed", "batch_id": "", "rows": {}, "reason": str(error)}]
    for dropped in found:
        row: dict[str, Any] = {"name": dropped.path.name, "status": "waiting", "batch_id": "", "rows": {}, "reason": ""}
        if dropped.waits_for:
            row["reason"] = dropped.waits_for
        elif dry_run:
            row |= _look_at(lake, config, dropped)
        else:
            row |= _land_one(lake, config, dropped, run_id)
        rows.append(row)
        facts = row["batch_id"] or row["reason"]
        say("inbox", f"{row['name']}: {row['status']}{' · ' + facts if facts else ''}")
    return rows


def _land_one(lake: Lake, config: Config, dropped: inbox.Dropped, run_id: str) -> dict[str, Any]:
    try:
        taken = inbox.take(dropped)
    except OSError as error:
        return {"status": "failed", "reason": f"it cannot be moved: {error.strerror}"}
    try:
        facts = land_source(lake, _settings(config, taken), run_id=run_id)
    except (TransientError, OSError) as error:  # stays taken: the next look lands it
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a reader's own error too is a bad file, and never the end of a night
        reason = _reason(error, taken)
        inbox.refuse(taken, reason)
        return {"status": "refused", "reason": reason}
    inbox.finish(taken, facts)
    status = "landed" if facts["is_new"] else "landed before"
    return {"status": status, "batch_id": facts["batch_id"], "rows": facts["rows"]}


def _look_at(lake: Lake, config: Config, dropped: inbox.Dropped) -> dict[str, Any]:
    """What landing would find. A new batch has no id yet: rows of a folder will name the place that it is moved to."""
    try:
        landing = read_landing(_settings(config, dropped))
    except Exception as error:
        return {"status": "unusable", "reason": _reason(error, dropped)}
    if EntryIndex(lake).find(f"land/{landing.batch_id}", landing.content):
        return {"status": "landed before", "batch_id": landing.batch_id}
    return {"status": "ready", "rows": {"ok": len(landing.rows)}}


def _settings(config: Config, dropped: inbox.Dropped) -> Config:
    dataset = config.dataset.model_copy(update={"name": dropped.dataset, "source": str(dropped.path), "images": ""})
    return config.model_copy(update={"dataset": dataset})


def _reason(error: Exception, dropped: inbox.Dropped) -> str:
    reason = str(error) if isinstance(error, ClipCapError) else f"{type(error).__name__}: {error}"
    return reason.replace(str(dropped.path), dropped.path.name)  # it is about to be elsewhere
