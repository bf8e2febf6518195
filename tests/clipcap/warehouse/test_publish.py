"""Publishing: all of it or nothing, once, and never beside what it replaces."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from tiny_lake import BATCH, ENCODER, NEW, OLD, SHARDS, build, key

from clipcap.errors import CheckFailed, DataError
from clipcap.storage.entries import record
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex, read_current
from clipcap.storage.records import Entry
from clipcap.warehouse import CheckResult, connect
from clipcap.warehouse import publish as module
from clipcap.warehouse.publish import Published, publish

UNRELATED = "download/other-ffffffff/ffffffff-00000"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def run(lake: Lake, entries: list[Entry], name: str) -> Published:
    return publish(lake, entries, name, "pipeline", NOW, {"train": {"epochs": 3}})


def entries_of(tiny, *without: str) -> list[Entry]:
    entries = tiny.generation().entries.values()
    return [entry for entry in entries if not any(word in entry.id for word in without)]


def answer(lake: Lake, question: str) -> list[tuple]:
    with connect(lake) as connection:
        return connection.execute(question).fetchall()


def state(lake: Lake) -> dict[str, str]:
    """Everything that publishing may change, by its bytes."""
    files = [lake.current, lake.catalog, *lake.manifests.glob("*.json")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}


def test_a_run_becomes_a_generation_that_sql_shows(tiny):
    published = run(tiny.lake, entries_of(tiny), "run-1")
    assert (published.generation, published.run_id, published.is_new, published.warnings) == (1, "run-1", True, [])
    assert answer(tiny.lake, "select run_id from runs") == [("run-1",)]
    assert answer(tiny.lake, "select generation from catalog_info") == [(1,)]
    assert answer(tiny.lake, "select count(*) from captions") == [(8,)]
    [recorded] = read_current(tiny.lake).runs
    assert recorded.config == {"train": {"epochs": 3}} and recorded.started_at == NOW
    assert set(recorded.entries) == set(read_current(tiny.lake).entries)


def test_the_first_model_goes_into_production_and_the_second_does_not(tiny):
    run(tiny.lake, entries_of(tiny, NEW), "run-1")
    assert read_current(tiny.lake).production_model_id == OLD
    run(tiny.lake, entries_of(tiny), "run-2")
    assert read_current(tiny.lake).production_model_id == OLD
    [promotion] = read_current(tiny.lake).promotions
    assert promotion.reason and promotion.previous_model_id == ""


def test_a_lake_without_a_model_promotes_none(tiny):
    run(tiny.lake, entries_of(tiny, OLD, NEW), "run-1")
    assert read_current(tiny.lake).promotions == []


def test_the_same_again_makes_no_generation_and_names_the_run_that_did(tiny):
    run(tiny.lake, entries_of(tiny, NEW), "run-1")
    run(tiny.lake, entries_of(tiny), "run-2")
    before = state(tiny.lake)
    assert run(tiny.lake, entries_of(tiny), "run-3") == Published(2, "run-2", False, [])
    assert run(tiny.lake, entries_of(tiny, NEW), "run-4") == Published(2, "run-2", False, [])
    assert state(tiny.lake) == before


def test_publishing_nothing_new_still_mends_a_missing_catalog(tiny):
    run(tiny.lake, entries_of(tiny), "run-1")
    tiny.lake.catalog.unlink()
    assert not run(tiny.lake, entries_of(tiny), "run-2").is_new
    assert answer(tiny.lake, "select count(*) from captions") == [(8,)]


@pytest.mark.parametrize("has_earlier", [False, True])
def test_a_failing_check_changes_nothing(tiny, has_earlier: bool):
    if has_earlier:
        run(tiny.lake, entries_of(tiny, NEW), "run-1")
    before = state(tiny.lake)
    rows = tiny.rows(f"{NEW}/20260101T000000Z-aaaaaa/{SHARDS[0]}")
    rows.append(dict(rows[0]))  # one image, captioned twice by one model
    entries = entries_of(tiny)
    for entry in entries:
        record(tiny.lake, entry)
    with pytest.raises(CheckFailed) as raised:
        run(tiny.lake, entries, "run-2")
    assert raised.value.check == "keys_unique" and key(0) in str(raised.value)
    assert state(tiny.lake) == before
    assert read_current(tiny.lake).number == int(has_earlier)
    assert len(EntryIndex(tiny.lake).of_stage("caption")) == 4, "what was made stays known"
    assert [path for path in tiny.lake.scratch.iterdir() if path.name != "locks"] == []


def test_rows_that_are_not_conserved_are_named_and_stop_it(tiny):
    ledger = tiny.rows(f"ledger/embed/{BATCH}/{SHARDS[0]}_{ENCODER}")
    embeddings = tiny.rows(f"embeddings/{ENCODER}/{BATCH}/{SHARDS[0]}")
    for rows in (ledger, embeddings):
        rows[:] = [row for row in rows if row["sample_key"] != key(3)]
    tiny.entries[f"embed/{ENCODER}/{BATCH}/{SHARDS[0]}"]["rows"] = {"ok": 2}
    with pytest.raises(CheckFailed, match=key(3)):
        run(tiny.lake, entries_of(tiny), "run-1")
    assert state(tiny.lake) == {}


def test_warnings_are_told_and_do_not_stop_it(tiny, monkeypatch):
    silent, fired = CheckResult("a", "warning", "one row"), CheckResult("b", "warning", "one row", [{"x": 1}])
    monkeypatch.setattr(module, "check_catalog", lambda *_: [silent, fired])
    assert run(tiny.lake, entries_of(tiny), "run-1").warnings == [fired]
    assert read_current(tiny.lake).number == 1


def test_the_limits_of_checks_come_from_the_configuration_of_the_run(tiny):
    config = {"checks": {"most_words": 2}}
    with pytest.raises(CheckFailed, match="captions_not_empty"):
        publish(tiny.lake, entries_of(tiny), "run-1", "pipeline", NOW, config)
    config["checks"]["most_words"] = 3
    assert publish(tiny.lake, entries_of(tiny), "run-1", "pipeline", NOW, config).is_new


def test_an_open_reader_keeps_its_generation(tiny):
    run(tiny.lake, entries_of(tiny, NEW), "run-1")
    with connect(tiny.lake) as reader:
        run(tiny.lake, entries_of(tiny), "run-2")
        assert reader.execute("select count(distinct model_id) from captions").fetchone() == (1,)
    assert answer(tiny.lake, "select count(distinct model_id) from captions") == [(2,)]


def test_a_damaged_manifest_stops_it_with_a_line(tiny):
    run(tiny.lake, entries_of(tiny), "run-1")
    tiny.lake.manifest(1).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        run(tiny.lake, entries_of(tiny), "run-2")


class TestCutAnew:
    """The batch's two shards become one: other rows stand under the names of the old shards."""

    MERGED = ("shards/{}", "ledger/download/" + BATCH + "/{}", "embeddings/" + ENCODER + "/" + BATCH + "/{}",
              "ledger/embed/" + BATCH + "/{}", "captions/" + NEW + "/20260101T000000Z-aaaaaa/{}",
              "ledger/caption/" + BATCH + "/{}_" + NEW)  # fmt: skip

    @pytest.fixture
    def cut_anew(self, tiny, tmp_path: Path):
        """The old cut is published; files and entries of the new one stand."""
        tiny.entry(UNRELATED, {}, {}, batch_id="other-ffffffff", shard_id="ffffffff-00000")
        run(tiny.lake, entries_of(tiny), "old cut")
        new = build(tiny.lake.root)
        for pattern in self.MERGED:
            into, rows = (new.rows(pattern.format(shard)) for shard in SHARDS)
            into += [row | {"shard_id": SHARDS[0]} if "shard_id" in row else row for row in rows]
        for name in [name for name in new.entries if SHARDS[1] in name]:
            first = new.entries[name.replace(SHARDS[1], SHARDS[0])]
            for status, count in new.entries.pop(name)["rows"].items():
                first["rows"][status] = first["rows"].get(status, 0) + count
        for name, facts in new.entries.items():
            if SHARDS[0] in name:
                facts["key"] = "1" * 64
        # the new entries' shard tar is not read by publishing; the old model was not asked again
        return [entry for entry in new.generation().entries.values() if OLD not in entry.id]

    def test_what_was_made_of_the_old_shards_is_dropped(self, tiny, cut_anew):
        published = run(tiny.lake, cut_anew, "new cut")
        assert published.is_new
        entries = read_current(tiny.lake).entries
        assert not [id for id in entries if SHARDS[1] in id]
        assert f"caption/{OLD}/{SHARDS[0]}" not in entries, "made of rows that stand elsewhere now"
        assert f"train/{OLD}" in entries and f"evaluate/{OLD}" in entries, "the model itself stays"
        assert answer(tiny.lake, "select count(*), count(distinct sample_key) from source_shards") == [(5, 5)]
        assert answer(tiny.lake, "select distinct model_id, count(*) from captions group by all") == [(NEW, 4)]

    def test_it_is_dropped_once(self, tiny, cut_anew):
        run(tiny.lake, cut_anew, "new cut")
        before = state(tiny.lake)
        assert not run(tiny.lake, cut_anew, "again").is_new
        assert state(tiny.lake) == before

    def test_other_batches_stay(self, tiny, cut_anew):
        run(tiny.lake, cut_anew, "new cut")
        assert UNRELATED in read_current(tiny.lake).entries


def test_the_catalog_is_an_ordinary_database(tiny):
    """`cd LAKE && duckdb catalog.duckdb`: views name files relative to the lake."""
    run(tiny.lake, entries_of(tiny), "run-1")
    with duckdb.connect(str(tiny.lake.catalog), read_only=True) as connection:
        connection.execute(f"set file_search_path = '{tiny.lake.root}'")
        assert connection.execute("select count(*) from captions").fetchone() == (8,)
