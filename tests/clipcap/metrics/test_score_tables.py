"""Tables of captions score as the same captions in memory do, in any order, batch and memory; bad ones are named."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.errors import DataError
from clipcap.metrics import score_tables as module
from clipcap.metrics.evaluate import DEFAULT, score
from clipcap.metrics.score_tables import score_tables


def captions(seed, images=60):
    """Raw captions: some odd, some empty, some with a token that holds a no-break space."""
    rng = random.Random(seed)
    words = ["a", "dog", "Cat", "on", "the", "beach.", "it's", "3 1/2", "U.S.", "?!", "(red)", "no. 5", "<b>", ""]

    def text():
        return " ".join(rng.choice(words) for _ in range(rng.randint(0, 9)))

    return (
        {f"image {number}": text() for number in range(images)},
        {f"image {number}": [text() for _ in range(rng.randint(1, 4))] for number in range(images)},
    )


def tables(candidates, references, rng=None):
    ours = [{"key": key, "caption": text, "more": 1} for key, text in candidates.items()]
    theirs = [{"key": key, "caption": text, "more": 1} for key, texts in references.items() for text in texts]
    if rng:
        rng.shuffle(ours)
        rng.shuffle(theirs)
    return pa.Table.from_pylist(ours), pa.Table.from_pylist(theirs)


@pytest.fixture(scope="module")
def sets():
    return captions(0)


def rows(path):
    return {row.pop("key"): row for row in pq.read_table(path).to_pylist()}


def test_tables_score_as_the_same_captions_in_memory(sets, tmp_path):
    expected = score(*sets)
    found = score_tables(*tables(*sets), tmp_path / "per_image.parquet")
    assert {name: found.corpus[name] for name in DEFAULT} == pytest.approx(expected.corpus, abs=1e-15)
    assert (found.images, found.references) == (60, sum(map(len, sets[1].values())))
    each = rows(tmp_path / "per_image.parquet")
    for name in DEFAULT:
        assert {key: each[key][name] for key in sets[0]} == expected.per_image[name]
    assert list(tmp_path.iterdir()) == [tmp_path / "per_image.parquet"]


@pytest.mark.parametrize(
    ("threads", "batch", "memory_limit"), [(1, 7, "1GiB"), (4, 7, "1GiB"), (4, 32_768, "1GiB"), (2, 50, "40MiB")]
)
def test_no_bit_depends_on_order_batches_threads_or_memory(sets, monkeypatch, tmp_path, threads, batch, memory_limit):
    expected = score_tables(*tables(*sets), tmp_path / "first.parquet")
    monkeypatch.setattr(module, "_ROWS", batch)
    found = score_tables(
        *tables(*sets, random.Random(batch)), tmp_path / "second.parquet", threads=threads, memory_limit=memory_limit
    )
    assert found == expected
    assert rows(tmp_path / "second.parquet") == rows(tmp_path / "first.parquet")


def test_files_and_readers_are_read_as_tables_are(sets, tmp_path):
    ours, theirs = tables(*sets)
    expected = score_tables(ours, theirs)
    pq.write_table(ours, tmp_path / "ours.parquet")
    pq.write_table(theirs[:50], tmp_path / "theirs-1.parquet")
    pq.write_table(theirs[50:], tmp_path / "theirs-2.parquet")
    files = [tmp_path / "theirs-1.parquet", tmp_path / "theirs-2.parquet"]
    assert score_tables(tmp_path / "ours.parquet", files) == expected
    assert score_tables(ours.to_reader(), theirs.to_reader(max_chunksize=9)) == expected


def test_keys_may_be_numbers_and_a_caption_that_is_null_is_empty():
    references = pa.table({"key": [1, 1, 2], "caption": ["a dog", None, "a cat"]})
    found = score_tables(pa.table({"key": [2, 1], "caption": ["a cat", None]}), references)
    texts = {"1": "", "2": "a cat"}, {"1": ["a dog", ""], "2": ["a cat"]}
    assert found.corpus == pytest.approx(score(*texts).corpus, abs=1e-15)


def test_other_references_are_ignored(sets):
    candidates, references = sets
    more = references | {"another": ["A dog."]}
    assert score_tables(*tables(candidates, more)) == score_tables(*tables(candidates, references))


KEYS, TEXTS = ["1", "2"], ["A dog.", "A cat."]
GOOD = pa.table({"key": KEYS, "caption": TEXTS})


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (GOOD.rename_columns(["id", "caption"]), GOOD, r"^candidates: no column key among id, caption; expected key"),
        (GOOD, pa.table({"x": [1]}), r"^references: no column key and no caption among x"),
        (GOOD[:0], GOOD, "no candidates"),
        (GOOD, GOOD[:1], r"^1 of 2 candidates \(2\): candidate has no reference"),
        (pa.concat_tables([GOOD, GOOD]), GOOD, r"^2 of 4 candidates .*more than one candidate"),
        (pa.table({"key": ["1", None], "caption": TEXTS}), GOOD, r"^1 of 2 candidates .*key is null"),
    ],
)
def test_what_cannot_be_scored_is_named(candidates, references, message):
    with pytest.raises(DataError, match=message):
        score_tables(candidates, references)


def test_a_file_without_the_columns_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"references, .*x\.parquet: no column key and no caption among text"):
        score_tables(GOOD, tmp_path / "x.parquet")


def test_nothing_is_left_behind_and_nothing_half_written_after_an_error(tmp_path):
    with pytest.raises(DataError):
        score_tables(GOOD, GOOD[:1], tmp_path / "per_image.parquet", spill_dir=tmp_path)
    assert not list(tmp_path.iterdir())
