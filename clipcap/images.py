"""The one way to open an image that came from outside: kinds that are meant for pictures, and none that is a program.

Pillow knows some forty kinds, among them PostScript, for which it starts Ghostscript, and containers of other images.
Only these are ever tried, whatever a name or a Content-Type says. Their plugins are imported here, since Pillow would
otherwise import all of them at the first kind that it does not know yet.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import (  # noqa: F401  registers the kinds
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

with suppress(ImportError):
    from PIL import AvifImagePlugin  # noqa: F401  since Pillow 11.3

FORMATS = tuple(
    kind for kind in ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if kind in Image.OPEN
)  # MPO, two JPEGs in one, is opened as JPEG
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Reads the header alone; pixels are decoded where they are first asked for.

    Raises:
        PIL.UnidentifiedImageError: of no kind in :data:`FORMATS`.
        PIL.Image.DecompressionBombError: its header claims more than twice ``Image.MAX_IMAGE_PIXELS``.
        Exception: of many kinds, for damaged or hostile bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are judged by their header, and odd metadata
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
