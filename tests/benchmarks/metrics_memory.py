"""Memory for BLEU, ROUGE-L and CIDEr-D of many captions with five references each: prints one JSON document.

    python tests/benchmarks/metrics_memory.py                                  100,000 images
    python tests/benchmarks/metrics_memory.py --images 1000000 --folder DIR    a million; DIR needs 22 GB

From raw text. Peak memory is that of the whole process that scores, as the kernel counts it (ru_maxrss); another
process makes the captions before. They are spliced from the real ones of ../shared/flickr8k: the first words of one
caption and the last of another, mostly of the same image; in one of ten captions one word is replaced by one of 100,000
that do not exist, so that the vocabulary is large, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.metrics.score_tables import score_tables

_SCHEMA = pa.schema([("key", pa.string()), ("caption", pa.string())])
_IMAGES_AT_ONCE = 20_000


def make(folder: Path, images: int, references: int) -> None:
    """Writes candidates.parquet and references.parquet."""
    shared = Path(os.environ.get("CLIPCAP_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    path = shared / "flickr8k" / "dataset_flickr8k.json"
    if not path.is_file():
        sys.exit(f"skipped: no captions at {path} (set CLIPCAP_SHARED)")
    real = [[s["raw"].split() for s in image["sentences"]] for image in json.loads(path.read_text())["images"]]
    rng = np.random.default_rng(0)

    def spliced(number: int, same: float) -> str:
        own = real[number]
        other = own if rng.random() < same else real[rng.integers(len(real))]
        first, second = own[rng.integers(len(own))], other[rng.integers(len(other))]
        words = first[: rng.integers(len(first) + 1)] + second[rng.integers(len(second) + 1) // 2 :]
        if rng.random() < 0.1 and words:
            words[rng.integers(len(words))] = (
                "z"
                + "abcdefghij"[rng.integers(10)]
                + f"{rng.integers(10_000):04d}".translate(str.maketrans("0123456789", "klmnopqrst"))
            )
        return " ".join(words)

    with (
        pq.ParquetWriter(folder / "candidates.parquet", _SCHEMA) as ours,
        pq.ParquetWriter(folder / "references.parquet", _SCHEMA) as theirs,
    ):
        for start in range(0, images, _IMAGES_AT_ONCE):
            numbers = range(start, min(images, start + _IMAGES_AT_ONCE))
            keys = [f"image-{number:09d}" for number in numbers]
            captions = [spliced(number % len(real), 0.5) for number in numbers]
            ours.write_table(pa.table([keys, captions], schema=_SCHEMA))
            captions = [spliced(number % len(real), 0.8) for number in numbers for _ in range(references)]
            theirs.write_table(pa.table([np.repeat(keys, references).tolist(), captions], schema=_SCHEMA))


def measure(folder: Path, memory_limit: str, threads: int | None) -> None:
    """Scores in this process and prints what it took."""
    start = time.perf_counter()
    steps: list[tuple[str, float]] = []

    def on_step(name: str) -> None:
        steps.append((name, time.perf_counter() - start))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{steps[-1][1]:8.1f} s  {peak:5.2f} GiB  {name}", file=sys.stderr, flush=True)

    spilled, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(1):
            sizes = []
            for file in folder.glob("clipcap-metrics-*/**/*"):
                try:
                    sizes.append(file.stat().st_blocks * 512)
                except FileNotFoundError:
                    continue
            spilled[0] = max(spilled[0], sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        scores = score_tables(
            folder / "candidates.parquet", folder / "references.parquet", folder / "per_image.parquet",
            memory_limit=memory_limit, spill_dir=folder, threads=threads, on_step=on_step,
        )  # fmt: skip
    finally:
        done.set()
        watcher.join()
    took = time.perf_counter() - start
    ends = [begin for _, begin in steps[1:]] + [took]
    print(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "images": scores.images,
                "references": scores.references,
                "memory_limit": memory_limit,
                "seconds": round(took, 1),
                "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "spilled_gb": round(spilled[0] / 1e9, 1),
                "steps_s": {name: round(end - begin, 1) for (name, begin), end in zip(steps, ends, strict=True)},
                "values": scores.corpus,
            },
            indent=2,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--memory-limit", default="2GiB")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="for the captions and what is spilled; about 22 GB")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure, options.memory_limit, options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder, options.images, options.references)
        command = [sys.executable, __file__, "--measure", name, "--memory-limit", options.memory_limit]
        subprocess.run(command + (["--threads", str(options.threads)] if options.threads else []), check=True)


if __name__ == "__main__":
    main()
