"""Nightly captioning: what landed since is captioned by the model in production, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipcap.config import parse_config
from clipcap.dataset.land import land, read_landing
from clipcap.errors import DataError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.warehouse.queries import query
from flows.nightly import caption_nightly

pytestmark = pytest.mark.usefixtures("prefect_harness")


def land_folder(lake: Lake, folder: Path) -> str:
    """As ``clipcap land`` does; returns the batch's id."""
    dataset = {"name": "holiday", "source": str(folder), "default_split": "test"}
    landing = read_landing(parse_config({"dataset": dataset}))
    commit_generation(lake, [land(lake, landing)])
    return landing.batch_id


def test_only_the_batch_that_landed_is_captioned(small_run: Any, copied: Lake, holiday: Path) -> None:
    batch_id = land_folder(copied, holiday)
    before = read_current(copied)
    # Another shard size than the sample was cut with, and another port: what stands is not fetched again.
    overrides = [*small_run.overrides, "download.shard_size=1000", "serve.port=9"]

    outcome = caption_nightly("sample", overrides, str(copied.root))

    after = read_current(copied)
    assert after.number == before.number + 1
    assert {id: after.entries[id] for id in before.entries} == before.entries
    new = sorted(set(after.entries) - set(before.entries))
    assert [id.partition("/")[0] for id in new] == ["caption", "download", "embed", "evaluate"]
    assert outcome["new"] == 4
    rows = query(copied, f"select split, model_id from captions where batch_id = '{batch_id}'").to_pylist()
    assert rows == [{"split": "test", "model_id": small_run.outcome["model_id"]}] * 3
    scored = query(copied, f"select distinct images from metrics where run_id = '{outcome['run_id']}'").to_pylist()
    assert scored == [{"images": small_run.scenes // 10 + 3}]

    again = caption_nightly("sample", overrides, str(copied.root))

    assert (again["new"], read_current(copied)) == (0, after)
    assert again["report"] == outcome["report"] == str(copied.report(outcome["run_id"]))


def test_without_a_model_in_production_it_says_what_to_do(tmp_path: Path, holiday: Path) -> None:
    lake = Lake(tmp_path / "lake")
    land_folder(lake, holiday)
    with pytest.raises(DataError, match="no model in production: `clipcap run`"):
        caption_nightly("sample", data_dir=str(lake.root))
    assert read_current(lake).number == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"model_id": "sample-mlp-00000000"}, "no model 'sample-mlp-00000000'"),
        ({"batch_ids": ["gone-1"]}, "no batch gone-1"),
    ],
)
def test_what_is_not_there_is_named(small_run: Any, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        caption_nightly("sample", small_run.overrides, str(small_run.lake.root), **wanted)
