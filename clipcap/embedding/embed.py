"""The embed stage: one shard of images to one file of embeddings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from clipcap.batches import Batches
from clipcap.config import EmbedConfig
from clipcap.dataset.shards import read_shard
from clipcap.embedding.decode_pool import decode_all, resolve_workers
from clipcap.embedding.encoder import Encoder
from clipcap.embedding.rates import Rates
from clipcap.embedding.store import EmbeddingInfo, read_embeddings, write_embeddings
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, write_ledger
from clipcap.storage.records import Entry

if TYPE_CHECKING:
    from clipcap.embedding.forward import Pending

VERSION = 2


@cache
def _libraries() -> dict[str, str]:
    """Versions of what changes pixels or vectors."""
    return {name: version(name) for name in ("pillow", "open_clip_torch", "torch")}


def embed_key(shard: Entry, encoder: Encoder) -> str:
    """Cache key: the images' bytes, the encoder's weights and preprocessing, and libraries that change vectors.

    The precision counts as it was asked for: "auto" is the same work on a machine with a GPU and on one without.
    """
    return digest([VERSION, shard.file("shard_tar").sha256, encoder.hash, encoder.precision, _libraries()])


def made_with(precision: str) -> str:
    """What beside the encoder and the images decides a vector; in an entry's meta, so that old ones are not reused."""
    return digest([VERSION, precision, _libraries()])[:12]


def embed_shard(
    lake: Lake,
    shard: Entry,
    encoder: Encoder,
    config: EmbedConfig,
    key: str,
    run_id: str = "",
    others: Iterable[str] = (),
    on_batch: Callable[[Rates], None] = lambda rates: None,
) -> Entry:
    """Embeds each unique image of a shard once.

    Images are decoded in worker processes while the device computes the batch before, whose results arrive while it
    computes the next. Two shards under way at a time also hide the reading and writing of files.

    Args:
        shard: the entry of its download.
        key: from :func:`embed_key`.
        others: files of the same encoder, relative to the lake, that hold vectors of some of these bytes already.
        on_batch: called after each batch with what was reached so far.

    Raises:
        EmbeddingError: a vector is not finite.
    """
    batch_id, shard_id = shard.meta["batch_id"], shard.meta["shard_id"]
    with Recorder(
        lake, "embed", f"embed/{encoder.id}/{batch_id}/{shard_id}", key, run_id,
        batch_id=batch_id, shard_id=shard_id, encoder_id=encoder.id, encoder=encoder.name,
        made_with=made_with(encoder.precision),
    ) as out:  # fmt: skip
        rows, images = read_shard(lake.absolute(shard.file("shard_tar").path), lake.absolute(shard.file("shard").path))
        vectors = _known(lake, others, {row["sha256"] for row in rows})
        rates = Rates(len({row["sha256"] for row in rows}), known=len(vectors))
        new, reasons = _encode_new(rows, images, set(vectors), encoder, config, rates, on_batch)
        vectors.update(new)

        embedded = [row for row in rows if row["sha256"] in vectors]
        started = time.perf_counter()
        embedding, features = next(iter(vectors.values())) if vectors else _encode_nothing(encoder)
        has_features = encoder.features != "embedding"
        info = EmbeddingInfo(
            encoder=encoder.name, encoder_hash=encoder.hash, clip_dim=len(embedding),
            preprocessing_hash=digest(asdict(encoder.preprocessing)), features=encoder.features,
            feature_dim=features.shape[-1] if has_features else 0,
            feature_tokens=features.shape[0] if features.ndim == 2 else 0,
        )  # fmt: skip
        out.meta["clip_dim"] = info.input_dim
        path = lake.embeddings(encoder.id, batch_id, shard_id)
        write_embeddings(
            path,
            info,
            [row["sample_key"] for row in embedded],
            [row["sha256"] for row in embedded],
            _stacked([vectors[row["sha256"]][0] for row in embedded], embedding),
            _stacked([vectors[row["sha256"]][1] for row in embedded], features) if has_features else None,
        )  # fmt: skip
        ledger = lake.ledger("embed", batch_id, shard_id, encoder.id)
        outcomes = (
            Outcome(row["sample_key"], "failed" if row["sha256"] in reasons else "ok",
                    reasons.get(row["sha256"], ""), row["image_url"])
            for row in rows
        )  # fmt: skip
        out.rows = write_ledger(ledger, "embed", batch_id, shard_id, outcomes)
        out.add("embeddings", path)
        out.add("ledger", ledger)
        rates.write_s = time.perf_counter() - started
        out.meta["measured"] = rates.facts() | encoder.facts()
    on_batch(rates)
    return out.entry


def _encode_new(
    rows: list[dict[str, Any]], images: Iterator[bytes], known: set[str], encoder: Encoder, config: EmbedConfig,
    rates: Rates, on_batch: Callable[[Rates], None],
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, str]]:  # fmt: skip
    """By hash: embedding and features (float16) of each image that is not known yet, or the reason why it has none."""
    vectors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    reasons: dict[str, str] = {}
    under_way: deque[tuple[list[str], Pending]] = deque()
    batch: list[tuple[str, np.ndarray]] = []
    wanted: deque[str] = deque()
    workers = resolve_workers(config.workers)
    fitting = Batches(config.batch_size, "embedding", "embed.batch_size")

    def new_images() -> Iterator[bytes]:
        """Bytes that no row before had; their hashes go to ``wanted`` in the same order."""
        for row, data in zip(rows, images, strict=True):
            if row["sha256"] not in known:
                known.add(row["sha256"])
                wanted.append(row["sha256"])
                yield data

    def collect() -> None:
        hashes, pending = under_way.popleft()
        embedding, features, seconds = pending.result()
        pairs = zip(embedding.astype(np.float16), features.astype(np.float16), strict=True)
        vectors.update(zip(hashes, pairs, strict=True))
        rates.count(forward=len(hashes), forward_s=seconds)
        on_batch(rates)

    def encode() -> None:
        if batch:
            pixels = np.stack([image for _, image in batch])
            hashes = iter([sha for sha, _ in batch])
            batch.clear()
            for size, pending in fitting.map(lambda part: _started(encoder, pixels[part]), len(pixels)):
                under_way.append((list(islice(hashes, size)), pending))
                while len(under_way) > 1:
                    collect()

    for chunk in decode_all(new_images(), encoder.preprocessing, workers):
        rates.count(decoded=len(chunk.results), decode_s=chunk.decode_s / max(workers, 1))
        for result in chunk.results:
            sha = wanted.popleft()
            if isinstance(result, str):
                reasons[sha] = result
            else:
                batch.append((sha, result))
            if len(batch) == config.batch_size:
                encode()
    encode()
    while under_way:
        collect()
    return vectors, reasons


def _started(encoder: Encoder, pixels: np.ndarray) -> tuple[int, Pending]:
    return len(pixels), encoder.start(pixels)


def _stacked(rows: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, *like.shape), np.float16)


def _known(lake: Lake, others: Iterable[str], hashes: set[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Embedding and features that other shards already hold for these bytes."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in others:
        stored = read_embeddings([lake.absolute(path)])
        rows = zip(stored.sha256, stored.vectors, stored.features, strict=True)
        found.update((sha, (vector, features)) for sha, vector, features in rows if sha and sha in hashes)
    return found


def _encode_nothing(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and features of a black image: their shapes, where a shard holds no image at all."""
    size = (1, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    embedding, features = encoder.encode_with_features(np.zeros(size, np.uint8))
    return embedding[0], features[0]
