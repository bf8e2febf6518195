"""Maintenance as a run: what goes, what never goes, and that whoever reads meanwhile goes on reading."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from clipcap.storage.entries import read_pending, record
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current, read_generation
from clipcap.warehouse.queries import query
from flows.maintenance import cleanup

pytestmark = pytest.mark.usefixtures("prefect_harness")

CAPTIONS = "from captions order by all"
TIGHT = ["maintenance.keep_generations=2", "maintenance.keep_days=1", "maintenance.keep_models=1"]


def age(lake: Lake, days: float) -> None:
    """As if everything had been written so many days ago, the times in manifests included."""
    then = time.time() - days * 86_400
    for file in lake.manifests.glob("*.json"):
        generation = read_generation(lake, int(file.stem))
        older = generation.model_copy(update={"created_at": datetime.fromtimestamp(then, UTC)})
        file.write_bytes(older.model_dump_json().encode())
    for path in lake.root.rglob("*"):
        os.utime(path, (then, then))


@pytest.fixture
def used(small_run: Any, copied: Lake) -> Lake:
    """A lake of three generations with another decoding in each, an unpublished output, and what a kill left."""
    for tokens in (5, 6):
        small_run.again(copied, f"caption.max_new_tokens={tokens}")
    pending = read_current(copied).of_stage("embed")[0]
    record(copied, pending.model_copy(update={"key": "f" * 64}))
    (copied.scratch / "download-1-abcdef01").mkdir(parents=True)
    (copied.scratch / "download-1-abcdef01" / "half.tar").write_bytes(b"half")
    age(copied, 30)
    return copied


def test_what_nobody_needs_goes_and_nothing_else(small_run: Any, used: Lake) -> None:
    current, captions = read_current(used), query(used, CAPTIONS).to_pylist()
    with duckdb.connect(str(used.catalog), read_only=True) as reader:
        reader.execute(f"set file_search_path = '{used.root}'")
        planned = cleanup("sample", [*small_run.overrides, *TIGHT], str(used.root), dry_run=True)
        assert planned["counts"].keys() == {"generation", "file", "temporary", "result"}
        assert all((used.root / row["path"]).exists() for row in planned["removed"]), "a plan removes nothing"

        done = cleanup("sample", [*small_run.overrides, *TIGHT], str(used.root))

        assert reader.execute("select count(*) from captions").fetchone() == (len(captions),)
    assert done["removed"] == planned["removed"] and done["kept_generations"] == [2, 3]
    assert not any((used.root / row["path"]).exists() for row in done["removed"])
    for number in done["kept_generations"]:
        for entry in read_generation(used, number).entries.values():
            assert all(used.size_of(file.path) == file.size_bytes for file in entry.files), entry.id
    for entry in read_pending(used):
        assert all(used.size_of(file.path) == file.size_bytes for file in entry.files), entry.id
    assert read_current(used) == current and query(used, CAPTIONS).to_pylist() == captions
    assert cleanup("sample", [*small_run.overrides, *TIGHT], str(used.root))["removed"] == []


def test_what_is_young_stays(small_run: Any, copied: Lake) -> None:
    small_run.again(copied, "caption.max_new_tokens=5")
    (copied.scratch / "download-1-abcdef01").mkdir(parents=True)
    before = {path for path in copied.root.rglob("*")}
    outcome = cleanup("sample", [*small_run.overrides, *TIGHT], str(copied.root))
    assert outcome["removed"] == [] and {Path(path) for path in copied.root.rglob("*")} == before
