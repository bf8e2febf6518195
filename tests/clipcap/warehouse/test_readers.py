"""Readers in processes of their own while thirty generations are published: no error, and never half a run.

Each run captions both shards again, in files of its own, and so replaces what the run before wrote. A reader sees all
rows of exactly one run, and never an older run than before; a connection that stays open sees the run it began with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_lake import BATCH, CAPTIONED, CAPTIONS, LEDGER, NEW, SHARDS, key, url

from clipcap.errors import WarehouseError
from clipcap.storage.collect import collect
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import describe
from clipcap.storage.manifest import read_current
from clipcap.storage.records import Entry
from clipcap.warehouse import query
from clipcap.warehouse.publish import publish

GENERATIONS = 30
STATEMENT = f"""
    select
        (select generation from catalog_info) as generation,
        list(distinct run_id) as runs,
        list(distinct caption) as captions,
        count(*) as images,
        count(image_url) as urls
    from captions
    where model_id = '{NEW}'
"""
READER = """
import json, os, sys, time
kind, lake, stop, statement = sys.argv[1:]
if kind == "clipcap":
    from clipcap.storage.lake import Lake
    from clipcap.warehouse.queries import query
    ask = lambda: list(query(Lake(lake), statement).to_pylist()[0].values())
else:
    import duckdb
    def connect():
        connection = duckdb.connect(os.path.join(lake, "catalog.duckdb"), read_only=True)
        connection.execute(f"set file_search_path = '{lake}'")
        return connection
    held = connect() if kind == "held" else None
    def ask():
        if held:
            return list(held.execute(statement).fetchone())
        with connect() as connection:
            return list(connection.execute(statement).fetchone())
seen, errors, asked, is_last = [], [], 0, False
while not is_last:
    time.sleep(0.02)  # leave the others some of the machine
    is_last = os.path.exists(stop)
    try:
        row = ask()
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")
        continue
    asked += 1
    if not seen or row != seen[-1]:
        seen.append(row)
    if asked == 1:
        print("ready", flush=True)
print(json.dumps({"seen": seen, "errors": errors, "asked": asked}), flush=True)
"""


def entries_of_run(tiny, number: int) -> list[Entry]:
    """Both shards, captioned again."""
    run, now = f"20260102T0000{number:02d}Z-aaaaaa", datetime.now(UTC)
    entries = []
    for position, shard in enumerate(SHARDS):
        rows = CAPTIONED[position]
        captions, ledger = tiny.lake.captions(NEW, run, shard), tiny.lake.ledger("caption", BATCH, shard, NEW)
        same = {"batch_id": BATCH, "shard_id": shard, "created_at": now}
        written = [{**same, "sample_key": key(row), "model_id": NEW, "run_id": run, "caption": f"caption of {run}",
                    "log_probability": -1.0, "tokens": 3} for row in rows]  # fmt: skip
        outcomes = [{**same, "sample_key": key(row), "stage": "caption", "status": "ok", "reason": "",
                     "image_url": url(row)} for row in rows]  # fmt: skip
        commit_table(pa.Table.from_pylist(written, schema=CAPTIONS), captions)
        commit_table(pa.Table.from_pylist(outcomes, schema=LEDGER), ledger)
        entries.append(
            Entry(
                stage="caption", id=f"caption/{NEW}/{shard}", key=f"{number:064x}", rows={"ok": len(rows)},
                files=[describe(tiny.lake, "captions", captions), describe(tiny.lake, "ledger", ledger)],
                meta={"model_id": NEW, "run_id": run, "batch_id": BATCH, "shard_id": shard}, run_id=run, created_at=now,
            )
        )  # fmt: skip
    return entries


def publish_run(tiny, number: int, *more: Entry) -> str:
    entries = [*more, *entries_of_run(tiny, number)]
    return publish(tiny.lake, entries, entries[-1].run_id, "caption-nightly", datetime.now(UTC), {}).run_id


@pytest.fixture
def published(tiny):
    """The tiny lake, its first run published."""
    entries = [entry for entry in tiny.generation().entries.values() if f"caption/{NEW}" not in entry.id]
    publish_run(tiny, 0, *entries)
    return tiny


def test_readers_see_whole_runs_while_thirty_generations_are_published(published, tmp_path: Path):
    stop = tmp_path / "stop"
    arguments = [str(published.lake.root), str(stop), STATEMENT]
    readers = {
        kind: subprocess.Popen(
            [sys.executable, "-c", READER, kind, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        for kind in ("plain", "held", "clipcap")
    }
    try:
        assert {kind: reader.stdout.readline() for kind, reader in readers.items()} == dict.fromkeys(readers, "ready\n")
        for number in range(1, GENERATIONS):
            publish_run(published, number)
        stop.touch()
        told = {kind: json.loads(reader.communicate(timeout=60)[0]) for kind, reader in readers.items()}
    finally:
        for reader in readers.values():
            reader.kill()
            reader.wait()

    last = read_current(published.lake).number
    assert last == GENERATIONS
    for kind, found in told.items():
        assert found["errors"] == [], kind
        generations = [row[0] for row in found["seen"]]
        assert generations == sorted(set(generations)), f"{kind} went back"
        for generation, runs, captions, images, urls in found["seen"]:
            run = f"20260102T0000{generation - 1:02d}Z-aaaaaa"
            assert (runs, captions, images, urls) == ([run], [f"caption of {run}"], 4, 4), kind
    assert [row[0] for row in told["held"]["seen"]] == [1], "an open connection stays on its generation"
    assert told["plain"]["seen"][-1][0] == told["clipcap"]["seen"][-1][0] == last
    assert len(told["plain"]["seen"]) > 3 and len(told["clipcap"]["seen"]) > 3


def test_what_is_kept_can_be_read_and_what_is_collected_says_so(published):
    runs = [read_current(published.lake).runs[-1].run_id] + [publish_run(published, number) for number in range(1, 6)]
    collected = collect(published.lake, keep_generations=3, keep_days=7, now=datetime.now(UTC) + timedelta(days=8))
    assert collected.kept_generations == [4, 5, 6]
    files = [item.path for item in collected.removed if item.kind == "file"]
    assert len(files) == 4 * len(SHARDS), "of three runs, and what the lake was made with; ledgers are written in place"
    assert all(path.startswith(f"captions/{NEW}/") for path in files)
    for generation, run in enumerate(runs, start=1):
        if generation < 4:
            with pytest.raises(WarehouseError, match="is not kept any more"):
                query(published.lake, STATEMENT, as_of=run)
        else:
            [row] = query(published.lake, STATEMENT, as_of=run).to_pylist()
            assert (row["generation"], row["runs"], row["images"]) == (generation, [run], 4)
    with pytest.raises(WarehouseError, match="there is no run 'nobody'"):
        query(published.lake, STATEMENT, as_of="nobody")
