"""Frozen evaluation sets: what is in one, that nothing changes it, and that nobody learns from it."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from tiny_lake import BATCH, SHARDS, key, references, url

from clipcap.dataset.evaluation_set import (
    count_candidates,
    evaluation_shards,
    find_evaluation_set,
    freeze,
    freeze_key,
    lake_shards,
    leaked,
    read_evaluation_set,
)
from clipcap.errors import DataError
from clipcap.metrics.evaluate_model import read_references
from clipcap.storage.manifest import EntryIndex, commit_generation
from clipcap.warehouse.queries import query


def test_a_set_holds_the_embedded_images_of_its_split_with_their_references(tiny):
    tiny.commit()
    shards = lake_shards(EntryIndex(tiny.lake))
    entry = freeze(tiny.lake, "default", shards, "test", freeze_key(shards, "test"))
    commit_generation(tiny.lake, [entry])
    rows = read_evaluation_set(tiny.lake, entry).to_pylist()
    assert [(row["sample_key"], row["captions"], row["shard_id"]) for row in rows] == [
        (key(0), references(0), SHARDS[0]), (key(1), references(1), SHARDS[0])
    ]  # fmt: skip
    assert {row["split"] for row in rows} == {"frozen-default"} and {row["source_split"] for row in rows} == {"test"}
    assert entry.meta["images"] == 2 and entry.meta["references"] == 4 and entry.meta["batch_ids"] == [BATCH]
    held = evaluation_shards(tiny.lake, entry, shards)
    assert [shard.embed.meta["shard_id"] for shard in held] == [SHARDS[0]], "the other shard has no image of it"
    assert read_references(tiny.lake, held, "frozen-default") == {key(n): references(n) for n in (0, 1)}
    statement = "select evaluation_set, image_url, source_split from evaluation_sets order by all"
    assert query(tiny.lake, statement).to_pylist() == [
        {"evaluation_set": "default", "image_url": url(n), "source_split": "test"} for n in (0, 1)
    ]


def test_nothing_changes_a_set_that_is_there(tiny):
    tiny.commit()
    shards = lake_shards(EntryIndex(tiny.lake))
    first = freeze(tiny.lake, "default", shards, "test", "key")
    before = tiny.lake.evaluation_set("default").read_bytes()
    # Another process was faster, or was killed before it recorded its entry: its file is taken as it is.
    second = freeze(tiny.lake, "default", shards, "val", "another key")
    assert tiny.lake.evaluation_set("default").read_bytes() == before
    assert second.files == first.files and second.meta["source_split"] == "test"
    commit_generation(tiny.lake, [second])
    assert find_evaluation_set(EntryIndex(tiny.lake), "default").files == first.files
    assert find_evaluation_set(EntryIndex(tiny.lake), "other") is None


def test_images_that_are_learned_from_are_in_no_set_whatever_key_they_have(tiny):
    tiny.rows(f"shards/{SHARDS[1]}")[1]["sha256"] = f"{0:064x}"
    tiny.commit()  # row 6, split train, has the bytes of row 0, split test
    shards = lake_shards(EntryIndex(tiny.lake))
    assert count_candidates(tiny.lake, shards, "test") == 1
    entry = freeze(tiny.lake, "default", shards, "test", "key")
    assert read_evaluation_set(tiny.lake, entry)["sample_key"].to_pylist() == [key(1)]


def test_what_lands_later_with_the_same_bytes_is_left_out_of_training(tiny):
    tiny.commit()
    shards = lake_shards(EntryIndex(tiny.lake))
    entry = freeze(tiny.lake, "default", shards, "test", "key")
    assert leaked(tiny.lake, entry, shards) == []
    file = tiny.lake.shard(BATCH, SHARDS[1], "parquet")
    table = pq.read_table(file).to_pylist()
    table[1]["sha256"] = f"{1:064x}"  # row 6, split train, is row 1 of the set once more
    pq.write_table(pq.read_table(file).from_pylist(table, schema=pq.read_schema(file)), file)
    assert leaked(tiny.lake, entry, shards) == [key(6)]


def test_images_without_bytes_are_told_apart_by_their_keys(tiny):
    for row in (*tiny.rows(f"shards/{SHARDS[0]}"), *tiny.rows(f"shards/{SHARDS[1]}")):
        row["sha256"] = ""  # as batches that came as embeddings have it
    tiny.commit()
    shards = lake_shards(EntryIndex(tiny.lake))
    assert count_candidates(tiny.lake, shards, "test") == 2
    assert leaked(tiny.lake, freeze(tiny.lake, "default", shards, "test", "key"), shards) == []


def test_what_cannot_be_frozen_is_told(tiny):
    tiny.commit()
    index = EntryIndex(tiny.lake)
    with pytest.raises(DataError, match="nothing to freeze: no embedded image of split 'restval'"):
        freeze(tiny.lake, "default", lake_shards(index), "restval", "key")
    assert not tiny.lake.evaluation_set("default").exists()
    with pytest.raises(DataError, match=f"no embedded batch gone.*{BATCH}"):
        lake_shards(index, ["gone"])
    entry = freeze(tiny.lake, "default", lake_shards(index, [BATCH]), "test", "key")
    tiny.lake.evaluation_set("default").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"the evaluation set .*default\.parquet cannot be read"):
        read_evaluation_set(tiny.lake, entry)
