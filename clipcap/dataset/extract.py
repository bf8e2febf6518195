"""Images that are in tars already are copied from there, with the same account of every row as a download."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from clipcap.dataset.shards import Fetched


def extract(rows: pa.Table, raw_tar: Path) -> dict[str, Fetched]:
    """Copies the rows' images into ``raw_tar``, reading each tar once.

    Args:
        rows: of urls.parquet, with ``location``.

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
                with fsspec.open(url, "rb") as stream, tarfile.open(fileobj=stream, mode="r:*") as archive:
                    for member in archive:
                        key = keys.get(member.name, "")
                        if key and key not in fetched:
                            fetched[key] = _copy(archive, member, copied, key)
            except (tarfile.TarError, EOFError, OSError) as error:
                reason = f"{url} cannot be read ({error})"
            for key in keys.values():
                fetched.setdefault(key, Fetched("", False, reason, None))
    return fetched


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, copied: tarfile.TarFile, key: str) -> Fetched:
    content = archive.extractfile(member) if member.isfile() else None
    data = content.read() if content else b""
    info = tarfile.TarInfo(f"{key}.image")
    info.size = len(data)
    copied.addfile(info, io.BytesIO(data))
    return Fetched(key, True, "", hashlib.sha256(data).hexdigest())
