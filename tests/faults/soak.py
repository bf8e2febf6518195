"""Nights in a loop: does anything grow that should not?

One process lands a small batch and runs the nightly flow on it (the real one, with its orchestrator and its downloads)
and the maintenance flow, again and again. After each night it notes its memory, its open files and threads, the files
of the lake, and what a new catalog costs. A line is fitted to the second half of each; the verdict is about what that
line gains. A larger lake needs more in any process, since each night scores all that stands: a new process does one
night on the lake as it was after the first nights, and one on the last, and what they differ by is no leak. Prints one
JSON document; the exit code is 1 where something leaks.

    make soak                       an hour
    SOAK_MINUTES=10 make soak
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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


def judge(nights: list[Night], expected_files: int, needs: dict[str, float]) -> dict[str, dict[str, Any]]:
    """For each measure the mean of the second half, what its line gains a night and in that half, and the verdict.

    A catalog names every file of the lake, so that each file may cost it a millisecond a night.

    Args:
        needs: what a night's growth of the lake adds to a measure in a new process.
    """
    half = nights[len(nights) // 2 :]
    steps = len(half) - 1
    allowed = {  # what a measure may gain from the first to the last night of the second half
        "memory_mb": max(0.03 * half[0].memory_mb, 1.0 * len(half) ** 0.5) + steps * needs["memory_mb"],
        "server_mb": None, "seconds": None,  # Prefect's own, and everybody's: told, not judged
        "open_files": 2.0, "threads": 2.0,
        "lake_files": (expected_files + 0.5) * steps,
        "hidden_files": 1.0,
        "catalog_cpu_s": max(0.2 * half[0].catalog_cpu_s, 0.1) + 0.001 * expected_files * steps,
        "cpu_s": max(0.2 * half[0].cpu_s, 1.0) + steps * needs["cpu_s"],
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


class Nights:
    """Small batches that land one after another in a lake, each with its night."""

    def __init__(self, folder: Path, lake: Path) -> None:
        from clipcap.storage.lake import Lake

        self.folder, self.lake = folder, Lake(lake)
        self.config, self.images = str(folder / "source" / "kill.toml"), folder / "source" / "images"
        self.overrides = ["report.images=2", "embed.workers=1"]

    def do(self, number: int) -> tuple[float, float]:
        """Seconds by the clock, and seconds that this process computed for."""
        from warm import PORT

        from clipcap.config import load_config
        from clipcap.dataset.scene_captions import captions
        from clipcap.dataset.scenes import render_jpeg, scene
        from flows.landing import land_source
        from flows.maintenance import cleanup
        from flows.nightly import caption_nightly

        shutil.rmtree(self.images)
        self.images.mkdir()
        rows = []
        for place in range(10_000 + number * IMAGES, 10_000 + (number + 1) * IMAGES):
            (self.images / f"{place}.jpg").write_bytes(render_jpeg(scene(place, 1, 48)))
            row = {"url": f"http://127.0.0.1:{PORT}/{place}.jpg", "caption": captions(scene(place, 1, 48))[0]}
            rows.append({**row, "split": "test"})
        (self.folder / "source" / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        started, computed = time.monotonic(), time.process_time()
        root, keep = str(self.lake.root), ["maintenance.keep_days=0", f"maintenance.keep_generations={KEPT}"]
        land_source(self.lake, load_config(self.config, self.overrides))
        caption_nightly(self.config, self.overrides, root)
        cleanup(self.config, [*self.overrides, *keep], root)
        return time.monotonic() - started, time.process_time() - computed


def one(folder: Path, lake: Path) -> dict[str, float]:
    """A night in this new process, of which nothing is left from nights before."""
    import gc

    _, cpu_s = Nights(folder, lake).do(10**6)
    gc.collect()
    return {"memory_mb": resident_mb(os.getpid()), "cpu_s": cpu_s}


def one_elsewhere(folder: Path, lake: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(folder), str(lake)]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))


def soak(minutes: float, folder: Path) -> dict[str, Any]:
    from warm import make_source

    from clipcap.storage.manifest import read_current
    from flows.pipeline import pipeline

    make_source(folder / "source")
    loop = Nights(folder, folder / "lake")
    lake = loop.lake
    pipeline(loop.config, loop.overrides, str(lake.root))
    nights: list[Night] = []
    expected = 0
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until or len(nights) < 2 * WARM_UP:
        before = set(read_current(lake).entries)
        took = loop.do(len(nights))
        new = [entry for id, entry in read_current(lake).entries.items() if id not in before]
        expected = sum(len(entry.files) for entry in new) + 1  # and its report
        nights.append(measure(lake, *took, folder))
        print(f"night {len(nights)}: {json.dumps(asdict(nights[-1]))}", file=sys.stderr, flush=True)
        if len(nights) == WARM_UP:
            shutil.copytree(lake.root, folder / "early")
    early, late = one_elsewhere(folder, folder / "early"), one_elsewhere(folder, lake.root)
    needs = {name: max(0.0, late[name] - early[name]) / (len(nights) - WARM_UP) for name in late}
    verdicts = judge(nights[WARM_UP:], expected, needs)
    grows = sorted(name for name, told in verdicts.items() if told["verdict"] == "grows")
    return {
        "nights": len(nights), "minutes": minutes, "images_each_night": IMAGES, "new_files_each_night": expected,
        "first": asdict(nights[0]), "last": asdict(nights[-1]), "second_half": verdicts,
        "a_new_process": {"on_the_first_lake": early, "on_the_last": late, "each_night": needs}, "leaks": grows,
        "verdict": "leaks: " + ", ".join(grows) if grows else "nothing leaks",
    }  # fmt: skip


def main() -> int:
    if os.environ.get("MALLOC_ARENA_MAX") != "2":
        # glibc gives threads up to 16 heaps here and keeps what each of them once needed. Prefect's threads come and
        # go, so that freed memory alone would look like a leak for a hundred nights.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_ARENA_MAX": "2"})
    if len(sys.argv) == 3:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a run prints is no answer
        print(json.dumps(one(Path(sys.argv[1]), Path(sys.argv[2]))), file=answers, flush=True)
        return 0
    minutes = float(os.environ.get("SOAK_MINUTES") or 60)
    with tempfile.TemporaryDirectory(prefix="clipcap-soak-") as name:
        os.environ["PREFECT_HOME"] = f"{name}/prefect"
        result = soak(minutes, Path(name))
    print(json.dumps(result, indent=1))
    return bool(result["leaks"])


if __name__ == "__main__":
    sys.exit(main())
