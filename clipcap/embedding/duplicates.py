"""Near-duplicates, marked from embeddings: a row for each image that nearly repeats an earlier one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from clipcap.embedding.neighbours import count_rows, keys_of, near_duplicates, same_bytes
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

VERSION = 2
_SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("batch_id", pa.string()),
        ("encoder_id", pa.string()),
        ("duplicate_of", pa.string()),
        ("cosine", pa.float32()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


def compared_with(entries: Iterable[Entry]) -> dict[str, str]:
    """Batches of embed entries, each with a digest of its vectors."""
    files: dict[str, list[list[str]]] = {}
    for entry in entries:
        files.setdefault(entry.meta["batch_id"], []).append([entry.id, entry.file("embeddings").sha256])
    return {batch_id: digest(sorted(pairs)) for batch_id, pairs in files.items()}


def outdated(entries: Iterable[Entry]) -> set[str]:
    """Ids of the duplicates among ``entries`` whose embeddings are not among them any more."""
    entries = list(entries)
    marked = [entry for entry in entries if entry.stage == "duplicates"]
    now = {
        encoder_id: compared_with(e for e in entries if e.stage == "embed" and e.meta["encoder_id"] == encoder_id)
        for encoder_id in {entry.meta["encoder_id"] for entry in marked}
    }
    return {e.id for e in marked if not e.meta.get("compared", {"": ""}).items() <= now[e.meta["encoder_id"]].items()}


def duplicates_key(batch: Iterable[Entry], earlier: Iterable[Entry], threshold: float) -> str:
    """Cache key: the vectors that are compared, and from when on they are the same."""
    files = [[entry.file("embeddings").sha256 for entry in entries] for entries in (earlier, batch)]
    return digest([VERSION, files, threshold])


def mark_duplicates(
    lake: Lake, batch: list[Entry], earlier: list[Entry], threshold: float, key: str, run_id: str = ""
) -> Entry:
    """Writes one row for each image of a batch that nearly repeats an earlier one, of it or of a batch before.

    An image with the very bytes of an earlier one repeats the first that had them, with cosine 1.

    Args:
        batch: embed entries of the batch's shards.
        earlier: of the same encoder's shards before.
        key: from :func:`duplicates_key`.
    """
    batch_id, encoder_id = batch[0].meta["batch_id"], batch[0].meta["encoder_id"]
    with Recorder(
        lake, "duplicates", f"duplicates/{encoder_id}/{batch_id}", key, run_id, batch_id=batch_id,
        encoder_id=encoder_id, compared=compared_with([*earlier, *batch]),
    ) as out:  # fmt: skip
        paths = lake.absolute_all(entry.file("embeddings").path for entry in [*earlier, *batch])
        first = count_rows(paths[: len(earlier)])
        alike = near_duplicates(paths, first, threshold)
        numbers, repeated = same_bytes(paths, first)
        others = ~np.isin(alike[0], numbers)
        numbers = np.concatenate([numbers, alike[0][others]])
        repeated = np.concatenate([repeated, alike[1][others]])
        cosines = np.ones(len(numbers), np.float32)
        cosines[len(numbers) - others.sum() :] = alike[2][others].clip(-1, 1)
        order = np.argsort(numbers)
        now = datetime.now(UTC)
        table = pa.table(
            {
                "sample_key": keys_of(paths, numbers[order]),
                "batch_id": pa.repeat(batch_id, len(numbers)),
                "encoder_id": pa.repeat(encoder_id, len(numbers)),
                "duplicate_of": keys_of(paths, repeated[order]),
                "cosine": cosines[order],
                "created_at": [now] * len(numbers),
            },
            schema=_SCHEMA,
        )
        path = lake.duplicates(encoder_id, batch_id)
        commit_table(table, path)
        out.meta["images"], out.meta["marked"] = count_rows(paths) - first, len(numbers)
        out.add("duplicates", path)
    return out.entry
