"""Old models leave the newest generation; what is in use, new or unpublished stays, and nothing is lost on disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tiny_lake import NEW, OLD, START, TinyLake

from clipcap.storage.entries import record
from clipcap.storage.manifest import read_current
from clipcap.storage.records import Promotion
from clipcap.training.retire import retire_models
from clipcap.warehouse import ensure_catalog, query

LATER = START + timedelta(days=30)


@pytest.fixture
def committed(tiny: TinyLake) -> TinyLake:
    """Two models, the new one in production."""
    tiny.promotions = [Promotion(model_id=NEW, reason="better", created_at=START)]
    tiny.commit()
    return tiny


def retire(tiny: TinyLake, **options: Any) -> list[str]:
    return [one.model_id for one in retire_models(tiny.lake, **{"keep_models": 0, "now": LATER, **options})]


def test_weights_and_captions_go_from_sql_and_scores_stay(committed: TinyLake) -> None:
    lake = committed.lake
    before = read_current(lake).entries
    assert retire(committed) == [OLD]
    after = read_current(lake).entries
    gone = {id for id in before if id not in after}
    assert {id.partition("/")[0] for id in gone} == {"train", "caption"} and all(OLD in id for id in gone)
    ensure_catalog(lake)
    assert query(lake, "select model_id from models").to_pylist() == [{"model_id": NEW}]
    assert {row["model_id"] for row in query(lake, "from metrics").to_pylist()} == {OLD, NEW}
    assert all(lake.absolute(file.path).exists() for id in gone for file in before[id].files), "older readers need them"


def test_the_archive_outlives_the_folder(committed: TinyLake) -> None:
    import shutil

    log = (committed.lake.model(OLD) / "training.jsonl").read_text()
    retire(committed)
    shutil.rmtree(committed.lake.model(OLD))
    assert (committed.lake.root / "archive" / "models" / OLD / "training.jsonl").read_text() == log


@pytest.mark.parametrize("options", [{"keep_models": 1}, {"keep_days": 40.0}])
def test_new_ones_stay(committed: TinyLake, options: dict[str, Any]) -> None:
    assert retire(committed, **options) == []
    assert read_current(committed.lake).number == 2


def test_a_dry_run_only_says_it(committed: TinyLake) -> None:
    before = read_current(committed.lake)
    assert retire(committed, dry_run=True) == [OLD]
    assert read_current(committed.lake) == before and not (committed.lake.root / "archive").exists()


def test_the_one_that_a_rollback_goes_to_stays(tiny: TinyLake) -> None:
    tiny.promotions = [Promotion(model_id=id, reason="x", created_at=START) for id in (OLD, NEW)]
    tiny.commit()
    assert retire(tiny) == []


def test_one_with_an_unpublished_output_stays(committed: TinyLake) -> None:
    entry = read_current(committed.lake).of_stage("caption")[0]
    assert entry.meta["model_id"] == OLD
    record(committed.lake, entry.model_copy(update={"key": "1" * 64}))
    assert retire(committed) == []


def test_it_uses_the_present_by_default(committed: TinyLake) -> None:
    assert datetime.now(UTC) > LATER
    assert [one.model_id for one in retire_models(committed.lake, keep_models=0)] == [OLD]
