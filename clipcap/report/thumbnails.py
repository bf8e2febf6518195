"""Small pictures for the report: read from the shards, re-encoded, without any of their metadata."""

from __future__ import annotations

import base64
import io
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from clipcap.images import open_image
from clipcap.storage.lake import Lake

SIZES = ((480, 78), (400, 72), (320, 68), (256, 60), (160, 50))
"""Longest edge in pixels and quality, from the best: a picture takes the first that fits its share."""
ALL_BYTES = 8_000_000
"""Of all pictures of a report as text, so that it can be mailed."""


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
    share = ALL_BYTES * 3 // 4 // max(sum(map(len, wanted.values())), 1)  # base64 makes four bytes of three
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow and zlib let go of the interpreter
        found = pool.map(lambda tar: _shrink_all(lake, tar, wanted[tar], share), wanted)
        return {(tar, name): picture for tar, names in zip(wanted, found, strict=True) for name, picture in names}


def _shrink_all(lake: Lake, tar: str | None, names: set[str], share: int) -> list[tuple[str, Thumbnail]]:
    images = _read(lake, tar, names)
    gone = Thumbnail(problem="no image in the lake" if tar is None else "the image is gone")
    return [(name, shrink(images[name], share) if name in images else gone) for name in names]


def shrink(data: bytes, most_bytes: int = ALL_BYTES) -> Thumbnail:
    """One image's bytes as a small WebP; upright, opaque, pixels only."""
    try:
        with open_image(data) as image:
            image.draft("RGB", (SIZES[0][0], SIZES[0][0]))
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            pixels = _pixels(upright.convert("RGB"))
        for edge, quality in SIZES:
            pixels.thumbnail((edge, edge), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            pixels.save(stream, "WEBP", quality=quality, method=2)
            if stream.tell() <= most_bytes:
                break
    except Exception as error:  # Pillow raises many kinds; a report is not worth failing for a picture
        return Thumbnail(problem=f"cannot be decoded ({type(error).__name__})")
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{text}", pixels.width, pixels.height)


def _pixels(image: Image.Image) -> Image.Image:
    """A copy without EXIF, comment or profile."""
    image.thumbnail((SIZES[0][0], SIZES[0][0]), Image.Resampling.LANCZOS)
    pixels = Image.new("RGB", image.size)
    pixels.paste(image)
    return pixels


def _read(lake: Lake, tar: str | None, names: set[str]) -> dict[str, bytes]:
    if tar is None:
        return {}
    try:
        path = lake.absolute(tar)
        return _read_plain(path, names) or _read_any(path, names)
    except (OSError, tarfile.TarError):
        return {}


def _read_plain(path: Path, names: set[str]) -> dict[str, bytes]:
    """Members of a tar as this project writes them: it looks at nothing but the headers' names and sizes.

    Returns:
        Nothing where a header is of another kind, or the names are not all there.
    """
    found: dict[str, bytes] = {}
    position = 0
    with path.open("rb", buffering=0) as tar:
        if hasattr(os, "posix_fadvise"):  # the system reads ahead otherwise, and so the whole file
            os.posix_fadvise(tar.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while len(found) < len(names):
            header = os.pread(tar.fileno(), 512, position)
            name, size = header[:100].rstrip(b"\0").decode("utf-8", "replace"), header[124:135]
            is_plain = header[257:262] == b"ustar" and header[156:157] in b"0\0" and not header[345:346].strip(b"\0")
            if len(header) < 512 or not is_plain or not size.isdigit():
                return {}
            length = int(size, 8)
            if name in names:
                found[name] = os.pread(tar.fileno(), length, position + 512)
            position += 512 + -(-length // 512) * 512
    return found


def _read_any(path: Path, names: set[str]) -> dict[str, bytes]:
    images: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name in names and (stream := archive.extractfile(member)):
                images[member.name] = stream.read()
            if len(images) == len(names):
                break
    return images
