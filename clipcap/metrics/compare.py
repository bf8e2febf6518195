"""The compare stage: is one model better than another on the same images, and how sure is that?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import EvaluateConfig
from clipcap.errors import DataError
from clipcap.metrics.bootstrap import CONFIDENCE, RESAMPLES, Difference, Sample, differences
from clipcap.metrics.clip_score import CLIP_METRICS
from clipcap.metrics.evaluate import Scores
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

VERSION = 1

SCHEMA = pa.schema(
    [
        ("candidate_model_id", pa.string()),
        ("baseline_model_id", pa.string()),
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("candidate_value", pa.float64()),
        ("baseline_value", pa.float64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("images", pa.int64()),
        ("wins", pa.int64()),
        ("ties", pa.int64()),
        ("losses", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


def compare(
    candidate: Scores,
    baseline: Scores,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    leave_out: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Paired bootstrap of two evaluations; see :mod:`clipcap.metrics.bootstrap`.

    In a notebook: ``compare(score(ours, references), score(theirs, references))``.

    Args:
        candidate: scored on the same images and references as ``baseline``.
        baseline: what it is held against.
        leave_out: metrics that are not comparable.

    Returns:
        A row for each metric that both have: metric, candidate_value, baseline_value, difference (candidate minus
        baseline) with its interval low and high, images, and on how many of them the candidate's own value is
        higher, equal and lower (wins, ties, losses). What a metric does not have is None.

    Raises:
        DataError: they were scored on different images, or have no metric in common.
    """
    ours, theirs = Sample.of(candidate.per_image, candidate.counts), Sample.of(baseline.per_image, baseline.counts)
    found = differences(ours, theirs, resamples, confidence, seed)
    rows = []
    for name, value in candidate.corpus.items():
        if name not in baseline.corpus or name in leave_out:
            continue
        other = baseline.corpus[name]
        about = found.get(name, Difference(None, None, None, None))
        low, high = about.interval or (None, None)
        rows.append(
            {
                "metric": name, "candidate_value": value, "baseline_value": other, "difference": value - other,
                "low": low, "high": high, "images": len(ours.keys), "wins": about.wins, "ties": about.ties,
                "losses": about.losses,
            }
        )  # fmt: skip
    if not rows:
        raise DataError("the two have no metric in common: score both with the same ones")
    return rows


def read_scores(lake: Lake, entry: Entry) -> Scores:
    """What an entry of the evaluate stage found, without its control.

    Raises:
        DataError: it was written before counts were kept.
    """
    if not any(file.kind == "ngram_counts" for file in entry.files):
        raise DataError(f"{entry.id} was evaluated before counts were kept: `clipcap run` evaluates it again")
    per_image: dict[str, dict[str, float]] = {}
    columns = ["sample_key", "metric", "value"]
    for row in pq.read_table(lake.absolute(entry.file("per_image").path), columns=columns).to_pylist():
        per_image.setdefault(row["metric"], {})[row["sample_key"]] = row["value"]
    counts = pq.read_table(lake.absolute(entry.file("ngram_counts").path))
    names = ["key" if name == "sample_key" else name for name in counts.column_names]
    values = {name: value for name, value in entry.meta["metrics"].items() if not name.endswith("_shuffled")}
    return Scores(values, per_image, counts.rename_columns(names))


def can_compare(candidate: Entry, baseline: Entry) -> bool:
    """Whether two evaluations are of the same split, images and references, so that their scores mean the same."""
    named = ("split", "scored_on")
    return all(candidate.meta.get(name) and candidate.meta[name] == baseline.meta.get(name) for name in named)


def compare_key(candidate: Entry, baseline: Entry, config: EvaluateConfig) -> str:
    """Cache key: both evaluations (by what made them), and how they are resampled."""
    return digest([VERSION, candidate.key, baseline.key, config.resamples, config.confidence, config.seed])


def comparison_id(candidate: Entry, baseline: Entry, key: str) -> str:
    models = (candidate.meta["model_id"], baseline.meta["model_id"])
    return f"compare/{models[0]}/{models[1]}/{candidate.meta['split']}/{key[:12]}"


def compare_models(
    lake: Lake, candidate: Entry, baseline: Entry, config: EvaluateConfig, key: str, run_id: str
) -> Entry:
    """Compares two models by their evaluations, entries of the evaluate stage.

    CLIPScores of different encoders are left out.

    Raises:
        DataError: they are of different images, or older than this stage.
    """
    ours, theirs = candidate.meta["model_id"], baseline.meta["model_id"]
    with Recorder(
        lake, "compare", comparison_id(candidate, baseline, key), key, run_id, model_id=ours,
        baseline_model_id=theirs, split=candidate.meta["split"], images=candidate.meta["images"],
        scored_on=candidate.meta.get("scored_on"),
    ) as out:  # fmt: skip
        rows = compare_entries(lake, candidate, baseline, config.resamples, config.confidence, config.seed)
        common = {"candidate_model_id": ours, "baseline_model_id": theirs, "run_id": run_id,
                  "split": candidate.meta["split"], "created_at": datetime.now(UTC)}  # fmt: skip
        path = lake.metrics(ours, run_id, f"versus_{theirs}")
        commit_table(pa.Table.from_pylist([{**common, **row} for row in rows], schema=SCHEMA), path)
        out.add("comparison", path)
    return out.entry


def compare_entries(
    lake: Lake,
    candidate: Entry,
    baseline: Entry,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of :func:`compare` for two entries of the evaluate stage.

    Raises:
        DataError: they are of different images or references, or older than this stage.
    """
    if not can_compare(candidate, baseline):
        raise DataError(
            f"{candidate.meta['model_id']} and {baseline.meta['model_id']} were not evaluated on the same images and "
            "references"
        )
    same_encoder = candidate.meta.get("clip_encoder") == baseline.meta.get("clip_encoder")
    return compare(
        read_scores(lake, candidate), read_scores(lake, baseline), resamples, confidence, seed,
        leave_out=() if same_encoder else CLIP_METRICS,
    )  # fmt: skip


def comparison_rows(lake: Lake, entry: Entry) -> list[Mapping[str, Any]]:
    """What an entry of this stage holds, a row for each metric."""
    rows: list[Mapping[str, Any]] = pq.read_table(lake.absolute(entry.file("comparison").path)).to_pylist()
    return rows
