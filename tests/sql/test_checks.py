"""Each check is silent on the good lake and fires on the one thing that it watches."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_lake import BATCH, CAPTIONS, EMBEDDINGS, ENCODER, NEW, OLD, RUN, SHARDS, START, key

from clipcap.config import ChecksConfig
from clipcap.errors import CheckFailed
from clipcap.resources import resource
from clipcap.storage.records import Promotion
from clipcap.warehouse import build_catalog, check_catalog, connect, run_checks


def failures(tiny, path: Path, **settings: float) -> dict[str, list[dict]]:
    """Checks that returned rows, on a catalog of an uncommitted generation."""
    catalog = build_catalog(tiny.lake, tiny.generation(), target=path / "candidate.duckdb")
    with connect(tiny.lake, catalog) as connection:
        return {result.name: result.rows for result in run_checks(connection, settings) if result.rows}


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


@pytest.mark.parametrize("share, fires", [(0.1, True), (0.2, False)])
def test_the_share_of_one_caption_is_a_setting(tiny, tmp_path, share, fires):
    many(tiny, NEW, [{"caption": "a dog" if n < 10 else f"thing {n}"} for n in range(60)])
    found = failures(tiny, tmp_path, repeated_share=share).get("one_caption_not_repeated", [])
    expected = [{"model_id": NEW, "caption": "a dog", "images": 10, "all_images": 60}]
    assert found == (expected if fires else [])


def test_the_longest_caption_is_a_setting(tiny, tmp_path):
    tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")[0]["caption"] = "one two three four five"
    assert "captions_not_empty" not in failures(tiny, tmp_path, most_words=5)
    [row] = failures(tiny, tmp_path, most_words=4)["captions_not_empty"]
    assert (row["sample_key"], row["words"]) == (key(0), 5)


def many(tiny, model: str, captions: list[dict]) -> None:
    """So many captions of one model, on so many images, in the place of its own."""
    path = f"captions/{model}/{RUN}/{SHARDS[0]}.parquet"
    row = tiny.tables[path][1][0]
    rows = [{**row, "sample_key": key(n), "caption": f"{model} {n}", **facts} for n, facts in enumerate(captions)]
    tiny.tables[path] = (CAPTIONS, rows)
    tiny.entries.pop(f"caption/{model}/{SHARDS[1]}", None)


@pytest.mark.parametrize(
    "scores, fires",
    [
        ([0.0] * 60, True),
        ([0.7] * 60, True),
        ([0.7 + n * 1e-5 for n in range(60)], True),
        ([0.7] * 50 + [0.1 * n for n in range(10)], True),  # a few outliers hide nothing
        ([0.5 + 0.005 * n for n in range(60)], False),
        ([0.7] * 49, False),  # too few to tell
        ([None] * 60, False),  # not scored
    ],
)
def test_clip_scores_that_are_all_the_same(tiny, tmp_path, scores, fires):
    many(tiny, NEW, [{"clip_score": score} for score in scores])
    found = failures(tiny, tmp_path)
    assert [row["model_id"] for row in found.get("clip_scores_not_collapsed", [])] == [NEW] * fires
    assert "clip_scores_not_collapsed" not in failures(tiny, tmp_path, least_spread=0)


@pytest.mark.parametrize("mean, fires", [(0.5, True), (0.59, True), (0.61, False), (0.9, False)])
def test_clip_scores_far_below_those_of_production_on_the_same_images(tiny, tmp_path, mean, fires):
    """Production's mean is 0.8; a quarter below it is 0.6."""
    tiny.promotions = [Promotion(model_id=OLD, reason="first", created_at=START)]
    spread = [0.1 * (n % 3 - 1) for n in range(60)]
    many(tiny, OLD, [{"clip_score": 0.8 + off} for off in spread])
    many(tiny, NEW, [{"clip_score": mean + off} for off in spread])
    found = failures(tiny, tmp_path).get("clip_scores_near_production", [])
    assert [(row["model_id"], row["images"], round(row["mean_score"], 6)) for row in found] == [(NEW, 60, mean)] * fires
    assert bool(failures(tiny, tmp_path, score_drop=0.05).get("clip_scores_near_production")) == (mean < 0.76)


def test_clip_scores_of_other_images_say_nothing_about_production(tiny, tmp_path):
    tiny.promotions = [Promotion(model_id=OLD, reason="first", created_at=START)]
    many(tiny, OLD, [{"clip_score": 0.8 + n / 1000} for n in range(60)])
    many(tiny, NEW, [{"clip_score": 0.1 + n / 1000, "sample_key": key(1000 + n)} for n in range(60)])
    assert "clip_scores_near_production" not in failures(tiny, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "table, column, name",
    [
        (f"captions/{NEW}/{RUN}/{SHARDS[0]}", "log_probability", "log_probability"),
        (f"captions/{NEW}/{RUN}/{SHARDS[0]}", "clip_score", "clip_score"),
        (f"metrics/{NEW}/{RUN}/corpus", "value", "bleu_1"),
        (f"metrics/{NEW}/{RUN}/per_image", "value", "cider"),
    ],
)
def test_a_value_that_is_no_number(tiny, tmp_path, table, column, name, value):
    tiny.rows(table)[0][column] = value
    [row] = failures(tiny, tmp_path)["values_are_numbers"]
    assert (row["model_id"], row["value_name"], row["file"]) == (NEW, name, f"{table}.parquet")


def test_a_metric_without_a_value(tiny, tmp_path):
    tiny.rows(f"metrics/{NEW}/{RUN}/corpus")[1]["value"] = None
    assert [row["value_name"] for row in failures(tiny, tmp_path)["values_are_numbers"]] == ["bleu_4"]


@pytest.mark.parametrize("ahead, fires", [(timedelta(minutes=50), False), (timedelta(hours=2), True)])
def test_an_output_of_the_future(tiny, tmp_path, ahead, fires):
    tiny.entries[f"train/{NEW}"]["created_at"] = datetime.now(UTC) + ahead
    found = failures(tiny, tmp_path).get("times_have_passed", [])
    assert [row["id"] for row in found] == [f"train/{NEW}"] * fires


@pytest.mark.parametrize(
    "vector, dim",
    [([0, 0, 0, 0], 4), ([1, float("nan"), 0, 0], 4), ([1, float("inf"), 0, 0], 4), ([1, 0, 0], 3)],
)
def test_an_embedding_that_is_no_vector(tiny, tmp_path, vector, dim):
    """One of four; the others have four numbers."""
    path = f"embeddings/{ENCODER}/{BATCH}/{SHARDS[1]}.parquet"
    _, rows = tiny.tables[path]
    rows[0]["clip_embedding"] = np.array(vector, np.float16)
    schema = EMBEDDINGS.set(2, pa.field("clip_embedding", pa.list_(pa.float16(), dim)))
    tiny.tables[path] = (schema, rows)
    [row] = failures(tiny, tmp_path)["embeddings_are_vectors"]
    assert (row["sample_key"], row["encoder_id"], row["numbers"], row["most_have"]) == (key(4), ENCODER, dim, 4)


def test_features_beside_a_vector_may_have_another_size(tiny, tmp_path):
    """Of an encoder whose patch tokens are stored too, the manifest records their size and not the vector's."""
    for name in [name for name in tiny.entries if name.startswith("embed/")]:
        tiny.entries[name]["meta"]["clip_dim"] = 768
    assert failures(tiny, tmp_path) == {}


def test_the_settings_of_the_configuration_are_what_the_statements_say():
    """By hand, without variables, a check does what a run with the default configuration does."""
    texts = "".join(file.read_text() for file in (resource("sql") / "checks").glob("*.sql"))
    stated = re.findall(r"coalesce\(getvariable\('(\w+)'\), ([\d.]+)\)", texts)
    assert {name: float(value) for name, value in stated} == ChecksConfig().model_dump()
    assert texts.count("getvariable(") == len(stated)


def test_every_check_is_shown_to_fire():
    names = {file.stem.partition("_")[2] for file in (resource("sql") / "checks").glob("*.sql")}
    assert [name for name in names if f'"{name}"' not in Path(__file__).read_text()] == []


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
        [warning] = [result for result in run_checks(connection) if result.severity == "warning" and result.rows]
    assert warning.name == "one_caption_not_repeated" and not warning.is_failed
