"""A lake small enough to think through, with the columns of docs/architecture.md written out a second time.

One batch of eight rows in two shards:

    row 0  test   captioned by both models        shard 0
    row 1  test   captioned by both models        shard 0
    row 2         duplicate of row 0              (refused on landing)
    row 3  train  captioned by both models        shard 0
    row 4  val    captioned by both models        shard 1
    row 5  train  the server says 404             shard 1
    row 6  train  cannot be decoded when embedding  shard 1
    row 7         no URL                          (refused on landing)

Two models: "old" and "new". Tests change ``tables`` or ``entries`` before they call ``generation()``.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipcap.storage.commit import sha256_of
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation
from clipcap.storage.records import Entry, FileRecord, Generation, Promotion, Run

BATCH = "tiny-0a1b2c3d"
SHARDS = ("0a1b2c3d-00000", "0a1b2c3d-00001")
RUN = "20260101T000000Z-aaaaaa"
OLD, NEW = "tiny-mlp-00000000", "tiny-mlp-11111111"
ENCODER_HASH = "feedfacecafe" + "0" * 52
ENCODER = f"toy@{ENCODER_HASH[:12]}"
START = datetime(2026, 1, 1, tzinfo=UTC)

TEXT, TIME = pa.string(), pa.timestamp("us", tz="UTC")
URLS = pa.schema(
    [("sample_key", TEXT), ("url", TEXT), ("captions", pa.list_(TEXT)), ("split", TEXT), ("source_row", pa.int64())]
)
LEDGER = pa.schema(
    [(n, TEXT) for n in ("sample_key", "batch_id", "shard_id", "stage", "status", "reason", "image_url")]
    + [("created_at", TIME)]
)
SHARD = pa.schema(
    [(name, TEXT) for name in ("sample_key", "batch_id", "shard_id", "image_url", "member", "sha256")]
    + [("width", pa.int32()), ("height", pa.int32()), ("format", TEXT), ("size_bytes", pa.int64())]
    + [("captions", pa.list_(TEXT)), ("split", TEXT)]
)
EMBEDDINGS = pa.schema([("sample_key", TEXT), ("sha256", TEXT), ("clip_embedding", pa.list_(pa.float16(), 4))])
CAPTIONS = pa.schema(
    [(name, TEXT) for name in ("sample_key", "batch_id", "shard_id", "model_id", "run_id", "caption")]
    + [("log_probability", pa.float64()), ("tokens", pa.int32()), ("clip_score", pa.float64()), ("created_at", TIME)]
)
CORPUS = pa.schema(
    [(name, TEXT) for name in ("model_id", "run_id", "split", "metric")]
    + [("value", pa.float64()), ("images", pa.int64()), ("created_at", TIME)]
)
PER_IMAGE = pa.schema([(n, TEXT) for n in ("model_id", "run_id", "sample_key", "metric")] + [("value", pa.float64())])


def key(row: int) -> str:
    return f"0a1b2c3d-{row:07d}"


def url(row: int) -> str:
    return f"http://images.test/{row}.jpg"


@dataclass
class TinyLake:
    lake: Lake
    tables: dict[str, tuple[pa.Schema, list[dict[str, Any]]]] = field(default_factory=dict)
    """Path → columns and rows; written by ``generation()``."""
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    promotions: list[Promotion] = field(default_factory=list)
    minute: int = 0

    def rows(self, fragment: str) -> list[dict[str, Any]]:
        """The rows of the one table whose path contains ``fragment``, to be changed in place."""
        [path] = [path for path in self.tables if fragment in path]
        return self.tables[path][1]

    def table(self, path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> str:
        self.tables[self.lake.relative(path)] = (schema, rows)
        return self.lake.relative(path)

    def entry(self, entry_id: str, files: dict[str, str], rows: dict[str, int], **meta: Any) -> None:
        self.minute += 1
        self.entries[entry_id] = {
            "stage": entry_id.partition("/")[0], "id": entry_id, "key": "0" * 64, "files": files, "rows": rows,
            "meta": meta, "run_id": RUN, "created_at": self.now, "duration_s": 2.0,
        }  # fmt: skip

    @property
    def now(self) -> datetime:
        return START + timedelta(minutes=self.minute)

    def ledger(self, stage: str, shard: str, outcomes: dict[int, tuple[str, str]], variant: str = "") -> str:
        rows = [
            {"sample_key": key(n), "batch_id": BATCH, "shard_id": shard, "stage": stage, "status": status,
             "reason": reason, "image_url": url(n) if n != 7 else "", "created_at": self.now}
            for n, (status, reason) in outcomes.items()
        ]  # fmt: skip
        return self.table(self.lake.ledger(stage, BATCH, shard, variant), LEDGER, rows)

    def generation(self, number: int = 1) -> Generation:
        """Writes every table and describes it all, uncommitted."""
        for path, (schema, rows) in self.tables.items():
            file = self.lake.absolute(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
        entries = {}
        for name, facts in self.entries.items():
            files = [self._record(kind, path) for kind, path in facts["files"].items()]
            entries[name] = Entry(**{**facts, "files": files})
        return Generation(
            number=number, created_at=START, entries=entries, runs=[self.run(list(entries))], promotions=self.promotions
        )

    def commit(self) -> Generation:
        candidate = self.generation()
        for promotion in self.promotions:
            commit_generation(self.lake, promotion=promotion)
        return commit_generation(self.lake, candidate.entries.values(), run=candidate.runs[0])

    def run(self, entries: list[str]) -> Run:
        return Run(
            run_id=RUN, flow="pipeline", started_at=START, finished_at=START + timedelta(minutes=9),
            config={"train": {"mapper": "mlp"}}, entries=entries,
        )  # fmt: skip

    def _record(self, kind: str, path: str) -> FileRecord:
        file = self.lake.absolute(path)
        return FileRecord(kind=kind, path=path, sha256=sha256_of(file), size_bytes=file.stat().st_size)


def picture(row: int) -> bytes:
    """A small JPEG with an EXIF note that must not reach the report."""
    image = Image.new("RGB", (320, 200), (30 * row, 90, 200 - 20 * row))
    exif = Image.Exif()
    exif[0x010E] = "PRIVATE NOTE"
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    return stream.getvalue()


OK = ("ok", "")
SPLITS = {0: "test", 1: "test", 3: "train", 4: "val", 5: "train", 6: "train"}
DOWNLOADED = {0: {0: OK, 1: OK, 3: OK}, 1: {4: OK, 5: ("failed", "HTTP 404"), 6: OK}}
EMBEDDED = {0: {0: OK, 1: OK, 3: OK}, 1: {4: OK, 6: ("failed", "cannot be decoded")}}
CAPTIONED = {0: [0, 1, 3], 1: [4]}


def references(row: int) -> list[str]:
    return [f"Reference one of {row}.", f"Reference two of {row}."]


def build(root: Path) -> TinyLake:
    """The good lake, nothing written but pictures and the training log; every check holds on it."""
    tiny = TinyLake(Lake(root))
    lake = tiny.lake
    landed = {row: OK for row in SPLITS} | {2: ("duplicate", "same URL as row 0"), 7: ("failed", "no URL")}
    tiny.entry(
        f"land/{BATCH}",
        {
            "urls": tiny.table(lake.urls(BATCH), URLS, [
                {"sample_key": key(row), "url": url(row), "captions": references(row), "split": split,
                 "source_row": row} for row, split in SPLITS.items()]),
            "ledger": tiny.ledger("land", BATCH, landed),
        },
        {"ok": 6, "duplicate": 1, "failed": 1},
        batch_id=BATCH, dataset="tiny", source="tiny.csv", rows_total=8,
    )  # fmt: skip
    for number, shard in enumerate(SHARDS):
        outcomes = DOWNLOADED[number]
        good = [row for row, outcome in outcomes.items() if outcome == OK]
        tar = lake.shard(BATCH, shard, "tar")
        tar.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar, "w") as archive:
            for row in good:
                info = tarfile.TarInfo(f"{key(row)}.jpg")
                info.size = len(picture(row))
                archive.addfile(info, io.BytesIO(picture(row)))
        tiny.entry(
            f"download/{BATCH}/{shard}",
            {
                "shard_tar": lake.relative(tar),
                "shard": tiny.table(lake.shard(BATCH, shard, "parquet"), SHARD, [
                    {"sample_key": key(row), "batch_id": BATCH, "shard_id": shard, "image_url": url(row),
                     "member": f"{key(row)}.jpg", "sha256": f"{row:064x}", "width": 320, "height": 200,
                     "format": "jpg", "size_bytes": len(picture(row)), "captions": references(row),
                     "split": SPLITS[row]} for row in good]),
                "ledger": tiny.ledger("download", shard, outcomes),
            },
            _count(outcomes), batch_id=BATCH, shard_id=shard,
        )  # fmt: skip
        outcomes = EMBEDDED[number]
        tiny.entry(
            f"embed/{ENCODER}/{BATCH}/{shard}",
            {
                "embeddings": tiny.table(lake.embeddings(ENCODER, BATCH, shard), EMBEDDINGS, [
                    {"sample_key": key(row), "sha256": f"{row:064x}",
                     "clip_embedding": np.array([1, row, 0, -0.5], np.float16)}
                    for row, outcome in outcomes.items() if outcome == OK]),
                "ledger": tiny.ledger("embed", shard, outcomes, ENCODER),
            },
            _count(outcomes), batch_id=BATCH, shard_id=shard, encoder_id=ENCODER, encoder="toy", clip_dim=4,
        )  # fmt: skip
    for model in (OLD, NEW):
        _add_model(tiny, model)
    return tiny


def _add_model(tiny: TinyLake, model: str) -> None:
    lake, is_new = tiny.lake, model == NEW
    log = lake.model(model) / "training.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(
        '{"step": 1, "epoch": 1, "loss": 4.0, "val_loss": null}\n'
        '{"step": 2, "epoch": 1, "loss": 3.0, "val_loss": 3.5}\n'
        '{"step": 3, "epoch": 2, "loss": 2.0, "val_loss": 2.5}\n'
    )
    tiny.entry(
        f"train/{model}", {"model": lake.relative(log)}, {},
        model_id=model, mapper="mlp", language_model="scratch", encoder="toy", encoder_hash=ENCODER_HASH, clip_dim=4,
        prefix_length=4, tuned=True, parameters=1234, best_val_loss=2.5, epochs=2, train_images=1, train_captions=2,
        val_images=1, batch_ids=[BATCH], embeddings=[],
    )  # fmt: skip
    for number, shard in enumerate(SHARDS):
        tiny.entry(
            f"caption/{model}/{shard}",
            {
                "captions": tiny.table(lake.captions(model, RUN, shard), CAPTIONS, [
                    {"sample_key": key(row), "batch_id": BATCH, "shard_id": shard, "model_id": model, "run_id": RUN,
                     "caption": f"{'new' if is_new else 'old'} caption {row}", "log_probability": -3.0, "tokens": 4,
                     "clip_score": None, "created_at": tiny.now} for row in CAPTIONED[number]]),
                "ledger": tiny.ledger("caption", shard, {row: OK for row in CAPTIONED[number]}, model),
            },
            {"ok": len(CAPTIONED[number])}, model_id=model, run_id=RUN, batch_id=BATCH, shard_id=shard,
        )  # fmt: skip
    values = {"bleu_1": 0.5, "bleu_4": 0.25, "cider": 0.75 if is_new else 0.5, "cider_shuffled": 0.05}
    tiny.entry(
        f"evaluate/{model}",
        {
            "corpus": tiny.table(lake.metrics(model, RUN, "corpus"), CORPUS, [
                {"model_id": model, "run_id": RUN, "split": "test", "metric": metric, "value": value, "images": 2,
                 "created_at": tiny.now} for metric, value in values.items()]),
            "per_image": tiny.table(lake.metrics(model, RUN, "per_image"), PER_IMAGE, [
                {"model_id": model, "run_id": RUN, "sample_key": key(row), "metric": "cider", "value": value}
                for row, value in ((0, 1.0), (1, 0.5))]),
        },
        {}, model_id=model, run_id=RUN, split="test", images=2, metrics=values,
    )  # fmt: skip


def _count(outcomes: dict[int, tuple[str, str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for status, _ in outcomes.values():
        counts[status] = counts.get(status, 0) + 1
    return counts
