"""A contact sheet: images and their captions on one self-contained page, written row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from clipcap.captioning import CaptionedImage
from clipcap.redaction import shown_url
from clipcap.report.text import shortened, visible
from clipcap.report.thumbnails import shrink
from clipcap.storage.commit import writing

PICTURE_BYTES = 24_000
MOST_PICTURES = 2_000
"""Further images are shown by name and caption: a page of 64 MB is about what a browser opens."""


class ContactSheet:
    """Collects thumbnails while images are captioned (``on_image`` of ``caption_images``), and writes the page."""

    def __init__(self, path: Path, model: str) -> None:
        self.path, self.model = path, model
        self._waiting: dict[int, str] = {}
        self._pictures = 0

    def keep(self, row: CaptionedImage, data: bytes) -> None:
        """Makes the small picture; pixels only, without the metadata of the image."""
        if self._pictures < MOST_PICTURES:
            self._pictures += 1
            self._waiting[id(row)] = shrink(data, PICTURE_BYTES).uri

    def write(self, rows: Iterable[CaptionedImage]) -> None:
        """Takes the rows as they come; the page stands under its name once all are there.

        Raises:
            StorageError: it cannot be written.
        """
        folder = Path(__file__).parent / "templates"
        environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
        template = environment.get_template("contact_sheet.html.j2")
        with writing(self.path) as temporary, temporary.open("wb") as file:
            for part in template.generate(model=visible(self.model), rows=self._facts(rows)):
                file.write(part.encode("utf-8", "backslashreplace"))  # names of files need not be UTF-8

    def _facts(self, rows: Iterable[CaptionedImage]) -> Iterator[dict[str, Any]]:
        for row in rows:
            yield {
                "image": visible(shown_url(row.image) if "://" in row.image else row.image),
                "reason": visible(row.reason),
                "captions": [visible(shortened(text)) for text in row.captions],
                "thumbnail": self._waiting.pop(id(row), ""),
            }
