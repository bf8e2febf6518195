"""Nights in a loop: does anything grow that should not?

One process lands a small batch and runs the nightly flow on it (the real one, with its orchestrator and its downloads)
and the maintenance flow, again and again. After each night it notes its memory, its open files and threads, the files
of the lake, and what a new catalog costs. A line is fitted to the second half of each; the verdict is about what that
line gains. Prints one JSON document; the exit code is 1 where something leaks.

    make soak                       an hour
    SOAK_MINUTES=10 make soak
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}  # fmt: skip

IMAGES = 12
KEPT = 5
"""Generations that the collector keeps."""
WARM_UP = 3
"""Nights at the least before anything is judged: caches fill."""


@dataclass
class Night:
    """What was measured after one night."""

    seconds: float
    """By the clock: of whoever else uses the machine, too."""
    cpu_s: float
    """That this process computed for."""
    memory_mb: float
    """Resident, of this process."""
    server_mb: float
    """Of its children: the ephemeral server of Prefect, and decoders where some are kept."""
    open_files: int
    threads: int
    lake_files: int
    """At their final names."""
    hidden_files: int
    """Unfinished work, Prefect's small results."""
    catalog_cpu_s: float
    """Building the catalog anew."""


def status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def children(pid: int | str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if status(folder.name)["PPid"] == str(pid):
                found += [int(folder.name), *children(folder.name)]
        except (OSError, KeyError):
            continue  # it has ended
    return found


def resident_mb(pid: int | str) -> float:
    try:
        return int(status(pid).get("VmRSS", "0 kB").split()[0]) / 1024
    except OSError:
        return 0.0


def measure(lake: Any, seconds: float, cpu_s: float, folder: Path) -> Night:
    import gc

    from clipcap.storage.manifest import read_current
    from clipcap.warehouse.catalog import build_catalog

    started = time.process_time()
    build_catalog(lake, read_current(lake), folder / "again.duckdb")
    catalog_cpu_s = time.process_time() - started
    gc.collect()
    files = [file.relative_to(lake.root).parts for file in lake.root.rglob("*") if file.is_file()]
    hidden = sum(any(part.startswith(".") for part in parts) for parts in files)
    me = os.getpid()
    return Night(
        seconds=round(seconds, 2), memory_mb=round(resident_mb(me), 1),
        server_mb=round(sum(map(resident_mb, children(me))), 1), open_files=len(os.listdir("/proc/self/fd")),
        threads=int(status(me)["Threads"]), lake_files=len(files) - hidden, hidden_files=hidden,
        catalog_cpu_s=round(catalog_cpu_s, 3), cpu_s=round(cpu_s, 2),
    )  # fmt: skip


def slope(values: list[float]) -> float:
    """Of the line that fits best, for each step."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    weight = sum((n - middle) ** 2 for n in range(len(values))) or 1.0
    return sum((n - middle) * (value - mean) for n, value in enumerate(values)) / weight


def judge(nights: list[Night], expected_files: int) -> dict[str, dict[str, Any]]:
    """For each measure the mean of the second half, what its line gains a night and in that half, and the verdict.

    A catalog and a manifest name every file of the lake, so that each file may cost a millisecond a night.
    """
    half = nights[len(nights) // 2 :]
    allowed = {  # what a measure may gain from the first to the last night of the second half
        "memory_mb": max(0.03 * half[0].memory_mb, 1.0 * len(half) ** 0.5),
        "server_mb": None, "seconds": None,  # Prefect's own, and everybody's: told, not judged
        "open_files": 2.0, "threads": 2.0,
        "lake_files": (expected_files + 0.5) * (len(half) - 1),
        "hidden_files": 1.0,
        "catalog_cpu_s": max(0.2 * half[0].catalog_cpu_s, 0.1) + 0.001 * expected_files * (len(half) - 1),
        "cpu_s": max(0.2 * half[0].cpu_s, 1.0) + 0.001 * expected_files * (len(half) - 1),
    }  # fmt: skip
    told = {}
    for name, most in allowed.items():
        values = [float(getattr(night, name)) for night in half]
        gained = slope(values) * (len(values) - 1)
        verdict = "not judged" if most is None else "flat" if gained <= most else "grows"
        if name == "lake_files" and verdict == "flat":
            verdict = "grows as expected"
        told[name] = {"mean": round(sum(values) / len(values), 3), "each_night": round(slope(values), 4),
                      "in_second_half": round(gained, 3), "verdict": verdict}  # fmt: skip
    return told


def soak(minutes: float, folder: Path) -> dict[str, Any]:
    from warm import PORT, make_source

    from clipcap.config import load_config
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render_jpeg, scene
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import read_current
    from flows.landing import land_source
    from flows.maintenance import cleanup
    from flows.nightly import caption_nightly
    from flows.pipeline import pipeline

    config = str(make_source(folder / "source"))
    lake, images = Lake(folder / "lake"), folder / "source" / "images"
    overrides = ["report.images=2", "embed.workers=1"]
    pipeline(config, overrides, str(lake.root))
    nights: list[Night] = []
    expected = 0
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until or len(nights) < 2 * WARM_UP:
        shutil.rmtree(images)
        images.mkdir()
        rows = []
        for place in range(IMAGES):
            number = 10_000 + len(nights) * IMAGES + place
            (images / f"{number}.jpg").write_bytes(render_jpeg(scene(number, 1, 48)))
            row = {"url": f"http://127.0.0.1:{PORT}/{number}.jpg", "caption": captions(scene(number, 1, 48))[0]}
            rows.append({**row, "split": "test"})
        (folder / "source" / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        started, computed = time.monotonic(), time.process_time()
        before = set(read_current(lake).entries)
        land_source(lake, load_config(config, overrides))
        caption_nightly(config, overrides, str(lake.root))
        cleanup(config, [*overrides, "maintenance.keep_days=0", f"maintenance.keep_generations={KEPT}"], str(lake.root))
        entries = read_current(lake).entries
        new = [entry for id, entry in entries.items() if id not in before]
        expected = sum(len(entry.files) for entry in new) + 1  # and its report
        took = (time.monotonic() - started, time.process_time() - computed)
        nights.append(measure(lake, *took, folder))
        print(f"night {len(nights)}: {json.dumps(asdict(nights[-1]))}", file=sys.stderr, flush=True)
    verdicts = judge(nights[WARM_UP:], expected)
    grows = sorted(name for name, told in verdicts.items() if told["verdict"] == "grows")
    return {
        "nights": len(nights), "minutes": minutes, "images_each_night": IMAGES, "new_files_each_night": expected,
        "first": asdict(nights[0]), "last": asdict(nights[-1]), "second_half": verdicts, "leaks": grows,
        "verdict": "leaks: " + ", ".join(grows) if grows else "nothing leaks",
    }  # fmt: skip


def main() -> int:
    if os.environ.get("MALLOC_ARENA_MAX") != "2":
        # glibc gives threads up to 16 heaps here and keeps what each of them once needed. Prefect's threads come and
        # go, so that freed memory alone would look like a leak for a hundred nights.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_ARENA_MAX": "2"})
    minutes = float(os.environ.get("SOAK_MINUTES") or 60)
    with tempfile.TemporaryDirectory(prefix="clipcap-soak-") as name:
        os.environ["PREFECT_HOME"] = f"{name}/prefect"
        result = soak(minutes, Path(name))
    print(json.dumps(result, indent=1))
    return bool(result["leaks"])


if __name__ == "__main__":
    sys.exit(main())
