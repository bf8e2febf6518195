"""A folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipcap.dataset.sources.rows import IMAGE_EXTENSIONS, SourceRow, local_row


def read_folder(path: Path) -> Iterator[SourceRow]:
    """Images at any depth, by name; ``photo.txt`` beside ``photo.jpg`` holds its captions, one in a line."""
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file() and not file.name.startswith("."):
            beside = file.with_suffix(".txt")
            text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
            yield local_row(file, [line.strip() for line in text.splitlines() if line.strip()])
