"""Images that are in tars already are copied from there, with the same account of every row as a download."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from clipcap.dataset.archives import DAMAGED, open_archive, why_unusable, words_of
from clipcap.dataset.shards import Fetched


def extract(rows: pa.Table, raw_tar: Path, max_bytes: int) -> dict[str, Fetched]:
    """Copies the rows' images into ``raw_tar``, reading each tar once.

    Args:
        rows: of urls.parquet, with ``location``.
        max_bytes: larger members are filtered.

    Returns:
        What became of each row, by sample_key.
    """
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for key, location in zip(rows["sample_key"].to_pylist(), rows["location"].to_pylist(), strict=True):
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
                fetched.setdefault(key, Fetched("", False, reason, None))
    return fetched


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, copied: tarfile.TarFile, key: str, max_bytes: int
) -> Fetched:
    if problem := why_unusable(member, max_bytes):
        kind = "filtered" if member.isfile() and member.size > max_bytes else "refused"
        return Fetched("", False, f"{kind}: {problem}", None)
    content = archive.extractfile(member)
    data = content.read() if content else b""
    info = tarfile.TarInfo(f"{key}.image")
    info.size = len(data)
    copied.addfile(info, io.BytesIO(data))
    return Fetched(key, True, "", hashlib.sha256(data).hexdigest())
