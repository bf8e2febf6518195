"""query(): one reading statement, nothing else."""

from __future__ import annotations

import pytest

from clipcap.errors import WarehouseError
from clipcap.warehouse import query


@pytest.mark.parametrize(
    "sql, says",
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select * from nothing_here", "nothing_here does not exist"),
        ("select capton from captions", "capton"),
        ("", "expected one SQL statement, got 0"),
        ("select 1; select 2", "expected one SQL statement, got 2"),
        ("create table t as select 1", "read-only: expected a SELECT, got a statement of type CREATE"),
        ("explain analyze copy (select 1) to 'written.csv'", "read-only"),
        ("set enable_external_access = true", "read-only"),
        ("select * from read_text('/etc/hostname')", "Cannot access file"),
    ],
)
def test_a_wrong_statement_is_one_line(tiny, sql, says):
    tiny.commit()
    with pytest.raises(WarehouseError, match=says) as caught:
        query(tiny.lake, sql)
    assert "\n" not in str(caught.value)


def test_copy_writes_nothing_into_the_lake(tiny):
    tiny.commit()
    query(tiny.lake, "select 1")
    before = sorted(tiny.lake.root.rglob("*"))
    with pytest.raises(WarehouseError, match="read-only"):
        query(tiny.lake, f"copy (select 1) to '{tiny.lake.root}/written.csv'")
    assert sorted(tiny.lake.root.rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "from models",
        "with m as (from metrics) select * from m;",
        "describe captions",
        "show tables",
        "summarize metrics",
        "pivot metrics on metric using max(value) group by model_id",
        "-- a comment\nselect 1",
    ],
)
def test_statements_that_read(tiny, sql):
    tiny.commit()
    assert query(tiny.lake, sql).num_rows > 0


def test_times_are_utc(tiny):
    tiny.commit()
    assert str(query(tiny.lake, "select created_at from captions").schema.field("created_at").type.tz) == "UTC"
