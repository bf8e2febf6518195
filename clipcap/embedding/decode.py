"""Image bytes to model-sized pixels, in worker processes.

Equal to open_clip's own evaluation transform for RGB images (a test holds that); beside it, EXIF orientation is
applied, transparency is laid over white, and 16-bit grey keeps its range. Imports neither torch nor open_clip, so
that a worker starts fast and stays small; normalising (mean, std) is left to the device.
"""

from __future__ import annotations

import io
import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipcap.errors import ImageDecodeError, TransientError

_CHUNK = 16  # images handed to a worker at a time


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder wants, as open_clip's preprocess_cfg says it."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


def decode(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decodes, orients, resizes and crops one image.

    Returns:
        uint8 array (height, width, 3), RGB.

    Raises:
        ImageDecodeError: the bytes are no image, or end early.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return np.asarray(_resize(_to_rgb(ImageOps.exif_transpose(image)), preprocessing))
    except UnidentifiedImageError:  # its own words name a memory address, so no two runs would agree
        raise ImageDecodeError("cannot be decoded: not an image that Pillow knows") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ValueError, … for bad bytes
        raise ImageDecodeError(f"cannot be decoded: {error or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: Pillow's own conversion would clip at 255
        values = np.asarray(image, dtype=np.float32)
        scale = 255.0 / 65535.0 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _resize(image: Image.Image, to: Preprocessing) -> Image.Image:
    width, height = image.size
    if to.resize_mode == "squash":
        size = (to.width, to.height)
    elif to.resize_mode == "longest" or to.width != to.height:
        pick = max if to.resize_mode == "longest" else min
        ratio = pick(height / to.height, width / to.width)
        size = (round(width / ratio), round(height / ratio))
    elif width <= height:
        size = (to.width, int(to.width * height / width))
    else:
        size = (int(to.height * width / height), to.height)
    # open_clip takes its default, bicubic, wherever it fits the shorter edge to a target that is not square
    is_bilinear = to.interpolation == "bilinear" and (to.resize_mode != "shortest" or to.width == to.height)
    resample = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
    if size != image.size:
        image = image.resize(size, resample)
    return _crop_or_pad(image, to)


def _crop_or_pad(image: Image.Image, to: Preprocessing) -> Image.Image:
    short_x, short_y = max(to.width - image.width, 0), max(to.height - image.height, 0)
    if short_x or short_y:
        padded = Image.new("RGB", (image.width + short_x, image.height + short_y), (to.fill_color,) * 3)
        padded.paste(image, (short_x // 2, short_y // 2))
        image = padded
    left = round((image.width - to.width) / 2)
    top = round((image.height - to.height) / 2)
    return image.crop((left, top, left + to.width, top + to.height))


def _decode_chunk(chunk: list[bytes], preprocessing: Preprocessing) -> list[np.ndarray | str]:
    results: list[np.ndarray | str] = []
    for data in chunk:
        try:
            results.append(decode(data, preprocessing))
        except ImageDecodeError as error:
            results.append(str(error))
    return results


def decode_all(images: Iterable[bytes], preprocessing: Preprocessing, workers: int) -> Iterator[np.ndarray | str]:
    """Decodes a stream in ``workers`` processes (0: in this one), in order, with a bounded number under way.

    Yields:
        for each image its pixels as :func:`decode` gives them, or the reason why there are none.

    Raises:
        TransientError: a worker process died.
    """
    chunks = _chunked(images)
    if workers == 0:
        for chunk in chunks:
            yield from _decode_chunk(chunk, preprocessing)
        return
    # "spawn", because the main process has torch's threads, which a fork would leave in an unknown state
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        under_way: deque[Future[list[np.ndarray | str]]] = deque()
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_decode_chunk, chunk, preprocessing))
                if len(under_way) > 3 * workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except BrokenProcessPool:
            raise TransientError("an image decoding process died (out of memory?); set embed.workers = 0") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunked(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for data in images:
        chunk.append(data)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
