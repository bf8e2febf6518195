"""Each kind of source, read well or refused with a reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.config import Config, DatasetConfig
from clipcap.dataset.sources import SourceRow, problem_of, read_source
from clipcap.errors import SourceError


def config(source: Path | str, **dataset: str) -> Config:
    return Config(dataset=DatasetConfig(source=str(source), **dataset))


def read(source: Path | str, **dataset: str) -> list[tuple[str, list[str], str]]:
    return [(row.url, row.captions, row.split) for row in read_source(config(source, **dataset))]


def refusal(source: Path | str, **dataset: str) -> str:
    with pytest.raises(SourceError) as raised:
        read(source, **dataset)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestUrlLists:
    def test_csv_with_captions_and_splits(self, tmp_path: Path):
        file = tmp_path / "list.csv"
        file.write_text(
            'id,url,caption,split\n1,http://a/1.jpg,"A dog, running.",train\n'
            '2, http://a/2.jpg ,"two\nlines",\n3,,x,test\n'
            "4,http://a/4.jpg,12,val\n",
            encoding="utf-8",
        )
        assert read(file, default_split="train") == [
            ("http://a/1.jpg", ["A dog, running."], "train"),
            ("http://a/2.jpg", ["two\nlines"], "train"),
            ("", ["x"], "test"),
            ("http://a/4.jpg", ["12"], "val"),
        ]

    def test_csv_of_urls_alone(self, tmp_path: Path):
        file = tmp_path / "list.csv"
        file.write_text("url\nhttp://a/ü.jpg\n", encoding="utf-8")
        assert read(file) == [("http://a/ü.jpg", [], "")]

    def test_words_that_mean_null_elsewhere_are_captions(self, tmp_path: Path):
        file = tmp_path / "list.csv"
        file.write_text("url,caption\nhttp://a/1,NA\nhttp://a/2,null\n")
        assert [captions for _, captions, _ in read(file)] == [["NA"], ["null"]]

    def test_parquet_with_one_caption(self, tmp_path: Path):
        file = tmp_path / "list.parquet"
        pq.write_table(pa.table({"url": ["http://a/1", None], "caption": [" a dog ", None], "other": [1, 2]}), file)
        assert read(file) == [("http://a/1", ["a dog"], ""), ("", [], "")]

    def test_parquet_with_several_captions(self, tmp_path: Path):
        file = tmp_path / "list.parquet"
        captions = [["a dog", "", None, "a brown dog"], [], None]
        pq.write_table(pa.table({"url": ["u1", "u2", "u3"], "captions": captions}), file)
        assert read(file) == [("u1", ["a dog", "a brown dog"], ""), ("u2", [], ""), ("u3", [], "")]

    def test_many_row_groups_keep_their_order(self, tmp_path: Path):
        file = tmp_path / "list.parquet"
        urls = [f"http://a/{n}" for n in range(25_000)]
        pq.write_table(pa.table({"url": urls}), file, row_group_size=7_000)
        assert [row.url for row in read_source(config(file))] == urls

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_a_missing_url_column_lists_what_is_there(self, tmp_path: Path, suffix: str):
        file = tmp_path / f"list.{suffix}"
        if suffix == "csv":
            file.write_text("link,caption\nhttp://a/1,x\n")
        else:
            pq.write_table(pa.table({"link": ["http://a/1"], "caption": ["x"]}), file)
        assert "has the columns link, caption; expected one named 'url'" in refusal(file)

    def test_two_url_columns_are_refused(self, tmp_path: Path):
        file = tmp_path / "list.csv"
        file.write_text("url,url\nhttp://a/1,http://a/2\n")
        assert "list.csv has the columns url, url; expected one named 'url'" in refusal(file)

    @pytest.mark.parametrize("content", [b"", b"url,caption\nhttp://a/1,x,y,z\n", b"url\n\xff\xfe\n"])
    def test_a_csv_that_cannot_be_read(self, tmp_path: Path, content: bytes):
        file = tmp_path / "list.csv"
        file.write_bytes(content)
        assert "list.csv cannot be read as csv: " in refusal(file)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"url\nhttp://a/1\n"])
    def test_a_parquet_that_cannot_be_read(self, tmp_path: Path, content: bytes):
        file = tmp_path / "list.parquet"
        file.write_bytes(content)
        assert "list.parquet cannot be read as parquet: " in refusal(file)


class TestFolders:
    def test_images_by_name_with_captions_beside_them(self, tmp_path: Path):
        (tmp_path / "deep" / "er").mkdir(parents=True)
        images = ("b.JPG", "a c#1%.png", "deep/er/ü.webp", "phone.HEIC", "z.avif")
        for name in (*images, "note.md", ".hidden.jpg", "alone.txt"):
            (tmp_path / name).write_bytes(name.encode())
        (tmp_path / "b.txt").write_text("A dog.\n\n  Another dog.  \n", encoding="utf-8")
        rows = read_source(config(tmp_path, default_split="test"))
        assert [row.url for row in rows] == [
            f"{tmp_path.as_uri()}/a%20c%231%25.png",
            f"{tmp_path.as_uri()}/b.JPG",
            f"{tmp_path.as_uri()}/deep/er/%C3%BC.webp",
            f"{tmp_path.as_uri()}/phone.HEIC",
            f"{tmp_path.as_uri()}/z.avif",
        ]
        assert [row.captions for row in rows] == [[], ["A dog.", "Another dog."], [], [], []]
        assert {row.split for row in rows} == {"test"}
        assert rows[1].sha256 == hashlib.sha256(b"b.JPG").hexdigest()

    def test_captions_of_unknown_encoding_never_stop_it(self, tmp_path: Path):
        (tmp_path / "a.jpg").touch()
        (tmp_path / "a.txt").write_bytes(b"caf\xe9")
        [row] = read_source(config(tmp_path))
        assert row.captions == ["caf\N{REPLACEMENT CHARACTER}"]


    def test_what_endings_leave_out_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        for name in ("a.jpg", "a.txt", "b.MOV", "c.mov", "without", ".hidden.mov"):
            (tmp_path / name).write_bytes(b"x")
        assert len(read(tmp_path)) == 1
        assert [line.getMessage() for line in caplog.records] == [
            f"left out of {tmp_path}, by their names no images: 2 .mov, 1 without an ending"
        ]


class TestKarpathy:
    ITEMS = [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": " A dog. "}, {"raw": ""}]},
        {"filepath": "val2014", "filename": "2 b.jpg", "split": "restval", "sentences": []},
        {"filename": "3.jpg"},
    ]

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "dataset.json"
        file.write_text(json.dumps({"images": self.ITEMS}))
        return file

    def test_with_a_base_url(self, file: Path):
        expected = [
            ("https://host/img/1.jpg", ["A dog."], "train"),
            ("https://host/img/val2014/2%20b.jpg", [], "restval"),
            ("https://host/img/3.jpg", [], "val"),
        ]
        assert read(file, images="https://host/img", default_split="val") == expected
        assert read(file, images="https://host/img/", default_split="val") == expected

    def test_with_a_folder_and_beside_the_file(self, file: Path, tmp_path: Path):
        folder = tmp_path / "pictures"
        (folder / "val2014").mkdir(parents=True)
        (folder / "1.jpg").write_bytes(b"one")
        rows = read_source(config(file, images=str(folder)))
        assert [r.url for r in rows] == [f"{folder.as_uri()}/{n}" for n in ("1.jpg", "val2014/2%20b.jpg", "3.jpg")]
        assert [bool(row.sha256) for row in rows] == [True, False, False], "a missing image stays a row"
        assert read(file)[0][0] == (tmp_path / "1.jpg").as_uri()

    @pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "\0.jpg"])
    def test_a_file_outside_the_folder_is_neither_read_nor_landed(self, tmp_path: Path, name: str):
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        folder = tmp_path / "pictures"
        folder.mkdir()
        file = folder / "dataset.json"
        file.write_text(json.dumps({"images": [{"filename": name}, {"filename": "./a/../fine.jpg"}]}))
        (folder / "fine.jpg").write_bytes(b"fine")
        outside, inside = read_source(config(file))
        assert outside.sha256 == ""
        assert "outside the folder" in problem_of(outside)
        assert problem_of(inside) == "" and inside.url == (folder / "fine.jpg").as_uri()

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "3", '{"images": 3}', '{"images": ["a"]}', '{"images": [{"file_name": "coco.jpg"}]}',
         '{"images": [{"filename": 3}]}', '{"images": [{"filename": "a", "sentences": [3]}]}',
         '{"images": [{"filename": "a", "sentences": null}]}', '{"images": {"a": 1}}'],
    )  # fmt: skip
    def test_broken_or_another_json(self, tmp_path: Path, content: str):
        file = tmp_path / "dataset.json"
        file.write_text(content)
        assert "dataset.json is neither a Karpathy nor a COCO JSON" in refusal(file)

    def test_half_a_character_is_replaced(self, tmp_path: Path):
        file = tmp_path / "dataset.json"
        file.write_text('{"images": [{"filename": "a\\ud800.jpg", "sentences": [{"raw": "smile \\ud83d"}]}]}')
        [(url, captions, _)] = read(file, images="http://host")
        assert captions == ["smile ?"]
        url.encode()


@pytest.mark.parametrize("name", ["list.txt", "list", "list.zip"])
def test_other_files_are_refused_with_what_is_known(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    assert "expected a list of URLs (.parquet, .csv" in refusal(tmp_path / name)


def test_nothing_named_and_nothing_there(tmp_path: Path):
    assert "dataset.source is empty" in refusal("")
    assert f"there is no file or folder {tmp_path / 'x.csv'} to land" in refusal(tmp_path / "x.csv")


def test_the_sample_is_a_source():
    rows = read_source(config("builtin:sample"))
    assert len(rows) == 1600 + 8 and all(len(row.captions) == 5 for row in rows)


BAD_URLS = {
    "": "no URL",
    "ftp://host/a.jpg": "URL scheme 'ftp'",
    "file:///etc/passwd": "URL scheme 'file'",
    "FILE:///etc/passwd": "URL scheme 'file'",
    "javascript:alert(1)": "URL scheme 'javascript'",
    "data:image/png;base64,AAAA": "URL scheme 'data'",
    "gopher://host/": "URL scheme 'gopher'",
    "image.jpg": "URL scheme '(none)'",
    "//host/a.jpg": "URL scheme '(none)'",
    "http://": "not a URL",
    "http:///a.jpg": "not a URL",
    "http://[::1/a.jpg": "not a URL",
    "http://host/a b.jpg": "not a URL",
    "http://host/a\nb.jpg": "not a URL",
}


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_of_a_list_must_be_http(url: str):
    assert problem_of(SourceRow(url)).startswith(BAD_URLS[url])


def test_good_urls_and_splits():
    for url in ("http://host/a.jpg", "https://host:8080/a%20b.jpg?x=1@2#y", "HTTP://HOST/", "http://[::1]/a"):
        assert problem_of(SourceRow(url)) == ""
    for split in ("", "train", "restval", "val", "test"):
        assert problem_of(SourceRow("http://host/", split=split)) == ""
    assert "unknown split 'dev'" in problem_of(SourceRow("http://host/", split="dev"))


def test_only_rows_that_were_made_here_may_name_files(tmp_path: Path):
    url = (tmp_path / "a.jpg").as_uri()
    assert problem_of(SourceRow(url)).startswith("URL scheme 'file'")
    assert problem_of(SourceRow(url, is_ours=True)) == ""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_bytes(b"a")
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg", "coco_url": url}], "annotations": []}))
    for source, made_here in ((tmp_path / "folder", True), (coco, False)):
        [row] = read_source(config(source))
        assert (problem_of(row) == "") == made_here
