"""The summary of a run as Prefect artifacts: metrics, outcomes, the gate's decision, and a link to the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipcap.cards.markdown import escaped
from clipcap.redaction import redact_text
from clipcap.report import text
from clipcap.report.summary import Summary, open_reader, read_summary
from clipcap.storage.lake import Lake
from clipcap.warehouse.checks import CheckResult

log = logging.getLogger("clipcap.flows")
_MOST_REASONS = 50


def show_run(lake: Lake, run_id: str, report: str, warnings: Sequence[CheckResult] | None) -> None:
    """Shows a published run in Prefect's user interface. What fails is a line in the log, never a failure of the run.

    Args:
        lake: the lake.
        run_id: a published run.
        report: path of its report.
        warnings: what the checks before its publication found; they run where it is not known.
    """
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:  # outside of a flow there is nothing to attach them to
        return
    try:
        with open_reader(lake) as reader:
            summary = read_summary(reader, run_id, warnings)
        _create(summary, _address(lake, run_id, report))
    except Exception as error:
        log.warning("the run's summary is not shown in Prefect: %s: %s", type(error).__name__, error)


def _create(summary: Summary, report: str) -> None:
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    about = f"run {summary.run['run_id']}"
    if metrics := metric_rows(summary):
        create_table_artifact(metrics, key="run-metrics", description=f"Metrics of {summary.model_id}, {about}")
    if outcomes := outcome_rows(summary):
        create_table_artifact(outcomes, key="run-outcomes", description=f"What became of every row, {about}")
    create_markdown_artifact(markdown(summary), key="run-summary", description=about)
    create_link_artifact(report, link_text="The report", key="run-report", description=about)


def metric_rows(summary: Summary) -> list[dict[str, Any]]:
    """One per split and metric, numbers as they are; what is not known is None."""
    names = {"value": "value", "low": "low", "high": "high", "production": "baseline_value",
             "difference": "difference", "difference_low": "difference_low", "difference_high": "difference_high",
             "exchanged": "control"}  # fmt: skip
    return [
        {"split": row["split"], "metric": row["metric"], **{name: row[column] for name, column in names.items()},
         "verdict": row["verdict"]}
        for row in summary.metrics
    ]  # fmt: skip


def outcome_rows(summary: Summary) -> list[dict[str, Any]]:
    """One per stage, status and kind of reason."""
    return [
        {
            "stage": row["stage"],
            "status": row["status"],
            "reason": text.visible(text.shortened(redact_text(row["reason"] or ""), 300)),
            "images": row["images"],
        }
        for row in summary.outcomes[:_MOST_REASONS]
    ]


def markdown(summary: Summary) -> str:
    """The first screen of the report, then metrics and outcomes as tables."""
    size, decision = summary.size, summary.decision
    counts = [f"{size[name]:,} {name.replace('_', ' ')}" for name in ("failed", "filtered", "duplicate", "opted_out")
              if size[name]]  # fmt: skip
    lines = [f"# {escaped(summary.model_id or 'No model')}", ""]
    lines += [f"- {line}" for line in _headlines(summary)]
    lines.append(f"- {size['captioned']:,} images captioned of {size['landed']:,} rows landed")
    lines[-1] += f": {', '.join(counts)}" if counts else ""
    if decision:
        lines.append(f"- Gate: **{escaped(decision['verdict'])}**. {escaped(decision['reason'])}")
    lines += [
        f"- Warning: {escaped(check.name.replace('_', ' '))}, {len(check.rows):,} rows ({escaped(check.grain)})"
        for check in summary.warnings
    ]
    if summary.metrics:
        lines += ["", *_table(
            ("Split", "Metric", "This model", "Interval", "Production", "Difference", "Its interval"),
            [(row["split"], row["label"], text.value(row["value"], row["metric"]),
              _interval(row, "low", "high", text.value), text.value(row["baseline_value"], row["metric"]),
              text.signed(row["difference"], row["metric"]),
              _interval(row, "difference_low", "difference_high", text.signed)) for row in summary.metrics],
        )]  # fmt: skip
    if summary.outcomes:
        rows = [(row["stage"], row["status"], row["reason"], f"{row['images']:,}") for row in outcome_rows(summary)]
        lines += ["", *_table(("Stage", "Status", "Reason", "Images"), rows)]
    return "\n".join(lines) + "\n"


def _headlines(summary: Summary) -> list[str]:
    row = summary.primary
    if row is None:
        return ["Not scored: no image had a reference"]
    interval = _interval(row, "low", "high", text.value)
    value = f"**{escaped(row['label'])} {text.value(row['value'], row['metric'])}**"
    lines = [
        f"{value} on {row['images']:,} images of split {escaped(row['split'])}"
        f"{f', {summary.confidence} interval {interval}' if interval else ''}"
    ]
    if row["difference"] is not None:
        interval = _interval(row, "difference_low", "difference_high", text.signed)
        lines.append(
            f"{text.signed(row['difference'], row['metric'])} against production ({escaped(summary.baseline_id)})"
            + (f", interval {interval}: {row['verdict']}" if interval else ", no interval")
        )
    return lines


def _interval(row: dict[str, Any], low: str, high: str, write: Callable[[float, str], str]) -> str:
    if row[low] is None or row[high] is None:
        return ""
    return f"{write(row[low], row['metric'])} to {write(row[high], row['metric'])}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header)]
    return [f"| {' | '.join(line)} |" for line in [*lines, *([escaped(cell) for cell in row] for row in rows)]]


def _address(lake: Lake, run_id: str, report: str) -> str:
    if lake.mirror:
        return f"{lake.address.rstrip('/')}/{lake.relative(lake.report(run_id))}"
    return Path(report).absolute().as_uri()
