"""What a run comes to: its metrics beside production's, the gate's decision, what became of its rows.

The report's first screen shows it, and so do the Prefect artifacts of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from clipcap.config import ChecksConfig
from clipcap.errors import WarehouseError
from clipcap.storage.lake import Lake
from clipcap.warehouse.catalog import connect, ensure_catalog, statement
from clipcap.warehouse.checks import CheckResult, run_checks

Row = dict[str, Any]

METRICS = {
    "cider": ("CIDEr", "shared words, rare ones count more"),
    "bleu_4": ("BLEU-4", "runs of four words that the references share"),
    "bleu_3": ("BLEU-3", "word triples that the references share"),
    "bleu_2": ("BLEU-2", "word pairs that the references share"),
    "bleu_1": ("BLEU-1", "words that the references share"),
    "rouge_l": ("ROUGE-L", "longest common subsequence"),
    "meteor": ("METEOR", "the same with stems and synonyms"),
    "spice": ("SPICE", "objects and relations that the references share"),
    "clip_score": ("CLIPScore", "agreement of caption and image"),
    "ref_clip_score": ("RefCLIPScore", "agreement with image and references"),
    "distinct_1": ("distinct-1", "different words among all words"),
    "distinct_2": ("distinct-2", "different word pairs among all pairs"),
    "vocabulary": ("vocabulary", "different words"),
    "unique_share": ("unique captions", "different captions among all captions"),
    "novel_share": ("novel captions", "captions that no training image has"),
    "self_cider": ("self-CIDEr", "how much the captions of one image differ"),
    "mean_length": ("length", "words in a caption"),
}
"""Metric → its name and what it measures, in the order of the table."""
DIVERSITY = ("distinct_1", "distinct_2", "vocabulary", "unique_share", "novel_share", "self_cider", "mean_length")
"""Metrics without a better and a worse direction, or none that a decision rests on."""


@dataclass(frozen=True)
class Summary:
    """All of it as plain rows; the columns are those of the statements in ``sql/reports``."""

    run: Row
    config: Row
    model: Row | None
    baseline: Row | None
    """The production model that this one is compared with."""
    metrics: list[Row]
    """One per split and metric: value, low, high, control, baseline_value, difference, difference_low,
    difference_high, images, wins, losses, ties; what is not known is None."""
    decision: Row | None
    outcomes: list[Row]
    """One per stage, status and kind of reason."""
    size: Row
    warnings: list[CheckResult]

    @property
    def model_id(self) -> str:
        return self.model["model_id"] if self.model else ""

    @property
    def baseline_id(self) -> str:
        return self.baseline["model_id"] if self.baseline else ""

    @property
    def confidence(self) -> str:
        """Of the intervals: "95 %"."""
        return f"{100 * self.config.get('evaluate', {}).get('confidence', 0.95):g} %"

    @property
    def primary(self) -> Row | None:
        """The metric that decides: the gate's, else CIDEr, else the first that there is."""
        wanted = (self.config.get("gate", {}).get("primary", "cider"), "cider", "clip_score")
        found = (row for name in wanted for row in self.metrics if row["metric"] == name)
        return next(found, self.metrics[0] if self.metrics else None)


class Reader:
    """Runs the statements of ``sql/reports`` on one catalog."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def rows(self, name: str, **parameters: Any) -> list[Row]:
        """The rows of one statement."""
        cursor = self.connection.execute(statement(f"reports/{name}.sql"), parameters)
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]

    def row(self, name: str, **parameters: Any) -> Row | None:
        """The first of them."""
        return next(iter(self.rows(name, **parameters)), None)


@contextmanager
def open_reader(lake: Lake, catalog: Path | None = None) -> Iterator[Reader]:
    """A reader of ``catalog``; of the lake's own, built again where stale, by default."""
    with connect(lake, catalog or ensure_catalog(lake)) as connection:
        yield Reader(connection)


def read_summary(reader: Reader, run_id: str, warnings: Sequence[CheckResult] | None = None) -> Summary:
    """Reads what the run came to.

    Args:
        reader: of the catalog.
        run_id: a published run.
        warnings: what the checks found; they run where it is not known.

    Raises:
        WarehouseError: the run is not in the catalog.
    """
    run = reader.row("run", run_id=run_id)
    if run is None:
        raise WarehouseError(f'no run {run_id!r} in the catalog: `clipcap sql "from runs"` lists them')
    config = json.loads(run["config"] or "{}")
    model = reader.row("run_model", run_id=run_id)
    about = {"run_id": run_id, "model_id": model["model_id"] if model else ""}
    decision = reader.row("run_decision", **about)
    compared = reader.rows("run_comparison", baseline_id="", **about)
    baseline = reader.row(
        "run_baseline",
        decided=(decision or {}).get("production_model_id") or "",
        compared=compared[0]["baseline_model_id"] if compared else "",
        **about,
    )
    about["baseline_id"] = baseline["model_id"] if baseline else ""
    if baseline:
        compared = reader.rows("run_comparison", **about)
    metrics = _compared(reader.rows("run_metrics", **about), compared if baseline else [])
    about.pop("baseline_id")
    return Summary(
        run=run,
        config=config,
        model=model,
        baseline=baseline,
        metrics=metrics,
        decision=decision,
        outcomes=reader.rows("run_outcomes", **about),
        size=reader.rows("run_size", **about)[0],
        warnings=[found for found in (_checked(reader, config) if warnings is None else warnings) if found.rows],
    )


def _checked(reader: Reader, config: Row) -> list[CheckResult]:
    """The checks with the run's own limits; those that it did not know are as they come."""
    asked = config.get("checks", {})
    limits = ChecksConfig.model_validate({name: asked[name] for name in ChecksConfig.model_fields if name in asked})
    return run_checks(reader.connection, limits.model_dump())


def _compared(metrics: list[Row], comparisons: list[Row]) -> list[Row]:
    """Metrics in the order of the table, each with its difference to the baseline.

    Where there is no paired comparison the difference is that of the two values, and has no interval.
    """
    found = {(row["split"], row["metric"]): row for row in comparisons}
    for row in metrics:
        pair = found.get((row["split"], row["metric"]), {})
        if pair:
            row["baseline_value"] = pair["baseline_value"]
        elif row["baseline_images"] != row["images"]:
            row["baseline_value"] = None  # of other images: no difference can be read off
        plain = None if row["baseline_value"] is None else row["value"] - row["baseline_value"]
        row["difference"] = pair.get("difference", plain)
        row["difference_low"], row["difference_high"] = pair.get("low"), pair.get("high")
        row |= {name: pair.get(name) for name in ("wins", "ties", "losses")}
        row["label"], row["meaning"] = METRICS.get(row["metric"], (row["metric"], ""))
        row["verdict"] = _verdict(row)
    order = {metric: position for position, metric in enumerate(METRICS)}
    return sorted(metrics, key=lambda row: (row["split"], order.get(row["metric"], len(order)), row["metric"]))


def _verdict(row: Row) -> str:
    """What the interval of the difference says: "better", "worse", "no clear difference", or "" without one."""
    low, high = row["difference_low"], row["difference_high"]
    if low is None or high is None or row["metric"] in DIVERSITY:
        return ""
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"
