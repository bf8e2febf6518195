"""What the shell offers after TAB: names out of the lake and the configs, read without torch or DuckDB."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Model ids of the lake."""
    entries = _generation(ctx).get("entries", {})
    found = {entry["meta"].get("model_id", "") for entry in entries.values() if entry.get("stage") == "train"}
    return sorted(name for name in found if name and name.startswith(incomplete))


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Run ids, the newest first."""
    found = [run["run_id"] for run in _generation(ctx).get("runs", [])]
    return [name for name in reversed(found) if name.startswith(incomplete)]


def metrics(incomplete: str) -> list[str]:
    """Names of ``clipcap evaluate --metric``."""
    from clipcap.metrics.evaluate_files import FILE_METRICS

    return [name for name in FILE_METRICS if name.startswith(incomplete)]


def configs(incomplete: str) -> list[str]:
    """Shipped names, and .toml files of the folder that is being typed."""
    from clipcap.resources import resource

    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    shipped = [file.stem for file in resource("configs").glob("*.toml")]
    try:
        found = [file for file in folder.iterdir() if file.is_dir() or file.suffix == ".toml"]
    except OSError:
        found = []
    files = [f"{file}/" if file.is_dir() else str(file) for file in found]
    return sorted(name for name in (*shipped, *files) if name.startswith(incomplete))


def _generation(ctx: typer.Context) -> dict[str, Any]:
    """The current manifest as JSON; empty where anything is amiss, as nobody wants messages after TAB."""
    root = Path(ctx.params.get("data_dir") or os.environ.get("CLIPCAP_DATA_DIR") or "data").expanduser()
    try:
        number = int((root / "CURRENT").read_text())
        return dict(json.loads((root / "manifests" / f"{number}.json").read_bytes()))
    except (OSError, ValueError):
        return {}
