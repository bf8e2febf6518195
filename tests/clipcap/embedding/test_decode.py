"""Pixels as open_clip's own evaluation transform gives them, and better where that loses what is in the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipcap.embedding import decode as module
from clipcap.embedding.decode import Preprocessing, decode, decode_all
from clipcap.errors import ImageDecodeError, TransientError

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


def test_a_header_that_claims_gigapixels_is_refused_before_memory_is_asked_for():
    import zlib

    png = bytearray(saved(noise(8, 8)))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageDecodeError, match="cannot be decoded"):
        decode(bytes(png), SQUASH)


def mixed(count: int) -> list[bytes]:
    """Good images of different sizes and, at every fifth place, something broken."""
    broken = list(BROKEN.values())
    return [
        broken[n // 5 % len(broken)] if n % 5 == 3 else saved(noise(20 + n, 70 - n, n), "JPEG") for n in range(count)
    ]


def test_a_broken_image_loses_no_other_and_the_order_stays():
    images = mixed(50)
    results = list(decode_all(images, SQUASH, workers=0))
    assert len(results) == 50
    for number, (data, result) in enumerate(zip(images, results, strict=True)):
        if number % 5 == 3:
            assert isinstance(result, str) and result.startswith("cannot be decoded")
        else:
            np.testing.assert_array_equal(result, decode(data, SQUASH))


def test_worker_processes_give_the_same_in_the_same_order():
    images = mixed(50)
    here = list(decode_all(images, SQUASH, workers=0))
    there = list(decode_all(iter(images), SQUASH, workers=2))
    assert [r if isinstance(r, str) else r.tobytes() for r in there] == [
        r if isinstance(r, str) else r.tobytes() for r in here
    ]
    assert list(decode_all([], SQUASH, workers=2)) == []


def test_the_stream_is_not_read_far_ahead(monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", ThreadPool)
    taken = 0

    def stream():
        nonlocal taken
        for _ in range(2000):
            taken += 1
            yield BROKEN["html"]

    results = decode_all(stream(), SQUASH, workers=2)
    next(results)
    assert taken <= 16 * 9
    assert len(list(results)) == 1999


def test_what_breaks_in_the_stream_comes_out(monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", ThreadPool)

    def stream():
        yield BROKEN["html"]
        raise RuntimeError("the tar ends")

    for workers in (0, 2):
        with pytest.raises(RuntimeError, match="the tar ends"):
            list(decode_all(stream(), SQUASH, workers))


def test_a_worker_that_dies_is_worth_another_try(monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", BrokenPool)
    with pytest.raises(TransientError, match=r"embed\.workers = 0"):
        list(decode_all([b""], SQUASH, workers=2))


class ThreadPool:
    """Threads in the place of processes, where only the bookkeeping is tested."""

    def __new__(cls, workers: int, mp_context=None):
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(workers)


class BrokenPool:
    def __new__(cls, workers: int, mp_context=None):
        from concurrent.futures import ThreadPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        def die(*_):
            raise BrokenProcessPool("a process was killed")

        pool = ThreadPoolExecutor(1)
        submit = pool.submit
        pool.submit = lambda *_: submit(die)
        return pool


def test_photographs_of_the_shared_data_are_equal_to_open_clip(shared: Path):
    files = sorted((shared / "flickr8k" / "images").glob("*.webp"))[:12]
    assert files
    to = wanted(224, 224)
    for file in files:
        image = Image.open(file)
        if ImageOps.exif_transpose(image).size == image.size:
            data = file.read_bytes()
            np.testing.assert_array_equal(decode(data, to), open_clip_pixels(data, to), err_msg=file.name)
