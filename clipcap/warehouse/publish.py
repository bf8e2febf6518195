"""The publish stage: what a run made becomes the next generation, if every check allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clipcap.embedding.duplicates import outdated
from clipcap.redaction import redact
from clipcap.storage.commit import scratch_folder
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Decision, Entry, Generation, Promotion, Run
from clipcap.warehouse.catalog import build_catalog, ensure_catalog, refresh_catalog
from clipcap.warehouse.checks import CheckResult, check_catalog


@dataclass(frozen=True)
class Published:
    """What stands after publishing."""

    generation: int
    run_id: str
    """The run to show: this one, or where nothing was new the newest earlier one that published all of it."""
    is_new: bool
    warnings: list[CheckResult]


def publish(
    lake: Lake,
    entries: Sequence[Entry],
    run_id: str,
    flow: str,
    started_at: datetime,
    config: dict[str, Any],
    decision: Decision | None = None,
) -> Published:
    """Checks and commits a generation, then swaps the catalog.

    Nothing is committed where all entries are published already. A lake's first model goes into production; any other
    one does so only by a ``decision`` of the gate, which is published with it.

    Raises:
        CheckFailed: a check of severity error found rows; nothing was changed.
        StaleDecision: another model went into production since the comparison; nothing was changed.
    """
    current = read_current(lake)
    ids = {entry.id for entry in entries}
    new = [entry for entry in entries if current.entries.get(entry.id) != entry]
    if not new and current.runs and decision is None:
        ensure_catalog(lake)
        before = next((run for run in reversed(current.runs) if ids <= set(run.entries)), current.runs[-1])
        return Published(current.number, before.run_id, False, [])

    run = Run(
        run_id=run_id, flow=flow, started_at=started_at, finished_at=datetime.now(UTC), config=redact(config),
        entries=sorted(ids),
    )  # fmt: skip
    trained = [entry.meta["model_id"] for entry in entries if entry.stage == "train"]
    now = datetime.now(UTC)

    def promotion(base: Generation) -> Promotion | None:
        if decision is not None and decision.verdict == "promoted":
            return Promotion(model_id=decision.candidate_model_id, reason=decision.reason, created_at=now)
        if decision is None and trained and not base.production_model_id:
            return Promotion(model_id=trained[-1], reason="the first model of this lake", created_at=now)
        return None

    stale = _stale(current, entries)
    warnings = _check(lake, current, new, run, promotion(current), stale)
    generation = commit_generation(lake, new, run, promotion, stale, decision)
    refresh_catalog(lake)
    return Published(generation.number, run_id, True, warnings)


def _stale(current: Generation, used: Sequence[Entry]) -> set[str]:
    """Ids of what was made of other rows or vectors than those that stand under their names now.

    The run cut or downloaded a shard anew, or replaced embeddings that near-duplicates were found with.
    """
    fresh = {(e.id, e.key) for e in used}
    batches = {e.meta["batch_id"] for e in used if e.stage == "download"}
    recut = {
        (e.meta["batch_id"], e.meta["shard_id"])
        for e in current.of_stage("download")
        if e.meta["batch_id"] in batches and (e.id, e.key) not in fresh
    }
    gone = {
        e.id
        for e in current.entries.values()
        if (e.id, e.key) not in fresh and (e.meta.get("batch_id"), e.meta.get("shard_id")) in recut
    }
    after = {id: e for id, e in current.entries.items() if id not in gone} | {e.id: e for e in used}
    return gone | outdated(after.values())


def _check(
    lake: Lake, current: Generation, new: Sequence[Entry], run: Run, promotion: Promotion | None, stale: set[str]
) -> list[CheckResult]:
    """Runs every check on a catalog of the generation that is about to be; returns the warnings that fired."""
    candidate = current.model_copy(
        update={
            "entries": {id: e for id, e in current.entries.items() if id not in stale} | {e.id: e for e in new},
            "runs": [*current.runs, run],
            "promotions": current.promotions + ([promotion] if promotion else []),
        }
    )
    with scratch_folder(lake, "check") as folder:
        path = build_catalog(lake, candidate, folder / "candidate.duckdb")
        results = check_catalog(lake, path, run.config.get("checks"))
    return [result for result in results if result.rows]
