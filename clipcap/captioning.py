"""Captioning images now, without a batch: files, folders and URLs in, one row for each out."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from clipcap.config import CaptionConfig
from clipcap.dataset.guard import Guard, GuardError, Policy
from clipcap.dataset.guard.urls import DEFAULT_PORT
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
    clip_score: float | None = None
    """CLIPScore of ``caption``, 0 to 2.5, where it was asked for and the encoder has a text tower."""

    @property
    def token_probability(self) -> float:
        """Geometric mean over the caption's tokens, 0 to 1: how sure the model was of its words."""
        return math.exp((self.log_probability or 0.0) / self.tokens) if self.tokens else 0.0


def expand(inputs: Iterable[str]) -> Iterator[str]:
    """Folders become the images in them (at any depth, by name), one after another; files and URLs stay.

    A folder that holds no image, or cannot be read, stays too: it becomes a row with its reason.
    """
    for text in inputs:
        found = _images_in(text) if _is_folder(text) else iter(())
        first = next(found, text)
        yield first
        yield from found


def survey(inputs: Iterable[str]) -> tuple[int, Counter[str]]:
    """Looks at names alone, before anything is read.

    Returns:
        how many rows ``inputs`` will be, and how many files of folders are left out, by their endings in lower case.
    """
    rows, left_out = 0, Counter[str]()
    for text in inputs:
        files = _files_in(text) if _is_folder(text) else iter(((text, True),))
        images = 0
        for path, is_image in files:
            if is_image:
                images += 1
            else:
                left_out[os.path.splitext(path)[1].lower()] += 1
        rows += max(images, 1)  # a folder without images is a row too
    return rows, left_out


def _is_folder(text: str) -> bool:
    return "://" not in text and os.path.isdir(text)


def _images_in(folder: str) -> Iterator[str]:
    return (path for path, is_image in _files_in(folder) if is_image)


def _files_in(folder: str) -> Iterator[tuple[str, bool]]:
    """Files that are not hidden, and whether their ending is an image's; a folder that cannot be read stays itself.

    Holds one folder's names at a time, so that a hundred thousand files need no list.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield folder, True
        return
    for name, is_folder in names:
        path = str(Path(folder, name))
        if is_folder:
            yield from _files_in(path)
        elif not name.startswith("."):
            yield path, os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def caption_images(
    inputs: Iterable[str],
    captioner: Captioner,
    encoder: Encoder,
    config: CaptionConfig,
    num_captions: int | None = None,
    with_clip_score: bool = False,
    on_image: Callable[[CaptionedImage, bytes], None] | None = None,
) -> Iterator[CaptionedImage]:
    """Captions images in batches of ``config.batch_size``; no more than one batch is in memory.

    Args:
        on_image: is shown each image's bytes once they are decoded, for example to make a thumbnail.

    Yields:
        one row for each input, in order; one that cannot be read is "failed" with its reason.
    """
    from clipcap.decoding.caption import generate_many
    from clipcap.decoding.rerank import ClipRerank
    from clipcap.metrics.clip_score import clip_scores

    images = expand(inputs)
    while batch := [CaptionedImage(image) for image in islice(images, config.batch_size)]:
        pixels = []
        for row in batch:
            try:
                data = _read(row.image)
                pixels.append(decode(data, encoder.preprocessing))
                if on_image:
                    on_image(row, data)
            except (ImageDecodeError, OSError, ValueError) as error:
                row.status, row.reason = "failed", str(error) or type(error).__name__
        good = [row for row in batch if row.status == "ok"]
        if good:
            embeddings, features = encoder.encode_with_features(np.stack(pixels))
            rerank = ClipRerank(encoder, embeddings, config.rerank) if config.rerank else None
            captions = generate_many(captioner, features, config, num_captions, rerank)
            for row, found in zip(good, captions, strict=True):
                row.captions = [caption.text for caption in found]
                row.caption, row.log_probability, row.tokens = found[0].text, found[0].log_probability, found[0].tokens
            if with_clip_score and callable(getattr(encoder.model, "encode_text", None)):
                for row, score in zip(good, clip_scores(encoder, embeddings, [r.caption for r in good]), strict=True):
                    row.clip_score = float(score)
        yield from batch


def _read(image: str) -> bytes:
    """Raises OSError or ValueError with a reason for a person."""
    if "://" not in image:
        if os.path.isdir(image):
            if not os.access(image, os.R_OK | os.X_OK):
                raise OSError("a folder that you may not read: see its permissions")
            raise OSError("a folder without images")
        try:
            return Path(image).read_bytes()
        except FileNotFoundError:
            raise OSError("there is no such file") from None
        except PermissionError:
            raise OSError("a file that you may not read: see its permissions") from None
    if not image.startswith(("http://", "https://")):
        raise ValueError("expected a file, a folder, or an http or https URL")
    return fetch(image)


def fetch(url: str, is_typed: bool = True) -> bytes:
    """A picture from the web, through the guard.

    Args:
        url: http or https.
        is_typed: a person named it, so its host may be a private one; where it redirects to may not.

    Raises:
        OSError: with a reason for a person.
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    typed = f"{host}:{parts.port or DEFAULT_PORT[parts.scheme]}"
    policy = Policy(
        timeout_s=TIMEOUT_S, deadline_s=3 * TIMEOUT_S, retries=0, max_bytes=MAX_BYTES,
        allow_hosts=(typed,) if is_typed else (),
        robots=False, opt_out_headers=False,  # those are for whoever collects, not for one picture that a person names
    )  # fmt: skip
    try:
        return Guard(policy).fetch(url).data
    except GuardError as error:
        raise OSError(str(error).removeprefix("may heal: ")) from None
