"""Embeddings that came without their images go through the same stages; near-duplicates run after embedding."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipcap.config import parse_config
from clipcap.embedding.adopt import adopt_embeddings
from clipcap.embedding.encoder import get_encoder
from clipcap.embedding.export import export_embeddings
from clipcap.errors import DataError, EmbeddingError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.training.train_model import Shard, train_model
from clipcap.warehouse.publish import publish
from clipcap.warehouse.queries import query
from flows.nightly import caption_nightly
from flows.plan import make_plan
from flows.stages import RunContext

pytestmark = pytest.mark.usefixtures("prefect_harness")


def bring_back(lake: Lake, folder: Path) -> str:
    """Exports the lake's embeddings and imports them as another batch; returns its id."""
    export_embeddings(lake, read_current(lake), folder)
    entries = adopt_embeddings(lake, folder, "theirs", get_encoder("builtin:sample", "cpu"), "imported")
    publish(lake, entries, "20260101T000000Z-00000a", "import-embeddings", datetime.now(UTC), {})
    return str(entries[0].meta["batch_id"])


def test_an_imported_batch_is_captioned_scored_and_reported(small_run: Any, copied: Lake, tmp_path: Path) -> None:
    batch_id = bring_back(copied, tmp_path / "out")
    outcome = caption_nightly("sample", small_run.overrides, str(copied.root), batch_ids=[batch_id])
    captions = query(copied, "select sample_key, batch_id, image_url, caption from captions").to_pylist()
    before = {row["sample_key"]: row["caption"] for row in captions}
    after = {row["image_url"]: row["caption"] for row in captions if row["batch_id"] == batch_id}
    exported = pq.read_table(tmp_path / "out" / "metadata").to_pylist()
    pairs = [(before[row["image_path"]], after[row["url"]]) for row in exported if row["image_path"] in before]
    rows = len(exported)
    assert len(pairs) == rows > 40
    same = sum(caption == again for caption, again in pairs)
    assert same >= 0.9 * rows, "a model that normalises gives a normalised vector the same caption"
    scored = query(copied, f"select distinct images from metrics where run_id = '{outcome['run_id']}'").to_pylist()
    images = query(copied, f"select count(*) as n from images where batch_id = '{batch_id}' and split = 'test'")
    assert scored == images.rename_columns(["images"]).to_pylist() and scored[0]["images"] > 0
    html = Path(outcome["report"]).read_text(encoding="utf-8")
    assert pairs[0][1].split()[0] in html and "data:image" not in html
    again = caption_nightly("sample", small_run.overrides, str(copied.root), batch_ids=[batch_id])
    assert again["new"] == 0


def test_a_model_that_does_not_normalise_refuses_them_before_it_learns_and_before_it_captions(
    small_run: Any, copied: Lake, tmp_path: Path
) -> None:
    outcome = small_run.again(copied, "train.normalize=false")
    batch_id = bring_back(copied, tmp_path / "out")
    with pytest.raises(EmbeddingError, match=f"{batch_id} are normalised, and {outcome['model_id']} was trained on"):
        caption_nightly("sample", small_run.overrides, str(copied.root), outcome["model_id"], [batch_id])
    entries = read_current(copied).entries.values()
    download, embed = (next(e for e in entries if e.stage == s and e.meta["batch_id"] == batch_id)
                       for s in ("download", "embed"))  # fmt: skip
    config = parse_config({"dataset": {"name": "x"}, "train": {"normalize": False}}).train
    with pytest.raises(DataError, match=r"train.normalize = true"):
        train_model(copied, "m", [Shard(download, embed)], config, "key")
    assert not copied.model("m").exists()


def test_near_duplicates_are_a_stage_of_the_run_if_asked_for(
    small_run: Any, copied: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.getMessage().startswith("duplicates")]
        caplog.clear()
        return [re.sub(" +", " ", line) for line in found]

    def planned(threshold: float) -> list[tuple[int, int]]:
        embedding = {**config_of_the_run["embed"], "near_duplicates": threshold}
        config = parse_config({**config_of_the_run, "embed": embedding})
        stages = make_plan(RunContext(config, copied, "run"))["stages"]
        return [(s["shards_cached"], s["shards_to_do"]) for s in stages if s["stage"] == "duplicates"]

    vectors = np.array(query(copied, "from embeddings")["clip_embedding"].to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = (vectors @ vectors.T - 2 * np.eye(len(vectors))).max(axis=1)
    loose = round(float(np.median(nearest)), 3)  # so that some of these scenes are near, and some are not
    config_of_the_run = read_current(copied).runs[-1].config
    assert not [e for e in small_run.entries().values() if e.stage == "duplicates"]
    assert planned(0) == [] and planned(loose) == [(0, 1)]
    caplog.set_level("INFO", logger="clipcap")
    small_run.again(copied, f"embed.near_duplicates={loose}")
    assert lines() == ["duplicates 1 new"] and planned(loose) == [(1, 0)] and planned(0.999) == [(0, 1)]
    [entry] = read_current(copied).of_stage("duplicates")
    assert entry.meta["images"] == len(query(copied, "from embeddings"))
    assert entry.meta["marked"] == len(query(copied, f"from near_duplicates where cosine >= {loose}"))
    small_run.again(copied, f"embed.near_duplicates={loose}")
    assert lines() == ["duplicates 1 cached"]
    small_run.again(copied, "embed.near_duplicates=0.999")
    assert lines() == ["duplicates 1 new"]
    assert entry.meta["marked"] > len(query(copied, "from near_duplicates")) == 0


def test_batches_of_one_night_are_compared_with_each_other_in_the_order_in_which_they_landed(
    small_run: Any, copied: Lake, tmp_path: Path, holiday: Path
) -> None:
    from clipcap.dataset.land import land, read_landing
    from clipcap.storage.manifest import commit_generation

    landed = []
    for name in ("zebra", "apple"):
        dataset = {"name": name, "source": str(holiday), "default_split": "test"}
        landing = read_landing(parse_config({"dataset": dataset}))
        commit_generation(copied, [land(copied, landing)])
        landed.append(landing.batch_id)
    caption_nightly("sample", [*small_run.overrides, "embed.near_duplicates=0.9"], str(copied.root))
    found = query(copied, """
        select image.batch_id, earlier.batch_id as of, is_exact, cosine, image.image_url = earlier.image_url as same
        from near_duplicates
        join images as image using (sample_key) join images as earlier on earlier.sample_key = duplicate_of
        where is_exact
    """).to_pylist()  # fmt: skip
    expected = {"batch_id": landed[1], "of": landed[0], "is_exact": True, "cosine": 1.0, "same": True}
    assert [row for row in found if row["batch_id"] in landed] == [expected] * 3
