"""Names of runs: what, with which configuration, when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def run_name(what: str, *details: str) -> Callable[[], str]:
    """What Prefect calls for a run's name: "nightly sample 2026-11-25 02:00Z".

    Args:
        what: its first word.
        details: parameters of the flow that are part of the name where they are given, as "model_id=…".
    """

    def name() -> str:
        from prefect.runtime import flow_run

        given: dict[str, Any] = flow_run.parameters or {}
        parts = [what, Path(str(given["config"])).stem] if given.get("config") else [what]
        parts += [f"{detail}={_short(given[detail])}" for detail in details if given.get(detail)]
        parts += ["dry run"] if given.get("dry_run") else []
        return f"{' '.join(parts)} {datetime.now(UTC):%Y-%m-%d %H:%MZ}"

    return name


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
