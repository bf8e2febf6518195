"""The training curve as coordinates; the template draws them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 1040, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 18, 44
MOST_POINTS = 240


@dataclass(frozen=True)
class Curve:
    """Coordinates in a drawing of WIDTH x HEIGHT."""

    train: list[tuple[float, float]]
    val: list[tuple[float, float]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    best: tuple[float, float, str] | None
    """The lowest validation loss: where it is drawn, and its value."""
    last_step: int


def training_curve(log: Path) -> Curve | None:
    """Reads ``training.jsonl`` (step, epoch, loss, val_loss); lines that cannot be read are skipped.

    Returns:
        None where there are fewer than two losses to draw.
    """
    train, val = _read(log)
    if len(train) + len(val) < 2:
        return None
    train = _averaged(train)
    steps = [step for step, _ in train + val]
    losses = [loss for _, loss in train + val]
    x_ticks, y_ticks = _nice(0, max(steps), 6, whole=True), _nice(min(losses), max(losses), 5)
    low, high = min(y_ticks[0], min(losses)), max(y_ticks[-1], max(losses))

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / max(max(steps), 1), 1)

    def y(loss: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / ((high - low) or 1), 1)

    lowest = min(val, key=lambda point: point[1], default=None)
    return Curve(
        train=[(x(step), y(loss)) for step, loss in train],
        val=[(x(step), y(loss)) for step, loss in val],
        x_ticks=[(x(step), f"{step:,.0f}") for step in x_ticks if step <= max(steps)],
        y_ticks=[(y(loss), f"{loss:.3g}") for loss in y_ticks],
        best=(x(lowest[0]), y(lowest[1]), f"{lowest[1]:.3f}") if lowest else None,
        last_step=int(max(steps)),
    )


def _read(log: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {"loss": [], "val_loss": []}
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [], []
    for line in lines:
        try:
            row = json.loads(line)
            for name, found in points.items():
                if row.get(name) is not None and math.isfinite(row[name]):
                    found.append((float(row["step"]), float(row[name])))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return points["loss"], points["val_loss"]


def _averaged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of equal runs of points, so that a long log stays a small drawing."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _nice(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from below ``low`` to above ``high``."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= span * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]
