"""One row for each input, sorted by key, as the contract names its columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from clipcap.storage.ledger import Outcome, write_ledger

COLUMNS = ["sample_key", "batch_id", "shard_id", "stage", "status", "reason", "image_url", "created_at"]


def test_rows_are_sorted_and_counted(tmp_path: Path):
    outcomes = [
        Outcome("k2", "failed", "why", "http://a/2"),
        Outcome("k0", "ok", "", "http://a/0"),
        Outcome("k1", "ok"),
    ]
    assert write_ledger(tmp_path / "l.parquet", "embed", "b", "s", outcomes) == {"ok": 2, "failed": 1}
    table = pq.read_table(tmp_path / "l.parquet")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [(r["sample_key"], r["status"], r["reason"], r["image_url"]) for r in rows] == [
        ("k0", "ok", "", "http://a/0"), ("k1", "ok", "", ""), ("k2", "failed", "why", "http://a/2"),
    ]  # fmt: skip
    assert {(r["batch_id"], r["shard_id"], r["stage"]) for r in rows} == {("b", "s", "embed")}
    assert rows[0]["created_at"].tzinfo is not None


def test_an_empty_ledger_keeps_its_columns(tmp_path: Path):
    assert write_ledger(tmp_path / "l.parquet", "embed", "b", "s", []) == {}
    assert pq.read_table(tmp_path / "l.parquet").column_names == COLUMNS
