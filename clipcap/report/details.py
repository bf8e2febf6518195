"""What the report shows below its first screen, besides the images: plots, time, lineage, settings."""

from __future__ import annotations

from typing import Any

from clipcap.report.charts import Chart, histogram, merged, nice_step
from clipcap.report.summary import DIVERSITY, Reader, Summary

Row = dict[str, Any]
_STYLES = {
    "this": ("this model", "this"),
    "baseline": ("production", "baseline"),
    "references": ("references", "other"),
}


def distributions(reader: Reader, summary: Summary) -> list[Chart]:
    """Lengths of captions beside those of the references, and CLIPScores; production's too where it captioned them."""
    about = {"run_id": summary.run["run_id"], "model_id": summary.model_id, "baseline_id": summary.baseline_id}
    charts = []
    lengths = _by_kind(reader.rows("run_lengths", **about), "words")
    if "this" in lengths:
        step = max(nice_step(max(max(found) for found in lengths.values()), 60), 1.0)
        kinds = [(*_STYLES[kind], merged(lengths[kind], step)) for kind in _STYLES if kind in lengths]
        told = "; ".join(f"{name}: mean {_mean(counts):.1f}" for name, _, counts in kinds)
        charts.append(histogram("Caption length", f"Words in a caption. {told}", "words", kinds, step))
    scores = _by_kind(reader.rows("run_clip_scores", **about), "score")
    if "this" in scores:
        every = [score for found in scores.values() for score in found]
        step = max(nice_step(max(every) - min(every), 30), 0.01)
        kinds = [(*_STYLES[kind], merged(scores[kind], step)) for kind in _STYLES if kind in scores]
        told = "; ".join(f"{_STYLES[kind][0]}: mean {_mean(scores[kind]):.2f}" for kind in _STYLES if kind in scores)
        charts.append(histogram("CLIPScore", f"CLIPScore of a caption. {told}", "CLIPScore", kinds, step))
    return charts


def _by_kind(rows: list[Row], name: str) -> dict[str, dict[float, int]]:
    found: dict[str, dict[float, int]] = {}
    for row in rows:
        found.setdefault(row["kind"], {})[float(row[name])] = row["captions"]
    return found


def _mean(counts: dict[float, int]) -> float:
    return sum(x * number for x, number in counts.items()) / sum(counts.values())


def diversity(summary: Summary) -> list[Row]:
    """Shares that are drawn as bars, of the first split."""
    split = summary.metrics[0]["split"] if summary.metrics else ""
    shown = [name for name in DIVERSITY if name not in ("vocabulary", "mean_length", "self_cider")]
    return [row for row in summary.metrics if row["split"] == split and row["metric"] in shown]


def add_whiskers(metrics: list[Row]) -> None:
    """Gives each metric the ends and the middle of its difference as a share of production's value, in 0 to 120.

    60 is no difference; all metrics share one scale.
    """
    shares: dict[int, list[float]] = {}
    for position, row in enumerate(metrics):
        row["whisker"] = None
        ends = (row["difference_low"], row["difference"], row["difference_high"])
        if None not in ends and row["baseline_value"] and row["metric"] not in DIVERSITY:
            shares[position] = [end / abs(row["baseline_value"]) for end in ends]
    widest = max((abs(end) for found in shares.values() for end in found), default=0) or 1
    for position, found in shares.items():
        metrics[position]["whisker"] = [round(60 + 56 * end / widest, 1) for end in found]


def by_stage(outcomes: list[Row]) -> list[Row]:
    """Stages with their outcomes: rows, how many are ok, and every other status with its reason."""
    stages: dict[str, list[Row]] = {}
    for outcome in outcomes:
        stages.setdefault(outcome["stage"], []).append(outcome)
    return [
        {
            "stage": stage,
            "inputs": sum(row["images"] for row in rows),
            "ok": sum(row["images"] for row in rows if row["status"] == "ok"),
            "others": [row for row in rows if row["status"] != "ok"],
        }
        for stage, rows in stages.items()
    ]
