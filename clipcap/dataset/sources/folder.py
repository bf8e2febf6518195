"""A folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from clipcap.dataset.sources.rows import IMAGE_EXTENSIONS, SourceRow, endings, local_row

log = logging.getLogger("clipcap.dataset")


def read_folder(path: Path) -> Iterator[SourceRow]:
    """Images at any depth, by name; ``photo.txt`` beside ``photo.jpg`` holds its captions, one in a line.

    Logs how many files are left out because their endings are no image's.
    """
    left_out = Counter[str]()
    for file in sorted(path.rglob("*")):
        if file.name.startswith(".") or not file.is_file():
            continue
        ending = file.suffix.lower()
        if ending in IMAGE_EXTENSIONS:
            beside = file.with_suffix(".txt")
            text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
            yield local_row(file, [line.strip() for line in text.splitlines() if line.strip()])
        elif ending != ".txt":
            left_out[ending] += 1
    if left_out:
        log.warning("left out of %s, by their names no images: %s", path, endings(left_out))
