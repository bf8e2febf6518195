"""Stored embeddings to a torch tensor beside memcpy, in the same run: prints one JSON document.

    python tests/benchmarks/embeddings_read.py [ROWS]

200,000 vectors of 512 numbers in ten files; warm, the best of seven rounds of each. Read are the vectors with their
keys and hashes, as training and captioning read them, and the column of vectors alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from clipcap.embedding.store import EmbeddingInfo, read_embeddings, write_embeddings

FILES, DIM = 10, 512


def best_of(work: Callable[[], object], rounds: int = 7) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(rows: int) -> None:
    import torch

    info = EmbeddingInfo(encoder="bench", encoder_hash="0" * 64, clip_dim=DIM, preprocessing_hash="0")
    vectors = np.random.default_rng(0).normal(size=(rows // FILES, DIM)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(FILES)]
        for number, path in enumerate(paths):
            keys = [f"0a1b2c3d-{number * len(vectors) + n:07d}" for n in range(len(vectors))]
            write_embeddings(path, info, keys, ["0" * 64] * len(keys), vectors)
        size = rows * DIM * 2
        source = np.zeros(size, np.uint8)
        source[:] = 1

        def column() -> torch.Tensor:
            parts = []
            for path in paths:
                array = pq.read_table(path, columns=["clip_embedding"])["clip_embedding"].combine_chunks()
                parts.append(torch.from_numpy(array.flatten().to_numpy(zero_copy_only=False)).view(-1, DIM))
            return torch.cat(parts)

        copy_s = best_of(lambda: source.copy())
        whole_s = best_of(lambda: torch.from_numpy(read_embeddings(paths).vectors))
        column_s = best_of(column)
    print(json.dumps({
        "rows": rows, "mib": size >> 20,
        "gb_per_s": {"memcpy": round(size / copy_s / 1e9, 2), "with_keys": round(size / whole_s / 1e9, 2),
                     "vectors_alone": round(size / column_s / 1e9, 2)},
        "of_memcpy": {"with_keys": round(copy_s / whole_s, 3), "vectors_alone": round(copy_s / column_s, 3)},
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
