"""Walks a site, captions each picture once, and says of every image that lacks a text what it might be."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from clipcap.alt_text.judge import is_pixel, judge
from clipcap.alt_text.locate import read_image
from clipcap.alt_text.page import ImageTag, Page, PageError, read_page
from clipcap.config import CaptionConfig
from clipcap.images import open_image

if TYPE_CHECKING:
    from clipcap.captioning import CaptionedImage
    from clipcap.embedding.encoder import Encoder
    from clipcap.model.captioner import Captioner

SURE = {"builtin:sample": 1.15}
"""CLIPScore from which on a text may be filled in, by encoder. Scores of different encoders mean different things, so
others have none until somebody looked: docs/how-to/alternative-text.md says how, and what this one was measured on."""


@dataclass
class Row:
    """One image without a text, and what is proposed."""

    page: str
    line: int
    number: int
    """Position among the page's images, from 0."""
    image: str
    status: str
    """fill (sure enough), review (a person has to judge), leave, failed."""
    alt: str = ""
    confidence: float | None = None
    """CLIPScore, 0 to 2.5; where the encoder has no text tower, the geometric mean of the tokens' probabilities."""
    reason: str = ""
    approved: str = ""
    """For people: "yes" has the text filled in by ``--apply``; an empty text then says that it is decoration."""
    thumbnail: bytes = field(default=b"", repr=False)
    """JPEG, for the review sheet."""


@dataclass(frozen=True)
class Asked:
    """What is looked at, and how."""

    site: Path
    site_url: str = ""
    language: str = "en"
    with_empty: bool = False
    fetches: bool = False
    sure: float | None = None
    """Confidence from which a text may be filled in; None: as :data:`SURE` says of the encoder."""


def pages_of(site: Path, without: Path | None = None) -> list[Path]:
    """Pages at any depth, by name; hidden folders and ``without`` apart."""
    found = sorted(file for suffix in ("html", "htm") for file in site.rglob(f"*.{suffix}"))
    hidden = [file for file in found if any(part.startswith(".") for part in file.relative_to(site).parts)]
    ours = without.resolve() if without else None
    return [f for f in found if f.is_file() and f not in hidden and not (ours and f.resolve().is_relative_to(ours))]


def look(pages: Iterable[Path], asked: Asked) -> Iterator[tuple[Row, bytes]]:
    """Every image that lacks a text, with the picture's bytes where there is a text to propose."""
    for file in pages:
        name = file.relative_to(asked.site).as_posix()
        try:
            page = read_page(file.read_bytes())
        except (PageError, OSError) as error:
            yield Row(name, 0, -1, "", "failed", reason=str(error)), b""
            continue
        for tag in page.images:
            verdict = judge(tag, asked.language, asked.with_empty)
            if tag.attributes.get("alt") is not None and verdict.what == "leave":
                continue
            row = Row(name, tag.line, tag.number, _shown(tag), verdict.what, reason=verdict.reason)
            data = b""
            if verdict.what != "leave":
                data = _find(row, tag, file, asked)
            yield row, data


def _find(row: Row, tag: ImageTag, file: Path, asked: Asked) -> bytes:
    reason = "it names no picture"
    for address in tag.sources:
        try:
            row.image, data = read_image(address, file, asked.site, asked.site_url, asked.fetches)
        except OSError as error:
            reason = f"{address[:100]}: {error}"
            continue
        try:
            with open_image(data) as picture:
                if is_pixel(*picture.size):
                    row.status, row.reason = "leave", "a picture of a pixel: a spacer, or there to count visits"
                    return b""
        except Exception:  # the captioner says why
            pass
        return data
    row.status, row.reason = "failed", reason
    return b""


def _shown(tag: ImageTag) -> str:
    first = tag.sources[0] if tag.sources else ""
    return "data:" if first.startswith("data:") else first


def propose(
    rows: Iterable[tuple[Row, bytes]],
    captioner: Captioner,
    encoder: Encoder,
    config: CaptionConfig,
    asked: Asked,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Fills in ``alt`` and ``confidence``; each picture is captioned once, wherever it stands.

    Args:
        rows: from :func:`look`.
        on_progress: called with pictures that were captioned, and all of them.
    """
    from clipcap.captioning import caption_images

    found = list(rows)
    with tempfile.TemporaryDirectory(prefix="clipcap-alt-") as folder:
        files: dict[str, str] = {}
        for _, data in found:
            if data and (digest := hashlib.sha256(data).hexdigest()) not in files:
                files[digest] = str(Path(folder) / digest)
                Path(files[digest]).write_bytes(data)
        captioned: dict[str, CaptionedImage] = {}
        results = caption_images(files.values(), captioner, encoder, config, with_clip_score=True)
        for digest, result in zip(files, results, strict=True):
            captioned[digest] = result
            if on_progress:
                on_progress(len(captioned), len(files))
    sure = SURE.get(encoder.name) if asked.sure is None else asked.sure
    for row, data in found:
        if data:
            _take(row, captioned[hashlib.sha256(data).hexdigest()], sure)
            row.thumbnail = data
    return [row for row, _ in found]


def _take(row: Row, result: CaptionedImage, sure: float | None) -> None:
    if result.status != "ok" or not result.caption.strip():
        row.status, row.reason = "failed", result.reason or "the model has no words for it"
        return
    confidence = result.token_probability if result.clip_score is None else result.clip_score
    row.alt, row.confidence = result.caption.strip(), round(confidence, 4)
    if row.status != "propose":
        return
    if sure is not None and row.confidence >= sure:
        row.status = "fill"
    else:
        low = "no threshold is known for this encoder" if sure is None else f"confidence is below {sure:.2f}"
        row.status, row.reason = "review", "; ".join(part for part in (low, row.reason) if part)


def matches(page: Page, row: Row) -> bool:
    """Whether the image of a row is still where it was, without a text; else the row fails with the reason."""
    tag = page.images[row.number] if 0 <= row.number < len(page.images) else None
    if tag is None or not _is_same(tag, row.image):
        row.status, row.reason = "failed", "the page has changed since: that image is not there any more"
    elif "alt" in tag.attributes:
        row.status, row.reason = "leave", "has an alt already; nothing is overwritten"
    return row.status == "fill"


def _is_same(tag: ImageTag, image: str) -> bool:
    """By the file's name: the address in the page and the path below the site end with it."""
    name = PurePosixPath(image).name
    return any(
        address.startswith("data:") if image == "data:" else unquote(urlsplit(address).path).endswith(name)
        for address in tag.sources
    )
