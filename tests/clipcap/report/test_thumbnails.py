"""Pictures of the report: small, upright, without metadata, within their share of a file that can be mailed."""

from __future__ import annotations

import base64
import io
import random
import tarfile

import pytest
from PIL import Image
from tiny_lake import BATCH, RUN, SHARDS, picture

from clipcap.config import ReportConfig
from clipcap.report import render_report
from clipcap.report.thumbnails import ALL_BYTES, SIZES, shrink, thumbnails

EDGE = SIZES[0][0]


def bytes_of(uri: str) -> bytes:
    return base64.b64decode(uri.removeprefix("data:image/webp;base64,"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(edge: int, seed: int = 0) -> bytes:
    """A picture that no format makes small."""
    return encoded(Image.frombytes("RGB", (edge, edge), random.Random(seed).randbytes(3 * edge * edge)), "PNG")


def test_pictures_on_the_page_have_no_metadata(page):
    assert b"PRIVATE NOTE" in picture(0)
    for image in page.all("img"):
        data = bytes_of(image["src"])
        with Image.open(io.BytesIO(data)) as shown:
            assert (str(shown.width), str(shown.height)) == (image["width"], image["height"]) == ("320", "200")
            assert not shown.getexif() and "exif" not in shown.info and "icc_profile" not in shown.info
        assert b"PRIVATE" not in data


@pytest.mark.parametrize(
    "mode, size", [("RGBA", (900, 100)), ("P", (10, 10)), ("L", (99, 700)), ("CMYK", (300, 300)), ("I;16", (50, 50))]
)
def test_every_mode_is_shrunk(mode, size):
    thumbnail = shrink(encoded(Image.new(mode, size), "TIFF"))
    assert thumbnail.uri and max(thumbnail.width, thumbnail.height) == min(EDGE, max(size))


def test_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    thumbnail = shrink(encoded(Image.new("RGB", (300, 100)), "JPEG", exif=exif))
    assert thumbnail.height > thumbnail.width


def test_what_is_wrong_is_said():
    assert shrink(b"no image").problem == "cannot be decoded (UnidentifiedImageError)"
    assert shrink(encoded(Image.new("RGB", (64, 64)), "PNG")[:60]).problem.startswith("cannot be decoded")


def test_a_picture_that_costs_too_much_gets_smaller():
    whole, small = shrink(noise(600)), shrink(noise(600), 20_000)
    assert whole.width == EDGE and small.width < EDGE and len(bytes_of(small.uri)) <= 20_000


def test_all_pictures_of_a_report_fit_together(tiny, monkeypatch):
    """Pictures of pure noise, far worse than photographs, stay below the bound; here an eighth of it."""
    tiny.commit()
    monkeypatch.setattr("clipcap.report.thumbnails.ALL_BYTES", ALL_BYTES // 8)
    data = noise(300)
    tar = tiny.lake.shard(BATCH, SHARDS[0], "tar")
    with tarfile.open(tar, "w") as archive:
        for n in range(25):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    name = tiny.lake.relative(tar)
    found = thumbnails(tiny.lake, [(name, f"{n}.png") for n in range(25)])
    assert all(thumbnail.uri for thumbnail in found.values())
    assert sum(len(thumbnail.uri) for thumbnail in found.values()) <= ALL_BYTES // 8


def test_a_tar_that_is_gone_leaves_a_note(tiny, parse):
    tiny.commit()
    tiny.lake.shard(BATCH, SHARDS[0], "tar").unlink()
    page = parse(render_report(tiny.lake, RUN, ReportConfig()))
    assert "the image is gone" in page.body and len(page.all("img")) == 1


def test_images_that_never_were_in_the_lake(tiny):
    assert thumbnails(tiny.lake, [(None, "a.jpg")])[None, "a.jpg"].problem == "no image in the lake"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.jpg", 9 * "long-folder/" + "a.jpg", "é.jpg"])
def test_every_kind_of_tar_is_read(tiny, format, name):
    """Ours are read by their headers alone; what others wrote (long names, other formats) is read by tarfile."""
    tar = tiny.lake.root / "any.tar"
    with tarfile.open(tar, "w", format=format) as archive:
        for member, data in (("first.json", b"{}"), (name, picture(1)), ("last.jpg", picture(2))):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = thumbnails(tiny.lake, [("any.tar", name), ("any.tar", "last.jpg"), ("any.tar", "missing.jpg")])
    assert found["any.tar", name].uri == shrink(picture(1)).uri
    assert found["any.tar", "last.jpg"].uri == shrink(picture(2)).uri
    assert found["any.tar", "missing.jpg"].problem == "the image is gone"


@pytest.mark.parametrize("kept", [0, 300, 1024, -600])
def test_a_cut_tar_shows_what_it_has(tiny, kept):
    tiny.commit()
    tar = tiny.lake.shard(BATCH, SHARDS[0], "tar")
    with tarfile.open(tar) as archive:
        names = archive.getnames()
    tar.write_bytes(tar.read_bytes()[:kept])
    found = thumbnails(tiny.lake, [(tiny.lake.relative(tar), name) for name in names])
    assert all(thumbnail.uri or thumbnail.problem for thumbnail in found.values())
