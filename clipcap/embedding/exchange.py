"""Embeddings in and out in clip-retrieval's layout, which the tools around LAION read.

``img_emb/img_emb_<n>.npy`` holds float16 (N, clip_dim), L2-normalised; ``metadata/metadata_<n>.parquet`` a row for each
vector in the same order, with ``image_path``, ``caption`` and ``url``; ``text_emb/text_emb_<n>.npy``, where wanted, the
caption's vector. ``<n>`` has as many digits as the number of parts, as theirs has (clip_inference/writer.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.errors import DataError
from clipcap.redaction import without_userinfo
from clipcap.storage.commit import sha256_of
from clipcap.storage.entries import digest


@dataclass(frozen=True)
class Part:
    """Files of one number."""

    vectors: Path
    metadata: Path

    @property
    def texts(self) -> Path:
        """Where the captions' vectors are, if there are any."""
        name = self.vectors.name.replace("img_emb_", "text_emb_")
        return self.vectors.parent.parent / "text_emb" / name


def find_parts(folder: Path) -> list[Part]:
    """Pairs of files in their layout, by number.

    Raises:
        DataError: there are none, or one of a pair is missing.
    """
    vectors = {f.stem.rpartition("_")[2]: f for f in folder.glob("img_emb/img_emb_*.npy")}
    metadata = {f.stem.rpartition("_")[2]: f for f in folder.glob("metadata/metadata_*.parquet")}
    if not vectors or vectors.keys() != metadata.keys():
        alone = ", ".join(sorted(vectors.keys() ^ metadata.keys())) or "none found"
        raise DataError(
            f"{folder} is not in clip-retrieval's layout: expected img_emb/img_emb_<n>.npy, each with its "
            f"metadata/metadata_<n>.parquet (without a partner: {alone})"
        )
    return [Part(vectors[n], metadata[n]) for n in sorted(vectors, key=lambda n: (len(n), n))]


def read_part(part: Part) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Vectors, mapped (N, clip_dim), and a record for each: ``url``, ``captions``, ``split``.

    Raises:
        DataError: they do not fit each other, or cannot be read.
    """
    try:
        vectors = np.load(part.vectors, mmap_mode="r", allow_pickle=False)
        there = set(pq.read_schema(part.metadata).names)
        wanted = [c for c in ("image_path", "url", "caption", "captions", "split") if c in there]
        table = pq.read_table(part.metadata, columns=wanted)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise DataError(f"{part.vectors.name} or {part.metadata.name} cannot be read: {error}") from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != table.num_rows:
        raise DataError(
            f"{part.vectors.name} is {vectors.dtype} {vectors.shape}, {part.metadata.name} has {table.num_rows} rows: "
            "expected floats (N, clip_dim) and as many rows"
        )
    records = []
    for row in table.to_pylist():
        captions = row.get("captions") or ([row["caption"]] if row.get("caption") else [])
        url = row.get("url") or f"{part.vectors.resolve().as_uri()}#{row.get('image_path')}"
        records.append({"url": without_userinfo(url), "captions": captions, "split": row.get("split") or ""})
    return vectors, records


def fingerprint(parts: list[Part]) -> str:
    """Of all their bytes."""
    return digest([[sha256_of(part.vectors), sha256_of(part.metadata)] for part in parts])
