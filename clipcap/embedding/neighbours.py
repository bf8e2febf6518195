"""Which earlier image an image nearly repeats: a search among embeddings that are streamed from their files.

Beside a few arrays with a number for each image, a chunk of the images that are asked for and a block of those that
they are compared with are in memory. Up to :data:`EXACT_PAIRS` every pair is compared. Beyond that the images are put
into cells (spherical k-means) and one is compared with those of its three nearest cells (an inverted file);
docs/embeddings.md tells what that finds. Legend: N images, Q of them asked for, C cells, D clip_dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.embedding.store import stream_embeddings

if TYPE_CHECKING:
    from torch import Tensor

EXACT_PAIRS = 2_000_000_000
_PROBES = 3
_SAMPLE = 32
_CHUNK = 1 << 18  # images that are asked for at once, in float16
_BLOCK = 1 << 17  # images that they are compared with
_TILE = 4096  # edge of a matrix of cosines


def near_duplicates(
    paths: Sequence[Path], first: int, threshold: float, exact_pairs: int = EXACT_PAIRS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image from ``first`` on the most similar one before it, if that is similar enough.

    Args:
        paths: embeddings files of one encoder, in the order in which images came; need not be normalised.
        first: number of the first image that is asked for; those before it are only compared with.
        threshold: least cosine.
        exact_pairs: up to so many pairs all are compared.

    Returns:
        int64 (M,) numbers of images, int64 (M,) of what they repeat, float32 (M,) their cosine; by number.
    """
    import torch

    count = count_rows(paths)
    asked = count - first
    best, found = torch.full((asked,), -2.0), torch.full((asked,), -1, dtype=torch.int64)
    cells = 1
    if asked * first + asked * asked // 2 > exact_pairs:
        # Putting images into cells then costs what comparing them does.
        cells = min(round((_PROBES * asked) ** 0.5), count)
    centres = _centres(paths, count, cells) if cells > 1 else None
    home = _homes(paths, count, centres)
    for start in range(first, count, _CHUNK):
        chunk = slice(start - first, min(start + _CHUNK, count) - first)
        questions = torch.cat([vectors for _, vectors in _blocks(paths, start, start + _CHUNK)])  # float16 (Q, D)
        probes = _nearest(questions, centres)
        asking = torch.argsort(probes.T.reshape(-1), stable=True)  # (probes * Q,) by cell, then by number
        asked_ends = _ends(probes.reshape(-1), cells)
        asking %= len(questions)
        for offset, members in _blocks(paths, 0, start + _CHUNK):
            homes = home[offset : offset + len(members)]
            order, ends = torch.argsort(homes, stable=True), _ends(homes, cells)
            for cell in range(cells):
                mine = asking[asked_ends[cell] : asked_ends[cell + 1]]
                theirs = order[ends[cell] : ends[cell + 1]]
                if len(mine) and len(theirs):
                    _compare(questions, mine, start, members, theirs, offset, best[chunk], found[chunk])
    marked = torch.nonzero(best >= threshold).squeeze(1)
    return (marked + first).numpy(), found[marked].numpy(), best[marked].numpy()


def count_rows(paths: Iterable[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _blocks(paths: Iterable[Path], start: int, end: int) -> Iterator[tuple[int, Tensor]]:
    """Images from ``start`` to ``end``: the number of the first and float16 (up to ``_BLOCK``, D), piece by piece."""
    import torch

    held: list[np.ndarray] = []
    place = at = start
    passed = 0
    for path in paths:
        rows = pq.read_metadata(path).num_rows
        if passed + rows > start and passed < end:
            number = passed
            for _, vectors in stream_embeddings(path):
                wanted = vectors[max(start - number, 0) : max(end - number, 0)]
                number += len(vectors)
                while len(wanted):
                    held.append(wanted[: _BLOCK - (at - place)])
                    at += len(held[-1])
                    wanted = wanted[len(held[-1]) :]
                    if at - place == _BLOCK:
                        yield place, torch.from_numpy(np.concatenate(held))
                        place, held = at, []
        passed += rows
    if held:
        yield place, torch.from_numpy(np.concatenate(held))


def _ends(cells: Tensor, count: int) -> list[int]:
    """(C + 1,): where each cell begins once its images are sorted, and where the last one ends."""
    import torch

    return [0, *torch.cumsum(torch.bincount(cells, minlength=count), 0).tolist()]


def _unit(vectors: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.normalize(vectors.float(), dim=-1)


def _compare(
    questions: Tensor, mine: Tensor, start: int, members: Tensor, theirs: Tensor, offset: int, best: Tensor,
    found: Tensor,
) -> None:  # fmt: skip
    """Keeps, for each of ``mine``, the most similar of ``theirs`` that came before it.

    Args:
        questions, members: float16 (., D), whose first have the numbers ``start`` and ``offset``.
        mine, theirs: int64, places in them, ascending within a cell.
    """
    mine = mine.sort().values
    for theirs_tile in theirs.split(_TILE):
        numbers = theirs_tile + offset
        later = mine[mine + start > numbers[0]]
        if not len(later):
            return
        tile = _unit(members[theirs_tile]).T
        for asking in later.split(_TILE):
            cosines = _unit(questions[asking]) @ tile  # (A, D) x (D, T) → (A, T)
            if numbers[-1] >= asking[0] + start:
                cosines.masked_fill_(numbers[None, :] >= (asking + start)[:, None], -2.0)
            value, place = cosines.max(dim=1)
            better = value > best[asking]
            best[asking[better]], found[asking[better]] = value[better], numbers[place[better]]


def _centres(paths: Sequence[Path], count: int, cells: int) -> Tensor:
    """Centres of spherical k-means on every n-th image, about ``_SAMPLE`` for each cell: float32 (C, D)."""
    import torch

    step = max(1, count // (_SAMPLE * cells))
    sample = torch.cat([vectors[-offset % step :: step] for offset, vectors in _blocks(paths, 0, count)])
    random = torch.Generator().manual_seed(0)
    centres = _unit(sample[torch.randperm(len(sample), generator=random)[:cells]])
    for _ in range(6):
        nearest = _nearest(sample, centres, 1).squeeze(1)
        sums = torch.zeros_like(centres)
        for part, homes in zip(sample.split(_TILE), nearest.split(_TILE), strict=True):
            sums.index_add_(0, homes, _unit(part))
        filled = torch.bincount(nearest, minlength=cells) > 0
        centres[filled] = _unit(sums[filled])
    return centres


def _nearest(vectors: Tensor, centres: Tensor | None, probes: int = _PROBES) -> Tensor:
    """Cells of each image, nearest first: int64 (., probes); of one cell alone there is nothing to choose."""
    import torch

    if centres is None:
        return torch.zeros((len(vectors), 1), dtype=torch.int64)
    return torch.cat(
        [(_unit(part) @ centres.T).topk(min(probes, len(centres)), dim=1).indices for part in vectors.split(_TILE)]
    )


def _homes(paths: Sequence[Path], count: int, centres: Tensor | None) -> Tensor:
    """The cell of each image: int32 (N,)."""
    import torch

    if centres is None:
        return torch.zeros(count, dtype=torch.int32)
    parts = [_nearest(vectors, centres, 1).squeeze(1).int() for _, vectors in _blocks(paths, 0, count)]
    return torch.cat(parts)


def same_bytes(paths: Sequence[Path], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Images from ``first`` on with the bytes of an earlier one, and the first that had them: int64 (M,) each."""
    hashes, has_one = [], []
    for path in paths:
        column = pc.fill_null(pq.read_table(path, columns=["sha256"])["sha256"], "")
        is_known = pc.equal(pc.binary_length(column), 64)  # images that came without bytes have none
        digits = pc.if_else(is_known, pc.utf8_slice_codeunits(column, 0, 32), "0" * 32)
        hashes.append(np.frombuffer(bytes.fromhex("".join(digits.to_pylist())), "S16"))  # 128 bits never meet by chance
        has_one.append(is_known.to_numpy())
    known = np.flatnonzero(np.concatenate(has_one))
    _, earliest, group = np.unique(np.concatenate(hashes)[known], return_index=True, return_inverse=True)
    repeated = known[earliest[group.reshape(-1)]]
    again = (repeated < known) & (known >= first)
    return known[again], repeated[again]


def keys_of(paths: Sequence[Path], numbers: np.ndarray) -> pa.ChunkedArray:
    """Keys of images by their numbers, which need no order."""
    wanted, places = np.unique(numbers, return_inverse=True)
    chunks, passed = [], 0
    for path in paths:
        rows = pq.read_metadata(path).num_rows
        low, high = np.searchsorted(wanted, [passed, passed + rows])
        if high > low:
            chunks.append(pq.read_table(path, columns=["sample_key"])["sample_key"].take(wanted[low:high] - passed))
        passed += rows
    keys = pa.chunked_array([chunk for part in chunks for chunk in part.chunks], pa.string())
    return keys.take(places.reshape(-1))
