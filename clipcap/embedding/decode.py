"""Image bytes to model-sized pixels.

Equal to open_clip's own evaluation transform for RGB images (a test holds that); beside it, EXIF orientation is
applied, transparency is laid over white, and 16-bit grey keeps its range. JPEGs at least four times as large as they
are needed are decoded at a half, a quarter or an eighth of their size (the DCT does that for nearly nothing), which
stays within 1 of 255 levels on average. Imports neither torch nor open_clip, so that a worker process starts fast and
stays small; normalising (mean, std) is left to the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipcap.errors import ImageDecodeError
from clipcap.images import NAMES, open_image

_SPARE = 2  # a reduced JPEG stays this many times larger than its target, so that the resize still decides the pixels
_EXIF_ORIENTATION = 0x0112


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
        ImageDecodeError: the bytes are no image, end early, or claim more pixels than Pillow's limit.
    """
    try:
        with open_image(data) as image:
            full_size = _reduce(image, preprocessing)
            image.load()
            oriented = ImageOps.exif_transpose(image)
            return np.asarray(_resize(_to_rgb(oriented), preprocessing, full_size or oriented.size))
    except UnidentifiedImageError:  # its own words name a memory address, so no two runs would agree
        raise ImageDecodeError(f"cannot be decoded: not an image of a known kind ({NAMES})") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ValueError, … for bad bytes
        raise ImageDecodeError(f"cannot be decoded: {str(error) or type(error).__name__}") from None


def _reduce(image: Image.Image, to: Preprocessing) -> tuple[int, int] | None:
    """Has a large JPEG decoded at a fraction of its size.

    Returns:
        Width and height that it would have otherwise, as it will be oriented; None where it is decoded as it is.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    full_size = image.size
    try:
        is_turned = image.getexif().get(_EXIF_ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # broken EXIF turns nothing
        is_turned = False
    width, height = target_size(full_size[::-1], to)[::-1] if is_turned else target_size(full_size, to)
    image.draft(None, (_SPARE * width, _SPARE * height))
    if image.size == full_size:
        return None
    return full_size[::-1] if is_turned else full_size


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


def target_size(size: tuple[int, int], to: Preprocessing) -> tuple[int, int]:
    """Width and height that an image is resized to before it is cropped or padded, as open_clip computes them."""
    width, height = size
    if to.resize_mode == "squash":
        return to.width, to.height
    if to.resize_mode == "longest" or to.width != to.height:
        pick = max if to.resize_mode == "longest" else min
        ratio = pick(height / to.height, width / to.width)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return to.width, int(to.width * height / width)
    return int(to.height * width / height), to.height


def _resize(image: Image.Image, to: Preprocessing, full_size: tuple[int, int]) -> Image.Image:
    """Resizes as if the image had been decoded at its full size."""
    width, height = full_size
    size = target_size(full_size, to)
    # open_clip takes its default, bicubic, wherever it fits the shorter edge to a target that is not square
    is_bilinear = to.interpolation == "bilinear" and (to.resize_mode != "shortest" or to.width == to.height)
    resample = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
    if size != image.size:
        scale = max(1, round(width / image.width))
        # A reduced JPEG's last column and row may stand for less than a whole pixel.
        image = image.resize(size, resample, box=(0, 0, width / scale, height / scale))
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
