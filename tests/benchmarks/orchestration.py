"""What orchestration costs: beside a shard's work, and in planning a night over a lake that is done.

    python tests/benchmarks/orchestration.py [--images 1000] [--shards 4] [--repeats 3] [--cached 10000]

(a) The same shards are downloaded, embedded and captioned through flows and tasks, and by plain calls of the library,
in turns; the ratio of the quickest turns is what a shard pays. (b) A fake lake with so many finished shards (files of
a few bytes, real entries) is planned by a nightly run that finds nothing to do. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

MODEL = [
    "train.epochs=1", "train.mapper_hidden=64", "train.language_model.layers=2", "train.language_model.hidden_size=64",
    "caption.beam_size=3", "caption.max_new_tokens=20", "embed.workers=0", "embed.parallel_shards=1",
    "evaluate.shuffled_control=false", "evaluate.resamples=0",
]  # fmt: skip


def beside_work(folder: Path, images: int, shards: int, repeats: int) -> dict[str, Any]:
    """Seconds for the same shards through flows and through plain calls."""
    from prefect import flow

    from clipcap.config import load_config
    from clipcap.dataset.download import download_key, download_shard
    from clipcap.dataset.land import plan_shards
    from clipcap.decoding.caption_shard import caption_key, caption_shard, get_captioner
    from clipcap.embedding.embed import embed_key, embed_shard
    from clipcap.embedding.encoder import get_encoder
    from clipcap.storage.lake import Lake
    from clipcap.training.train_model import Shard, weights_digest
    from flows.caption import caption
    from flows.download import download, local_server
    from flows.embed import embed
    from flows.pipeline import pipeline
    from flows.stages import RunContext

    overrides = [*MODEL, f"sample.scenes={images * shards}", f"download.shard_size={images}"]
    base = Lake(folder / "base")
    pipeline("sample", overrides, str(base.root))
    config = load_config("sample", overrides)

    def fresh(name: str) -> RunContext:
        """The same lake without what is to be measured."""
        root = folder / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base.root, root)
        for made in ("embeddings", "captions", *(path.relative_to(root) for path in root.glob("batches/*/shards"))):
            shutil.rmtree(root / made)
        return RunContext(config, Lake(root), "benchmark")

    def parts(context: RunContext) -> tuple[Any, Any]:
        return context.index.of_stage("land")[0], context.index.of_stage("train")[0]

    @flow(validate_parameters=False)
    def orchestrated(context: RunContext) -> tuple[float, float]:
        batch, model = parts(context)
        start, used = time.perf_counter(), time.process_time()
        caption(context, embed(context, download(context, batch)), model)
        return time.perf_counter() - start, time.process_time() - used

    def plain(context: RunContext) -> tuple[float, float]:
        lake, (batch, model) = context.lake, parts(context)
        encoder = get_encoder(config.embed.encoder_name, "cpu")
        start, used = time.perf_counter(), time.process_time()
        captioner = get_captioner(lake.model(model.meta["model_id"]), "cpu")
        jobs = plan_shards(batch.meta["batch_id"], batch.rows["ok"], images)
        with local_server(config) as host_map:
            downloads = [
                download_shard(lake, job, config.download, download_key(lake, job, config.download), "plain", host_map)
                for job in jobs
            ]
        pairs = [
            Shard(d, embed_shard(lake, d, encoder, config.embed, embed_key(d, encoder), context.run_id))
            for d in downloads
        ]
        for pair in pairs:
            key = caption_key(pair.embed, weights_digest(model), config.caption)
            caption_shard(lake, pair.embed, captioner, config.caption, key, context.run_id)
        return time.perf_counter() - start, time.process_time() - used

    turns: dict[str, Callable[[RunContext], tuple[float, float]]] = {"orchestrated": orchestrated, "plain": plain}
    for turn in turns.values():
        turn(fresh("warm"))  # models are loaded, threads are there
    wall: dict[str, list[float]] = {name: [] for name in turns}
    processor: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(repeats):
        for name in sorted(turns, reverse=bool(number % 2)):
            seconds, used = turns[name](fresh("measured"))
            wall[name].append(round(seconds, 3))
            processor[name].append(round(used, 3))

    def over(values: dict[str, list[float]]) -> float:
        return round(min(values["orchestrated"]) / min(values["plain"]) - 1, 4)

    return {
        "images_per_shard": images, "shards": shards, "seconds": wall, "processor_seconds": processor,
        "overhead_of_work": over(wall), "overhead_of_work_in_processor_time": over(processor),
    }  # fmt: skip


def fake_lake(root: Path, shards: int, batches: int = 20) -> Any:
    """A lake in which a model has captioned everything: real entries of files that hold a few bytes."""
    from clipcap.config import load_config
    from clipcap.decoding.caption_shard import caption_key
    from clipcap.embedding.embed import embed_key
    from clipcap.embedding.encoder import get_encoder
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import commit_generation
    from clipcap.storage.records import Entry, FileRecord, Promotion
    from clipcap.training.train_model import weights_digest

    lake, encoder, config = Lake(root), get_encoder("builtin:sample", "cpu"), load_config("sample")
    now, run_id, each = datetime.now(UTC), "20260101T000000Z-aaaaaa", shards // batches
    entries: list[Entry] = []

    def file(kind: str, path: Path) -> FileRecord:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"fake")
        name = lake.relative(path)
        return FileRecord(kind=kind, path=name, sha256=sha256(b"fake").hexdigest(), size_bytes=4)

    def entry(id: str, key: str, files: list[FileRecord], rows: dict[str, int], **meta: Any) -> Entry:
        made = Entry(
            stage=id.partition("/")[0], id=id, key=key, files=files, rows=rows, meta={"run_id": run_id, **meta},
            run_id=run_id, created_at=datetime.now(UTC), duration_s=1.0,
        )  # fmt: skip
        entries.append(made)
        return made

    model_id = "fake-mlp-00000000"
    weights = file("model", lake.model(model_id) / "mapping.safetensors")
    model = entry(f"train/{model_id}", "k", [weights], {}, model_id=model_id, encoder="builtin:sample",
                  train_images=1)  # fmt: skip
    for number in range(batches):
        hash8 = f"{number:08x}"
        batch_id = f"fake-{hash8}"
        entry(f"land/{batch_id}", hash8 * 8, [file("urls", lake.urls(batch_id))], {"ok": each * 1000},
              batch_id=batch_id, dataset="fake", source="fake.csv")  # fmt: skip
        for index in range(each):
            shard_id = f"{hash8}-{index:05d}"
            about = {"batch_id": batch_id, "shard_id": shard_id}
            download = entry(
                f"download/{batch_id}/{shard_id}", "d" * 64,
                [file("shard_tar", lake.shard(batch_id, shard_id, "tar")),
                 file("shard", lake.shard(batch_id, shard_id, "parquet")),
                 file("ledger", lake.ledger("download", batch_id, shard_id))],
                {"ok": 990, "failed": 10}, **about,
            )  # fmt: skip
            embed = entry(
                f"embed/{encoder.id}/{batch_id}/{shard_id}", embed_key(download, encoder),
                [file("embeddings", lake.embeddings(encoder.id, batch_id, shard_id)),
                 file("ledger", lake.ledger("embed", batch_id, shard_id, encoder.id))],
                {"ok": 990}, encoder_id=encoder.id, encoder=encoder.name, **about,
            )  # fmt: skip
            entry(
                f"caption/{model_id}/{batch_id}/{shard_id}",
                caption_key(embed, weights_digest(model), config.caption),
                [file("captions", lake.captions(model_id, run_id, shard_id)),
                 file("ledger", lake.ledger("caption", batch_id, shard_id, model_id))],
                {"ok": 990}, model_id=model_id, **about,
            )  # fmt: skip
    commit_generation(lake, entries, promotion=Promotion(model_id=model_id, reason="fake", created_at=now))
    return lake


def planning(folder: Path, shards: int, repeats: int) -> dict[str, Any]:
    """Seconds of a nightly run that finds nothing to do, the reading of the manifest included."""
    from flows.nightly import caption_nightly

    start = time.perf_counter()
    lake = fake_lake(folder / "fake", shards)
    made_s, seconds, processor = time.perf_counter() - start, [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        outcome = caption_nightly("sample", [], str(lake.root))
        seconds.append(round(time.perf_counter() - start, 2))
        processor.append(round(time.process_time() - used, 2))
        assert (outcome["new"], outcome["batches"]["skipped"]) == (0, 20), outcome
    size = (lake.manifests / "1.json").stat().st_size
    return {
        "cached_shards": shards, "seconds": seconds, "processor_seconds": processor,
        "manifest_mb": round(size / 1e6, 1), "seconds_to_make_the_lake": round(made_s, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cached", type=int, default=10_000)
    parser.add_argument("--only", choices=["work", "planning"], default="")
    given = parser.parse_args()
    from prefect.testing.utilities import prefect_test_harness

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, prefect_test_harness(server_startup_timeout=180):
        folder = Path(name)
        if given.only != "work":
            result["planning"] = planning(folder, given.cached, given.repeats)
        if given.only != "planning":
            result["beside_work"] = beside_work(folder, given.images, given.shards, given.repeats)
    result["load_of_the_machine"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
