"""Of two runs that want one output, the second takes what the first has made."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clipcap.storage.entries import describe, record
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation
from clipcap.storage.records import Entry
from tasks.policies import once


@pytest.fixture
def made() -> list[str]:
    return []


@pytest.fixture
def task(made: list[str]) -> Any:
    @once
    def make(key: str, data_dir: str, run_id: str) -> dict[str, Any]:
        lake = Lake(data_dir)
        file = lake.root / "captions.parquet"
        file.write_text(run_id)
        made.append(run_id)
        facts = {"files": [describe(lake, "captions", file)], "run_id": run_id, "created_at": datetime.now(UTC)}
        entry = Entry(stage="caption", id="caption/a", key=key, **facts)
        return record(lake, entry).model_dump(mode="json")

    return lambda run_id, **more: make(
        **({"key": "k", "data_dir": str(more.pop("lake")), "run_id": run_id, "entry_id": "caption/a"} | more)
    )


def test_what_another_run_recorded_is_taken(task: Any, made: list[str], tmp_path: Path):
    first, second = task("one", lake=tmp_path), task("two", lake=tmp_path)
    assert second == first and made == ["one"]


def test_what_another_run_published_is_taken(task: Any, made: list[str], tmp_path: Path):
    first = task("one", lake=tmp_path)
    commit_generation(Lake(tmp_path), [Entry.model_validate(first)])
    assert task("two", lake=tmp_path) == first and made == ["one"]


def test_another_key_and_a_file_that_is_gone_are_made(task: Any, made: list[str], tmp_path: Path):
    task("one", lake=tmp_path)
    task("two", lake=tmp_path, key="another")
    (tmp_path / "captions.parquet").unlink()
    task("three", lake=tmp_path)
    assert made == ["one", "two", "three"]


def test_without_an_id_nothing_is_looked_for(task: Any, made: list[str], tmp_path: Path):
    task("one", lake=tmp_path)
    task("two", lake=tmp_path, entry_id="")
    assert made == ["one", "two"]


def test_an_orchestrator_sees_one_more_parameter():
    def make(key: str, data_dir: str) -> dict[str, Any]:
        return {}

    assert list(inspect.signature(once(make)).parameters) == ["key", "data_dir", "entry_id"]
