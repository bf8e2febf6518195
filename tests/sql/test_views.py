"""Given the tiny lake, expect these rows of each view.

Covers: fixed views and columns; comments; what is one row; what a promotion changes; that refused rows stay visible.
"""

from __future__ import annotations

import pytest
from tiny_lake import BATCH, ENCODER, NEW, OLD, RUN, SHARDS, START, build, key, url

from clipcap.storage.records import Promotion
from clipcap.warehouse import connect, ensure_catalog, list_views, query

FIXED = {  # DESIGN.md, and docs/architecture.md
    "captions": {"sample_key", "image_url", "caption", "model_id", "run_id", "batch_id", "clip_score", "created_at"},
    "latest_captions": {"sample_key", "image_url", "caption", "model_id", "run_id", "batch_id", "clip_score"},
    "images": {"sample_key", "image_url", "batch_id", "split", "size_bytes", "sha256", "status", "created_at"},
    "batches": {"batch_id", "created_at"},
    "models": {"model_id", "run_id", "created_at"},
    "runs": {"run_id", "created_at"},
    "metrics": {"model_id", "run_id", "split", "metric", "value", "created_at"},
    "metrics_by_model": {"model_id", "split", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"},
    "ledger": {"sample_key", "batch_id", "shard_id", "stage", "status", "reason", "created_at", "image_url"},
    "lineage": {"sample_key", "caption", "model_id", "image_url", "run_id", "batch_id"},
    "ledger_history": {"sample_key", "stage", "status", "reason", "model_id"},
    "metrics_per_image": {"model_id", "run_id", "sample_key", "metric", "value"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of a statement on the lake as it was built, as tuples."""
    tiny = build(tmp_path_factory.mktemp("views") / "lake")
    tiny.commit()
    ensure_catalog(tiny.lake)

    def run(sql: str) -> list[tuple]:
        with connect(tiny.lake) as connection:
            return connection.execute(sql).fetchall()

    return run


def test_fixed_views_have_their_columns_and_comments(tiny):
    tiny.commit()
    views = {view.name: view for view in list_views(tiny.lake)}
    for name, columns in FIXED.items():
        assert columns <= {column["name"] for column in views[name].columns}, name
    for view in views.values():
        assert view.comment.endswith("."), view.name
        assert [c["name"] for c in view.columns if not c["comment"]] == [], view.name


def test_images_has_one_row_per_landed_image_with_its_latest_outcome(rows):
    found = rows("select sample_key, image_url, stage, status, reason, split from images order by all")
    assert found == [
        (key(0), url(0), "caption", "ok", "", "test"),
        (key(1), url(1), "caption", "ok", "", "test"),
        (key(3), url(3), "caption", "ok", "", "train"),
        (key(4), url(4), "caption", "ok", "", "val"),
        (key(5), url(5), "download", "failed", "HTTP 404", "train"),
        (key(6), url(6), "embed", "failed", "cannot be decoded", "train"),
    ]


def test_images_tells_size_and_references_once_downloaded(rows):
    assert rows("select width, sha256, reference_captions from images where sample_key = '0a1b2c3d-0000001'") == [
        (320, f"{1:064x}", ["Reference one of 1.", "Reference two of 1."])
    ]
    assert rows("select width, shard_id from images where reason = 'HTTP 404'") == [(None, None)]


def test_ledger_keeps_rows_that_were_refused_on_landing(rows):
    assert rows("select sample_key, stage, status from ledger where status <> 'ok' order by all") == [
        (key(2), "land", "duplicate"),
        (key(5), "download", "failed"),
        (key(6), "embed", "failed"),
        (key(7), "land", "failed"),
    ]
    assert rows("select count(*), count(distinct sample_key) from ledger") == [(8, 8)]


def test_ledger_history_has_every_stage_and_each_model(rows):
    sql = f"select stage, model_id, encoder_id from ledger_history where sample_key = '{key(0)}' order by all"
    assert rows(sql) == [
        ("caption", OLD, None),
        ("caption", NEW, None),
        ("download", None, None),
        ("embed", None, ENCODER),
        ("land", None, None),
    ]


def test_batches_counts_images_once_however_many_models_there_are(rows):
    assert rows("select batch_id, landed_rows, images, downloaded, embedded, captioned, refused from batches") == [
        (BATCH, 8, 6, 5, 4, 4, 4)
    ]


def test_captions_has_a_row_for_each_image_and_model(rows):
    assert rows("select model_id, count(*), count(distinct sample_key) from captions group by all order by all") == [
        (OLD, 4, 4),
        (NEW, 4, 4),
    ]
    assert rows(f"select image_url, caption, split from captions where sample_key = '{key(4)}' order by all") == [
        (url(4), "new caption 4", "val"),
        (url(4), "old caption 4", "val"),
    ]


def test_an_empty_caption_is_none(tiny):
    tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")[0]["caption"] = ""
    tiny.commit()
    found = query(tiny.lake, "select (select count(*) from captions) a, (select count(*) from lineage) b").to_pylist()
    assert found == [{"a": 7, "b": 7}]
    latest = query(tiny.lake, f"select caption from latest_captions where sample_key = '{key(0)}'").to_pylist()
    assert latest == [{"caption": "old caption 0"}]


def test_latest_captions_are_by_the_newest_model(rows):
    assert rows("select model_id, count(*) from latest_captions group by all") == [(NEW, 4)]


def test_latest_captions_are_by_the_production_model_where_there_is_one(tiny):
    tiny.promotions = [Promotion(model_id=OLD, reason="steadier", created_at=START)]
    tiny.commit()
    assert query(tiny.lake, "select distinct model_id from latest_captions").to_pylist() == [{"model_id": OLD}]
    assert query(tiny.lake, "select promotion_reason from models where is_production").to_pylist() == [
        {"promotion_reason": "steadier"}
    ]


def test_latest_captions_fall_back_where_the_production_model_has_none(tiny):
    tiny.promotions = [Promotion(model_id=OLD, reason="steadier", created_at=START)]
    del tiny.entries[f"caption/{OLD}/{SHARDS[1]}"]
    tiny.commit()
    found = query(tiny.lake, "select model_id, count(*) as n from latest_captions group by all order by all")
    assert found.to_pylist() == [{"model_id": OLD, "n": 3}, {"model_id": NEW, "n": 1}]


def test_lineage_goes_from_the_caption_to_the_url_in_one_row(rows):
    columns = "training_run_id, embedding_file, image_shard, image_member, sha256, image_url"
    assert rows(f"select {columns} from lineage where sample_key = '{key(4)}' and model_id = '{NEW}'") == [
        (
            RUN,
            f"embeddings/{ENCODER}/{BATCH}/{SHARDS[1]}.parquet",
            f"batches/{BATCH}/shards/{SHARDS[1]}.tar",
            f"{key(4)}.jpg",
            f"{4:064x}",
            url(4),
        )
    ]
    assert rows("select count(*) from lineage") == [(8,)]


def test_lineage_keeps_one_row_per_caption_when_a_second_encoder_embedded_the_shard(tiny):
    other = "other@0123456789ab"
    shard = SHARDS[0]
    source = tiny.rows(f"embeddings/{ENCODER}/{BATCH}/{shard}")
    schema = tiny.tables[f"embeddings/{ENCODER}/{BATCH}/{shard}.parquet"][0]
    tiny.entry(
        f"embed/{other}/{BATCH}/{shard}",
        {"embeddings": tiny.table(tiny.lake.embeddings(other, BATCH, shard), schema, source),
         "ledger": tiny.ledger("embed", shard, {row: ("ok", "") for row in (0, 1, 3)}, other)},
        {"ok": 3}, batch_id=BATCH, shard_id=shard, encoder_id=other,
    )  # fmt: skip
    tiny.commit()
    found = query(tiny.lake, "select count(*) as n, list(distinct encoder_id) as encoders from lineage").to_pylist()
    assert found == [{"n": 8, "encoders": [ENCODER]}]


def test_metrics_stand_long_and_wide(rows):
    assert rows(f"select metric, value, images from metrics where model_id = '{NEW}' order by all") == [
        ("bleu_1", 0.5, 2),
        ("bleu_4", 0.25, 2),
        ("cider", 0.75, 2),
        ("cider_shuffled", 0.05, 2),
    ]
    assert rows("select model_id, bleu_4, cider, cider_shuffled, rouge_l from metrics_by_model order by all") == [
        (OLD, 0.25, 0.5, 0.05, None),
        (NEW, 0.25, 0.75, 0.05, None),
    ]


def test_metrics_by_model_takes_the_newest_evaluation(tiny):
    corpus = tiny.rows(f"metrics/{NEW}/{RUN}/corpus")
    later = {"run_id": "20270102T000000Z-bbbbbb", "created_at": START.replace(year=2027)}
    corpus.append({**corpus[2], **later, "value": 0.9})
    tiny.commit()
    found = query(tiny.lake, f"select cider from metrics_by_model where model_id = '{NEW}'")
    assert found.to_pylist() == [{"cider": 0.9}]


def test_models_unfolds_what_training_recorded(rows):
    assert rows(
        "select mapper, is_tuned, clip_dim, parameters, best_val_loss, batch_ids, is_production from models limit 1"
    ) == [("mlp", True, 4, 1234, 2.5, [BATCH], False)]


def test_runs_counts_what_was_made_and_what_was_cached(tiny):
    tiny.entries[f"land/{BATCH}"]["run_id"] = "20251231T000000Z-bbbbbb"
    tiny.commit()
    [run] = query(tiny.lake, "select flow, duration_s, entries, made, cached from runs").to_pylist()
    assert run == {"flow": "pipeline", "duration_s": 540.0, "entries": 13, "made": 12, "cached": 1}


def test_embeddings_are_vectors_in_plain_sql(rows):
    cosine = "array_cosine_similarity(a.clip_embedding::float[4], b.clip_embedding::float[4])"
    [(similarity,)] = rows(
        f"select {cosine} from embeddings a, embeddings b where a.sample_key = '{key(1)}' and b.sample_key = '{key(3)}'"
    )
    assert similarity == pytest.approx(4.25 / (2.25**0.5 * 10.25**0.5), abs=1e-6)
