"""Which file of an encoder holds the vector of which image, so that each unique image is encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.embedding.embed import made_with
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry


class HashIndex:
    """Read once, then kept current by the run.

    An image costs 12 bytes: the first 64 bits of its hash and the number of its file. Whoever reads the file compares
    whole hashes, so two images that share those bits cost a look and never a wrong vector. Vectors that another
    version of the stage, of its libraries or another precision made are left out: the key promises new ones.
    """

    def __init__(self, lake: Lake, entries: Iterable[Entry], precision: str = "auto") -> None:
        self._lake, self._made_with = lake, made_with(precision)
        self._files: list[str] = []
        self._hashes = np.empty(0, np.uint64)  # sorted
        self._numbers = np.empty(0, np.uint32)
        self._new: list[tuple[np.ndarray, int]] = []  # added since the arrays were sorted
        self._under_way: dict[str, np.ndarray] = {}
        known = [e.file("embeddings").path for e in entries if self._is_alike(e)]
        for name, file in zip(known, lake.absolute_all(known), strict=True):
            self._note(name, file)
        self._sort()

    def add(self, embed: Entry) -> None:
        """A finished shard's images are known from now on."""
        self._under_way.pop(embed.meta["shard_id"], None)
        if self._is_alike(embed):
            name = embed.file("embeddings").path
            self._note(name, self._lake.absolute(name))

    def start(self, download: Entry) -> list[str]:
        """Files that hold at least one image of the shard, which is under way until it is added."""
        wanted = _read(self._lake.absolute(download.file("shard").path))
        self._under_way[download.meta["shard_id"]] = wanted
        first = np.searchsorted(self._hashes, wanted)
        inside = first < len(self._hashes)
        hits = self._hashes[first[inside]] == wanted[inside]
        numbers = set(self._numbers[first[inside][hits]].tolist())
        numbers |= {number for hashes, number in self._new if np.isin(wanted, hashes).any()}
        return sorted(self._files[number] for number in numbers)

    def must_wait(self, download: Entry) -> bool:
        """Whether a shard under way holds an image of this one, which is then to be taken from there."""
        if not self._under_way:
            return False
        wanted = _read(self._lake.absolute(download.file("shard").path))
        wanted = wanted[~np.isin(wanted, self._hashes)]
        return any(np.isin(wanted, hashes).any() for hashes in self._under_way.values())

    def _is_alike(self, embed: Entry) -> bool:
        return bool(embed.meta.get("made_with") == self._made_with)

    def _note(self, name: str, file: Path) -> None:
        self._new.append((_read(file), len(self._files)))
        self._files.append(name)
        if len(self._new) > 64:
            self._sort()

    def _sort(self) -> None:
        numbers = [np.full(len(hashes), number, np.uint32) for hashes, number in self._new]
        hashes = np.concatenate([self._hashes, *(hashes for hashes, _ in self._new)])
        # The first file of a hash wins; np.unique gives the first place of each value.
        self._hashes, first = np.unique(hashes, return_index=True)
        self._numbers = np.concatenate([self._numbers, *numbers])[first]
        self._new.clear()


def _read(path: Path) -> np.ndarray:
    """The first 64 bits of each hash; images that came without bytes have none."""
    column = pq.read_table(path, columns=["sha256"])["sha256"]
    column = pc.filter(column, pc.equal(pc.binary_length(column), 64))
    digits = "".join(pc.utf8_slice_codeunits(column, 0, 16).to_pylist())
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
