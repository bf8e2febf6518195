"""Landing: every row gets a key and an outcome, and the same rows are the same batch."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.config import Config, DatasetConfig, parse_config
from clipcap.dataset.land import land, plan_shards, read_landing
from clipcap.errors import SourceError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def url_list(folder: Path, rows: list[dict]) -> Config:
    file = folder / "list.parquet"
    columns = {"url": pa.string(), "captions": pa.list_(pa.string()), "split": pa.string()}
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns.items())), file)
    return Config(dataset=DatasetConfig(name="mine", source=str(file)))


def urls_of(lake: Lake, batch_id: str) -> list[dict]:
    return pq.read_table(lake.urls(batch_id)).to_pylist()


def ledger_of(lake: Lake, batch_id: str) -> list[dict]:
    return pq.read_table(lake.ledger("land", batch_id, batch_id)).to_pylist()


def test_what_lands_and_what_is_refused(lake: Lake, tmp_path: Path):
    config = url_list(tmp_path, [
        {"url": "http://a/0", "captions": ["one"], "split": "train"},
        {"url": "ftp://a/1"},
        {"url": "http://a/2", "split": "val"},
        {"url": "http://a/0", "captions": ["one", "two"], "split": "train"},
        {"url": "http://a/0", "captions": ["two"]},
        {"url": None},
    ])  # fmt: skip
    entry = land(lake, read_landing(config), "run-1")
    batch = entry.meta["batch_id"]
    assert re.fullmatch(r"mine-[0-9a-f]{8}", batch)
    short = batch[-8:]
    assert urls_of(lake, batch) == [
        {"sample_key": f"{short}-0000000", "url": "http://a/0", "captions": ["one", "two"], "split": "train",
         "source_row": 0},
        {"sample_key": f"{short}-0000002", "url": "http://a/2", "captions": [], "split": "val", "source_row": 2},
    ]  # fmt: skip
    outcomes = [(row["sample_key"][-1], row["status"], row["reason"]) for row in ledger_of(lake, batch)]
    first = f"same URL as {short}-0000000"
    assert outcomes == [
        ("0", "ok", ""),
        ("1", "failed", "URL scheme 'ftp', expected http or https"),
        ("2", "ok", ""),
        ("3", "duplicate", f"{first}; its captions were added there"),
        ("4", "duplicate", first),
        ("5", "failed", "no URL"),
    ]
    assert entry.rows == {"ok": 2, "failed": 2, "duplicate": 2}
    assert entry.meta["rows_total"] == 6
    assert EntryIndex(lake).find(f"land/{batch}", entry.key) == entry


def test_the_list_as_read_is_not_changed_by_merging_captions(tmp_path: Path):
    rows = [{"url": "http://a/0", "captions": ["one"]}, {"url": "http://a/0", "captions": ["two"]}]
    config = url_list(tmp_path, rows)
    assert read_landing(config).content == read_landing(config).content


@pytest.mark.parametrize(
    ("rows", "reason"),
    [([], "0 read: it is empty"), ([{"url": "x"}, {"url": None}], "2 read: URL scheme .*; no URL|2 read: no URL; URL")],
)
def test_no_usable_row_lands_nothing(lake: Lake, tmp_path: Path, rows: list[dict], reason: str):
    with pytest.raises(SourceError, match=f"has no usable row .*({reason}).*nothing was landed"):
        land(lake, read_landing(url_list(tmp_path, rows)))
    assert not lake.root.exists()


def test_the_same_rows_are_the_same_batch_and_others_are_another(lake: Lake, tmp_path: Path):
    rows = [{"url": f"http://a/{n}", "captions": [f"caption {n}"], "split": "train"} for n in range(5)]
    batch = read_landing(url_list(tmp_path, rows)).batch_id
    assert read_landing(url_list(tmp_path, rows)).batch_id == batch
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read_landing(url_list(elsewhere, rows)).batch_id == batch, "where the list lies decides nothing"
    others = [rows[:4], rows[::-1], [*rows[:4], rows[4] | {"url": "http://a/x"}], [*rows[:4], rows[4] | {"split": ""}],
              [*rows[:4], rows[4] | {"captions": ["other"]}]]  # fmt: skip
    batches = {read_landing(url_list(tmp_path, other)).batch_id for other in others}
    assert len(batches) == len(others) and batch not in batches


def test_changed_bytes_under_the_same_path_are_another_batch(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"one")
    config = Config(dataset=DatasetConfig(source=str(folder)))
    before = read_landing(config).batch_id
    assert read_landing(config).batch_id == before
    (folder / "a.jpg").write_bytes(b"two")
    assert read_landing(config).batch_id != before


def test_landing_again_rewrites_the_same_rows(lake: Lake, tmp_path: Path):
    landing = read_landing(url_list(tmp_path, [{"url": "http://a/0"}, {"url": "x"}]))
    first = land(lake, landing)
    urls = lake.urls(landing.batch_id).read_bytes()
    second = land(lake, landing)
    assert (second.id, second.key, second.rows) == (first.id, first.key, first.rows)
    assert lake.urls(landing.batch_id).read_bytes() == urls


def test_a_limit_lands_only_the_first_rows(tmp_path: Path):
    config = url_list(tmp_path, [{"url": f"http://a/{n}"} for n in range(5)])
    landing = read_landing(config, limit=3)
    assert [row["url"] for row in landing.rows] == ["http://a/0", "http://a/1", "http://a/2"]
    assert landing.batch_id != read_landing(config).batch_id


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_conserved(lake: Lake, tmp_path: Path, seed: int):
    """Whatever is in the list: each of its rows has one key and one outcome, and nothing is invented."""
    rng = random.Random(seed)
    urls = [None, "", " ", "ftp://a/b", "http://", "http://a/ü", "http://[", "file:///x"]
    urls += [f"http://a/{n}" for n in range(40)]
    rows = [
        {
            "url": rng.choice(urls),
            "captions": rng.choices(["a", "b", "c", "", None], k=rng.randrange(4)),
            "split": rng.choice(["train", "train", "val", "test", "", None, "dev"]),
        }
        for _ in range(rng.randrange(1, 200))
    ]
    try:
        entry = land(lake, read_landing(url_list(tmp_path, rows)))
    except SourceError:
        assert not any(str(row["url"]).startswith("http://a/") and row["split"] != "dev" for row in rows)
        return
    landed, ledger = urls_of(lake, entry.meta["batch_id"]), ledger_of(lake, entry.meta["batch_id"])
    assert [int(row["sample_key"][-7:]) for row in ledger] == list(range(len(rows)))
    assert entry.rows == Counter(row["status"] for row in ledger)
    assert [row["sample_key"] for row in landed] == [row["sample_key"] for row in ledger if row["status"] == "ok"]
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in ledger)
    # what landed, computed once more: usable rows by URL, captions joined in order without repeats
    wanted: dict[str, list[str]] = {}
    for row in rows:
        if str(row["url"]).startswith("http://a/") and row["split"] != "dev":
            captions = [caption for caption in row["captions"] if caption]
            known = wanted.get(row["url"])
            wanted[row["url"]] = captions if known is None else known + [c for c in captions if c not in known]
    if all(len(row["captions"]) == len(set(row["captions"])) for row in rows):
        assert {row["url"]: row["captions"] for row in landed} == wanted
    assert {row["url"] for row in landed} == set(wanted)
    for row in landed:
        assert rows[row["source_row"]]["url"] == row["url"] and int(row["sample_key"][-7:]) == row["source_row"]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 1000), (1000, 1000), (1001, 1000), (2500, 1000), (7, 3)])
def test_shards_cover_a_batch_once(rows: int, size: int):
    jobs = plan_shards("a-b-0a1b2c3d", rows, size)
    assert [n for job in jobs for n in range(job.start, job.stop)] == list(range(rows))
    assert all(job.stop - job.start <= size for job in jobs)
    assert [job.shard_id for job in jobs] == [f"0a1b2c3d-{n:05d}" for n in range(len(jobs))]


def test_a_shard_reads_its_own_rows(lake: Lake, tmp_path: Path):
    entry = land(lake, read_landing(url_list(tmp_path, [{"url": f"http://a/{n}"} for n in range(5)])))
    jobs = plan_shards(entry.meta["batch_id"], 5, 2)
    assert [job.read(lake)["url"].to_pylist() for job in jobs] == [
        ["http://a/0", "http://a/1"], ["http://a/2", "http://a/3"], ["http://a/4"],
    ]  # fmt: skip


def test_the_same_rows_under_two_names_are_two_batches_with_keys_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "urls.csv"
    source.write_text("url\nhttp://host/a.jpg\n")
    one, other = (
        read_landing(parse_config({"dataset": {"source": str(source), "name": name}})) for name in ("one", "other")
    )
    assert one.rows[0]["sample_key"] != other.rows[0]["sample_key"]


def test_licence_and_source_are_kept_under_one_name_each(lake: Lake, tmp_path: Path):
    (tmp_path / "list.csv").write_text(
        "url,license,author\nhttp://a/0,CC BY 4.0,Ann\nhttp://a/1,,\n", encoding="utf-8"
    )  # fmt: skip
    batch = land(lake, read_landing(Config(dataset=DatasetConfig(name="mine", source=str(tmp_path / "list.csv")))))
    kept = [(row["licence"], row["source"]) for row in urls_of(lake, batch.meta["batch_id"])]
    assert kept == [("CC BY 4.0", "Ann"), (None, None)]


def test_a_list_that_says_no_licence_lands_as_it_always_did(lake: Lake, tmp_path: Path):
    (tmp_path / "with.csv").write_text("url,licence\nhttp://a/0,\n", encoding="utf-8")
    (tmp_path / "without.csv").write_text("url\nhttp://a/0\n", encoding="utf-8")
    landings = [
        read_landing(Config(dataset=DatasetConfig(name="mine", source=str(tmp_path / name))))
        for name in ("with.csv", "without.csv")
    ]
    assert landings[0].batch_id == landings[1].batch_id
    land(lake, landings[0])
    assert "licence" not in urls_of(lake, landings[0].batch_id)[0]
