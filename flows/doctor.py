"""Checks of Prefect: where runs would be kept, and whether what is there answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from clipcap.doctor import Finding
from clipcap.doctor.finding import Check

TIMEOUT_S = 3.0
_SERVER = "prefect.server.api.server:create_app"


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


def left_behind(processes: Path = Path("/proc")) -> Finding:
    """A run that is killed cannot end the server that it started for itself. Named here, never ended."""
    if not (processes / "self").exists():
        return Finding("servers left behind", "not checked", f"no {processes} on this system")
    wanted = {_port(os.environ.get("PREFECT_API_URL", "")), ""}
    found = [
        pid for pid, words in _commands(processes) if _SERVER in words and not _is_wanted(processes, pid, words, wanted)
    ]
    if not found:
        return Finding("servers left behind", "ok", "none")
    pids = " ".join(found)
    return Finding(
        "servers left behind", "warning", f"Prefect servers whose run is gone: {pids}",
        f"ps -fp {pids.replace(' ', ',')} shows them; what nobody uses ends with: kill {pids}",
    )  # fmt: skip


def _commands(processes: Path) -> Iterator[tuple[str, list[str]]]:
    """Processes of this user: pid and command."""
    for folder in sorted(processes.glob("[0-9]*")):
        with suppress(OSError):  # it has just ended
            if folder.stat().st_uid == os.getuid():
                yield folder.name, os.fsdecode((folder / "cmdline").read_bytes()).split("\0")


def _is_wanted(processes: Path, pid: str, words: list[str], ports: set[str]) -> bool:
    """Its parent is a Python that runs, or it was started to stay: at the configured port, or as Prefect's own pid."""
    with suppress(OSError, ValueError):
        kept = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "server.pid"
        if kept.is_file() and kept.read_text().strip() == pid:
            return True
    port = words[words.index("--port") + 1] if "--port" in words else ""
    if port in ports:
        return True
    try:
        status = (processes / pid / "status").read_text()
        parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
        return b"python" in (processes / parent / "cmdline").read_bytes()
    except (OSError, StopIteration):
        return True  # it has just ended, or cannot be seen


def _port(url: str) -> str:
    try:
        return str(urlsplit(url).port or "")
    except ValueError:
        return ""


PREFECT: list[tuple[str, Check]] = [
    ("PREFECT_HOME", home), ("prefect server", server), ("work pools", work_pools),
    ("servers left behind", left_behind),
]  # fmt: skip
