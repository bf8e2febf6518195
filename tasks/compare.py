"""Comparing two models."""

from __future__ import annotations

from typing import Any

from clipcap.config import EvaluateConfig
from clipcap.metrics import compare as core
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from tasks.policies import stage_task


@stage_task("compare", "compare {candidate.meta[model_id]} with {baseline.meta[model_id]}")
def compare_models(
    key: str, data_dir: str, candidate: Entry, baseline: Entry, config: EvaluateConfig, run_id: str
) -> dict[str, Any]:
    return core.compare_models(Lake(data_dir), candidate, baseline, config, key, run_id).model_dump(mode="json")
