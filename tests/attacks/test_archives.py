"""Tars that want out, in, or more than there is: a row with a reason each, nothing written beside the lake."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipcap.config import Config, DatasetConfig, DownloadConfig
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.extract import extract
from clipcap.dataset.land import land, plan_shards, read_landing
from clipcap.dataset.sources import problem_of, read_source
from clipcap.errors import SourceError
from clipcap.storage.lake import Lake


def picture(colour: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (colour, 8, 9)).save(stream, "PNG")
    return stream.getvalue()


def member(name: str, data: bytes = b"", **facts) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in facts.items():
        setattr(info, field, value)
    return info, data


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w", **options) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def config(source: Path, **download) -> Config:
    return Config(dataset=DatasetConfig(source=str(source), name="tars"), download=DownloadConfig(**download))


def problems(source: Path, **download) -> dict[str, str]:
    """By the member's name."""
    return {row.url.rpartition("#")[2] or row.url: problem_of(row) for row in read_source(config(source, **download))}


OUT, LINK = "its name in the tar leaves the folder", "it is a link or a device, not a file"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_way_out_is_a_row(tmp_path: Path, form: int):
    path = write(
        tmp_path / "t.tar",
        member("../up.png", picture()),
        member("a/../../up2.png", picture()),
        member("/etc/cron.d/x.png", picture()),
        member("..\\windows.png", picture()),
        member("symbolic.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.png", type=tarfile.LNKTYPE, linkname="../../etc/shadow"),
        member("device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("block.png", type=tarfile.BLKTYPE),
        member("pipe.png", type=tarfile.FIFOTYPE),
        member("good.png", picture(1)),
        format=form,
    )
    found = problems(path)
    assert found == {
        "../up.png": OUT, "a/../../up2.png": OUT, "/etc/cron.d/x.png": OUT, "..%5Cwindows.png": OUT,
        "symbolic.png": LINK, "hard.png": LINK, "device.png": LINK, "block.png": LINK, "pipe.png": LINK, "good.png": "",
    }  # fmt: skip


def test_nothing_is_written_but_the_lake(tmp_path: Path):
    """The whole way to a shard, with what leads out in the tar; the folder around is compared file by file."""
    path = write(
        tmp_path / "t.tar",
        member("../up.png", picture()), member("link.png", type=tarfile.SYMTYPE, linkname=str(tmp_path / "target")),
        member("link.png/inside.png", picture(3)), member("good.png", picture(1)), member("good.txt", b"a caption"),
    )  # fmt: skip
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    lake, chosen = Lake(tmp_path / "lake"), config(path)
    landing = read_landing(chosen)
    entry = land(lake, landing)
    [job] = plan_shards(landing.batch_id, entry.rows["ok"], 1000)
    done = download_shard(lake, job, chosen.download, download_key(lake, job, chosen.download))
    assert entry.rows == {"ok": 2, "failed": 2} and done.rows == {"ok": 2}
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and lake.root not in p.parents}
    assert after == before
    stored = pq.read_table(lake.absolute(done.file("shard").path)).to_pylist()
    assert {row["sha256"] for row in stored} == {hashlib.sha256(picture(n)).hexdigest() for n in (1, 3)}


def test_large_members_are_rows_and_their_bytes_are_not_read(tmp_path: Path):
    path = write(
        tmp_path / "t.tar.gz", member("huge.png", bytes(100 * 10**6)), member("good.png", picture()), mode="w:gz"
    )
    tracemalloc.start()
    found = problems(path, max_image_bytes=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {"huge.png": "100,000,000 bytes, above the maximum of 1,000,000", "good.png": ""}
    assert peak < 50 * 10**6  # zlib gives up to 10 MB at a time, and tarfile joins them


def test_a_sparse_file_claims_what_it_does_not_have(tmp_path: Path):
    """A terabyte in a kilobyte, by PAX records as GNU tar writes them."""
    info, data = member("sparse.png", b"1\n0\n512\n" + bytes(504) + bytes(512))
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse.png",
        "GNU.sparse.realsize": str(10**12),
    }  # fmt: skip
    path = write(tmp_path / "t.tar", (info, data), member("good.png", picture()), format=tarfile.PAX_FORMAT)
    assert problems(path) == {"sparse.png": "it is a sparse file, whose size is only claimed", "good.png": ""}


def test_extended_headers_that_rename_or_resize(tmp_path: Path):
    """What counts is what PAX makes of a member: another name is judged, a false size makes the rest unreadable."""
    renamed, data = member("harmless.png", picture())
    renamed.pax_headers = {"path": "../../out.png"}
    path = write(tmp_path / "t.tar", (renamed, data), member("good.png", picture(1)), format=tarfile.PAX_FORMAT)
    assert problems(path) == {"../../out.png": OUT, "good.png": ""}
    resized, data = member("size.png", picture())
    resized.pax_headers = {"size": str(10**15)}
    path = write(tmp_path / "s.tar", (resized, data), format=tarfile.PAX_FORMAT)
    assert "" not in problems(path).values()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_an_extended_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes):
    """tarfile would hold all of it in memory; 200 MB of zeros are 200 kB when they are packed."""
    with gzip.open(tmp_path / "t.tar.gz", "wb", 9) as stream:
        info, data = member("good.png", picture())
        stream.write(info.tobuf() + data + bytes(-len(data) % 512))
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = kind, 200 * 10**6
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            stream.write(bytes(10**6))
        stream.write(bytes(1024))
    tracemalloc.start()
    found = problems(tmp_path / "t.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pop("good.png") == "" and peak < 20 * 10**6
    [reason] = found.values()
    assert "cannot be read to its end (an extended header of 200,000,000 bytes)" in reason


def test_keys_and_names_that_come_again(tmp_path: Path):
    path = write(
        tmp_path / "t.tar",
        member("a.png", picture(1)), member("a.png", picture(2)), member("b.png", picture(3)),
        member("a.txt", b"stolen caption"), member("c.png", picture(4)), member("c.jpg", picture(5)),
    )  # fmt: skip
    rows = read_source(config(path))
    assert [(row.url.rpartition("#")[2], problem_of(row)) for row in rows] == [
        ("a.png", "its name occurs twice in the tar"), ("b.png", ""),
        ("a.txt", "the key a occurs twice in the tar"), ("c.png", ""),
    ]  # fmt: skip
    assert rows[-1].sha256 == hashlib.sha256(picture(4)).hexdigest()


def torn(tmp_path: Path, whole: bytes, keep: int) -> Path:
    (tmp_path / "cut.tar").write_bytes(whole[:keep])
    return tmp_path / "cut.tar"


def test_a_tar_cut_anywhere_tells_it(tmp_path: Path):
    """At each half block: inside a header, inside an image, between members."""
    whole = write(tmp_path / "w.tar", *(member(f"{n}.png", picture(n)) for n in range(3))).read_bytes()
    end = whole.rindex(b"IEND") // 512 * 512 + 512
    for keep in range(1, end + 1, 256):
        rows = read_source(config(torn(tmp_path, whole, keep)))
        assert "the tar cannot be read" in problem_of(rows[-1]), keep
        good = [row.sha256 for row in rows if not problem_of(row)]
        assert good == [hashlib.sha256(picture(n)).hexdigest() for n in range(len(good))]
    assert [problem_of(row) for row in read_source(config(tmp_path / "w.tar"))] == [""] * 3


def test_a_header_that_is_damaged_in_the_middle_is_not_the_end(tmp_path: Path):
    whole = bytearray(write(tmp_path / "w.tar", *(member(f"{n}.png", picture(n)) for n in range(3))).read_bytes())
    second = whole.index(b"1.png")
    whole[second + 150] ^= 0xFF  # its checksum
    (tmp_path / "d.tar").write_bytes(whole)
    *_, last = read_source(config(tmp_path / "d.tar"))
    assert "cannot be read to its end" in problem_of(last)


def test_a_tar_that_became_hostile_after_landing(tmp_path: Path):
    path = write(tmp_path / "t.tar", *(member(f"{n}.png", picture(n)) for n in range(3)))
    landing = read_landing(config(path))
    lake = Lake(tmp_path / "lake")
    land(lake, landing)
    rows = pq.read_table(lake.urls(landing.batch_id))
    write(
        path, member("0.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("1.png", bytes(3000)),
        member("2.png", picture(2)),
    )  # fmt: skip
    found = list(extract(rows, tmp_path / "out.tar", 2000).values())
    assert [row.error for row in found] == [f"refused: {LINK}", "filtered: 3,000 bytes, above the maximum of 2,000", ""]
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert [info.isfile() for info in archive] == [True]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bytes_of_a_tar_that_were_changed(tmp_path_factory, data):
    """Whatever is damaged: rows or one clear error, and no image under another's hash."""
    tmp_path = tmp_path_factory.mktemp("fuzz")
    whole = bytearray(
        write(tmp_path / "w.tar", *(member(f"{n}.png", picture(n)) for n in range(2))).read_bytes()[:3072]
    )
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "f.tar").write_bytes(bytes(whole))
    try:
        landing = read_landing(config(tmp_path / "f.tar"))
    except SourceError as error:
        assert "\n" not in str(error)
        return
    lake = Lake(tmp_path / "lake")
    entry = land(lake, landing)
    ledger = pq.read_table(lake.absolute(entry.file("ledger").path))
    assert ledger.num_rows == sum(entry.rows.values()) == len(landing.rows) + len(landing.refused)
    assert os.listdir(tmp_path) and sorted(os.listdir(tmp_path)) == ["f.tar", "lake", "w.tar"]
