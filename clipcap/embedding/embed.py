"""The embed stage: one shard of images to one file of embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import pyarrow.parquet as pq

from clipcap.config import EmbedConfig
from clipcap.dataset.shards import read_shard
from clipcap.embedding.decode import decode_all
from clipcap.embedding.encoder import Encoder
from clipcap.embedding.store import EmbeddingInfo, read_embeddings, write_embeddings
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, write_ledger
from clipcap.storage.manifest import Entry, Recorder, digest

VERSION = 1


def _libraries() -> dict[str, str]:
    """Versions of what changes pixels or vectors."""
    return {name: version(name) for name in ("pillow", "open_clip_torch", "torch")}


def embed_key(shard: Entry, encoder: Encoder) -> str:
    """Cache key: the images' bytes, the encoder's weights and preprocessing, and libraries that change vectors."""
    return digest([VERSION, shard.file("shard_tar").sha256, encoder.hash, _libraries()])


def _made_with() -> str:
    """What beside the encoder and the images decides a vector; in an entry's meta, so that old ones are not reused."""
    return digest([VERSION, _libraries()])[:12]


def embed_shard(
    lake: Lake,
    shard: Entry,
    encoder: Encoder,
    config: EmbedConfig,
    key: str,
    run_id: str = "",
    others: Iterable[str] = (),
) -> Entry:
    """Embeds each unique image of a shard once.

    Args:
        shard: the entry of its download.
        key: from :func:`embed_key`.
        others: files of the same encoder, relative to the lake, that hold vectors of some of these bytes already.

    Raises:
        EmbeddingError: a vector is not finite.
    """
    batch_id, shard_id = shard.meta["batch_id"], shard.meta["shard_id"]
    with Recorder(
        lake, "embed", f"embed/{encoder.id}/{batch_id}/{shard_id}", key, run_id,
        batch_id=batch_id, shard_id=shard_id, encoder_id=encoder.id, encoder=encoder.name, made_with=_made_with(),
    ) as out:  # fmt: skip
        rows, images = read_shard(lake.absolute(shard.file("shard_tar").path), lake.absolute(shard.file("shard").path))
        vectors = _known(lake, others, {row["sha256"] for row in rows})
        reasons: dict[str, str] = {}
        wanted: list[str] = []

        def new_images() -> Iterator[bytes]:
            """Bytes that no row before had, and no other shard; their hashes go to ``wanted`` in the same order."""
            seen = set(vectors)
            for row, data in zip(rows, images, strict=True):
                if row["sha256"] not in seen:
                    seen.add(row["sha256"])
                    wanted.append(row["sha256"])
                    yield data

        batch: list[tuple[str, np.ndarray]] = []

        def encode() -> None:
            if batch:
                both = encoder.encode_with_features(np.stack([pixels for _, pixels in batch]))
                encoded = (tuple(pair) for pair in zip(*(array.astype(np.float16) for array in both), strict=True))
                vectors.update(zip((sha for sha, _ in batch), encoded, strict=True))
                batch.clear()

        for index, result in enumerate(decode_all(new_images(), encoder.preprocessing, config.workers)):
            if isinstance(result, str):
                reasons[wanted[index]] = result
            else:
                batch.append((wanted[index], result))
            if len(batch) == config.batch_size:
                encode()
        encode()

        embedded = [row for row in rows if row["sha256"] in vectors]
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
    return out.entry


def _stacked(rows: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, *like.shape), np.float16)


def _known(lake: Lake, others: Iterable[str], hashes: set[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Embedding and features that other shards already hold for these bytes."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in others:
        stored = read_embeddings([lake.absolute(path)])
        rows = zip(stored.sha256, stored.vectors, stored.features, strict=True)
        found.update((sha, (vector, features)) for sha, vector, features in rows if sha in hashes)
    return found


class HashIndex:
    """Which file of an encoder holds the vector of which image; read once, then kept current by the run.

    Vectors that another version of the stage or of its libraries made are left out: the key promises new ones.
    """

    def __init__(self, lake: Lake, entries: Iterable[Entry]) -> None:
        self._lake = lake
        self._file_of: dict[str, str] = {}
        for entry in entries:
            self.add(entry)

    def add(self, embed: Entry) -> None:
        if embed.meta.get("made_with") != _made_with():
            return
        path = embed.file("embeddings").path
        for sha in pq.read_table(self._lake.absolute(path), columns=["sha256"])["sha256"].to_pylist():
            self._file_of.setdefault(sha, path)

    def files_for(self, download: Entry) -> list[str]:
        """Files that hold at least one image of the shard."""
        table = pq.read_table(self._lake.absolute(download.file("shard").path), columns=["sha256"])
        return sorted({self._file_of[sha] for sha in table["sha256"].to_pylist() if sha in self._file_of})


def _encode_nothing(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and features of a black image: their shapes, where a shard holds no image at all."""
    size = (1, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    embedding, features = encoder.encode_with_features(np.zeros(size, np.uint8))
    return embedding[0], features[0]
