"""Publishing: a checked generation, a fresh catalog, a report."""

from __future__ import annotations

from prefect import flow

from clipcap.config import load_config
from clipcap.errors import DataError
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import Decision, read_current
from flows.stages import RunContext, say
from tasks.publish import publish_run, report_run


def publish(context: RunContext, decision: Decision | None = None) -> str:
    """Publishes all that the run used, and what the gate decided of it.

    Returns:
        Path of the report; the earlier one where everything was published already.
    """
    lake = context.lake
    published = publish_run(
        lake.address, context.used, context.run_id, context.flow, context.started_at, context.config.model_dump(),
        decision,
    )  # fmt: skip
    for warning in published.warnings:
        say("publish", f"warning: check {warning.name} found {len(warning.rows)} row(s)")
    report = lake.report(published.run_id)
    state = "new" if published.is_new else "cached · nothing new to publish"
    say("publish", f"{state} · generation {published.generation}")
    if not published.is_new and lake.exists(report):
        say("report", "cached")
        return str(lake.at_hand(report))
    path: str = report_run(lake.address, published.run_id, context.config.report)
    say("report", path)
    return path


@flow(name="publish", flow_run_name="report of {run_id}")
def publish_report(config: str = "sample", data_dir: str | None = None, run_id: str = "") -> str:
    """Renders the report of a published run again.

    Args:
        config: a .toml file or the name of a shipped one.
        data_dir: the lake's root.
        run_id: empty for the newest run.
    """
    settings = load_config(config)
    lake = Lake(resolve_data_dir(data_dir, settings.data_dir))
    runs = read_current(lake).runs
    if not runs:
        raise DataError(f"the lake {lake.address} has no published run yet: `clipcap run` makes one")
    path: str = report_run(lake.address, run_id or runs[-1].run_id, settings.report)
    return path
