"""Near-duplicates, marked from embeddings: what nearly the same image an earlier one was.

Up to :data:`EXACT` images every pair is compared. Beyond that the vectors are put into cells (spherical k-means, about
the square root of their number) and an image is compared with those of its three nearest cells; docs/benchmarks.md
tells how many pairs that finds. Legend: N images, C cells, D clip_dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from clipcap.embedding.store import read_embeddings
from clipcap.storage.commit import commit_table
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import Entry, Recorder, digest

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
EXACT = 50_000
_PROBES = 3
_BLOCK = 4096
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


def near_duplicates(
    vectors: np.ndarray, first: int, threshold: float, exact: int = EXACT
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image from ``first`` on the most similar one before it, if that is similar enough.

    Args:
        vectors: float16 (N, D), in the order in which images came; need not be normalised.
        first: those before it are compared with and not asked for.
        threshold: least cosine.
        exact: up to so many images every pair is compared.

    Returns:
        int64 (M,) numbers of images, int64 (M,) of what they repeat, float32 (M,) their cosine; by number.
    """
    import torch

    count = len(vectors)
    best = torch.full((count,), -2.0)
    found = torch.full((count,), -1, dtype=torch.int64)
    stored = torch.from_numpy(np.ascontiguousarray(vectors))
    if count <= exact:
        everything = torch.arange(count)
        _compare(stored, everything[first:], everything, best, found)
    else:
        nearest = _nearest_cells(stored, _cells(stored))  # (N, 3)
        order = torch.argsort(nearest[:, 0], stable=True)
        ends = torch.cumsum(torch.bincount(nearest[:, 0], minlength=int(nearest.max()) + 1), 0)
        asked = nearest[first:].T.reshape(-1)  # (3 * asking,)
        asking = torch.argsort(asked, stable=True)
        asked_ends = torch.cumsum(torch.bincount(asked, minlength=len(ends)), 0)
        for cell in range(len(ends)):
            members = order[ends[cell - 1] if cell else 0 : ends[cell]]
            questions = asking[asked_ends[cell - 1] if cell else 0 : asked_ends[cell]] % (count - first) + first
            _compare(stored, questions.sort().values, members, best, found)
    marked = torch.nonzero(best >= threshold).squeeze(1)
    return marked.numpy(), found[marked].numpy(), best[marked].numpy()


def _unit(vectors: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.normalize(vectors.float(), dim=-1)


def _compare(stored: Tensor, questions: Tensor, members: Tensor, best: Tensor, found: Tensor) -> None:
    """Keeps, for each question, the most similar member that came before it; both are in order."""
    if not len(questions):
        return
    for block in questions.split(_BLOCK):
        asking = _unit(stored[block])
        earlier = members[members < block[-1]]
        for part in earlier.split(_BLOCK) if len(earlier) else ():
            cosines = asking @ _unit(stored[part]).T  # (B, D) x (D, M) → (B, M)
            cosines.masked_fill_(part[None, :] >= block[:, None], -2.0)
            value, place = cosines.max(dim=1)
            better = value > best[block]
            best[block[better]], found[block[better]] = value[better], part[place[better]]


def _cells(stored: Tensor) -> Tensor:
    """Centres of spherical k-means on a sample, (C, D)."""
    import torch

    count = round(len(stored) ** 0.5)
    random = torch.Generator().manual_seed(0)
    sample = _unit(stored[torch.randperm(len(stored), generator=random)[: 64 * count]])
    centres = sample[:count].clone()
    for _ in range(6):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in sample.split(_BLOCK)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        filled = torch.bincount(nearest, minlength=count) > 0
        centres[filled] = _unit(sums[filled])
    return centres


def _nearest_cells(stored: Tensor, centres: Tensor) -> Tensor:
    """(N, 3), nearest first."""
    import torch

    return torch.cat([(_unit(part) @ centres.T).topk(_PROBES, dim=1).indices for part in stored.split(_BLOCK)])


def duplicates_key(batch: Iterable[Entry], earlier: Iterable[Entry], threshold: float) -> str:
    """Cache key: the vectors that are compared, and from when on they are the same."""
    files = [[entry.file("embeddings").sha256 for entry in entries] for entries in (earlier, batch)]
    return digest([VERSION, files, threshold])


def mark_duplicates(
    lake: Lake, batch: list[Entry], earlier: list[Entry], threshold: float, key: str, run_id: str = ""
) -> Entry:
    """Writes one row for each image of a batch that nearly repeats an earlier one, of it or of a batch before.

    Args:
        batch: embed entries of the batch's shards.
        earlier: of the same encoder's shards before.
        key: from :func:`duplicates_key`.
    """
    batch_id, encoder_id = batch[0].meta["batch_id"], batch[0].meta["encoder_id"]
    with Recorder(
        lake, "duplicates", f"duplicates/{encoder_id}/{batch_id}", key, run_id, batch_id=batch_id, encoder_id=encoder_id
    ) as out:
        stored = read_embeddings(lake.absolute_all(e.file("embeddings").path for e in [*earlier, *batch]))
        first = len(stored.keys) - sum(entry.rows.get("ok", 0) for entry in batch)
        numbers, repeated, cosines = near_duplicates(stored.vectors, first, threshold)
        now = datetime.now(UTC)
        table = pa.table(
            {
                "sample_key": [stored.keys[n] for n in numbers],
                "batch_id": [batch_id] * len(numbers),
                "encoder_id": [encoder_id] * len(numbers),
                "duplicate_of": [stored.keys[n] for n in repeated],
                "cosine": cosines.clip(-1, 1),
                "created_at": [now] * len(numbers),
            },
            schema=_SCHEMA,
        )
        path = lake.duplicates(encoder_id, batch_id)
        commit_table(table, path)
        out.meta["images"], out.meta["marked"] = len(stored.keys) - first, len(numbers)
        out.add("duplicates", path)
    return out.entry
