"""Each check is silent on the good lake and fires on the one thing that it watches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_lake import BATCH, CAPTIONS, ENCODER, NEW, OLD, RUN, SHARDS, key

from clipcap.errors import CheckFailed
from clipcap.resources import resource
from clipcap.warehouse import build_catalog, check_catalog, connect, run_checks


def failures(tiny, path: Path) -> dict[str, list[dict]]:
    """Checks that returned rows, on a catalog of an uncommitted generation."""
    catalog = build_catalog(tiny.lake, tiny.generation(), target=path / "candidate.duckdb")
    with connect(tiny.lake, catalog) as connection:
        return {result.name: result.rows for result in run_checks(connection) if result.rows}


def drop(rows: list[dict], row: int) -> None:
    rows[:] = [r for r in rows if r["sample_key"] != key(row)]


def ledger(stage: str, shard: str) -> str:
    return f"ledger/{stage}/{BATCH}/{shard}"


def test_good_lake_passes(tiny, tmp_path):
    assert failures(tiny, tmp_path) == {}


def test_every_check_names_grain_and_severity():
    for file in sorted((resource("sql") / "checks").glob("*.sql")):
        first, second = file.read_text().splitlines()[:2]
        assert first.startswith("-- one row per "), file.name
        assert second in ("-- severity: error", "-- severity: warning"), file.name


def test_a_batch_that_only_landed_passes(tiny, tmp_path):
    tiny.entries = {name: e for name, e in tiny.entries.items() if e["stage"] == "land"}
    assert failures(tiny, tmp_path) == {}


@pytest.mark.parametrize("left", [0, 1])
def test_a_batch_with_only_some_shards_done_passes(tiny, tmp_path, left):
    tiny.entries = {name: e for name, e in tiny.entries.items() if SHARDS[1 - left] not in name}
    assert failures(tiny, tmp_path) == {}


def test_two_captions_of_one_image_by_one_model(tiny, tmp_path):
    rows = tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")
    rows.append(dict(rows[0]))
    [row] = failures(tiny, tmp_path)["keys_unique"]
    assert (row["stage"], row["sample_key"], row["variant"], row["rows"]) == ("caption", key(0), NEW, 2)


def test_one_image_in_two_shards(tiny, tmp_path):
    tiny.rows(f"shards/{SHARDS[1]}").append(tiny.rows(f"shards/{SHARDS[0]}")[0])
    assert failures(tiny, tmp_path)["keys_unique"][0]["sample_key"] == key(0)


@pytest.mark.parametrize("row", [0, 1, 3])
def test_a_row_lost_in_the_download_whether_first_last_or_between(tiny, tmp_path, row):
    drop(tiny.rows(ledger("download", SHARDS[0])), row)
    drop(tiny.rows(f"shards/{SHARDS[0]}"), row)
    found = failures(tiny, tmp_path)
    assert {"stage": "download", "sample_key": key(row), "problem": "no outcome"}.items() <= found["rows_conserved"][
        0
    ].items()
    assert found["rows_counted"] == [
        {"entry_id": f"download/{BATCH}/{SHARDS[0]}", "status": "ok", "counted_by_stage": 3, "rows_in_ledger": 2}
    ]


def test_the_last_row_of_the_last_shard_is_counted(tiny, tmp_path):
    drop(tiny.rows(ledger("download", SHARDS[1])), 6)
    assert "rows_counted" in failures(tiny, tmp_path)


@pytest.mark.parametrize("stage, variant", [("embed", ENCODER), ("caption", NEW)])
def test_a_row_lost_in_a_later_stage(tiny, tmp_path, stage, variant):
    drop(tiny.rows(f"{ledger(stage, SHARDS[0])}_{variant}"), 1)
    entry = f"embed/{ENCODER}/{BATCH}/{SHARDS[0]}" if stage == "embed" else f"caption/{NEW}/{SHARDS[0]}"
    tiny.entries[entry]["rows"] = {"ok": 2}  # the stage itself noticed nothing
    [row] = failures(tiny, tmp_path)["rows_conserved"]
    assert (row["problem"], row["stage"], row["sample_key"], row["variant"]) == ("no outcome", stage, key(1), variant)


@pytest.mark.parametrize(
    "stage, file",
    [
        ("land", "urls.parquet"),
        ("download", f"shards/{SHARDS[0]}"),
        ("embed", f"embeddings/{ENCODER}/{BATCH}/{SHARDS[0]}"),
        ("caption", f"captions/{NEW}/{RUN}/{SHARDS[0]}"),
    ],
)
def test_an_ok_without_its_output(tiny, tmp_path, stage, file):
    drop(tiny.rows(file), 1)
    [row] = failures(tiny, tmp_path)["rows_conserved"]
    assert (row["problem"], row["stage"], row["sample_key"]) == ("ok without output", stage, key(1))


def test_a_caption_of_an_unknown_model_or_image(tiny, tmp_path):
    del tiny.entries[f"train/{NEW}"]
    assert {row["missing"] for row in failures(tiny, tmp_path)["captions_have_model_and_image"]} == {"no model"}


def test_a_caption_of_an_image_that_is_not_there(tiny, tmp_path):
    rows = tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")
    rows.append({**rows[0], "sample_key": key(9)})
    [row] = failures(tiny, tmp_path)["captions_have_model_and_image"]
    assert (row["sample_key"], row["missing"]) == (key(9), "no image")


@pytest.mark.parametrize("caption, words", [("", 0), (" \n", 0), (None, 0), ("a " * 201, 201)])
def test_an_empty_or_endless_caption(tiny, tmp_path, caption, words):
    tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")[0]["caption"] = caption
    assert [row["words"] for row in failures(tiny, tmp_path)["captions_not_empty"]] == [words]


def test_an_empty_caption_that_the_ledger_accounts_for(tiny, tmp_path):
    tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")[0]["caption"] = ""
    tiny.rows(f"{ledger('caption', SHARDS[0])}_{NEW}")[0].update(status="failed", reason="empty")
    tiny.entries[f"caption/{NEW}/{SHARDS[0]}"]["rows"] = {"ok": 2, "failed": 1}
    assert failures(tiny, tmp_path) == {}


def test_captions_older_than_a_shard_that_was_downloaded_again(tiny, tmp_path):
    """More images came through this time: the newer model captioned them, the older one was not asked again."""
    shard = SHARDS[1]
    tiny.rows(ledger("download", shard))[1].update(status="ok", reason="")
    tiny.rows(f"shards/{shard}").append({**tiny.rows(f"shards/{shard}")[0], "sample_key": key(5)})
    tiny.rows(f"{ledger('embed', shard)}_{ENCODER}").append(
        {**tiny.rows(f"{ledger('embed', shard)}_{ENCODER}")[0], "sample_key": key(5)}
    )
    embeddings = tiny.rows(f"embeddings/{ENCODER}/{BATCH}/{shard}")
    embeddings.append({**embeddings[0], "sample_key": key(5)})
    tiny.entries[f"download/{BATCH}/{shard}"]["rows"] = {"ok": 3}
    embed = tiny.entries[f"embed/{ENCODER}/{BATCH}/{shard}"]
    embed["rows"] = {"ok": 2, "failed": 1}
    assert {row["variant"] for row in failures(tiny, tmp_path)["rows_conserved"]} == {OLD, NEW}
    embed["created_at"] = tiny.entries[f"train/{NEW}"]["created_at"]
    assert {row["variant"] for row in failures(tiny, tmp_path)["rows_conserved"]} == {NEW}


@pytest.mark.parametrize("same, of, fires", [(26, 50, True), (25, 50, False), (49, 49, False)])
def test_one_caption_over_and_over(tiny, tmp_path, same, of, fires):
    path = f"captions/{NEW}/{RUN}/{SHARDS[0]}.parquet"
    row = tiny.tables[path][1][0]
    captions = ["a dog"] * same + [f"thing {n}" for n in range(of - same)]
    tiny.tables[path] = (CAPTIONS, [{**row, "sample_key": key(n), "caption": c} for n, c in enumerate(captions)])
    del tiny.entries[f"caption/{NEW}/{SHARDS[1]}"]
    assert ("one_caption_not_repeated" in failures(tiny, tmp_path)) == fires


def test_a_failed_check_names_itself_and_the_rows(tiny, tmp_path):
    drop(tiny.rows(f"{ledger('caption', SHARDS[0])}_{NEW}"), 3)
    tiny.entries[f"caption/{NEW}/{SHARDS[0]}"]["rows"] = {"ok": 2}
    catalog = build_catalog(tiny.lake, tiny.generation(), target=tmp_path / "candidate.duckdb")
    with pytest.raises(CheckFailed, match=f"rows_conserved.*{key(3)}") as caught:
        check_catalog(tiny.lake, catalog)
    assert caught.value.check == "rows_conserved" and caught.value.rows[0]["stage"] == "caption"


def test_a_warning_stops_nothing(tiny, tmp_path):
    path = f"captions/{NEW}/{RUN}/{SHARDS[0]}.parquet"
    row = tiny.tables[path][1][0]
    tiny.tables[path] = (CAPTIONS, [{**row, "sample_key": key(n), "caption": "a dog"} for n in range(60)])
    catalog = build_catalog(tiny.lake, tiny.generation(), target=tmp_path / "candidate.duckdb")
    with connect(tiny.lake, catalog) as connection:
        [warning] = [result for result in run_checks(connection) if result.severity == "warning"]
    assert warning.rows and not warning.is_failed
