"""Publishing: a checked generation, a fresh catalog, a report."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.utilities.annotations import quote

from clipcap.config import load_config
from clipcap.errors import DataError
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import read_current
from clipcap.storage.records import Decision
from flows.names import run_name
from flows.notify import configure, tell
from flows.run_artifacts import show_run
from flows.stages import RunContext, say
from tasks.publish import publish_run, report_run

_WITHOUT_REPORT = ("import-embeddings",)
"""Flows that publish and have nothing to report."""


def publish(context: RunContext, decision: Decision | None = None) -> str:
    """Publishes all that the run used, and what the gate decided of it.

    Returns:
        Path of the report; the earlier one where everything was published already.
    """
    lake = context.lake
    published = publish_run(
        lake.address, quote(context.used), context.run_id, context.flow, context.started_at,
        context.config.model_dump(), decision,
    )  # fmt: skip
    for warning in published.warnings:
        say("publish", f"warning: check {warning.name} found {len(warning.rows)} row(s)")
    report = lake.report(published.run_id)
    state = "new" if published.is_new else "cached · nothing new to publish"
    say("publish", f"{state} · generation {published.generation}")
    warnings = published.warnings if published.is_new else None
    if not published.is_new and lake.exists(report):
        say("report", "cached")
        path = str(lake.at_hand(report))
    else:
        path = report_run(lake.address, published.run_id, context.config.report, quote(warnings))
        say("report", path)
    show_run(lake, published.run_id, path, warnings)
    return path


def newest_report(context: RunContext) -> str:
    """Of the newest run of the lake; rendered now where that run was killed between publishing and its report."""
    runs = [run for run in context.index.generation.runs if run.flow not in _WITHOUT_REPORT]
    if not runs:
        return ""
    report = context.lake.report(runs[-1].run_id)
    if context.lake.exists(report):
        return str(context.lake.at_hand(report))
    path = report_run(context.lake.address, runs[-1].run_id, context.config.report)
    say("report", f"{path} · of an earlier run, which was killed before it")
    return path


@flow(name="publish", flow_run_name=run_name("report", "run_id"), on_failure=[tell], on_crashed=[tell])
def publish_report(
    config: str = "sample", data_dir: str | None = None, run_id: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Renders the report of a published run again.

    Args:
        config: A .toml file or the name of a shipped one.
        data_dir: The lake's root; else the config's, CLIPCAP_DATA_DIR, ./data.
        run_id: Of the run; empty for the newest.
        dry_run: Only say which report would be rendered, and where.

    Returns:
        run_id, and the report's path.
    """
    settings = load_config(config)
    configure(settings.notify)
    lake = Lake(resolve_data_dir(data_dir, settings.data_dir))
    runs = {run.run_id: run for run in read_current(lake).runs}
    if not runs:
        raise DataError(f"the lake {lake.address} has no published run yet: `clipcap run` makes one")
    wanted = run_id or next(reversed(runs))
    if wanted not in runs:
        raise DataError(f'there is no run {wanted!r}: `clipcap sql "select run_id from runs"` shows them')
    path = str(lake.report(wanted)) if dry_run else report_run(lake.address, wanted, settings.report)
    say("report", f"{path}{' would be rendered' if dry_run else ''}")
    return {"run_id": wanted, "report": path}
