"""Small pictures for the report: read from the shards, re-encoded, without any of their metadata."""

from __future__ import annotations

import base64
import io
import tarfile
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageOps

from clipcap.storage.lake import Lake

EDGE = 160
"""Longest edge in pixels."""
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, or why there is none (``uri`` is empty then)."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def thumbnails(lake: Lake, members: Iterable[tuple[str | None, str]]) -> dict[tuple[str | None, str], Thumbnail]:
    """Reads each tar once and shrinks the members asked for.

    Args:
        lake: the lake.
        members: (path of the tar relative to the lake, name of the member) of each image.

    Returns:
        A thumbnail for each; one that cannot be read is a thumbnail with a ``problem``, never an error.
    """
    wanted: dict[str | None, set[str]] = defaultdict(set)
    for tar, member in members:
        wanted[tar].add(member)
    found: dict[tuple[str | None, str], Thumbnail] = {}
    for tar, names in wanted.items():
        images = _read(lake, tar, names)
        for name in names:
            data = images.get(name)
            found[tar, name] = shrink(data) if data is not None else Thumbnail(problem="the image is gone")
    return found


def shrink(data: bytes) -> Thumbnail:
    """One image's bytes as a small JPEG; upright, opaque, pixels only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (2 * EDGE, 2 * EDGE))
                upright = ImageOps.exif_transpose(image)
                if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                    upright = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
                upright = upright.convert("RGB")
                upright.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
                pixels = Image.new("RGB", upright.size)
                pixels.paste(upright)  # a new image has no EXIF, no comment, no profile
        stream = io.BytesIO()
        pixels.save(stream, "JPEG", quality=QUALITY, optimize=True)
    except Exception as error:  # Pillow raises many kinds; a report is not worth failing for a picture
        return Thumbnail(problem=f"cannot be decoded ({type(error).__name__})")
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{text}", pixels.width, pixels.height)


def _read(lake: Lake, tar: str | None, names: set[str]) -> dict[str, bytes]:
    images: dict[str, bytes] = {}
    if tar is None:
        return images
    try:
        with tarfile.open(lake.absolute(tar)) as archive:
            for member in archive:
                if member.name in names and (stream := archive.extractfile(member)):
                    images[member.name] = stream.read()
                if len(images) == len(names):
                    break
    except (OSError, tarfile.TarError):
        pass
    return images
