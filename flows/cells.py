"""One value: as a person reads it in a cell of a table, and as JSON has it."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

COUNTS = ("vocabulary",)
"""Metrics that are whole numbers."""
LONGEST = 200
"""Characters of a line that ``cut`` leaves; captions and most addresses are shorter."""
OF_AN_OBJECT = 60
"""Of a JSON object, such as a run's config: enough to tell what it is."""
MOST_LINES = 20


def kindly(value: Any) -> str:
    """A value in a cell: times to the second, a line for each item of a list, a vector by its first numbers."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:,.4f}" if value == 0 or 1e-3 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, bytes):
        return value[:16].hex() + (f" … {len(value):,} bytes" if len(value) > 16 else "")
    if isinstance(value, dict):
        return json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, list):
        if value and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            start = ", ".join(kindly(item) for item in value[:3])
            return f"[{start}, … {len(value)} numbers]" if len(value) > 8 else f"[{', '.join(map(kindly, value))}]"
        return "\n".join(kindly(item) for item in value)
    return str(value)


def cut(text: str) -> str:
    """Long lines, and many, end in an ellipsis; short text is as it was."""
    lines, longest = text.split("\n"), OF_AN_OBJECT if text.startswith("{") else LONGEST
    kept = [line if len(line) <= longest else f"{line[: longest - 1]}…" for line in lines[:MOST_LINES]]
    return "\n".join([*kept, *([f"… {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else [])])


def score(metric: str, value: float | None) -> float | None:
    """A metric's value for a table: counts are whole numbers."""
    return round(value) if value is not None and metric.removesuffix("_shuffled") in COUNTS else value


def plain(value: Any) -> Any:
    """A value as JSON has it: ISO 8601 times, null for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):  # an entry of a map
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
