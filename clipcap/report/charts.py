"""Lines and histograms as coordinates; the template draws them, and writes the same numbers into a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 16, 40
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line; ``style`` is "this", "baseline" or "other", an area is filled down to the axis."""

    name: str
    """"" for a line that goes on from the one before."""
    points: list[Point]
    style: str = "this"
    is_area: bool = False
    has_dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Coordinates in a drawing of WIDTH x HEIGHT."""

    title: str
    summary: str
    """What a person who does not see the drawing is told."""
    x_name: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    header: list[str] = field(default_factory=list)
    """Of the table."""
    rows: list[list[str]] = field(default_factory=list)
    mark: tuple[float, float, str] | None = None
    """A point worth naming: where it is, and its value."""


def line_chart(
    title: str,
    summary: str,
    x_name: str,
    lines: Sequence[Line],
    *,
    header: list[str],
    rows: list[list[str]],
    mark: Point | None = None,
) -> Chart:
    """Scales lines (in their own units) into one drawing; x starts at 0, and y is logarithmic where it spans much."""
    found = [point for line in lines for point in line.points]
    right = max(x for x, _ in found) or 1
    values = [y for _, y in found]
    is_log = min(values) > 0 and max(values) / min(values) > 5
    y_ticks = log_ticks(min(values), max(values)) if is_log else ticks(min(values), max(values), 4)
    low, high = min(y_ticks[0], *values), max(y_ticks[-1], *values)

    def height(y: float) -> float:
        return _y(math.log(y), math.log(low), math.log(high)) if is_log else _y(y, low, high)

    def at(point: Point) -> Point:
        return _x(point[0], 0, right), height(point[1])

    return Chart(
        title, summary, x_name,
        [replace(line, points=[at(point) for point in line.points]) for line in lines],
        [(_x(x, 0, right), f"{x:,.0f}") for x in ticks(0, right, 5, whole=True) if x <= right],
        [(height(y), f"{y:.3g}") for y in y_ticks],
        header, rows, (*at(mark), f"{mark[1]:.3f}") if mark else None,
    )  # fmt: skip


def histogram(
    title: str, summary: str, x_name: str, kinds: Sequence[tuple[str, str, dict[float, int]]], step: float
) -> Chart:
    """Shares of captions in bins of one width.

    Args:
        kinds: of each line its name, its style, and its counts: lower end of a bin → captions.
        step: width of a bin; at least 1 means whole numbers, whose bars stand over their number.
    """
    starts = [x for _, _, counts in kinds for x in counts]
    shift = step / 2 if step >= 1 else 0.0
    low, high = min(starts) - shift, max(starts) + step - shift
    totals = [sum(counts.values()) for _, _, counts in kinds]
    most = max(max(counts.values()) / total for (_, _, counts), total in zip(kinds, totals, strict=True))
    y_ticks = ticks(0, most, 4)
    bins = [min(starts) + step * number for number in range(round((max(starts) - min(starts)) / step) + 1)]

    def outlines(name: str, style: str, counts: dict[float, int], total: int) -> list[Line]:
        """A line over each run of bins that have captions."""
        found: list[Line] = []
        for start in bins:
            number = _near(counts, start, step)
            left, right = _x(start - shift, low, high), _x(start + step - shift, low, high)
            floor, height = _y(0, 0, y_ticks[-1]), _y(number / total, 0, y_ticks[-1])
            if number and found and found[-1].points[-1][0] == left:
                found[-1].points[-1:] = [(left, height), (right, height), (right, floor)]
            elif number:
                points = [(left, floor), (left, height), (right, height), (right, floor)]
                found.append(Line("" if found else name, points, style, style == "this"))
        return found

    digits = 0 if step >= 1 else 2
    return Chart(
        title, summary, x_name,
        [line for kind, total in zip(kinds, totals, strict=True) for line in outlines(*kind, total)],
        [(_x(x, low, high), f"{x:g}") for x in ticks(low, high, 6, whole=step >= 1) if low <= x <= high],
        [(_y(y, 0, y_ticks[-1]), f"{100 * y:.3g} %") for y in y_ticks],
        [x_name, *(name for name, *_ in kinds)],
        [[f"{start:.{digits}f}", *(f"{_near(counts, start, step):,}" for _, _, counts in kinds)] for start in bins],
    )  # fmt: skip


def merged(counts: dict[float, int], step: float) -> dict[float, int]:
    """Counts in wider bins."""
    wide: dict[float, int] = {}
    for start, number in counts.items():
        bin = round(math.floor(start / step + 1e-6) * step, 6)
        wide[bin] = wide.get(bin, 0) + number
    return wide


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that covers ``span`` in at most ``most`` steps."""
    power = 10 ** math.floor(math.log10(span / most)) if span > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power * most >= span * 0.999)


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    step = nice_step((high - low) or 1.0, count)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Of 1, 2 and 5 times powers of ten, those from below ``low`` to above ``high``."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    found = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    first = max(number for number in found if number <= low)
    last = min((number for number in found if number >= high), default=found[-1])
    return [number for number in found if first <= number <= last]


def _near(counts: dict[float, int], start: float, step: float) -> int:
    return next((number for x, number in counts.items() if abs(x - start) < step / 2), 0)


def _x(x: float, low: float, high: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (x - low) / ((high - low) or 1), 1)


def _y(y: float, low: float, high: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / ((high - low) or 1), 1)
