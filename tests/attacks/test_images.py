"""Images that claim too much, are programs, take a decoder with them, or carry what nobody should see."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from clipcap.config import DownloadConfig
from clipcap.dataset.shards import Fetched, _judge
from clipcap.embedding.decode import Preprocessing, decode
from clipcap.embedding.decode_pool import DecodePool
from clipcap.errors import ImageDecodeError
from clipcap.images import FORMATS, open_image
from clipcap.report.thumbnails import shrink

OK = Fetched("x", True, "", "")
SIZES = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)


def made(kind: str, size: tuple[int, int] = (40, 40), **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    """A header that claims a size, and pixels of one row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def gif(width: int, height: int) -> bytes:
    return made("GIF")[:6] + struct.pack("<HH", width, height) + made("GIF")[10:]


def tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def bmp(width: int, height: int) -> bytes:
    return made("BMP")[:18] + struct.pack("<ii", width, height) + made("BMP")[26:]


def webp(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + made("WEBP")[12:]


def jpeg(width: int, height: int) -> bytes:
    data = made("JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


@pytest.mark.parametrize("claim", [png, gif, tiff, bmp, webp, jpeg])
def test_bombs_are_refused_by_their_header(claim):
    """A gigapixel is never decoded: the judgement must not need the memory that the claim asks for."""
    import tracemalloc

    tracemalloc.start()
    status, reason, _ = _judge(OK, claim(60_000, 60_000), DownloadConfig())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status in ("filtered", "failed") and peak < 10**6
    if claim is not webp:  # libwebp itself holds the claim against what follows
        assert status == "filtered" and "header claims more than twice" in reason
    with pytest.raises(ImageDecodeError):
        decode(claim(60_000, 60_000), SIZES)
    assert shrink(claim(60_000, 60_000)).problem


@pytest.mark.parametrize("claim", [png, gif, tiff, bmp, jpeg])
def test_what_is_below_pillows_limit_is_judged_by_the_configured_one(claim):
    status, reason, _ = _judge(OK, claim(12_000, 12_000), DownloadConfig(max_image_pixels=10**8))
    assert (status, reason) == ("filtered", "12000 x 12000 pixels, above the maximum of 100000000")


PROGRAMS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(%pipe%touch ran) (w) file\n",
    "eps with a preview": struct.pack("<IIIIIII", 0xC6D3D0C5, 30, 90, 0, 0, 0, 0) + b"\xff\xff%!PS-Adobe-3.0 EPSF-3.0\n"
    b"%%BoundingBox: 0 0 40 40\n%%EndComments\n",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "psd": b"8BPS" + bytes(40),
    "xpm": b"/* XPM */\nstatic char *x[] = {\n",
    "fits": b"SIMPLE  =                    T" + bytes(2900),
    "html": b"<html><img src=x onerror=alert(1)>",
    "zip": b"PK\x03\x04" + bytes(40),
}
PICTURES_OF_OTHER_KINDS = ("ICO", "ICNS", "JPEG2000", "PPM", "PCX", "TGA", "SGI", "DDS", "IM", "MSP")


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch) -> Path:
    """A gs that leaves a trace when somebody starts it."""
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "ran"


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_and_documents_are_no_images(name: str, ghostscript: Path):
    data = PROGRAMS[name]
    status, reason, _ = _judge(OK, data, DownloadConfig())
    assert status == "failed" and reason.startswith("not an image of a known kind")
    with pytest.raises(ImageDecodeError, match="not an image of a known kind"):
        decode(data, SIZES)
    assert shrink(data).problem
    assert not ghostscript.exists()


def test_pillow_alone_would_have_started_ghostscript(ghostscript: Path):
    """So the test above can fail."""
    with pytest.raises(OSError), Image.open(io.BytesIO(PROGRAMS["eps"] + b"x" * 4000)) as image:
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", PICTURES_OF_OTHER_KINDS)
def test_other_kinds_of_pictures_are_refused(kind: str):
    try:
        data = made(kind, (128, 128)) if kind != "MSP" else b"DanM" + bytes(60)
    except (OSError, KeyError):
        pytest.skip(f"Pillow cannot write {kind} here")
    assert _judge(OK, data, DownloadConfig())[0] == "failed"


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_the_kinds_that_are_meant_pass(kind: str):
    options = {"save_all": True, "append_images": [Image.new("RGB", (40, 40))]} if kind == "MPO" else {}
    status, _, facts = _judge(OK, made(kind, **options), DownloadConfig())
    assert (status, facts["width"], facts["height"]) == ("ok", 40, 40)
    assert decode(made(kind, **options), SIZES).shape == (32, 32, 3)


def test_opening_imports_no_other_plugin():
    """Neither a name nor a first byte makes Pillow load what it knows besides."""
    code = (
        "import sys\nfrom clipcap.images import open_image\n"
        "try:\n    open_image(b'%!PS-Adobe-3.0').__enter__()\nexcept Exception as error: print(type(error).__name__)\n"
        "print([n for n in sys.modules if n in ('PIL.EpsImagePlugin', 'PIL.IcoImagePlugin', 'PIL.PdfImagePlugin')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["UnidentifiedImageError", "[]"]


def test_text_chunks_that_expand_are_stopped():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    image = made("PNG")
    bomb = image[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(90 * 10**6), 9)) + image[33:]
    assert _judge(OK, bomb, DownloadConfig())[0] in ("failed", "ok")  # dropped or refused, never held
    with open_image(image) as opened:
        assert "k" not in opened.info


def test_metadata_stays_out_of_thumbnails():
    exif = Image.Exif()
    exif[0x010F], exif[0x9286] = "camera of somebody", "a secret comment"
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    data = made("JPEG", exif=exif, comment=b"a secret comment", icc_profile=b"a secret profile")
    assert b"secret" in data
    shown = base64.b64decode(shrink(data).uri.partition(",")[2])
    assert b"secret" not in shown and b"camera" not in shown
    with Image.open(io.BytesIO(shown)) as image:
        assert not image.getexif() and not set(image.info) & {"exif", "comment", "icc_profile", "xmp", "photoshop"}


def limited(code: str) -> subprocess.CompletedProcess:
    """In a process of its own, since a limit cannot be taken back."""
    start = "from clipcap.embedding import decode_worker\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what a process has")
class TestLimits:
    def test_an_image_that_wants_too_much_memory_is_a_reason(self):
        done = limited(
            "import io\nfrom PIL import Image\nfrom clipcap.embedding.decode import Preprocessing\n"
            "stream = io.BytesIO(); Image.new('RGB', (9000, 9000)).save(stream, 'PNG')\n"
            "sizes = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)\n"
            "decode_worker.MEMORY_BYTES = 64 << 20; decode_worker.limit_memory()\n"
            "print(decode_worker.decode_here([stream.getvalue()], sizes))"
        )
        assert done.stdout.strip() == "['cannot be decoded: MemoryError']", done.stderr

    def test_a_worker_whose_parent_is_gone_ends_by_itself(self):
        done = limited("import time\ndecode_worker._limit_seconds(time.process_time() + 0.1)\nwhile True: pass")
        assert done.returncode < 0

    def test_workers_have_them(self):
        pool = DecodePool(SIZES, 1)
        try:
            assert pool.submit([made("PNG")]).result(60).results[0].shape == (32, 32, 3)
            [worker] = pool._running
            limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
        finally:
            pool.close()
        found = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
        assert found["Max address space"].isdigit() and found["Max cpu time"].isdigit()
        assert found["Max core file size"] == "0"
