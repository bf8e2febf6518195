"""The training log as charts: loss, reward, and CIDEr on the validation images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from clipcap.report.charts import Chart, Line, Point, line_chart

MOST_POINTS = 240
"""Of a line; a longer one is averaged."""
MOST_ROWS = 40
"""Of a chart's table."""
_NUMBERS = ("step", "loss", "val_loss", "val_cider")


def training_charts(log: Path) -> list[Chart]:
    """Reads ``training.jsonl`` (phase, step, epoch, loss, val_loss, val_cider); what cannot be read is skipped.

    Steps of a later phase follow those of the one before. The reward phase has its own chart: its loss is a negative
    reward, on another scale.

    Returns:
        A chart for each thing that was measured at least twice.
    """
    rows = _read(log)
    learned = [row for row in rows if row["phase"] != "reward"]
    rewarded = [row | {"reward": -row["loss"]} for row in rows if row["phase"] == "reward" and "loss" in row]
    charts = []
    if sum(len(_points(learned, name)) for name in ("loss", "val_loss")) > 1:
        charts.append(_loss(learned))
    if len(points := _points(rewarded, "reward")) > 1:
        told = f"Mean reward from {points[0][1]:.3f} to {points[-1][1]:.3f}"
        lines, rows_shown = [Line("reward", averaged(points))], _table(rewarded, ("reward",))
        charts.append(line_chart("Reward", told, "step", lines, header=["step", "reward"], rows=rows_shown))
    if len(points := _points(rows, "val_cider")) > 1:
        best = max(points, key=lambda point: point[1])
        told = f"CIDEr from {points[0][1]:.3f} to {points[-1][1]:.3f}, at best {best[1]:.3f}"
        lines, rows_shown = [Line("greedy captions", points, has_dots=len(points) <= 40)], _table(rows, ("val_cider",))
        title, header = "CIDEr on validation images", ["step", "CIDEr"]
        charts.append(line_chart(title, told, "step", lines, header=header, rows=rows_shown, mark=best))
    return charts


def _loss(rows: list[dict[str, Any]]) -> Chart:
    train, val = _points(rows, "loss"), _points(rows, "val_loss")
    lowest = min(val, key=lambda point: point[1], default=None)
    lines = [Line("training", averaged(train), "other")] if train else []
    lines += [Line("validation", val, has_dots=len(val) <= 40)] if val else []
    told = [f"{name} loss from {points[0][1]:.3f} to {points[-1][1]:.3f}"
            for name, points in (("training", train), ("validation", val)) if points]  # fmt: skip
    summary = "; ".join(told) + (f"; lowest validation loss {lowest[1]:.3f}" if lowest else "")
    return line_chart(
        "Loss", summary, "step", lines, header=["step", "training loss", "validation loss"],
        rows=_table(rows, ("loss", "val_loss")), mark=lowest,
    )  # fmt: skip


def _read(log: Path) -> list[dict[str, Any]]:
    """Lines with a step, their finite numbers, their phase, and the step counted through all phases."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rows: list[dict[str, Any]] = []
    phase, before = "", 0.0
    for line in lines:
        try:
            found = json.loads(line)
            row = {name: float(found[name]) for name in _NUMBERS if found.get(name) is not None}
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        row = {name: number for name, number in row.items() if math.isfinite(number)}
        if "step" not in row:
            continue
        if rows and found.get("phase", "") != phase:
            before = rows[-1]["step"]
        phase = found.get("phase", "")
        rows.append(row | {"phase": phase, "step": row["step"] + before})
    return rows


def _points(rows: list[dict[str, Any]], name: str) -> list[Point]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[list[str]]:
    """Rows in which the last of the names stands, evenly thinned; all rows where it never does."""
    found = [row for row in rows if names[-1] in row] or rows
    every = math.ceil(len(found) / MOST_ROWS) or 1
    return [
        [f"{row['step']:,.0f}", *(f"{row[name]:.4f}" if name in row else "–" for name in names)]
        for row in found[::-1][::every][::-1]
    ]


def averaged(points: list[Point]) -> list[Point]:
    """Means of equal runs of points, so that a long log stays a small drawing."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
