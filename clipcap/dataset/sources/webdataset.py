"""Existing webdataset shards: tars of images with .txt and .json beside them, as img2dataset and others write them.

Nothing is unpacked: a tar is streamed once, an image at a time, for its hash; the download stage copies the bytes.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from fsspec.core import url_to_fs

from clipcap.dataset.archives import DAMAGED, open_archive, why_unusable, words_of
from clipcap.dataset.sources.rows import IMAGE_EXTENSIONS, SourceRow, captions_of, text_of, whole
from clipcap.errors import SourceError
from clipcap.redaction import redact_text

_LARGEST_TEXT = 1 << 20  # bytes of a .txt or .json


def is_webdataset(source: str) -> bool:
    """A tar, a pattern of tars ("{00000..00099}.tar", "*.tar"), or a folder that holds tars and no images."""
    if source.endswith((".tar", ".tar.gz")):
        return True
    path = Path(source)
    if not path.is_dir() or not any(path.glob("*.tar")):
        return False
    return not any(file.suffix.lower() in IMAGE_EXTENSIONS for file in path.iterdir())


def read_webdataset(source: str, max_bytes: int = 32 * 2**20) -> Iterator[SourceRow]:
    """One row for each key of each tar, in order; ``max_bytes`` is the largest member that is read.

    Raises:
        SourceError: no tar is there.
    """
    pattern = f"{source.rstrip('/')}/*.tar" if Path(source).is_dir() else source
    try:
        files, tars = url_to_fs(pattern)[0], _expand(pattern)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{redact_text(source)} cannot be read: {words_of(error)}") from None
    if not tars:
        raise SourceError(f"there is no tar at {redact_text(pattern)} to land")
    for tar in tars:
        yield from _read_tar(files.unstrip_protocol(tar), max_bytes)


def _expand(pattern: str) -> list[str]:
    files, path = url_to_fs(pattern)
    found: list[str] = []
    for one in _braces(path):
        found += sorted(files.glob(one)) if any(sign in one for sign in "*?[") else [one]
    return [path for path in found if files.isfile(path)] if "*" in pattern or "{" in pattern else found


def _braces(pattern: str) -> list[str]:
    """ "{00..11}.tar" to twelve names, as a shell does."""
    start, brace, rest = pattern.partition("{")
    inside, close, end = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (brace and close and dots and first.isdigit() and last.isdigit()):
        return [pattern]
    return [f"{start}{n:0{len(first)}d}{tail}" for n in range(int(first), int(last) + 1) for tail in _braces(end)]


def _read_tar(url: str, max_bytes: int) -> Iterator[SourceRow]:
    seen: set[str] = set()
    names: set[str] = set()
    parts: dict[str, bytes] = {}
    row: SourceRow | None = None
    key, is_again = "", False
    try:
        with open_archive(url) as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = PurePosixPath(member.name)
                stem, _, extension = name.name.partition(".")
                if (new := str(name.parent / stem)) != key:
                    if key:
                        yield _finished(url, key, row, parts)
                    key, row, parts, is_again = new, None, {}, new in seen
                    seen.add(key)
                    names.clear()
                if problem := _problem(member, key, is_again, member.name in names, max_bytes):
                    row = SourceRow(_location(url, member.name), problem=problem)
                elif f".{extension.lower()}" in IMAGE_EXTENSIONS and row is None:
                    content = archive.extractfile(member)
                    sha256 = hashlib.sha256(content.read() if content else b"").hexdigest()
                    location = _location(url, member.name)
                    row = SourceRow(location, sha256=sha256, location=location, is_ours=True)
                elif extension in ("txt", "json") and member.size <= _LARGEST_TEXT:
                    content = archive.extractfile(member)
                    parts[extension] = content.read() if content else b""
                names.add(member.name)
    except DAMAGED as error:
        if key and row is not None:
            yield _finished(url, key, row, parts)
        far = " to its end" if key else ""
        yield SourceRow(url, problem=f"the tar cannot be read{far} ({words_of(error)})")
        return
    if key:
        yield _finished(url, key, row, parts)


def _problem(member: tarfile.TarInfo, key: str, is_again: bool, is_twice: bool, max_bytes: int) -> str:
    if problem := why_unusable(member, max_bytes):
        return problem
    if is_twice:
        return "its name occurs twice in the tar"
    return f"the key {whole(key)} occurs twice in the tar" if is_again else ""


def _location(url: str, member: str) -> str:
    return f"{url}#{quote(member, errors='replace')}"


def _finished(url: str, key: str, row: SourceRow | None, parts: dict[str, bytes]) -> SourceRow:
    """The row with what its .json and .txt say; a URL there is its lineage, and the tar where its bytes are."""
    if row is None:
        return SourceRow(_location(url, key), problem="no image of a known kind under this key of the tar")
    try:
        record = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError):
        record = {}
    record = record if isinstance(record, dict) else {}
    text = whole(" ".join(parts.get("txt", b"").decode("utf-8", "replace").split()))
    row.captions = captions_of(record) or ([text] if text else [])
    if text and text not in row.captions and not record.get("captions"):
        row.captions = [text]
    row.split = whole(text_of(record.get("split")))
    came_from = whole(text_of(record.get("url")) or text_of(record.get("image_url")))
    if came_from.startswith(("http://", "https://")) and not row.problem:
        row.url, row.is_ours = came_from, False
    return row
