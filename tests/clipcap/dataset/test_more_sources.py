"""TSV, JSON lines, Conceptual Captions, COCO and webdataset shards: what a person with such a file expects."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcap.config import Config, DatasetConfig, DownloadConfig, EmbedConfig
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.land import land, plan_shards, read_landing
from clipcap.dataset.sources import problem_of, read_source
from clipcap.errors import SourceError
from clipcap.storage.lake import Lake


def config(source: object, **dataset: str) -> Config:
    return Config(dataset=DatasetConfig(source=str(source), name="more", **dataset))


def read(source: object, **dataset: str) -> list[tuple[str, list[str], str]]:
    return [(row.url, row.captions, row.split) for row in read_source(config(source, **dataset))]


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["list.tsv", "list.tsv.gz", "list.csv.gz"])
def test_text_lists_with_a_header(tmp_path: Path, name: str):
    tab = "\t" if "tsv" in name else ","
    text = f'caption{tab}url{tab}split\n"a{tab}b"{tab}http://h/1.jpg{tab}train\nc{tab}http://h/2.jpg{tab}\n'
    assert read(write(tmp_path / name, text)) == [
        ("http://h/1.jpg", [f"a{tab}b"], "train"), ("http://h/2.jpg", ["c"], ""),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["Train_GCC-training.tsv", "cc12m.tsv", "cc12m.tsv.gz"])
def test_conceptual_captions_have_no_header_and_quotes_that_are_only_quotes(tmp_path: Path, name: str):
    pairs = [('a "big dog', "http://h/1.jpg"), ('"', "https://h/2.jpg?a=1,2"), ("null", "http://h/3")]
    lines = ("\t".join(pair if "GCC" in name else pair[::-1]) for pair in pairs)
    assert read(write(tmp_path / name, "\n".join(lines))) == [(url, [caption], "") for caption, url in pairs]


@pytest.mark.parametrize("name", ["list.jsonl", "list.jsonl.gz"])
def test_json_lines_lose_no_good_line_to_a_bad_one(tmp_path: Path, name: str):
    lines = [
        '{"url": "http://h/1.jpg", "caption": "one", "split": "val"}', "", "{broken", "[1]",
        '{"url": "http://h/2.jpg", "captions": ["a", " ", "b"]}', '{"caption": "no url"}', '{"url": 3}', "[" * 10**5,
        '{"url": "http://h/4.jpg", "caption": "half \\ud83d"}',
    ]  # fmt: skip
    rows = read_source(config(write(tmp_path / name, "\n".join(lines))))
    assert [(row.url, row.captions, row.split) for row in rows if not problem_of(row)] == [
        ("http://h/1.jpg", ["one"], "val"), ("http://h/2.jpg", ["a", "b"], ""), ("http://h/4.jpg", ["half ?"], ""),
    ]  # fmt: skip
    assert [problem_of(row) for row in rows if problem_of(row)] == [
        "line 3 is not a JSON object", "line 4 is not a JSON object", "no URL", "no URL",
        "line 8 is not a JSON object",
    ]  # fmt: skip


def test_json_lines_longer_than_what_is_read_at_once(tmp_path: Path):
    long = "x" * 3_000_000
    rows = [{"url": f"http://h/{n}.jpg", "caption": long[: n * 400_000] or "none"} for n in range(7)]
    file = write(tmp_path / "long.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(file) == [(row["url"], [row["caption"]], "") for row in rows]


@pytest.mark.parametrize("text", ["", "{}\n{}\n", "not json"])
def test_json_lines_without_any_url_are_refused(tmp_path: Path, text: str):
    with pytest.raises(SourceError, match=r"list\.jsonl has no line with a 'url'"):
        read(write(tmp_path / "list.jsonl", text))


COCO = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "coco_url": "http://images/7.jpg", "flickr_url": "http://f/7"},
        {"id": 9, "file_name": "9 a.jpg"},
        {"id": 8, "file_name": "8.jpg", "flickr_url": "http://f/8"},
    ],
    "annotations": [
        {"id": 1, "image_id": 8, "caption": " eight "}, {"id": 2, "image_id": 7, "caption": "seven"},
        {"id": 3, "image_id": 99, "caption": "lost"}, {"id": 4, "image_id": 7, "caption": "sept"},
    ],
}  # fmt: skip


def test_coco_captions_with_their_own_urls(tmp_path: Path):
    (tmp_path / "9 a.jpg").write_bytes(b"nine")
    rows = read_source(config(write(tmp_path / "captions_val.json", json.dumps(COCO)), default_split="val"))
    assert [(row.url, row.captions, row.split) for row in rows[:3]] == [
        ("http://images/7.jpg", ["seven", "sept"], "val"), ((tmp_path / "9 a.jpg").as_uri(), [], "val"),
        ("http://f/8", ["eight"], "val"),
    ]  # fmt: skip
    assert rows[1].sha256 == hashlib.sha256(b"nine").hexdigest()
    assert [problem_of(row) for row in rows] == ["", "", "", "annotation 2 is of no image of the file"]


def test_coco_captions_from_elsewhere(tmp_path: Path):
    file = write(tmp_path / "c.json", json.dumps(COCO))
    assert [url for url, _, _ in read(file, images="http://mine/val2017/")][:3] == [
        "http://mine/val2017/7.jpg", "http://mine/val2017/9%20a.jpg", "http://mine/val2017/8.jpg",
    ]  # fmt: skip
    folder = tmp_path / "val2017"
    assert read(file, images=str(folder))[0][0] == (folder / "7.jpg").as_uri()


def image(seed: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], special: list[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w") as archive:
        for info in special:
            archive.addfile(info)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(folder: Path) -> Path:
    """Two tars: as img2dataset writes them, and as other tools do."""
    folder.mkdir()
    as_img2dataset = [
        member
        for n in range(3)
        for member in (
            (f"0000{n}.jpg", image(n)), (f"0000{n}.txt", f"caption {n}\n".encode()),
            (f"0000{n}.json", json.dumps({"url": f"http://h/{n}.jpg", "caption": f"caption {n}"}).encode()),
        )
    ]  # fmt: skip
    write_tar(folder / "00000.tar", as_img2dataset)
    write_tar(folder / "00001.tar", [("a/x.cls", b"3"), ("a/x.png", image(5, "PNG")), ("a/y.webp", image(6, "WEBP")),
                                     ("a/y.json", b'{"captions": ["one", "two"], "split": "val"}')])  # fmt: skip
    return folder


def test_webdataset_shards_keep_their_lineage(tmp_path: Path):
    folder = shards(tmp_path / "wds")
    rows = read_source(config(folder))
    second = (folder / "00001.tar").as_uri()
    assert [(row.url, row.captions, row.split) for row in rows] == [
        ("http://h/0.jpg", ["caption 0"], ""), ("http://h/1.jpg", ["caption 1"], ""),
        ("http://h/2.jpg", ["caption 2"], ""), (f"{second}#a/x.png", [], ""),
        (f"{second}#a/y.webp", ["one", "two"], "val"),
    ]  # fmt: skip
    assert [row.sha256 for row in rows[:3]] == [hashlib.sha256(image(n)).hexdigest() for n in range(3)]
    assert rows[1].location == (folder / "00000.tar").as_uri() + "#00001.jpg"
    assert [problem_of(row) for row in rows] == [""] * 5
    for pattern in ("{00000..00001}.tar", "*.tar", "0000?.tar"):
        assert read(folder / pattern) == read(folder)
    assert len(read(folder / "00001.tar")) == 2


def test_members_that_are_no_images_are_rows_with_a_reason(tmp_path: Path):
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device.jpg")
    device.type = tarfile.CHRTYPE
    members = [("/etc/evil.jpg", image(0)), ("../up.jpg", image(1)), ("good.jpg", image(2)), ("words.txt", b"alone"),
               ("other.jpg", image(3)), ("good.jpg", image(4)), ("bad.json", b"{"), ("bad.jpg", image(5))]  # fmt: skip
    rows = read_source(config(write_tar(tmp_path / "t.tar", members, [link, device])))
    assert [problem_of(row) for row in rows] == [
        "it is a link or a device, not a file", "it is a link or a device, not a file",
        "its name in the tar leaves the folder", "its name in the tar leaves the folder", "",
        "no image of a known kind under this key of the tar", "", "the key good occurs twice in the tar", "",
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [700, 5000, 12_000])
def test_a_cut_tar_keeps_what_is_whole_and_tells_the_loss(tmp_path: Path, keep: int):
    whole = write_tar(tmp_path / "whole.tar", [(f"{n}.png", image(n, "PNG")) for n in range(4)]).read_bytes()
    size = len(image(0, "PNG"))
    (tmp_path / "cut.tar").write_bytes(whole[:keep])
    rows = read_source(config(tmp_path / "cut.tar"))
    good = [row for row in rows if not problem_of(row)]
    assert len(good) == sum(keep >= (n + 1) * (512 + -(-size // 512) * 512) for n in range(4))
    assert [row.sha256 for row in good] == [hashlib.sha256(image(n, "PNG")).hexdigest() for n in range(len(good))]
    assert "the tar cannot be read" in problem_of(rows[-1])


def test_what_is_no_tar_and_what_is_not_there(tmp_path: Path):
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    [row] = read_source(config(tmp_path / "x.tar"))
    assert "the tar cannot be read" in problem_of(row)
    with pytest.raises(SourceError, match="nothing was landed"):
        read_landing(config(tmp_path / "x.tar"))
    with pytest.raises(SourceError, match="there is no tar at"):
        read_source(config(tmp_path / "none" / "*.tar"))


def test_from_shards_to_embeddings_without_a_download(tmp_path: Path, monkeypatch):
    from clipcap.dataset import download as module
    from clipcap.embedding.embed import embed_key, embed_shard
    from clipcap.embedding.encoder import Encoder
    from clipcap.embedding.store import read_embeddings

    monkeypatch.setattr(module, "_fetch", lambda *_: pytest.fail("nothing may be fetched"))
    folder = shards(tmp_path / "wds")
    write_tar(folder / "00002.tar", [("tiny.png", b"x"), ("cut.jpg", image(8)[:-300])])
    lake, chosen = Lake(tmp_path / "lake"), DownloadConfig(shard_size=4)
    landing = read_landing(config(folder))
    batch = land(lake, landing)
    assert "location" in pq.read_schema(lake.urls(landing.batch_id)).names
    jobs = plan_shards(landing.batch_id, batch.rows["ok"], 4)
    entries = [download_shard(lake, job, chosen, download_key(lake, job, chosen)) for job in jobs]
    assert [entry.rows for entry in entries] == [{"ok": 4}, {"ok": 2, "failed": 1}]
    encoder = Encoder("builtin:sample", "cpu", "float32")
    hashes = []
    for entry in entries:
        done = embed_shard(lake, entry, encoder, EmbedConfig(workers=0), embed_key(entry, encoder))
        hashes += read_embeddings([lake.absolute(done.file("embeddings").path)]).sha256
    wanted = [image(0), image(1), image(2), image(5, "PNG"), image(6, "WEBP")]
    assert hashes == [hashlib.sha256(data).hexdigest() for data in wanted]
    [first, *_] = pq.read_table(lake.absolute(entries[0].file("shard").path)).to_pylist()
    assert first["image_url"] == "http://h/0.jpg" and first["captions"] == ["caption 0"]


def test_changed_bytes_and_another_place_are_another_batch(tmp_path: Path):
    folder = shards(tmp_path / "wds")
    before = read_landing(config(folder)).batch_id
    assert read_landing(config(folder)).batch_id == before
    write_tar(folder / "00001.tar", [("a/x.png", image(77, "PNG")), ("a/y.webp", image(6, "WEBP"))])
    assert read_landing(config(folder)).batch_id != before


def test_a_tar_that_is_gone_after_landing_is_a_reason_for_each_row(tmp_path: Path):
    folder = shards(tmp_path / "wds")
    lake, chosen = Lake(tmp_path / "lake"), DownloadConfig()
    landing = read_landing(config(folder))
    land(lake, landing)
    (folder / "00000.tar").unlink()
    [job] = plan_shards(landing.batch_id, 5, 1000)
    entry = download_shard(lake, job, chosen, download_key(lake, job, chosen))
    assert entry.rows == {"failed": 3, "ok": 2}
