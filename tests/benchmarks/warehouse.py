"""How the warehouse grows: a catalog, its checks and an analyst's questions at SHARDS shards of IMAGES images.

    python tests/benchmarks/warehouse.py [--shards 1000] [--images 1000] [--clip-dim 32] [--folder DIR]

Makes a lake of cheap files (every image landed, downloaded, embedded and captioned; no tars) and prints one JSON
document: seconds of each step (of the clock, and of all cores), the size of the manifest and of the catalog, the
largest resident size.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))
from tiny_lake import CAPTIONS, CORPUS, LEDGER, PER_IMAGE, SHARD, URLS

from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Entry, FileRecord, Promotion, Run
from clipcap.warehouse import build_catalog, connect
from clipcap.warehouse.checks import run_checks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HASH8, BATCH, RUN, MODEL = "0a1b2c3d", "bench-0a1b2c3d", "20260101T000000Z-aaaaaa", "bench-mlp-00000000"
ENCODER_HASH = "feedfacecafe" + "0" * 52
ENCODER = f"toy@{ENCODER_HASH[:12]}"
WORDS = ("a", "the", "red", "green", "small", "dog", "cat", "house", "tree", "on", "under", "beside", "and", "snow")


class Maker:
    """Writes the files of one lake and remembers their entries."""

    def __init__(self, lake: Lake, clip_dim: int) -> None:
        self.lake, self.clip_dim = lake, clip_dim
        self.random = np.random.default_rng(0)
        self.entries: list[Entry] = []

    def write(self, path: Path, schema: pa.Schema, **columns: Any) -> str:
        rows = len(columns["sample_key"]) if "sample_key" in columns else len(columns["metric"])
        arrays = []
        for field in schema:
            value = columns.get(field.name)
            if isinstance(value, list | np.ndarray | pa.Array):
                arrays.append(pa.array(value, field.type) if not isinstance(value, pa.Array) else value)
            else:
                arrays.append(pa.repeat(pa.scalar(value, field.type), rows))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="snappy")
        return self.lake.relative(path)

    def entry(self, entry_id: str, files: dict[str, str], rows: dict[str, int], **meta: Any) -> None:
        records = [
            FileRecord(kind=kind, path=path, sha256="0" * 64, size_bytes=(self.lake.root / path).stat().st_size)
            for kind, path in files.items()
        ]
        self.entries.append(
            Entry(stage=entry_id.partition("/")[0], id=entry_id, key="0" * 64, files=records, rows=rows, meta=meta,
                  run_id=RUN, created_at=NOW, duration_s=1.0)
        )  # fmt: skip

    def ledger(self, stage: str, shard: str, keys: list[str], variant: str = "") -> str:
        path = self.lake.ledger(stage, BATCH, shard, variant)
        return self.write(
            path, LEDGER, sample_key=keys, batch_id=BATCH, shard_id=shard, stage=stage, status="ok", reason="",
            image_url=[f"http://images.test/{key}" for key in keys], created_at=NOW,
        )  # fmt: skip

    def shard(self, number: int, keys: list[str]) -> None:
        lake, shard, count = self.lake, f"{HASH8}-{number:05d}", {"ok": len(keys)}
        captions = [[f"reference {key}"] for key in keys]
        urls = [f"http://images.test/{key}" for key in keys]
        self.entry(
            f"download/{BATCH}/{shard}",
            {
                "shard": self.write(
                    lake.shard(BATCH, shard, "parquet"), SHARD, sample_key=keys, batch_id=BATCH, shard_id=shard,
                    image_url=urls, member=keys, sha256=keys, width=320, height=200, format="jpg", size_bytes=9_000,
                    captions=captions, split="test"),
                "ledger": self.ledger("download", shard, keys),
            },
            count, batch_id=BATCH, shard_id=shard,
        )  # fmt: skip
        vectors = self.random.standard_normal(len(keys) * self.clip_dim).astype(np.float16)
        schema = pa.schema([("sample_key", pa.string()), ("sha256", pa.string()),
                            ("clip_embedding", pa.list_(pa.float16(), self.clip_dim))])  # fmt: skip
        self.entry(
            f"embed/{ENCODER}/{BATCH}/{shard}",
            {
                "embeddings": self.write(
                    lake.embeddings(ENCODER, BATCH, shard), schema, sample_key=keys, sha256=keys,
                    clip_embedding=pa.FixedSizeListArray.from_arrays(pa.array(vectors), self.clip_dim)),
                "ledger": self.ledger("embed", shard, keys, ENCODER),
            },
            count, batch_id=BATCH, shard_id=shard, encoder_id=ENCODER, encoder="toy", clip_dim=self.clip_dim,
        )  # fmt: skip
        words = self.random.choice(WORDS, (len(keys), 8))
        self.entry(
            f"caption/{MODEL}/{shard}",
            {
                "captions": self.write(
                    lake.captions(MODEL, RUN, shard), CAPTIONS, sample_key=keys, batch_id=BATCH, shard_id=shard,
                    model_id=MODEL, run_id=RUN, caption=[" ".join(row) for row in words], log_probability=-3.0,
                    tokens=8, clip_score=self.random.uniform(0.4, 0.9, len(keys)), created_at=NOW),
                "ledger": self.ledger("caption", shard, keys, MODEL),
            },
            count, model_id=MODEL, run_id=RUN, batch_id=BATCH, shard_id=shard,
        )  # fmt: skip


def make(folder: Path, shards: int, images: int, clip_dim: int) -> Lake:
    """The lake, committed as one generation."""
    lake = Lake(folder)
    maker = Maker(lake, clip_dim)
    keys = [f"{HASH8}-{row:07d}" for row in range(shards * images)]
    urls = [f"http://images.test/{key}" for key in keys]
    maker.entry(
        f"land/{BATCH}",
        {
            "urls": maker.write(lake.urls(BATCH), URLS, sample_key=keys, url=urls,
                                captions=[[f"reference {key}"] for key in keys], split="test", source_row=0),
            "ledger": maker.ledger("land", BATCH, keys),
        },
        {"ok": len(keys)}, batch_id=BATCH, dataset="bench", source="bench.csv",
    )  # fmt: skip
    log = lake.model(MODEL) / "training.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("{}\n")
    maker.entry(
        f"train/{MODEL}", {"model": lake.relative(log)}, {}, model_id=MODEL, mapper="mlp", encoder="toy",
        encoder_hash=ENCODER_HASH, clip_dim=clip_dim, batch_ids=[BATCH], tuned=True,
    )  # fmt: skip
    for number in range(shards):
        maker.shard(number, keys[number * images : (number + 1) * images])
    maker.entry(
        f"evaluate/{MODEL}",
        {
            "corpus": maker.write(lake.metrics(MODEL, RUN, "corpus"), CORPUS, model_id=MODEL, run_id=RUN, split="test",
                                  metric=["cider"], value=0.5, images=len(keys), created_at=NOW),
            "per_image": maker.write(lake.metrics(MODEL, RUN, "per_image"), PER_IMAGE, model_id=MODEL, run_id=RUN,
                                     sample_key=keys, metric="cider", value=maker.random.random(len(keys))),
        },
        {}, model_id=MODEL, run_id=RUN, split="test",
    )  # fmt: skip
    run = Run(run_id=RUN, flow="pipeline", started_at=NOW, finished_at=NOW, entries=[e.id for e in maker.entries])
    commit_generation(lake, maker.entries, run, Promotion(model_id=MODEL, reason="first", created_at=NOW))
    return lake


QUESTIONS = {
    "count captions": "select count(*) from captions",
    "latest captions of one image": f"from latest_captions where sample_key = '{HASH8}-0000005'",
    "worst ten": "select * from captions order by clip_score limit 10",
    "images by status": "select status, count(*) from images group by all",
    "batches": "from batches",
    "lineage of one caption": f"from lineage where sample_key = '{HASH8}-0000005'",
    "similar to one image": f"from similar_to('{HASH8}-0000005', 10)",
    "word frequencies": "from word_frequencies() limit 10",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--clip-dim", type=int, default=32)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="clipcap-bench-"))
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Any) -> Any:
        clock, cores = time.perf_counter(), time.process_time()
        try:
            return call()
        finally:
            seconds[name] = [round(time.perf_counter() - clock, 3), round(time.process_time() - cores, 3)]
            print(name, *seconds[name], file=sys.stderr, flush=True)

    lake = Lake(folder)
    if not lake.current.exists():
        timed("make the lake", lambda: make(folder, asked.shards, asked.images, asked.clip_dim))
    generation = timed("read the manifest", lambda: read_current(lake))
    timed("build the catalog", lambda: build_catalog(lake, generation))
    with connect(lake) as connection:
        for result in timed("all checks", lambda: run_checks(connection)):
            if result.rows:
                print("fired:", result.name, result.rows[:2], file=sys.stderr)
        for name, question in QUESTIONS.items():
            try:
                timed(name, lambda question=question: connection.execute(question).fetchall())
            except Exception as error:
                print(name, str(error).splitlines()[0], file=sys.stderr)
    print(
        json.dumps(
            {
                "shards": asked.shards, "images": asked.shards * asked.images, "clip_dim": asked.clip_dim,
                "seconds (clock, cores)": seconds, "manifest_bytes": lake.manifest(generation.number).stat().st_size,
                "catalog_bytes": lake.catalog.stat().st_size,
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
            indent=2,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
