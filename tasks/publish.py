"""Publishing a run and rendering its report."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import task

from clipcap.config import ReportConfig
from clipcap.report.html import render_report
from clipcap.storage.lake import Lake
from clipcap.storage.records import Decision, Entry
from clipcap.warehouse import publish as core
from clipcap.warehouse.checks import CheckResult
from tasks.policies import is_transient


@task(
    name="publish", task_run_name="publish {run_id}", retries=2, retry_delay_seconds=5, retry_condition_fn=is_transient
)
def publish_run(
    data_dir: str,
    entries: list[Entry],
    run_id: str,
    flow: str,
    started_at: datetime,
    config: dict[str, Any],
    decision: Decision | None = None,
) -> core.Published:
    return core.publish(Lake(data_dir), entries, run_id, flow, started_at, config, decision)


@task(name="report", task_run_name="report {run_id}")
def report_run(data_dir: str, run_id: str, config: ReportConfig, warnings: list[CheckResult] | None = None) -> str:
    return str(render_report(Lake(data_dir), run_id, config, warnings=warnings))
