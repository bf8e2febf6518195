"""Captioning images now, without a batch: files, folders and URLs in, one row for each out."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipcap.config import CaptionConfig
from clipcap.dataset.sources import IMAGE_EXTENSIONS
from clipcap.embedding.decode import decode
from clipcap.embedding.encoder import Encoder
from clipcap.errors import ImageDecodeError

if TYPE_CHECKING:
    from clipcap.model.captioner import Captioner

TIMEOUT_S = 20
MAX_BYTES = 64 * 2**20


@dataclass
class CaptionedImage:
    """One input and what became of it."""

    image: str
    status: str = "ok"
    reason: str = ""
    caption: str = ""
    log_probability: float | None = None
    tokens: int = 0
    captions: list[str] = field(default_factory=list)
    """All that were asked for, best first; the first one is ``caption``."""


def expand(inputs: Iterable[str]) -> list[str]:
    """Folders become the images in them (at any depth, by name); files and URLs stay."""
    images: list[str] = []
    for text in inputs:
        if "://" not in text and os.path.isdir(text):
            found = [str(f) for f in sorted(Path(text).rglob("*")) if f.suffix.lower() in IMAGE_EXTENSIONS]
            images += found or [text]
        else:
            images.append(text)
    return images


def caption_images(
    inputs: Iterable[str],
    captioner: Captioner,
    encoder: Encoder,
    config: CaptionConfig,
    num_captions: int | None = None,
) -> Iterator[CaptionedImage]:
    """Captions images in batches of ``config.batch_size``.

    Yields:
        one row for each input, in order; one that cannot be read is "failed" with its reason.
    """
    from clipcap.decoding.caption import generate_many
    from clipcap.decoding.rerank import ClipRerank

    rows = [CaptionedImage(image) for image in expand(inputs)]
    for start in range(0, len(rows), config.batch_size):
        batch = rows[start : start + config.batch_size]
        pixels = []
        for row in batch:
            try:
                pixels.append(decode(_read(row.image), encoder.preprocessing))
            except (ImageDecodeError, OSError, ValueError, HTTPException) as error:
                row.status, row.reason = "failed", str(error) or type(error).__name__
        good = [row for row in batch if row.status == "ok"]
        if good:
            embeddings, features = encoder.encode_with_features(np.stack(pixels))
            rerank = ClipRerank(encoder, embeddings, config.rerank) if config.rerank else None
            captions = generate_many(captioner, features, config, num_captions, rerank)
            for row, found in zip(good, captions, strict=True):
                row.captions = [caption.text for caption in found]
                row.caption, row.log_probability, row.tokens = found[0].text, found[0].log_probability, found[0].tokens
        yield from batch


def _read(image: str) -> bytes:
    """Raises OSError or ValueError with a reason for a person."""
    if "://" not in image:
        if os.path.isdir(image):
            raise OSError("a folder without images")
        try:
            return Path(image).read_bytes()
        except FileNotFoundError:
            raise OSError("there is no such file") from None
    if not image.startswith(("http://", "https://")):
        raise ValueError("expected a file, a folder, or an http or https URL")
    request = urllib.request.Request(image, headers={"User-Agent": "clipcap"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        data: bytes = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
    return data
