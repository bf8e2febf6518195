"""The gate: whether a new model may replace the one in production. Numbers in, a ruling with its reasons out.

The only evidence is the paired bootstrap of both models on the same frozen images (:mod:`clipcap.metrics.compare`).
A candidate has to be better beyond doubt on one metric, and not worse by more than a margin on the others; where
anything is missing or not a number, it stays out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipcap.config import GateConfig

_NUMBERS = ("candidate_value", "baseline_value", "difference", "low", "high")


@dataclass(frozen=True)
class Ruling:
    """What the gate says, and why."""

    is_promoted: bool
    reasons: tuple[str, ...]
    """Of a promotion what speaks for it, of a refusal all that speaks against it."""

    @property
    def verdict(self) -> Literal["promoted", "refused"]:
        return "promoted" if self.is_promoted else "refused"

    @property
    def reason(self) -> str:
        """One sentence."""
        return "; ".join(self.reasons)


def judge(comparison: Sequence[Mapping[str, Any]], limits: GateConfig, images: int) -> Ruling:
    """Decides on the rows of one comparison.

    Promotes if and only if the interval of the primary metric's difference lies above ``limits.min_gain``, and that
    of each guard above ``-limits.margin`` times production's value (a guard that is 0 for both passes).

    Args:
        comparison: one row per metric: candidate_model_id, baseline_model_id, metric, candidate_value, baseline_value,
            difference, low, high (the interval of the difference), images.
        limits: the section [gate].
        images: of the frozen evaluation set; a comparison on fewer, or on others, decides nothing.
    """
    against = _unusable(comparison, limits, images)
    if against:
        return Ruling(False, tuple(against))
    rows = {row["metric"]: row for row in comparison}
    gained = rows[limits.primary]["low"] > limits.min_gain
    speaks_for = [f"{_told(rows[limits.primary])} {'lies' if gained else 'does not lie'} above {limits.min_gain:g}"]
    if not gained:
        against.append(speaks_for[0])
    for name in limits.guards:
        allowed = -limits.margin * rows[name]["baseline_value"]
        holds = rows[name]["low"] >= allowed
        told = f"{_told(rows[name])} {'lies' if holds else 'does not lie'} above {allowed:.4f}"
        speaks_for.append(told)
        if not holds:
            against.append(told)
    return Ruling(not against, tuple(against or speaks_for))


def _unusable(comparison: Sequence[Mapping[str, Any]], limits: GateConfig, images: int) -> list[str]:
    """Why these rows cannot decide anything."""
    if images < limits.min_images:
        return [too_few(images, limits)]
    problems = []
    pairs = {(row["candidate_model_id"], row["baseline_model_id"]) for row in comparison}
    if len(pairs) > 1:
        problems.append(f"the comparison is of {len(pairs)} pairs of models")
    for name in dict.fromkeys([limits.primary, *limits.guards]):
        rows = [row for row in comparison if row["metric"] == name]
        if len(rows) != 1:
            problems.append(f"{name} was {'compared twice' if rows else 'not compared'}")
        elif not all(_is_number(rows[0][field]) for field in _NUMBERS):
            problems.append(f"{name} has no difference with an interval")
        elif rows[0]["images"] != images:
            problems.append(f"{name} was compared on {rows[0]['images']} images of the {images} that are frozen")
    return problems


def too_few(images: int, limits: GateConfig) -> str:
    return (
        f"evaluation set {limits.evaluation_set!r} has {images:,} images, and gate.min_images asks for "
        f"{limits.min_images:,}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['metric']} {row['baseline_value']:.4f} → {row['candidate_value']:.4f}: the difference's interval "
        f"[{row['low']:+.4f}, {row['high']:+.4f}]"
    )
