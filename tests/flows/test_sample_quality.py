"""The shipped sample keeps what the README says of it (minutes of training, so not in the default suite)."""

from __future__ import annotations

import pytest

from clipcap.config import load_config
from clipcap.dataset.scene_captions import named_objects, true_objects
from clipcap.dataset.scenes import scene
from clipcap.storage.lake import Lake
from clipcap.warehouse.queries import query

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_captions_name_what_is_there(tmp_path, prefect_harness) -> None:  # type: ignore[no-untyped-def]
    from flows.pipeline import pipeline

    outcome = pipeline(config="sample", data_dir=str(tmp_path / "lake"))
    statement = "select i.image_url, c.caption from captions c join images i using (sample_key) where i.split = 'test'"
    rows = query(Lake(tmp_path / "lake"), statement).to_pylist()
    config = load_config("sample").sample
    right = 0
    for row in rows:
        index = int(row["image_url"].rpartition("/")[2].removesuffix(".jpg"))
        right += bool(named_objects(row["caption"]) & true_objects(scene(index, config.seed, config.image_size)))
    assert len(rows) == config.scenes // 10 and right / len(rows) >= 0.9
    metrics = outcome["metrics"]
    assert metrics["cider"] > 3 * metrics["cider_shuffled"] and metrics["unique_share"] > 0.5
