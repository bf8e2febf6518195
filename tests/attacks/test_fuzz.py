"""Configurations and landed files of any content: a batch that is whole, or one clear line; never a traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipcap.config import Config, DatasetConfig, load_config, parse_config
from clipcap.dataset.land import land, read_landing
from clipcap.errors import ClipCapError, ConfigError
from clipcap.storage.lake import Lake

FEW = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXT = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
URLS = st.sampled_from(["http://a.test/1.jpg", "https://b.test/", "ftp://x", "", "http://", "http://[", "\0"]) | TEXT


def lands_or_says_why(folder: Path, name: str, content: bytes) -> None:
    """Landing ends in a whole batch whose rows are all accounted for, or in one line, with nothing written."""
    source, lake = folder / name, Lake(folder / "lake")
    source.write_bytes(content)
    try:
        landing = read_landing(Config(dataset=DatasetConfig(source=str(source), name="fuzz")))
    except ClipCapError as error:
        assert "\n" not in str(error) and str(error)
        assert not lake.root.exists()
        return
    entry = land(lake, landing)
    ledger = pq.read_table(lake.absolute(entry.file("ledger").path)).to_pylist()
    urls = pq.read_table(lake.urls(landing.batch_id)).to_pylist()
    assert len(ledger) == sum(entry.rows.values()) and len(urls) == entry.rows["ok"] > 0
    assert all(row["reason"] for row in ledger if row["status"] != "ok")
    assert all(row["url"] for row in urls)


@pytest.fixture
def folder(tmp_path_factory):
    """A new folder for each example."""
    return lambda: tmp_path_factory.mktemp("fuzz")


KINDS = ("l.csv", "l.tsv", "l.jsonl", "l.parquet", "l.json", "l.csv.gz", "l.jsonl.gz", "l.tar")


@pytest.mark.parametrize("name", KINDS)
@settings(FEW, max_examples=25)
@given(content=st.binary(max_size=200))
def test_any_bytes_under_any_name(folder, name: str, content: bytes):
    lands_or_says_why(folder(), name, content)


HEADERS = ["url,caption", "url", "caption,url,split", "url,url", "URL", "url,captions", "", "\ufeffurl,caption"]


@FEW
@given(rows=st.lists(st.lists(URLS | TEXT, max_size=4), max_size=5), header=st.sampled_from(HEADERS))
def test_tables_of_text(folder, rows: list[list[str]], header: str):
    text = "\n".join([header, *(",".join(row) for row in rows)]).encode("utf-8", "surrogatepass")
    lands_or_says_why(folder(), "l.csv", text)
    lands_or_says_why(folder(), "l.csv.gz", gzip.compress(text))
    lands_or_says_why(folder(), "l.tsv", text.replace(b",", b"\t"))


@FEW
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["url", "caption", "captions", "split"]), VALUES | URLS), max_size=5)
)
def test_json_lines_of_any_values(folder, rows: list[dict]):
    lands_or_says_why(folder(), "l.jsonl", "\n".join(json.dumps(row) for row in rows).encode())


IMAGE = st.dictionaries(
    st.sampled_from(["id", "file_name", "filename", "filepath", "split", "sentences", "coco_url"]),
    VALUES | URLS | st.lists(st.fixed_dictionaries({"raw": VALUES | TEXT}), max_size=2),
)


@FEW
@given(images=st.lists(IMAGE, max_size=4) | VALUES, notes=st.none() | VALUES | st.lists(st.fixed_dictionaries(
    {"image_id": VALUES, "caption": VALUES}), max_size=3))  # fmt: skip
def test_annotations_of_any_values(folder, images, notes):
    data = {"images": images} | ({} if notes is None else {"annotations": notes})
    lands_or_says_why(folder(), "l.json", json.dumps(data).encode())
    lands_or_says_why(folder(), "l.json", json.dumps(images).encode())


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "l.parquet"
    rows = [{"url": f"http://a.test/{n}.jpg", "caption": f"caption {n}", "split": "train"} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path.read_bytes()


@FEW
@given(data=st.data())
def test_a_parquet_file_that_was_cut_or_changed(folder, parquet: bytes, data):
    content = bytearray(parquet[: data.draw(st.integers(0, len(parquet)) | st.just(len(parquet)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    lands_or_says_why(folder(), "l.parquet", bytes(content))


def test_a_parquet_without_its_footer_is_one_line(folder, parquet: bytes):
    with pytest.raises(ClipCapError, match=r"l\.parquet cannot be read as parquet") as error:
        (path := folder() / "l.parquet").write_bytes(parquet[:-20])
        read_landing(Config(dataset=DatasetConfig(source=str(path))))
    assert "\n" not in str(error.value)


@FEW
@given(table=st.sampled_from(["url", "caption", "captions", "split"]), values=st.lists(VALUES, min_size=1, max_size=4))
def test_parquet_columns_of_any_type(folder, table: str, values: list):
    rows = [{"url": "http://a.test/1", table: value} for value in values]
    path = folder() / "made.parquet"
    try:
        pq.write_table(pa.Table.from_pylist(rows), path)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError):
        return  # Arrow has no type for such a mixture
    lands_or_says_why(folder(), "l.parquet", path.read_bytes())


NAMES = [f"{section}.{key}" for section, field in Config.model_fields.items()
         if hasattr(field.annotation, "model_fields") for key in field.annotation.model_fields]  # fmt: skip


def is_config_or_one_line(read) -> None:
    try:
        assert isinstance(read(), Config)
    except ConfigError as error:
        assert str(error)


@settings(FEW, max_examples=150)
@given(name=st.sampled_from(NAMES), value=VALUES)
def test_any_value_of_any_key(name: str, value):
    section, key = name.split(".")
    is_config_or_one_line(lambda: parse_config({section: {key: value}}))


@FEW
@given(values=st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), VALUES))
def test_any_sections(values: dict):
    is_config_or_one_line(lambda: parse_config(values))


@FEW
@given(content=st.binary(max_size=120) | TEXT.map(lambda text: f"[dataset]\nsource = {json.dumps(text)}\n".encode()))
@example(content=b'[dataset]\nsource = "\\u0000"\n')
def test_any_file_as_a_configuration(folder, content: bytes):
    path = folder() / "c.toml"
    path.write_bytes(content)
    is_config_or_one_line(lambda: load_config(path))


@FEW
@given(assignment=TEXT | st.tuples(st.sampled_from(NAMES), TEXT).map("=".join))
def test_any_override(assignment: str):
    is_config_or_one_line(lambda: load_config("sample", [assignment]))
