"""Embeddings on disk: key, hash and vector in one row, what they are of in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from clipcap.errors import EmbeddingError
from clipcap.storage.commit import commit_table

_METADATA_KEY = b"clipcap"
_FILES_AT_ONCE = 4


class EmbeddingInfo(BaseModel):
    """What stands in a file's metadata, and is refused where it does not fit."""

    encoder: str
    encoder_hash: str
    clip_dim: int
    preprocessing_hash: str
    dtype: str = "float16"
    normalized: bool = False
    features: Literal["embedding", "tower", "tokens"] = "embedding"
    """What models read: the embedding itself, or the column ``clip_features`` beside it."""
    feature_dim: int = 0
    """Size of the tower's features, or of a patch token; 0 where models read the embedding."""
    feature_tokens: int = 0
    """Patch tokens of an image; 0 where an image is one vector."""

    @property
    def input_dim(self) -> int:
        """Size of a vector that models read."""
        return self.feature_dim or self.clip_dim

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of what models read of one image: (C,), or (L, C) patch tokens."""
        return (self.feature_tokens, self.input_dim) if self.feature_tokens else (self.input_dim,)


@dataclass(frozen=True)
class Embeddings:
    """Rows of one or more files of the same encoder."""

    info: EmbeddingInfo
    keys: list[str]
    sha256: list[str]
    vectors: np.ndarray
    """float16 (N, clip_dim)."""
    features: np.ndarray
    """float16, what models read: ``vectors`` again, (N, C) of the tower, or (N, L, C) patch tokens."""


def write_embeddings(
    path: Path,
    info: EmbeddingInfo,
    keys: list[str],
    sha256: list[str],
    vectors: np.ndarray,
    features: np.ndarray | None = None,
) -> None:
    """Commits one file.

    Args:
        vectors: (N, clip_dim), any float dtype; stored as float16.
        features: (N, C) or (N, L, C) where ``info`` says that models read more than the embedding.

    Raises:
        EmbeddingError: arrays of other shapes than ``info`` says, or some value is not finite.
    """
    columns = {"clip_embedding": _half(path, info, keys, vectors, (info.clip_dim,))}
    if info.features != "embedding":
        given = np.empty(0) if features is None else features
        columns["clip_features"] = _half(path, info, keys, given, info.feature_shape)
    text = {"sample_key": pa.array(keys, pa.string()), "sha256": pa.array(sha256, pa.string())}
    # Declared as never null, a vector costs no levels beside its values: reading is half as fast again.
    fields = [pa.field(name, array.type, nullable=name in text) for name, array in {**text, **columns}.items()]
    table = pa.Table.from_arrays([*text.values(), *columns.values()], schema=pa.schema(fields))
    unused = {"features", "feature_dim", "feature_tokens"} if info.features == "embedding" else None
    table = table.replace_schema_metadata({_METADATA_KEY: info.model_dump_json(exclude=unused).encode()})
    commit_table(table, path, compression="none", use_dictionary=False, row_group_size=20_000)


def _half(path: Path, info: EmbeddingInfo, keys: list[str], values: np.ndarray, shape: tuple[int, ...]) -> pa.Array:
    """A column of float16 lists of one size, row after row."""
    if values.shape != (len(keys), *shape):
        raise EmbeddingError(f"{path.name}: got vectors of shape {values.shape}, expected {(len(keys), *shape)}")
    half = np.ascontiguousarray(values, dtype=np.float16).reshape(len(keys), int(np.prod(shape)))
    bad = ~np.isfinite(half).all(axis=1)
    if bad.any():
        raise EmbeddingError(
            f"shard {path.stem}: {int(bad.sum())} embedding(s) are not finite in float16, first "
            f"{keys[int(bad.argmax())]}: the encoder {info.encoder} or its precision is at fault; nothing was stored"
        )
    kind = pa.list_(pa.field("element", pa.float16(), nullable=False), int(np.prod(shape)))
    return pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), type=kind)


def read_info(path: Path) -> EmbeddingInfo:
    """What a file holds.

    Raises:
        EmbeddingError: it is no embedding file of this project.
    """
    try:
        return EmbeddingInfo.model_validate(json.loads(pq.read_schema(path).metadata[_METADATA_KEY]))
    except (OSError, KeyError, TypeError, ValueError, ValidationError, pa.ArrowInvalid) as error:
        raise EmbeddingError(f"{path} is not an embeddings file of clipcap ({type(error).__name__})") from None


def read_embeddings(
    paths: Iterable[Path],
    *,
    clip_dim: int | None = None,
    encoder_hash: str | None = None,
    features: str | None = None,
    only: Collection[str] | None = None,
) -> Embeddings:
    """Reads files of one encoder into one array.

    Args:
        clip_dim: the size that the caller can use: of the features, where there are any, else of the embedding.
        encoder_hash: the encoder that the caller can use.
        features: the kind of features that the caller can use.
        only: keys of the rows that are wanted; None for all.

    Raises:
        EmbeddingError: no file, or a file of another dimension, encoder, kind of features or preprocessing.
    """
    paths = list(paths)
    first: EmbeddingInfo | None = None
    for path in paths:
        info = read_info(path)
        if clip_dim is not None and info.input_dim != clip_dim:
            raise EmbeddingError(f"{path}: embeddings of dimension {info.input_dim}, expected {clip_dim}")
        if features is not None and info.features != features:
            raise EmbeddingError(f"{path}: features of kind {info.features!r}, expected {features!r}")
        if encoder_hash is not None and info.encoder_hash != encoder_hash:
            raise EmbeddingError(
                f"{path}: embeddings of {info.encoder} ({info.encoder_hash[:12]}), expected weights {encoder_hash[:12]}"
            )
        if first is not None and info != first:
            raise EmbeddingError(f"{path}: embeddings of {info.encoder}, mixed with those of {first.encoder}")
        first = info
    if first is None:
        raise EmbeddingError("there are no embeddings to read: run the embed stage first")
    # Filled file by file: beside the rows only a few files are in memory at a time, and what stays empty takes none.
    starts = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in paths)])
    vectors = np.empty((starts[-1], first.clip_dim), np.float16)
    seen = vectors if first.features == "embedding" else np.empty((starts[-1], *first.feature_shape), np.float16)

    def fill(path: Path, start: int) -> tuple[list[str], list[str]]:
        table = pq.read_table(path)
        if only is not None:
            table = table.filter(pa.array([key in only for key in table["sample_key"].to_pylist()], pa.bool_()))
        part = slice(start, start + len(table))
        vectors[part] = _matrix(table["clip_embedding"], vectors.shape[1:])
        if seen is not vectors:
            seen[part] = _matrix(table["clip_features"], seen.shape[1:])
        return table["sample_key"].to_pylist(), table["sha256"].to_pylist()

    keys: list[str] = []
    hashes: list[str] = []
    if only is None and len(paths) > 1:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            for file_keys, file_hashes in threads.map(fill, paths, starts[:-1].tolist()):
                keys += file_keys
                hashes += file_hashes
    else:
        for path in paths:
            file_keys, file_hashes = fill(path, len(keys))
            keys += file_keys
            hashes += file_hashes
    pa.default_memory_pool().release_unused()  # else Arrow keeps what it freed, some hundred MB
    vectors, seen = vectors[: len(keys)], seen[: len(keys)]
    return Embeddings(first, keys, hashes, vectors, vectors if first.features == "embedding" else seen)


def stream_embeddings(path: Path, columns: Collection[str] = ()) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Embeddings of a file piece by piece (its row groups, about 20,000 rows), for what must not hold them all.

    Args:
        columns: what else is wanted beside the vectors: ``sample_key``, ``sha256``.

    Yields:
        A table of those columns, and float16 (rows, clip_dim).

    Raises:
        EmbeddingError: it is no embedding file of this project.
    """
    shape = (read_info(path).clip_dim,)
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=[*columns, "clip_embedding"])
            yield table.select(list(columns)), _matrix(table["clip_embedding"], shape)


def _matrix(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """(rows, *shape), zero-copy where the column is one chunk; a list that came back without a fixed size will do."""
    array = column.combine_chunks()
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(array), *shape)
