"""What a manifest says, as rows of the catalog's tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from clipcap.storage.migrations import FORM, MIGRATIONS
from clipcap.storage.records import Generation


def facts(generation: Generation, catalog_version: str) -> dict[str, list[dict[str, Any]]]:
    """The manifest's own rows, by table of ``sql/schema``."""
    entries = sorted(generation.entries.values(), key=lambda entry: entry.id)
    named = ("batch_id", "shard_id", "model_id", "encoder_id")
    applied = {migration.number: migration.applied_at for migration in generation.migrations}
    return {
        "catalog_info": [
            {
                "catalog_version": catalog_version,
                "schema_number": FORM,
                "generation": generation.number,
                "created_at": generation.created_at,
                "production_model_id": generation.production_model_id,
            }
        ],
        "source_entries": [
            {
                "entry_id": entry.id,
                "stage": entry.stage,
                "cache_key": entry.key,
                "run_id": entry.run_id,
                **{name: entry.meta.get(name) for name in named},
                "meta": json.dumps(entry.meta, ensure_ascii=False, default=str),
                "duration_s": entry.duration_s,
                "created_at": entry.created_at,
            }
            for entry in entries
        ],
        "source_entry_rows": [
            {"entry_id": entry.id, "status": status, "rows": rows}
            for entry in entries
            for status, rows in entry.rows.items()
        ],
        "source_files": [{"entry_id": entry.id, **file.model_dump()} for entry in entries for file in entry.files],
        "source_migrations": [
            {"number": step.number, "name": step.name, "applied_at": applied.get(step.number)} for step in MIGRATIONS
        ],
        "source_runs": [
            {
                "run_id": run.run_id,
                "flow": run.flow,
                "started_at": run.started_at,
                "finished_at": run.finished_at,
                "config": json.dumps(run.config, ensure_ascii=False, default=str),
            }
            for run in generation.runs
        ],
        "source_run_entries": list(_links(generation)),
        "source_promotions": [
            {"position": position, **promotion.model_dump()}
            for position, promotion in enumerate(generation.promotions, start=1)
        ],
        "source_decisions": [
            {
                **decision.model_dump(exclude={"evidence"}),
                "position": position,
                "evidence": json.dumps(decision.evidence, ensure_ascii=False, default=str),
            }
            for position, decision in enumerate(generation.decisions, start=1)
        ],
    }


def _links(generation: Generation) -> Iterable[dict[str, str]]:
    for run in generation.runs:
        for entry_id in run.entries:
            yield {"run_id": run.run_id, "entry_id": entry_id}
