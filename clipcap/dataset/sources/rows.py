"""A landed row, and what every kind of source needs."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
"""Names of images. HEIC, as phones write it, cannot be read here; a row that says so is better than none."""
SPLITS = ("", "train", "restval", "val", "test")


def endings(counts: Counter[str], most: int = 5) -> str:
    """Endings of files with their numbers, the most frequent first: "12 .heic, 3 .mov, 2 without an ending"."""
    named = [f"{count:,} {ending or 'without an ending'}" for ending, count in counts.most_common(most)]
    return ", ".join([*named, f"{len(counts) - most:,} other endings"] if len(counts) > most else named)


@dataclass(slots=True)
class SourceRow:
    """One landed row, before it is judged."""

    url: str
    captions: list[str] = field(default_factory=list)
    split: str = ""
    sha256: str = ""
    """Of the bytes, where the source is local: the same path with new bytes is a new batch."""
    location: str = ""
    """Where the bytes are, if not at the URL: "<tar>#<member>"."""
    is_ours: bool = False
    """Whether a ``file:`` URL was made here, of a file that the source names by its place; lists may not name any."""
    licence: str = ""
    """As the source says it; nothing is made of it but counts."""
    source: str = ""
    """Whom or what the source credits: an author, a collection, a page."""
    problem: str = ""
    """Why it cannot be used, where reading the source showed that already."""


def problem_of(row: SourceRow) -> str:
    """Why a row cannot be used, "" if it can."""
    if row.problem or not row.url:
        return row.problem or "no URL"
    try:
        parts = urlsplit(row.url)
        host = parts.hostname
    except ValueError as error:
        return f"not a URL ({error})"
    if row.split not in SPLITS:
        return f"unknown split {row.split!r}, expected train, restval, val or test"
    if row.is_ours:
        return ""
    if parts.scheme not in ("http", "https"):
        return f"URL scheme {parts.scheme or '(none)'!r}, expected http or https"
    if "@" in parts.netloc:
        return "a user name or password in the URL, which would be stored for everybody to read"
    if not host or any(c.isspace() for c in row.url):
        return "not a URL (no host, or white space in it)"
    return ""


def text_of(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def whole(text: str) -> str:
    """JSON may hold half a surrogate pair, which no file can store; it becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def captions_of(record: dict[str, Any]) -> list[str]:
    """Of a record with ``captions`` or ``caption``, either one text or several."""
    found = record.get("captions") or record.get("caption") or []
    return [whole(text_of(c)) for c in (found if isinstance(found, list) else [found]) if text_of(c)]


_PROVENANCE = {
    "licence": ("licence", "license"),
    "source": ("source", "attribution", "author", "photographer", "credit"),
}
PROVENANCE_COLUMNS = frozenset(name for names in _PROVENANCE.values() for name in names)
"""Columns of a list that are kept beside a row, by any of their usual names."""


def provenance_of(record: dict[str, Any]) -> dict[str, Any]:
    """Licence and source of a record, the first of each one's names that says something."""
    return {
        kept: next((whole(found) for name in names if (found := text_of(record.get(name)))), "")
        for kept, names in _PROVENANCE.items()
    }


def local_row(file: Path, captions: list[str], split: str = "") -> SourceRow:
    try:
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        sha256 = ""  # the download stage gives this row its reason
    return SourceRow(file.resolve().as_uri(), captions, split, sha256, is_ours=True)
