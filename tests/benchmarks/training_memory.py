"""Host memory of a training on a million embeddings (512 float16) with five captions each.

Writes such shards to a temporary folder (2 GB), then trains a small captioner on them for some steps in a process of
its own, through the same code as the train stage: reading Parquet, tokenising, batching, stepping.

Prints one JSON document: the process's peak resident memory and the seconds of each part.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.embedding.store import EmbeddingInfo, write_embeddings
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry, FileRecord
from clipcap.training.train_model import Shard

CLIP_DIM, PER_IMAGE, ROWS = 512, 5, 50_000
WORDS = np.array([a + b for a in ("ba", "do", "ki", "lu", "me", "no", "ra", "su") for b in ("", "g", "nt", "rk", "ss")])


def shards_of(lake: Lake, count: int) -> list[Shard]:
    """The shards as manifests name them; their files need not exist yet."""
    found = []
    for number in range(count):
        name = f"0a1b2c3d-{number:05d}"
        files = {
            "shard": lake.shard("b-0a1b2c3d", name, "parquet"),
            "embeddings": lake.embeddings("toy@0123456789ab", "b-0a1b2c3d", name),
        }
        entry = {
            kind: Entry(
                stage=kind, id=name, key="", created_at=datetime.now(UTC),
                files=[FileRecord(kind=kind, path=lake.relative(path), size_bytes=0, sha256="")],
            )
            for kind, path in files.items()
        }  # fmt: skip
        found.append(Shard(entry["shard"], entry["embeddings"]))
    return found


def write(lake: Lake, shards: list[Shard]) -> None:
    rng = np.random.default_rng(0)
    info = EmbeddingInfo(encoder="toy", encoder_hash="ab" * 32, clip_dim=CLIP_DIM, preprocessing_hash="cd" * 32)
    for number, shard in enumerate(shards):
        keys = [f"0a1b2c3d-{number * ROWS + row:07d}" for row in range(ROWS)]
        vectors = rng.standard_normal((ROWS, CLIP_DIM), dtype=np.float32).astype(np.float16)
        write_embeddings(lake.absolute(shard.embed.files[0].path), info, keys, keys, vectors)
        words = WORDS[rng.integers(0, len(WORDS), (ROWS * PER_IMAGE, 11))]
        texts = [" ".join(row) for row in words.tolist()]
        captions = [texts[start : start + PER_IMAGE] for start in range(0, len(texts), PER_IMAGE)]
        table = pa.table({"sample_key": keys, "captions": captions, "split": ["train"] * ROWS})
        path = lake.absolute(shard.download.files[0].path)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


def train(folder: str, count: int, steps: int) -> None:
    """The measured process."""
    import torch

    from clipcap.config import TrainConfig
    from clipcap.model.build import build_captioner
    from clipcap.training.examples import TrainingExamples
    from clipcap.training.phases import FromCaptions
    from clipcap.training.processes import Processes
    from clipcap.training.standardize import standardized
    from clipcap.training.train_model import read_pairs

    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()

    lake = Lake(folder)
    pairs, _ = read_pairs(lake, shards_of(lake, count), ("train",))
    lap("read")
    config = TrainConfig.model_validate(
        dict(prefix_length=4, mapper_hidden=64, language_model=dict(name="scratch", layers=1, heads=2, hidden_size=64))
    )
    captioner = build_captioner(config, pairs.texts, CLIP_DIM)
    lap("tokenizer and model")
    examples = TrainingExamples.from_pairs(pairs, captioner.tokenizer, eos_id=captioner.settings.eos_id, max_tokens=64)
    captions = len(examples)
    lap("tokenise")
    phase = FromCaptions(captioner, config, Processes("cpu"), examples)
    with standardized(captioner, examples.embeddings):
        plan = phase.steps_of(1)
        lap("plan an epoch")
        for number, step in enumerate(plan[:steps]):
            phase.backward(step, number, lambda loss: loss)
        lap(f"{steps} steps")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"captions": captions, "images": len(pairs.captions), "seconds": seconds,
                      "peak_gib": round(peak / 2**20, 2), "torch": torch.__version__}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help=f"a multiple of {ROWS:,}")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    count = options.images // ROWS
    if options.measure:
        return train(options.measure, count, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        write(lake, shards_of(lake, count))
        command = [sys.executable, __file__, "--measure", folder, "--images", str(options.images),
                   "--steps", str(options.steps)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
    print(json.dumps({"benchmark": "host memory of a training", **json.loads(done.stdout)}, indent=1))


if __name__ == "__main__":
    main()
