"""The project's shard: what goes into it, what is judged by its header, and how it streams back."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from clipcap.config import DownloadConfig
from clipcap.dataset.land import URLS_SCHEMA, ShardJob
from clipcap.dataset.shards import Fetched, pack_shard, read_shard
from clipcap.errors import ShardError, TransientError

JOB = ShardJob("b-0a1b2c3d", "0a1b2c3d-00000", 0, 99)
CONFIG = DownloadConfig(min_image_size=8, max_image_pixels=10_000)


def picture(size: tuple[int, int] = (20, 10), kind: str = "JPEG", colour: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (colour, 80, 70)).save(stream, kind)
    return stream.getvalue()


def key(number: int) -> str:
    return f"0a1b2c3d-{number:07d}"


class Raw:
    """A downloader's tar and what it says, made by hand; rows land in the order given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: list[tuple[str, bytes]] = []
        self.fetched: dict[str, Fetched] = {}
        self.tar, self.table = folder / "s.tar", folder / "s.parquet"

    def add(self, number: int, data: bytes, *, sha256: str = "", error: str = "") -> None:
        member = f"{number:09d}"
        if not error:
            self.members += [(f"{member}.jpg", data), (f"{member}.json", b"{}")]
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        self.fetched[key(number)] = Fetched(member, not error, error, None if error else sha256)

    def write(self) -> Path:
        raw = self.folder / "raw.tar"
        with tarfile.open(raw, "w") as archive:
            for name, data in self.members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return raw

    def pack(self):
        rows = [
            {"sample_key": name, "url": f"http://a/{name}", "captions": [f"caption ü {name}"], "split": "train"}
            for name in self.fetched
        ]
        table = pa.Table.from_pylist(rows, schema=URLS_SCHEMA)
        return pack_shard(table, self.fetched, [self.write()], self.tar, self.table, JOB, CONFIG)


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


def test_images_come_out_sorted_and_as_they_went_in(raw: Raw):
    images = {n: picture(colour=n * 20) for n in (3, 0, 2, 1)}
    for number, data in images.items():
        raw.add(number, data)
    outcomes = raw.pack()
    assert {(o.sample_key, o.status, o.reason, o.image_url) for o in outcomes} == {
        (key(n), "ok", "", f"http://a/{key(n)}") for n in range(4)
    }
    rows, stream = read_shard(raw.tar, raw.table)
    assert [row["sample_key"] for row in rows] == [key(n) for n in range(4)]
    assert list(stream) == [images[n] for n in range(4)]
    first = rows[0]
    assert first == {
        "sample_key": key(0), "batch_id": JOB.batch_id, "shard_id": JOB.shard_id, "image_url": f"http://a/{key(0)}",
        "member": f"{key(0)}.jpg", "sha256": hashlib.sha256(images[0]).hexdigest(), "width": 20, "height": 10,
        "format": "jpg", "size_bytes": len(images[0]), "captions": [f"caption ü {key(0)}"], "split": "train",
    }  # fmt: skip


def test_the_tar_is_a_webdataset(raw: Raw):
    raw.add(0, picture())
    raw.add(1, picture(kind="PNG"))
    raw.pack()
    with tarfile.open(raw.tar) as archive:
        assert archive.getnames() == [f"{key(0)}.jpg", f"{key(0)}.json", f"{key(1)}.png", f"{key(1)}.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in archive} == {(0, 0, 0, "")}


def test_the_order_of_downloading_leaves_no_trace(tmp_path: Path):
    packed = []
    for name, order in (("one", (0, 1, 2)), ("two", (2, 0, 1))):
        (tmp_path / name).mkdir()
        raw = Raw(tmp_path / name)
        for number in order:
            raw.add(number, picture(colour=number))
        raw.pack()
        packed.append((raw.tar.read_bytes(), raw.table.read_bytes()))
    assert packed[0] == packed[1]


@pytest.mark.parametrize(
    ("data", "error", "status", "reason"),
    [
        (b"", "HTTP Error 404: Not Found", "failed", "not downloaded: HTTP Error 404: Not Found"),
        (b"", "may heal: no answer within 5 s", "failed", "not downloaded, may heal: no answer within 5 s"),
        (b"", "refused: private address 10.0.0.5", "failed", "refused: private address 10.0.0.5"),
        (b"", "filtered: 9 bytes, above the maximum of 8", "filtered", "9 bytes, above the maximum of 8"),
        (b"", "opted out: the server's X-Robots-Tag header forbids it", "opted_out", "the server's X-Robots-Tag"),
        (b"<html>Gone</html>", "", "failed", "not an image of a known kind .*: .*it begins with b'<html>Gone</html"),
        (b"", "", "failed", "not an image of a known kind .*: it is empty"),
        (b"\xff\xd8\xff", "", "failed", "not an image of a known kind"),
        (picture((7, 50)), "", "filtered", "7 x 50 pixels, below the minimum edge of 8"),
        (picture((8, 50)), "", "ok", ""),
        (picture((101, 100)), "", "filtered", "101 x 100 pixels, above the maximum of 10000"),
        (picture((100, 100)), "", "ok", ""),
        (picture()[:-4], "", "ok", ""),  # the header is whole; embedding finds out
    ],
    ids=["404", "timeout", "refused", "long", "opted out", "html", "empty", "cut header", "narrow", "just wide enough",
         "huge", "just fits", "cut"],
)  # fmt: skip
def test_each_row_gets_a_status_and_a_reason(raw: Raw, data: bytes, error: str, status: str, reason: str):
    raw.add(0, data, error=error)
    raw.add(1, picture())
    judged, good = raw.pack()
    assert (judged.status, good.status) == (status, "ok")
    assert re.search(reason, judged.reason) and bool(judged.reason) == (status != "ok")
    rows, stream = read_shard(raw.tar, raw.table)
    assert len(rows) == len(list(stream)) == (2 if status == "ok" else 1)


def test_a_header_that_claims_gigapixels_is_filtered(raw: Raw):
    png = bytearray(picture(kind="PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of IHDR
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    raw.add(0, bytes(png))
    [outcome] = raw.pack()
    assert outcome.status == "filtered" and "pixels" in outcome.reason


def test_nothing_kept_is_an_empty_shard_not_an_error(raw: Raw):
    raw.add(0, b"", error="HTTP Error 404: Not Found")
    raw.pack()
    rows, stream = read_shard(raw.tar, raw.table)
    assert rows == [] and list(stream) == []


def test_bytes_that_changed_on_the_way_are_refused_and_nothing_is_written(raw: Raw):
    raw.add(0, picture(), sha256="0" * 64)
    with pytest.raises(ShardError, match="the bytes of 0a1b2c3d-0000000 changed"):
        raw.pack()
    assert {p.name for p in raw.folder.iterdir()} == {"raw.tar"}


def test_a_tar_of_the_downloader_that_is_cut_or_lacks_an_image_may_be_tried_again(raw: Raw, monkeypatch):
    raw.add(0, picture())
    raw.add(1, picture())
    raw.members = raw.members[:2]
    with pytest.raises(TransientError, match=r"raw\.tar"):
        raw.pack()
    whole = Raw.write
    monkeypatch.setattr(Raw, "write", lambda self: (whole(self), (raw.folder / "raw.tar").write_bytes(b"x" * 700))[0])
    with pytest.raises(TransientError, match=r"raw\.tar"):
        raw.pack()
    assert {p.name for p in raw.folder.iterdir()} == {"raw.tar"}


class TestDamage:
    @pytest.fixture
    def packed(self, raw: Raw) -> Raw:
        for number in range(3):
            raw.add(number, picture(colour=number))
        raw.pack()
        return raw

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_a_tar_that_lacks_a_member(self, packed: Raw, missing: int):
        with tarfile.open(packed.tar) as archive:
            members = [(m, archive.extractfile(m).read()) for m in archive]
        with tarfile.open(packed.tar, "w") as archive:
            for member, data in members:
                if member.name != f"{key(missing)}.jpg":
                    archive.addfile(member, io.BytesIO(data))
        _, stream = read_shard(packed.tar, packed.table)
        got = []
        with pytest.raises(ShardError, match=f"ends before {key(missing)}.jpg"):
            got.extend(stream)
        assert len(got) == missing or got == []

    @pytest.mark.parametrize("size", [100, 700, 2000])
    def test_a_tar_that_was_cut(self, packed: Raw, size: int):
        data = packed.tar.read_bytes()
        packed.tar.write_bytes(data[:size])
        _, stream = read_shard(packed.tar, packed.table)
        with pytest.raises(ShardError, match=r"s\.tar"):
            list(stream)

    def test_a_tar_that_is_none(self, packed: Raw):
        packed.tar.write_bytes(b"no tar" * 1000)
        _, stream = read_shard(packed.tar, packed.table)
        with pytest.raises(ShardError, match=r"s\.tar"):
            list(stream)
