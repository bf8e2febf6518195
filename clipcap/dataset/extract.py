"""Images that are in tars or films already are copied from there, with the same account of every row as a download."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from clipcap.dataset.archives import DAMAGED, open_archive, why_unusable, words_of
from clipcap.dataset.shards import Fetched
from clipcap.films.address import parse_location
from clipcap.films.decode import grab_frames, progress_lines


def extract(rows: pa.Table, raw_tar: Path, max_bytes: int) -> dict[str, Fetched]:
    """Copies the rows' images into ``raw_tar``, reading each tar and each film once.

    Args:
        rows: of urls.parquet, with ``location``.
        max_bytes: larger members are filtered.

    Returns:
        What became of each row, by sample_key.
    """
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    films: dict[str, dict[float, str]] = defaultdict(dict)
    for key, location in zip(rows["sample_key"].to_pylist(), rows["location"].to_pylist(), strict=True):
        if frame := parse_location(location):
            film, time_s = frame
            films[film][time_s] = key
            continue
        url, _, member = location.rpartition("#")
        wanted[url][unquote(member)] = key
    fetched: dict[str, Fetched] = {}
    with tarfile.open(raw_tar, "w", format=tarfile.USTAR_FORMAT) as copied:
        for url, keys in wanted.items():
            reason = "the tar ends before it"
            try:
                with open_archive(url, "r:*") as archive:
                    for member in archive:
                        key = keys.get(member.name, "")
                        if key and key not in fetched:
                            fetched[key] = _copy(archive, member, copied, key, max_bytes)
            except DAMAGED as error:
                reason = f"its tar cannot be read ({words_of(error)})"
            for key in keys.values():
                fetched.setdefault(key, _lost(reason))
        for film, frames in films.items():
            fetched |= _copy_frames(film, frames, copied, raw_tar.parent)
    return fetched


def _copy_frames(film: str, frames: dict[float, str], copied: tarfile.TarFile, scratch: Path) -> dict[str, Fetched]:
    path, times = Path(unquote(urlsplit(film).path)), sorted(frames)
    fetched: dict[str, Fetched] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found = grab_frames(path, times, Path(folder), on_progress=progress_lines(path.name))
        for time_s, frame in zip(times, found, strict=True):
            key = frames[time_s]
            fetched[key] = _add(copied, key, frame.read_bytes()) if isinstance(frame, Path) else _lost(frame)
    return fetched


def _lost(reason: str) -> Fetched:
    return Fetched("", False, reason, None)


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, copied: tarfile.TarFile, key: str, max_bytes: int
) -> Fetched:
    if problem := why_unusable(member, max_bytes):
        kind = "filtered" if member.isfile() and member.size > max_bytes else "refused"
        return _lost(f"{kind}: {problem}")
    content = archive.extractfile(member)
    return _add(copied, key, content.read() if content else b"")


def _add(copied: tarfile.TarFile, key: str, data: bytes) -> Fetched:
    info = tarfile.TarInfo(f"{key}.image")
    info.size = len(data)
    copied.addfile(info, io.BytesIO(data))
    return Fetched(key, True, "", hashlib.sha256(data).hexdigest())
