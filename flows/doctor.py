"""Checks of Prefect: where runs would be kept, and whether what is there answers."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from clipcap.doctor import Finding
from clipcap.doctor.finding import Check

TIMEOUT_S = 3.0


def server() -> Finding:
    """Without a server each command starts one for itself, which is as good for a single machine."""
    from importlib.metadata import version

    from flows.events import _api_url

    url = _api_url()
    if not url:
        return Finding("prefect server", "ok", "none configured: each run starts its own, and its history ends with it")
    try:
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", timeout=TIMEOUT_S)
        answer.raise_for_status()
    except Exception as error:
        mend = "start it (prefect server start), correct PREFECT_API_URL, or unset it to run without a server"
        if not url.rstrip("/").endswith("/api"):
            mend = f"PREFECT_API_URL ends in /api, and this one does not; or {mend}"
        return Finding("prefect server", "broken", f"{url} does not answer: {type(error).__name__}", mend)
    theirs, ours = str(answer.json()), version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        mend = "bring both to the same version"
        return Finding("prefect server", "warning", f"the server is {theirs}, this client is {ours}", mend)
    return Finding("prefect server", "ok", f"{url}, {theirs}")


def work_pools() -> Finding:
    """Deployments need a pool that a worker serves."""
    from flows.events import _api_url

    url = _api_url()
    if not url:
        return Finding("work pools", "not checked", "no server")
    try:
        answer = httpx.post(f"{url.rstrip('/')}/work_pools/filter", json={}, timeout=TIMEOUT_S)
        pools = answer.raise_for_status().json()
    except Exception as error:
        return Finding("work pools", "not checked", f"the server does not answer: {type(error).__name__}")
    if not pools:
        return Finding("work pools", "warning", "none", "only for deployments: see docs/operations.md")
    idle = [pool["name"] for pool in pools if pool.get("status") == "NOT_READY"]
    shown = ", ".join(f"{pool['name']} ({pool.get('status') or 'unknown'})" for pool in pools)
    if idle:
        return Finding("work pools", "warning", shown, f"no worker polls: prefect worker start --pool {idle[0]}")
    return Finding("work pools", "ok", shown)


def home() -> Finding:
    """Prefect keeps its settings and its database there."""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("PREFECT_HOME", "ok", str(folder))
    return Finding("PREFECT_HOME", "broken", f"{folder} cannot be written", "set PREFECT_HOME to a folder of yours")


PREFECT: list[tuple[str, Check]] = [("PREFECT_HOME", home), ("prefect server", server), ("work pools", work_pools)]
