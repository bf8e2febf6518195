"""The whole chain on a small sample: one run, looked at from every side, and what later runs make of it.

Covered: every input of every stage is accounted for; planted trouble ends in the ledger with its reason; a caption's
lineage down to its URL; metrics and control; report and catalog; a taken port; a second run; a file that is gone; a
changed setting; a stage that fails half-way; plans.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import prefect
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.config import load_config
from clipcap.errors import DataError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.warehouse.queries import list_views, query
from flows.plan import make_plan
from flows.stages import RunContext

PLANTED = 8
STAGES = ["land", "download", "embed", "train", "caption", "evaluate"]


def column(table: pa.Table, name: str = "sample_key") -> list[Any]:
    return sorted(table[name].to_pylist())


def tables(lake: Lake, pattern: str) -> pa.Table:
    """All rows of the files that match, without asking the manifest or the catalog."""
    files = sorted(lake.root.glob(pattern))
    assert files, pattern
    return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")


def files(lake: Lake) -> dict[str, tuple[int, int]]:
    """Every file of the lake with its time and size, but for unfinished work and Prefect's own results."""
    return {
        path.relative_to(lake.root).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in lake.root.rglob("*")
        if path.is_file() and not {".scratch", ".prefect"} & set(path.relative_to(lake.root).parts)
    }


# One run


def test_every_input_of_every_stage_is_accounted_for(small_run: Any) -> None:
    lake = small_run.lake
    urls = tables(lake, "batches/*/urls.parquet")
    images = tables(lake, "batches/*/shards/*.parquet")
    embeddings = tables(lake, "embeddings/*/*/*.parquet")
    captions = tables(lake, "captions/*/*/*.parquet")

    landed = tables(lake, "ledger/land/*/*.parquet")
    assert landed.num_rows == len(set(column(landed))) == small_run.scenes + PLANTED
    assert column(tables(lake, "ledger/download/*/*.parquet")) == column(urls)
    assert column(tables(lake, "ledger/embed/*/*.parquet")) == column(images)
    assert column(tables(lake, "ledger/caption/*/*.parquet")) == column(embeddings) == column(captions)
    for stage, following in [("land", urls), ("download", images), ("embed", embeddings)]:
        ledger = tables(lake, f"ledger/{stage}/*/*.parquet").to_pylist()
        assert sorted(row["sample_key"] for row in ledger if row["status"] == "ok") == column(following)
        assert all(bool(row["reason"]) == (row["status"] != "ok") for row in ledger)


@pytest.mark.parametrize(
    ("name", "stage", "status", "reason"),
    [
        ("/trouble/missing.jpg", "download", "failed", "404"),
        ("/trouble/text.jpg", "download", "failed", "not an image"),
        ("/trouble/tiny.jpg", "download", "filtered", "16 x 16"),
        ("/trouble/opted_out.jpg", "download", "opted_out", "X-Robots-Tag"),
        ("/trouble/truncated.jpg", "embed", "failed", "truncated"),
        ("/trouble/slow.jpg", "caption", "ok", ""),
        ("/trouble/unavailable.jpg", "caption", "ok", ""),
        ("/scenes/000000.jpg", "land", "duplicate", "same URL"),
        ("/scenes/000000.jpg", "caption", "ok", ""),
    ],
)
def test_planted_trouble_has_its_reason(small_run: Any, name: str, stage: str, status: str, reason: str) -> None:
    url = f"http://127.0.0.1:{small_run.port}{name}"
    rows = query(small_run.lake, f"select stage, status, reason from ledger where image_url = '{url}'").to_pylist()
    found = [row for row in rows if (row["stage"], row["status"]) == (stage, status)]
    assert len(found) == 1, rows
    assert reason in found[0]["reason"]
    assert (found[0]["reason"] == "") == (status == "ok")


def test_one_select_leads_from_a_caption_to_its_url(small_run: Any) -> None:
    lake = small_run.lake
    rows = query(lake, "from lineage").to_pylist()
    assert len(rows) == query(lake, "from captions").num_rows > small_run.scenes * 0.9
    row = next(row for row in rows if row["image_url"].endswith("/scenes/000009.jpg"))
    assert row["caption"] and row["model_id"] == small_run.outcome["model_id"]
    assert row["run_id"] == row["training_run_id"] == row["embedding_run_id"] == small_run.outcome["run_id"]
    embedded = pq.read_table(lake.absolute(row["embedding_file"])).to_pylist()
    assert row["sha256"] in {e["sha256"] for e in embedded if e["sample_key"] == row["sample_key"]}
    with tarfile.open(lake.absolute(row["image_shard"])) as shard:
        image = shard.extractfile(row["image_member"]).read()
    assert hashlib.sha256(image).hexdigest() == row["sha256"]
    urls = {url["sample_key"]: url["url"] for url in tables(lake, "batches/*/urls.parquet").to_pylist()}
    assert urls[row["sample_key"]] == row["image_url"]


def test_metrics_stand_beside_those_of_the_control(small_run: Any) -> None:
    rows = query(small_run.lake, "from metrics").to_pylist()
    metrics = {row["metric"]: row["value"] for row in rows}
    assert metrics == pytest.approx(small_run.outcome["metrics"])
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider"):
        assert {name, f"{name}_shuffled"} <= set(metrics)
    assert {(row["split"], row["images"]) for row in rows} == {("test", small_run.scenes // 10)}
    per_image = query(small_run.lake, "select count(distinct sample_key) as images from metrics_per_image").to_pylist()
    assert per_image == [{"images": small_run.scenes // 10}]


def test_the_report_and_the_documented_views_are_there(small_run: Any) -> None:
    report = Path(small_run.outcome["report"])
    assert report == small_run.lake.report(small_run.outcome["run_id"])
    assert report.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    views = {view.name: view for view in list_views(small_run.lake)}
    fixed = "captions latest_captions images batches models runs metrics metrics_by_model ledger lineage"
    assert set(fixed.split()) <= set(views)
    for view in views.values():
        assert view.comment and all(about["comment"] for about in view.columns), view.name


def test_the_first_model_goes_into_production(small_run: Any) -> None:
    assert read_current(small_run.lake).production_model_id == small_run.outcome["model_id"]


def test_prefects_small_results_lie_below_the_lake(small_run: Any) -> None:
    names = sorted(file.name.partition("-")[0] for file in small_run.lake.prefect_results.iterdir())
    assert names == ["caption", "caption", "download", "download", "embed", "embed", "evaluate", "land", "train"]


def test_a_taken_port_is_in_the_urls_and_in_no_key(small_run: Any) -> None:
    """The stranger on the configured port answered 410 to everything, so whatever was fetched came from elsewhere."""
    urls = tables(small_run.lake, "batches/*/urls.parquet")["url"].to_pylist()
    assert all(url.startswith(f"http://127.0.0.1:{small_run.port}/") for url in urls)
    context = RunContext.of(load_config("sample", small_run.overrides), "pipeline", str(small_run.lake.root))
    assert [stage["shards_cached"] for stage in make_plan(context)["stages"]] == [1, 2, 2, 1, 2, 1]


# Later runs


def test_a_second_run_computes_nothing_and_writes_nothing(
    small_run: Any, copied: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished run was to start nothing")

    monkeypatch.setattr(prefect.Task, "submit", refuse)
    monkeypatch.setattr("clipcap.dataset.serve.serve_sample", refuse)
    before = files(copied)
    outcome = small_run.again(copied)
    assert files(copied) == before
    assert outcome["run_id"] != small_run.outcome["run_id"]
    same = ("batch_id", "model_id", "split", "images", "metrics")
    assert {name: outcome[name] for name in same} == {name: small_run.outcome[name] for name in same}
    assert outcome["report"] == str(copied.report(small_run.outcome["run_id"]))


def test_a_file_that_is_gone_is_made_again_and_nothing_else(small_run: Any, copied: Lake) -> None:
    entries = small_run.entries(copied)
    id = next(id for id in sorted(entries) if id.startswith("embed/"))
    lost = copied.absolute(entries[id].file("embeddings").path)
    content = lost.read_bytes()
    lost.unlink()
    before = files(copied)

    outcome = small_run.again(copied)

    assert lost.read_bytes() == content
    after = small_run.entries(copied)
    assert {other for other in after if after[other] != entries.get(other)} == {id}
    assert after[id].key == entries[id].key
    changed = {path for path, facts in files(copied).items() if facts != before.get(path)}
    own = {file.path for file in after[id].files}
    published = {"CURRENT", "manifests/2.json", "catalog.duckdb", f"reports/{outcome['run_id']}/index.html"}
    assert changed == own | published


def test_another_decoding_makes_captions_and_metrics_anew(small_run: Any, copied: Lake) -> None:
    before = small_run.entries(copied)
    outcome = small_run.again(copied, "caption.max_new_tokens=5")
    after = small_run.entries(copied)
    new = [entry.stage for id, entry in sorted(after.items()) if entry != before.get(id)]
    assert new == ["caption", "caption", "evaluate"]
    assert outcome["model_id"] == small_run.outcome["model_id"]
    longest = query(copied, f"select max(tokens) as n from captions where run_id = '{outcome['run_id']}'").to_pylist()
    assert longest[0]["n"] <= 5


def test_a_shard_that_fails_takes_no_other_with_it(
    small_run: Any, copied: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcap.embedding import embed

    entries = small_run.entries(copied)
    first, second = (entry for id, entry in sorted(entries.items()) if entry.stage == "embed")
    for entry in (first, second):
        copied.absolute(entry.file("embeddings").path).unlink()
    works = embed.embed_shard

    def fails_for_the_first(lake: Lake, shard: Any, *rest: Any) -> Any:
        if shard.meta["shard_id"] == first.meta["shard_id"]:
            raise DataError("this shard cannot be embedded")
        return works(lake, shard, *rest)

    monkeypatch.setattr(embed, "embed_shard", fails_for_the_first)
    with pytest.raises(DataError, match="this shard cannot be embedded"):
        small_run.again(copied)
    assert read_current(copied).number == 1, "a failed run publishes nothing"
    made = copied.absolute(second.file("embeddings").path)
    time = made.stat().st_mtime_ns

    monkeypatch.undo()
    small_run.again(copied)
    after = small_run.entries(copied)
    assert made.stat().st_mtime_ns == time, "what was finished before the failure is kept"
    assert {id for id in after if after[id] != entries[id]} == {first.id, second.id}


# Plans


def plan(small_run: Any, root: Path, *more: str) -> dict[str, tuple[int, int]]:
    """Cached and missing shards of each stage."""
    config = load_config("sample", [*small_run.overrides, *more])
    stages = make_plan(RunContext.of(config, "pipeline", str(root)))["stages"]
    return {stage["stage"]: (stage["shards_cached"], stage["shards_to_do"]) for stage in stages}


def test_a_plan_of_a_new_lake_does_all_and_makes_nothing(small_run: Any, tmp_path: Path) -> None:
    counts = [(0, 1), (0, 2), (0, 2), (0, 1), (0, 2), (0, 1)]
    assert plan(small_run, tmp_path / "new") == dict(zip(STAGES, counts, strict=True))
    assert not (tmp_path / "new").exists()


def test_a_plan_counts_what_is_learned_from_and_what_is_scored(small_run: Any, tmp_path: Path) -> None:
    """As nothing stands yet, and as they stand for another training."""
    config = load_config("sample", [*small_run.overrides, "train.epochs=2"])
    landed = query(small_run.lake, "select split, count(*) as images from images group by all").to_pylist()
    images = {row["split"]: row["images"] for row in landed}
    for root in (tmp_path / "new", small_run.lake.root):
        stages = make_plan(RunContext.of(config, "pipeline", str(root)))["stages"]
        rows = {stage["stage"]: stage["rows_to_do"] for stage in stages}
        assert rows["evaluate"] == images["test"] == small_run.scenes // 10
        assert images["train"] <= rows["train"] <= images["train"] + PLANTED < rows["caption"]


@pytest.mark.parametrize(
    ("setting", "first_to_do"),
    [("report.images=1", 6), ("evaluate.split=val", 5), ("caption.beam_size=1", 4), ("train.epochs=2", 3)],
)
def test_a_plan_after_a_change_begins_where_it_matters(small_run: Any, setting: str, first_to_do: int) -> None:
    before = files(small_run.lake)
    planned = plan(small_run, small_run.lake.root, setting)
    assert [planned[stage][1] == 0 for stage in STAGES] == [n < first_to_do for n in range(len(STAGES))]
    another = {"compare": (0, 1)} if first_to_do == 3 else {}  # a model that is not the one in production
    assert {stage: counts for stage, counts in planned.items() if stage not in STAGES} == another
    assert files(small_run.lake) == before
