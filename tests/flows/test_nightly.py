"""Nightly captioning: what landed since is captioned by the model in production, and nothing else is touched.

Covered: the one new batch; nothing new; backfills; a batch that fails, one that a check refuses, and the night after;
plans; a disk that is too small; the watched inbox; names of runs.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipcap.config import parse_config
from clipcap.dataset.land import land, read_landing
from clipcap.embedding import embed
from clipcap.errors import DataError, NightFailed, NoRoomError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.training.add_model import add_model
from clipcap.training.registry import promote
from clipcap.warehouse.queries import query
from flows.nightly import caption_nightly

pytestmark = pytest.mark.usefixtures("prefect_harness")


def land_source(lake: Lake, source: Path, name: str = "holiday") -> str:
    """As ``clipcap land`` does; returns the batch's id."""
    dataset = {"name": name, "source": str(source), "default_split": "test"}
    landing = read_landing(parse_config({"dataset": dataset}))
    commit_generation(lake, [land(lake, landing)])
    return landing.batch_id


def packed(path: Path, seed: int, pictures: int) -> Path:
    """A tar of new pictures and captions, which the download stage copies: no process of img2dataset has to start."""
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    with tarfile.open(path, "w") as archive:
        for number in range(pictures):
            picture, stream = scene(7_000 + number, seed=seed), io.BytesIO()
            render(picture).save(stream, "PNG")
            for name, data in (("png", stream.getvalue()), ("txt", captions(picture)[0].encode())):
                info = tarfile.TarInfo(f"{seed}{number:04d}.{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def two(copied: Lake, tmp_path: Path) -> tuple[str, str]:
    """Two batches that landed in the copied lake: their ids."""
    mountains, beach = packed(tmp_path / "mountains.tar", 2, 3), packed(tmp_path / "beach.tar", 3, 2)
    return land_source(copied, mountains, "mountains"), land_source(copied, beach, "beach")


def captions(lake: Lake) -> list[dict[str, Any]]:
    """What was published, without what differs between any two runs."""
    return query(lake, "select sample_key, batch_id, model_id, caption from captions order by all").to_pylist()


def files(lake: Lake) -> dict[str, int]:
    return {str(f.relative_to(lake.root)): f.stat().st_mtime_ns for f in lake.root.rglob("*") if f.is_file()}


def test_only_the_batch_that_landed_is_captioned(small_run: Any, copied: Lake, holiday: Path) -> None:
    batch_id = land_source(copied, holiday)
    before = read_current(copied)
    # Another shard size than the sample was cut with, and another port: what stands is not fetched again.
    overrides = [*small_run.overrides, "download.shard_size=1000", "serve.port=9"]

    outcome = caption_nightly("sample", overrides, str(copied.root))

    after = read_current(copied)
    assert after.number == before.number + 1
    assert {id: after.entries[id] for id in before.entries} == before.entries
    new = sorted(set(after.entries) - set(before.entries))
    assert [id.partition("/")[0] for id in new] == ["caption", "download", "embed", "evaluate"]
    assert (outcome["new"], outcome["captions"]) == (4, 3)
    assert outcome["batches"] == {"all": 2, "ok": 1, "failed": 0, "skipped": 1}
    rows = query(copied, f"select split, model_id from captions where batch_id = '{batch_id}'").to_pylist()
    assert rows == [{"split": "test", "model_id": small_run.outcome["model_id"]}] * 3
    scored = query(copied, f"select distinct images from metrics where run_id = '{outcome['run_id']}'").to_pylist()
    assert scored == [{"images": small_run.scenes // 10 + 3}], "all that stands is scored"
    used = set(after.runs[-1].entries)
    assert used == {*new, f"land/{batch_id}", f"train/{small_run.outcome['model_id']}"}, "old batches are not listed"

    state = files(copied)
    again = caption_nightly("sample", overrides, str(copied.root))

    assert (again["new"], again["captions"], read_current(copied), files(copied)) == (0, 0, after, state)
    assert again["batches"] == {"all": 2, "ok": 0, "failed": 0, "skipped": 2}
    assert again["report"] == outcome["report"] == str(copied.report(outcome["run_id"]))


def test_a_batch_that_fails_stops_no_other_and_comes_in_the_next_night(
    small_run: Any, copied: Lake, two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcap.embedding import embed

    bad, good = two
    shutil.copytree(copied.root, tmp_path / "calm")
    calm = Lake(tmp_path / "calm")
    caption_nightly("sample", small_run.overrides, str(calm.root))
    works = embed.embed_shard

    def fails_for_one(lake: Lake, shard: Any, *rest: Any) -> Any:
        if shard.meta["batch_id"] == bad:
            raise DataError("this shard cannot be embedded")
        return works(lake, shard, *rest)

    monkeypatch.setattr(embed, "embed_shard", fails_for_one)
    message = r"1 failed .* the others are published.*this shard cannot be embedded"
    with pytest.raises(NightFailed, match=message) as end:
        caption_nightly("sample", small_run.overrides, str(copied.root))

    summary = end.value.summary
    assert summary["batches"] == {"all": 3, "ok": 1, "failed": 1, "skipped": 1}
    assert summary["failed"] == [{"what": bad, "reason": "this shard cannot be embedded"}]
    published = {row["batch_id"] for row in captions(copied)}
    assert good in published and bad not in published

    monkeypatch.undo()
    outcome = caption_nightly("sample", small_run.overrides, str(copied.root))
    assert outcome["batches"] == {"all": 3, "ok": 1, "failed": 0, "skipped": 2}
    assert captions(copied) == captions(calm), "as if nothing had happened"


def test_a_batch_that_a_check_refuses_is_left_out_of_the_publication(
    small_run: Any, copied: Lake, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcap.decoding import caption_shard as stage
    from clipcap.storage.entries import record

    bad, good = two
    works = stage.caption_shard

    def miscounts_one(lake: Lake, embed: Any, *rest: Any) -> Any:
        entry = works(lake, embed, *rest)
        if embed.meta["batch_id"] != bad:
            return entry
        return record(lake, entry.model_copy(update={"rows": {"ok": 7}}))

    monkeypatch.setattr(stage, "caption_shard", miscounts_one)
    with pytest.raises(NightFailed, match="check 'rows_counted' failed") as end:
        caption_nightly("sample", small_run.overrides, str(copied.root))
    assert end.value.summary["batches"] == {"all": 3, "ok": 1, "failed": 1, "skipped": 1}
    published = {row["batch_id"] for row in captions(copied)}
    assert good in published and bad not in published
    scored = query(copied, f"select distinct images from metrics where run_id = '{end.value.summary['run_id']}'")
    assert scored.to_pylist() == [{"images": small_run.scenes // 10 + 2}], "what is not published is not scored"


def test_a_plan_names_what_is_to_do_and_does_nothing(small_run: Any, copied: Lake, tmp_path: Path) -> None:
    batch_id = land_source(copied, packed(tmp_path / "beach.tar", 3, 3))
    before = files(copied)
    plan = caption_nightly("sample", small_run.overrides, str(copied.root), dry_run=True)
    assert files(copied) == before
    assert (plan["to_do"], plan["fits"]) == (1, True)
    status = {row["batch_id"]: (row["status"], row["images"], row["outputs_to_do"]) for row in plan["batches"]}
    assert status[batch_id] == ("to do", 3, 3)
    assert [to_do for _, _, to_do in status.values()] == [0, 3]
    stages = {stage["stage"]: (stage["shards_cached"], stage["shards_to_do"]) for stage in plan["stages"]}
    assert stages == {"download": (2, 1), "embed": (2, 1), "caption": (2, 1)}
    assert plan["needed_bytes"] > 3 * 1000 and all(stage["estimated_s"] > 0 for stage in plan["stages"])


def test_what_cannot_fit_is_not_begun_unless_it_is_forced(small_run: Any, copied: Lake, tmp_path: Path) -> None:
    land_source(copied, packed(tmp_path / "beach.tar", 3, 3))
    before = files(copied)
    small = [*small_run.overrides, "limits.keep_free_gib=1e9"]
    with pytest.raises(NoRoomError, match=r"free, and this run needs about .* nothing was begun"):
        caption_nightly("sample", small, str(copied.root))
    assert files(copied) == before
    assert caption_nightly("sample", small, str(copied.root), force=True)["captions"] == 3
    assert caption_nightly("sample", small, str(copied.root))["new"] == 0, "nothing to write fits always"


def test_a_shard_that_takes_too_long_is_given_up(
    small_run: Any, copied: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = land_source(copied, packed(tmp_path / "beach.tar", 3, 3))

    at_once = embed.embed_shard

    def slowly(*given: Any) -> Any:
        for _ in range(100):
            time.sleep(0.02)
        return at_once(*given)

    monkeypatch.setattr(embed, "embed_shard", slowly)
    with pytest.raises(NightFailed, match="1 failed") as end:
        caption_nightly("sample", [*small_run.overrides, "limits.shard_hours=1e-4"], str(copied.root))
    monkeypatch.undo()
    [failure] = end.value.summary["failed"]
    assert failure["what"] == batch_id and "TaskRunTimeoutError" in failure["reason"]
    assert caption_nightly("sample", small_run.overrides, str(copied.root))["captions"] == 3


def test_a_model_that_was_made_elsewhere_captions_as_it_does_at_home(
    small_run: Any, copied: Lake, tmp_path: Path
) -> None:
    lake, home = Lake(tmp_path / "abroad"), read_current(copied).production_model_id
    entry, is_new = add_model(lake, copied.model(home), "brought")
    assert is_new and entry.meta["model_id"].startswith("brought-mlp-")
    commit_generation(lake, [entry])
    assert add_model(lake, copied.model(home), "brought") == (entry, False)
    promote(lake, entry.meta["model_id"], "it is at hand")
    found = {}
    for where in (copied, lake):
        batch_id = land_source(where, packed(tmp_path / "beach.tar", 3, 3))
        caption_nightly("sample", small_run.overrides, str(where.root))
        text = f"select sample_key, caption, clip_score from captions where batch_id = '{batch_id}' order by all"
        found[where] = query(where, text).to_pylist()
    assert found[lake] == found[copied] and len(found[lake]) == 3
    told = query(lake, "select is_production, batch_ids, train_images, encoder from models").to_pylist()
    assert told == [{"is_production": True, "batch_ids": [], "train_images": None, "encoder": "builtin:sample"}]


def test_what_is_dropped_in_the_inbox_is_landed_and_captioned_once(
    small_run: Any, copied: Lake, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    packed(inbox / "Holiday 2026.tar", 4, 3)
    (inbox / "broken.csv").write_text("this is no list\n")
    (inbox / "urls.csv.part").write_text("url\nhttp://127.0.0.1:9/")
    overrides = [*small_run.overrides, f"inbox.folder={inbox}", "inbox.settle_s=0", "dataset.default_split=test"]

    plan = caption_nightly("sample", overrides, str(copied.root), dry_run=True)
    planned = {row["name"]: (row["status"], row["rows"]) for row in plan["inbox"]}
    assert planned == {
        "Holiday 2026.tar": ("ready", {"ok": 3}), "broken.csv": ("unusable", {}), "urls.csv.part": ("waiting", {})
    }  # fmt: skip
    assert plan["to_do"] == 1 and plan["needed_bytes"] > 0
    assert {stage["stage"]: stage["rows_to_do"] for stage in plan["stages"]} == dict.fromkeys(
        ("land", "download", "embed", "caption"), 3
    )

    outcome = caption_nightly("sample", overrides, str(copied.root))

    rows = {row["name"]: row for row in outcome["inbox"]}
    landed = rows["Holiday 2026.tar"]
    assert landed["status"] == "landed" and landed["batch_id"].startswith("holiday-2026-")
    assert rows["broken.csv"]["status"] == "refused" and "broken.csv has the columns" in rows["broken.csv"]["reason"]
    assert rows["urls.csv.part"]["status"] == "waiting"
    assert outcome["captions"] == 3
    [reason] = inbox.glob("refused/*/reason.txt")
    assert reason.read_text().strip() == rows["broken.csv"]["reason"]
    assert (reason.parent / "broken.csv").read_text() == "this is no list\n"
    [note] = inbox.glob("landed/*/batch.json")
    assert json.loads(note.read_text())["batch_id"] == landed["batch_id"]
    assert tarfile.is_tarfile(note.parent / "Holiday 2026.tar")

    again = caption_nightly("sample", overrides, str(copied.root))
    assert [row["name"] for row in again["inbox"]] == ["urls.csv.part"] and again["new"] == 0


def test_an_inbox_that_cannot_be_read_fails_the_night_after_its_work(
    small_run: Any, copied: Lake, tmp_path: Path
) -> None:
    land_source(copied, packed(tmp_path / "beach.tar", 3, 3))
    with pytest.raises(NightFailed, match=r"1 ok .* inbox\.folder: there is no folder") as end:
        caption_nightly("sample", [*small_run.overrides, f"inbox.folder={tmp_path / 'gone'}"], str(copied.root))
    assert end.value.summary["captions"] == 3 and len(captions(copied)) > 3


def test_without_a_model_in_production_it_says_what_to_do(tmp_path: Path, holiday: Path) -> None:
    lake = Lake(tmp_path / "lake")
    land_source(lake, holiday)
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


@pytest.fixture
def name_of() -> Callable[..., str]:
    """The name that a run with these parameters gets."""

    def name(what: str, *details: str, **given: Any) -> str:
        from prefect import flow

        from flows.names import run_name

        @flow(flow_run_name=run_name(what, *details), validate_parameters=False)
        def named(config: str, dry_run: bool = False, model_id: str = "", batch_ids: Any = None) -> str:
            from prefect.runtime import flow_run

            return str(flow_run.name)

        return named(**given)

    return name


def test_names_of_runs_say_what_and_when(name_of: Callable[..., str]) -> None:
    import re

    when = r"\d{4}-\d\d-\d\d \d\d:\d\dZ"
    assert re.fullmatch(f"nightly mine {when}", name_of("nightly", "model_id", config="configs/mine.toml"))
    long = name_of("nightly", "model_id", "batch_ids", config="s", dry_run=True, model_id="m", batch_ids=["a", "b"])
    assert re.fullmatch(f"nightly s model_id=m batch_ids=a,b dry run {when}", long)
