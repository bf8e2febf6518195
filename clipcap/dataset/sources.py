"""What can be landed: a URL list, a folder of images, a Karpathy JSON, the built-in sample."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipcap.config import Config
from clipcap.errors import SourceError

IMAGE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
SPLITS = ("", "train", "restval", "val", "test")


@dataclass(slots=True)
class SourceRow:
    """One landed row, before it is judged."""

    url: str
    captions: list[str] = field(default_factory=list)
    split: str = ""
    sha256: str = ""
    """Of the bytes, where the source is local: the same path with new bytes is a new batch."""
    problem: str = ""
    """Why it cannot be used, where reading the source showed that already."""


def read_source(config: Config) -> list[SourceRow]:
    """All rows of the configured source, in its order.

    Raises:
        SourceError: it does not exist, is of no known kind, or cannot be read.
    """
    source = config.dataset.source
    if source == "builtin:sample":
        from clipcap.dataset.sample import sample_rows

        return [SourceRow(r["url"], r["captions"], r["split"]) for r in sample_rows(config.sample, config.serve.port)]
    if not source:
        raise SourceError("dataset.source is empty: name a URL list (.parquet, .csv), a folder or a Karpathy .json")
    path = Path(source)
    if path.is_dir():
        rows = list(_folder(path))
    elif not path.exists():
        raise SourceError(f"there is no file or folder {path} to land")
    elif path.suffix == ".json":
        rows = list(_karpathy(path, config.dataset.images))
    elif path.suffix in (".parquet", ".csv"):
        rows = list(_url_list(path))
    else:
        raise SourceError(f"cannot land {path}: expected a .parquet or .csv URL list, a folder or a Karpathy .json")
    for row in rows:
        row.split = row.split or config.dataset.default_split
    return rows


def problem_of(row: SourceRow, local: bool) -> str:
    """Why a row cannot be used, "" if it can. ``file:`` URLs are for sources that are local themselves."""
    if row.problem or not row.url:
        return row.problem or "no URL"
    try:
        parts = urlsplit(row.url)
        host = parts.hostname
    except ValueError as error:
        return f"not a URL ({error})"
    if row.split not in SPLITS:
        return f"unknown split {row.split!r}, expected train, restval, val or test"
    if parts.scheme == "file" and local:
        return ""
    if parts.scheme not in ("http", "https"):
        return f"URL scheme {parts.scheme or '(none)'!r}, expected http or https"
    if not host or any(c.isspace() for c in row.url):
        return "not a URL (no host, or white space in it)"
    return ""


def is_local(config: Config) -> bool:
    """Whether the source's own files are the images (then ``file:`` URLs are made by us and may be read)."""
    return Path(config.dataset.source).is_dir() or (
        config.dataset.source.endswith(".json") and "://" not in config.dataset.images
    )


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _whole(text: str) -> str:
    """JSON may hold half a surrogate pair, which no file can store; it becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _url_list(path: Path) -> Iterator[SourceRow]:
    try:
        if path.suffix == ".csv":
            options = pa_csv.ParseOptions(newlines_in_values=True)
            strings = pa_csv.ConvertOptions(column_types=dict.fromkeys(("url", "caption", "split"), pa.string()))
            table = pa_csv.read_csv(path, parse_options=options, convert_options=strings)
        else:
            table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    wanted = [name for name in table.column_names if name in ("url", "caption", "captions", "split")]
    if "url" not in wanted or len(wanted) != len(set(wanted)):
        found = ", ".join(table.column_names)
        raise SourceError(f"{path} has the columns {found}; expected one named 'url', and none of a name twice")
    for batch in table.select(wanted).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            captions = row.get("captions") or row.get("caption") or []
            captions = captions if isinstance(captions, list) else [captions]
            yield SourceRow(_text(row["url"]), [_text(c) for c in captions if _text(c)], _text(row.get("split")))


def _local_row(file: Path, captions: list[str], split: str = "") -> SourceRow:
    try:
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        sha256 = ""  # the download stage gives this row its reason
    return SourceRow(file.resolve().as_uri(), captions, split, sha256)


def _folder(path: Path) -> Iterator[SourceRow]:
    """Images at any depth, by name; ``photo.txt`` beside ``photo.jpg`` holds its captions, one in a line."""
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file() and not file.name.startswith("."):
            beside = file.with_suffix(".txt")
            text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
            yield _local_row(file, [line.strip() for line in text.splitlines() if line.strip()])


def _karpathy(path: Path, images: str) -> Iterator[SourceRow]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["images"]
        parsed = [
            (
                _whole("/".join(part for part in (item.get("filepath", ""), item["filename"]) if part)),
                [_whole(_text(s["raw"])) for s in item.get("sentences", []) if _text(s["raw"])],
                _text(item.get("split")),
            )
            for item in items
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is not a Karpathy JSON ({type(error).__name__}: {error}); expected images[].filename, split, "
            "sentences[].raw"
        ) from None
    base = images or str(path.parent)
    for name, captions, split in parsed:
        if "://" in base:
            yield SourceRow(f"{base.rstrip('/')}/{quote(name)}", captions, split)
        elif "\0" in name or os.path.isabs(name) or os.path.normpath(name).startswith("../"):
            yield SourceRow(name, captions, split, problem=f"names a file outside the folder {base}")
        else:
            yield _local_row(Path(base) / name, captions, split)
