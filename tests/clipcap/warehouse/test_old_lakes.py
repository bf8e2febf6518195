"""Lakes, files and catalogs of older versions are opened by this one: what they lack is null, nothing is rewritten."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_lake import BATCH, CAPTIONS, CORPUS, NEW, OLD, RUN, SHARDS, START

from clipcap.errors import StorageError
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.migrations import FORM, MIGRATIONS
from clipcap.storage.records import Promotion
from clipcap.warehouse import catalog as module
from clipcap.warehouse import ensure_catalog, query
from clipcap.warehouse.queries import list_macros, list_views

FIRST_CATALOG = """
    create table catalog_info (
        catalog_version varchar, generation bigint, created_at timestamptz, production_model_id varchar
    );
    insert into catalog_info values ('1-0123456789ab', 1, '2026-01-01 00:00:00+00', '');
    create view captions as select 'an old caption' as caption;
"""


@pytest.fixture
def first_form(tiny):
    """The tiny lake as the first version left it: its manifest, its catalog, files without what came later."""
    tiny.promotions = [Promotion(model_id=name, reason="old", created_at=START) for name in (OLD, NEW)]
    tiny.generation()
    narrow = pa.schema([field for field in CAPTIONS if field.name not in ("clip_score", "tokens")])
    path = f"captions/{NEW}/{RUN}/{SHARDS[0]}.parquet"
    rows = [{k: v for k, v in row.items() if k in narrow.names} for row in tiny.tables[path][1]]
    tiny.tables[path] = (narrow, rows)
    assert "low" not in CORPUS.names, "the tiny lake's scores are of the first form"
    generation = json.loads(tiny.generation().model_dump_json())
    kept = ("number", "created_at", "entries", "runs", "promotions")
    old = {name: generation[name] for name in kept}
    for promotion in old["promotions"]:
        promotion["previous_model_id"] = ""
        promotion.pop("is_rollback", None)
    tiny.lake.manifests.mkdir()
    tiny.lake.manifest(1).write_text(json.dumps(old))
    tiny.lake.current.write_text("1")
    with duckdb.connect(str(tiny.lake.catalog)) as connection:
        connection.execute(FIRST_CATALOG)
    return tiny


def ask(tiny, statement: str) -> list[dict]:
    return query(tiny.lake, statement).to_pylist()


def test_an_older_catalog_is_built_anew_and_answers(first_form):
    assert ask(first_form, "select count(*) as n from captions") == [{"n": 8}]
    assert ask(first_form, "select schema_number from catalog_info") == [{"schema_number": FORM}]
    assert {"captions", "migrations"} <= {view.name for view in list_views(first_form.lake)}
    assert "similar_to" in {macro.name for macro in list_macros(first_form.lake)}


def test_columns_that_files_lack_are_null(first_form):
    mixed = ask(first_form, f"select sample_key, tokens, clip_score, caption from captions where model_id = '{NEW}'")
    assert sorted(row["tokens"] is None for row in mixed) == [False, True, True, True], "one file has it"
    assert all(row["clip_score"] is None and row["caption"] for row in mixed)
    assert ask(first_form, "select distinct low, high from metrics") == [{"low": None, "high": None}]


def test_columns_are_found_by_name_and_widened(first_form):
    path = first_form.lake.metrics(NEW, RUN, "corpus")
    table = pq.read_table(path)
    shuffled = table.select(table.column_names[::-1]).set_column(1, "images", table["images"].cast(pa.int32()))
    pq.write_table(shuffled.append_column("of_the_future", pa.array(["x"] * table.num_rows)), path)
    found = ask(first_form, f"select metric, images, value from metrics where model_id = '{NEW}' and metric = 'cider'")
    assert found == [{"metric": "cider", "images": 2, "value": 0.75}]


def test_the_steps_that_a_lake_took_can_be_selected(first_form):
    steps = ask(first_form, "from migrations order by number")
    assert [(row["number"], row["name"]) for row in steps] == [(step.number, step.name) for step in MIGRATIONS]
    assert [row["applied_at"] is None for row in steps] == [True] + [False] * (FORM - 1)
    commit_generation(first_form.lake, run=first_form.run([]))
    again = ask(first_form, "from migrations order by number")

    assert [row["applied_at"] is None for row in again] == [True] + [False] * (FORM - 1), "also of what came since"
    assert ask(first_form, "select previous_model_id from source_promotions order by position") == [
        {"previous_model_id": ""}, {"previous_model_id": OLD},
    ]  # fmt: skip


def test_a_lake_that_was_made_now_took_none(tiny):
    tiny.commit()
    assert {row["applied_at"] for row in ask(tiny, "from migrations")} == {None}


def test_an_older_catalog_will_do_where_nothing_can_be_written(first_form, monkeypatch, caplog):
    """An analyst who may only read, and whose clipcap is newer than the one that runs at night."""

    def refused(*_: object) -> None:
        raise StorageError("the disk is mounted read-only")

    monkeypatch.setattr(module, "build_catalog", refused)
    with caplog.at_level(logging.WARNING, "clipcap"):
        assert ask(first_form, "from captions") == [{"caption": "an old caption"}]
    assert "shows generation 1" in caplog.text and "read-only" in caplog.text
    with pytest.raises(StorageError, match="read-only"):
        ensure_catalog(first_form.lake)
    first_form.lake.catalog.unlink()
    with pytest.raises(StorageError, match="read-only"):
        ask(first_form, "from captions")


def test_an_open_reader_of_the_older_catalog_is_left_alone(first_form):
    with duckdb.connect(str(first_form.lake.catalog), read_only=True) as reader:
        assert ask(first_form, "select count(*) as n from captions") == [{"n": 8}]
        assert reader.execute("from captions").fetchall() == [("an old caption",)]


def test_builders_that_wait_for_each_other_build_once(tiny, monkeypatch):
    """Whoever comes second finds what the first has made, and does not put it back to an older generation."""
    tiny.commit()
    built, build = [], module.build_catalog

    def slow(lake, generation, target=None):
        built.append(generation.number)
        if len(built) == 1:  # while it builds, another generation is published
            commit_generation(lake, run=tiny.run([]))
        return build(lake, generation, target)

    monkeypatch.setattr(module, "build_catalog", slow)
    ensure_catalog(tiny.lake)
    assert built == [1, 2] and ask(tiny, "select generation from catalog_info") == [{"generation": 2}]
    assert read_current(tiny.lake).number == 2


def test_the_lake_of_another_place_has_the_same_files(first_form, tmp_path: Path):
    """Nothing of an older lake was rewritten by reading it."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in first_form.lake.root.rglob("*.parquet")}
    ask(first_form, "select count(*) from lineage")
    assert {path: (os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in before} == before
    assert any(BATCH in str(path) for path in before)
