"""Pixels as open_clip's own evaluation transform gives them, and better where that loses what is in the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipcap.embedding.decode import Preprocessing, decode
from clipcap.errors import ImageDecodeError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def wanted(height: int = 32, width: int = 32, **options) -> Preprocessing:
    return Preprocessing(height, width, MEAN, STD, **options)


SQUASH = wanted(16, 16, resize_mode="squash")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth waves with noise: any difference in resampling or cropping shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1) * 80 + 128
    return Image.fromarray((waves + rng.normal(0, 20, waves.shape)).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def open_clip_pixels(data: bytes, to: Preprocessing) -> np.ndarray:
    """The transform's tensor with its normalisation undone."""
    import torch
    from open_clip.transform import image_transform

    size = to.height if to.height == to.width else (to.height, to.width)
    transform = image_transform(
        size, is_train=False, mean=MEAN, std=STD, resize_mode=to.resize_mode, interpolation=to.interpolation,
        fill_color=to.fill_color,
    )  # fmt: skip
    tensor = transform(Image.open(io.BytesIO(data)))
    values = tensor * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (values * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(32, 32), (24, 40), (40, 24)], ids=str)
def test_equal_to_open_clip_in_every_mode(mode: str, interpolation: str, target: tuple[int, int]):
    to = wanted(*target, resize_mode=mode, interpolation=interpolation, fill_color=17)
    sizes = [(64, 64), (101, 67), (67, 101), (33, 32), (32, 33), (32, 32), (200, 9), (9, 200), (31, 63), (5, 5), (1, 1),
             (40, 24), (24, 40)]  # fmt: skip
    for width, height in sizes:
        data = saved(noise(width, height))
        got = decode(data, to)
        assert got.shape == (*target, 3) and got.dtype == np.uint8
        np.testing.assert_array_equal(got, open_clip_pixels(data, to), err_msg=f"{width} x {height}")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 90}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"lossless": True}),
     ("WEBP", {}), ("BMP", {}), ("TIFF", {})],
)  # fmt: skip
def test_equal_to_open_clip_for_every_format(kind: str, options: dict):
    data = saved(noise(90, 61), kind, **options)
    np.testing.assert_array_equal(decode(data, wanted()), open_clip_pixels(data, wanted()))


def test_equal_to_open_clip_for_grey_and_cmyk():
    for mode in ("L", "CMYK"):
        image = noise(64, 64).convert(mode)
        data = saved(image, "JPEG")
        to = wanted(64, 64)  # no resampling: open_clip resizes before it converts, here it is the other way round
        np.testing.assert_array_equal(decode(data, to), open_clip_pixels(data, to))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int):
    image = noise(24, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]  # Pillow's transpositions
    expected = image if undo is None else image.transpose(Image.Transpose(undo))
    to = wanted(expected.height, expected.width, resize_mode="squash")
    np.testing.assert_array_equal(decode(saved(image, exif=exif), to), np.asarray(expected))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage that is no TIFF", b"Exif\0\0MM\0*\0\0\xff\xff", b"\0" * 9]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_image_with_broken_exif_is_still_an_image(exif: bytes):
    image = noise(16, 16)
    data = saved(image, "JPEG", quality=95, exif=exif)
    np.testing.assert_array_equal(decode(data, SQUASH), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_transparency_lies_over_white():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:8] = (200, 0, 0, 255)  # opaque red above; below, black that is not there
    rgba[8:] = (0, 0, 0, 0)
    rgba[8, 0] = (0, 0, 0, 128)  # half black
    image = Image.fromarray(rgba)
    for data in (saved(image), saved(image, "WEBP", lossless=True, exact=True)):
        pixels = decode(data, SQUASH)
        assert (pixels[:8] == (200, 0, 0)).all()
        assert (pixels[9:] == 255).all()
        assert abs(int(pixels[8, 0, 0]) - 127) <= 1


def test_transparency_of_palettes_grey_and_colour_keys():
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.paste(1, (0, 0, 16, 8))
    for data in (saved(palette, transparency=0), saved(palette, "GIF", transparency=0)):
        pixels = decode(data, SQUASH)
        assert (pixels[8:] == 255).all() and (pixels[:8] == (10, 200, 30)).all()
    grey = Image.new("LA", (16, 16), (100, 255))
    grey.paste((0, 0), (0, 8, 16, 16))
    pixels = decode(saved(grey), SQUASH)
    assert (pixels[8:] == 255).all() and (pixels[:8] == 100).all()
    keyed = Image.new("RGB", (16, 16), (1, 2, 3))
    keyed.paste((50, 60, 70), (0, 0, 16, 8))
    pixels = decode(saved(keyed, transparency=(1, 2, 3)), SQUASH)
    assert (pixels[8:] == 255).all() and (pixels[:8] == (50, 60, 70)).all()


def test_one_bit_and_opaque_palettes():
    bits = Image.new("1", (16, 16), 1)
    bits.paste(0, (0, 0, 16, 8))
    pixels = decode(saved(bits), SQUASH)
    assert (pixels[:8] == 0).all() and (pixels[8:] == 255).all()
    image = noise(16, 16).quantize(16)
    np.testing.assert_array_equal(decode(saved(image), SQUASH), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(saved(Image.fromarray(ramp)), SQUASH)
    assert np.abs(pixels[..., 0].astype(float).reshape(-1) - np.arange(256)).max() <= 1
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert (decode(data, SQUASH) == (250, 0, 0)).all()


BROKEN = {
    "empty": b"",
    "html": b"<!doctype html><html><body>404</body></html>",
    "zeros": b"\0" * 1000,
    "cut jpeg": saved(noise(64, 64), "JPEG")[:-300],
    "jpeg header": saved(noise(64, 64), "JPEG")[:30],
    "cut png": saved(noise(64, 64))[:-300],
    "cut webp": saved(noise(64, 64), "WEBP")[:-100],
    "cut gif": saved(noise(64, 64), "GIF")[:-900],
    "png with wrong checksum": saved(noise(8, 8))[:40] + b"xxxx" + saved(noise(8, 8))[44:],
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_image_is_refused_with_a_reason(name: str):
    with pytest.raises(ImageDecodeError, match=r"cannot be decoded: \S+") as raised:
        decode(BROKEN[name], SQUASH)
    assert "\n" not in str(raised.value) and "0x" not in str(raised.value), "the same file, the same reason"


@pytest.mark.parametrize("edge", [50_000, 60_000])
def test_a_header_that_claims_gigapixels_is_refused_before_memory_is_asked_for(edge: int):
    import zlib

    png = bytearray(saved(noise(8, 8)))
    png[16:24] = edge.to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageDecodeError, match="cannot be decoded"):
        decode(bytes(png), SQUASH)


def test_photographs_of_the_shared_data_are_equal_to_open_clip(shared: Path):
    files = sorted((shared / "flickr8k" / "images").glob("*.webp"))[:12]
    assert files
    to = wanted(224, 224)
    for file in files:
        image = Image.open(file)
        if ImageOps.exif_transpose(image).size == image.size:
            data = file.read_bytes()
            np.testing.assert_array_equal(decode(data, to), open_clip_pixels(data, to), err_msg=file.name)


def differences(data: bytes, to: Preprocessing) -> np.ndarray:
    return np.abs(decode(data, to).astype(int) - open_clip_pixels(data, to).astype(int))


def is_reduced(data: bytes, to: Preprocessing, monkeypatch) -> bool:
    """Whether Pillow was given less than the whole image to resize."""
    seen = []
    resize = Image.Image.resize
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda self, *a, **k: seen.append(self.size) or resize(self, *a, **k))
        decode(data, to)
    return seen[0] not in (Image.open(io.BytesIO(data)).size, Image.open(io.BytesIO(data)).size[::-1])


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(1201, 803), (803, 1201), (1000, 1000), (4001, 300)], ids=str)
def test_a_large_jpeg_is_reduced_within_the_stated_tolerance(mode: str, size: tuple[int, int], monkeypatch):
    to = wanted(resize_mode=mode)
    data = saved(noise(*size), "JPEG", quality=92)
    assert is_reduced(data, to, monkeypatch)
    off = differences(data, to)
    assert off.mean() < 1 and off.max() <= 16, (off.mean(), off.max())


def test_an_image_less_than_four_times_its_target_is_decoded_whole(monkeypatch):
    data = saved(noise(127, 127), "JPEG")
    assert not is_reduced(data, wanted(), monkeypatch)
    assert differences(data, wanted()).max() == 0
    assert is_reduced(saved(noise(128, 128), "JPEG"), wanted(), monkeypatch)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_oriented_too(orientation: int, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise(1100, 301)
    data = saved(image, "JPEG", exif=exif, quality=95)
    upright = saved(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), "PNG")
    to = wanted(24, 24, resize_mode="longest")
    assert is_reduced(data, to, monkeypatch)
    off = np.abs(decode(data, to).astype(int) - open_clip_pixels(upright, to).astype(int))
    assert off.mean() < 1.5, "resized, then turned: the same picture"


def test_reduced_photographs_stay_within_the_stated_tolerance(shared: Path):
    files = sorted((shared / "flickr8k" / "images").glob("*.webp"))[:24]
    assert files
    for file in files:
        data = saved(Image.open(file).convert("RGB"), "JPEG", quality=90)
        off = differences(data, wanted(32, 32))
        assert 0 < off.mean() < 1 and off.max() <= 16, (file.name, off.mean(), off.max())
