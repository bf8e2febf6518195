"""Embeddings on disk: exact, self-describing, readable by plain SQL, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcap.embedding.store import EmbeddingInfo, read_embeddings, read_info, write_embeddings
from clipcap.errors import EmbeddingError

INFO = EmbeddingInfo(encoder="toy", encoder_hash="ab" * 32, clip_dim=8, preprocessing_hash="cd" * 32)


def vectors(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float16)


def write(path: Path, rows: int = 5, info: EmbeddingInfo = INFO, seed: int = 0) -> Path:
    keys = [f"{path.stem}-{n}" for n in range(rows)]
    write_embeddings(path, info, keys, [f"{n:064x}" for n in range(rows)], vectors(rows, info.clip_dim, seed))
    return path


@pytest.mark.parametrize("rows", [0, 1, 5, 20_001, 45_000])
def test_what_was_written_comes_back_to_the_bit(tmp_path: Path, rows: int):
    stored = read_embeddings([write(tmp_path / "e.parquet", rows)])
    assert stored.info == INFO
    assert stored.vectors.dtype == np.float16 and stored.vectors.shape == (rows, 8)
    assert stored.vectors.tobytes() == vectors(rows).tobytes()
    assert stored.keys == [f"e-{n}" for n in range(rows)]
    assert stored.sha256 == [f"{n:064x}" for n in range(rows)]


def test_extreme_but_finite_values_survive(tmp_path: Path):
    values = np.array([[65504, -65504, 2**-24, -0.0, 0.0, 1 / 3, 1e-5, -1]], np.float16)
    write_embeddings(tmp_path / "e.parquet", INFO, ["k"], ["s"], values)
    assert read_embeddings([tmp_path / "e.parquet"]).vectors.tobytes() == values.tobytes()


def test_float32_is_rounded_as_numpy_rounds(tmp_path: Path):
    values = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    write_embeddings(tmp_path / "e.parquet", INFO, list("abc"), list("abc"), values)
    np.testing.assert_array_equal(read_embeddings([tmp_path / "e.parquet"]).vectors, values.astype(np.float16))


def test_files_are_joined_in_the_order_given(tmp_path: Path):
    paths = [write(tmp_path / f"{name}.parquet", 3, seed=n) for n, name in enumerate("bca")]
    stored = read_embeddings(paths)
    assert stored.keys == [f"{name}-{n}" for name in "bca" for n in range(3)]
    np.testing.assert_array_equal(stored.vectors, np.concatenate([vectors(3, seed=n) for n in range(3)]))


def test_the_layout_is_the_contract(tmp_path: Path):
    path = write(tmp_path / "e.parquet", 45_000)
    schema = pq.read_schema(path)
    assert schema.names == ["sample_key", "sha256", "clip_embedding"]
    number = pa.field("element", pa.float16(), nullable=False)
    assert schema.field("clip_embedding").equals(pa.field("clip_embedding", pa.list_(number, 8), nullable=False))
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [20_000, 20_000, 5_000]
    column = metadata.row_group(0).column(2)
    assert column.compression == "UNCOMPRESSED" and not column.has_dictionary_page
    described = json.loads(schema.metadata[b"clipcap"])
    assert set(described) == {"encoder", "encoder_hash", "clip_dim", "dtype", "normalized", "preprocessing_hash"}


def test_plain_sql_reads_vectors(tmp_path: Path):
    path = write(tmp_path / "e.parquet")
    wanted = vectors(5).astype(np.float64)
    with duckdb.connect() as connection:
        rows = connection.execute(f"""
            select a.sample_key, b.sample_key, a.clip_embedding::float[8],
                   array_cosine_similarity(a.clip_embedding::float[8], b.clip_embedding::float[8])
            from '{path}' as a, '{path}' as b order by 1, 2""").fetchall()
    assert len(rows) == 25
    for one, two, vector, similarity in rows:
        a, b = wanted[int(one[-1])], wanted[int(two[-1])]
        np.testing.assert_array_equal(vector, a)
        assert similarity == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 70_000.0])
@pytest.mark.filterwarnings("ignore:overflow")
def test_values_that_are_not_finite_are_refused_with_the_key(tmp_path: Path, bad: float):
    values = vectors(3).astype(np.float32)
    values[1, 4] = bad
    with pytest.raises(EmbeddingError, match=r"1 embedding\(s\) are not finite in float16, first key-b: "):
        write_embeddings(tmp_path / "e.parquet", INFO, ["key-a", "key-b", "key-c"], list("abc"), values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(5, 7), (4, 8), (8,), (5, 8, 1)])
def test_vectors_of_another_shape_are_not_written(tmp_path: Path, shape: tuple[int, ...]):
    with pytest.raises(EmbeddingError, match=r"expected \(5, 8\)"):
        write_embeddings(tmp_path / "e.parquet", INFO, list("abcde"), list("abcde"), np.zeros(shape, np.float16))
    assert list(tmp_path.iterdir()) == []


def test_another_dimension_or_encoder_than_the_caller_can_use_is_refused(tmp_path: Path):
    path = write(tmp_path / "e.parquet")
    assert len(read_embeddings([path], clip_dim=8, encoder_hash=INFO.encoder_hash).keys) == 5
    with pytest.raises(EmbeddingError, match=r"e.parquet: embeddings of dimension 8, expected 512"):
        read_embeddings([path], clip_dim=512)
    with pytest.raises(EmbeddingError, match=r"embeddings of toy \(abababababab\), expected weights efefefefefef"):
        read_embeddings([path], encoder_hash="ef" * 32)


@pytest.mark.parametrize(
    "change",
    [{"encoder": "other"}, {"encoder_hash": "ef" * 32}, {"clip_dim": 4}, {"preprocessing_hash": "00" * 32},
     {"dtype": "float32"}, {"normalized": True}],
    ids=str,
)  # fmt: skip
def test_files_that_differ_in_any_fact_are_not_mixed(tmp_path: Path, change: dict):
    other = INFO.model_copy(update=change)
    paths = [write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", info=other)]
    with pytest.raises(EmbeddingError, match=r"b\.parquet: .*mixed with"):
        read_embeddings(paths)


def test_no_file_at_all():
    with pytest.raises(EmbeddingError, match="run the embed stage first"):
        read_embeddings([])


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "foreign parquet", "foreign metadata"])
def test_what_is_no_embeddings_file(tmp_path: Path, damage: str):
    path = write(tmp_path / "e.parquet")
    if damage == "missing":
        path.unlink()
    if damage == "text":
        path.write_text("sample_key,clip_embedding\n")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    if damage == "foreign parquet":
        pq.write_table(pa.table({"sample_key": ["a"], "clip_embedding": [[1.0]]}), path)
    if damage == "foreign metadata":
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"clipcap": b'{"encoder": "x"}'}), path)
    for read in (read_info, lambda one: read_embeddings([one])):
        with pytest.raises(EmbeddingError, match=r"e\.parquet is not an embeddings file of clipcap"):
            read(path)


@pytest.mark.parametrize("tokens", [0, 4])
@pytest.mark.parametrize("rows", [0, 3])
def test_features_stand_beside_the_embedding_in_the_same_row(tmp_path: Path, tokens: int, rows: int):
    info = INFO.model_copy(
        update={"features": "tokens" if tokens else "tower", "feature_dim": 6, "feature_tokens": tokens}
    )
    shape = (rows, tokens, 6) if tokens else (rows, 6)
    features = np.random.default_rng(3).normal(size=shape).astype(np.float16)
    keys = [str(n) for n in range(rows)]
    write_embeddings(tmp_path / "e.parquet", info, keys, keys, vectors(rows), features)
    stored = read_embeddings([tmp_path / "e.parquet"], clip_dim=6)
    assert stored.info == info and stored.features.shape == shape
    assert stored.features.tobytes() == features.tobytes() and stored.vectors.tobytes() == vectors(rows).tobytes()
    with pytest.raises(EmbeddingError, match="dimension 6, expected 8"):
        read_embeddings([tmp_path / "e.parquet"], clip_dim=8)
    with pytest.raises(EmbeddingError, match="got vectors of shape"):
        write_embeddings(tmp_path / "f.parquet", info, ["a"], ["a"], vectors(1), np.zeros((1, 5)))


def test_models_read_the_embedding_where_there_is_nothing_else(tmp_path: Path):
    stored = read_embeddings([write(tmp_path / "e.parquet")])
    assert stored.features is stored.vectors and stored.info.input_dim == 8


def test_only_the_rows_that_are_wanted(tmp_path: Path):
    paths = [write(tmp_path / f"{name}.parquet", 4, seed=n) for n, name in enumerate("abc")]
    everything = read_embeddings(paths)
    wanted = {"a-3", "c-0", "c-2", "nobody's"}
    some = read_embeddings(paths, only=wanted)
    rows = [row for row, key in enumerate(everything.keys) if key in wanted]
    assert some.keys == ["a-3", "c-0", "c-2"] and some.sha256 == [everything.sha256[row] for row in rows]
    np.testing.assert_array_equal(some.vectors, everything.vectors[rows])
    assert read_embeddings(paths, only=()).vectors.shape == (0, 8)


def tokens_of(path: Path, rows: int = 2) -> Path:
    info = INFO.model_copy(update={"features": "tokens", "feature_dim": 8, "feature_tokens": 3})
    keys = [f"{path.stem}-{n}" for n in range(rows)]
    write_embeddings(path, info, keys, keys, vectors(rows), vectors(rows, 24).reshape(rows, 3, 8))
    return path


def test_another_kind_of_features_is_neither_mixed_nor_given_to_whom_it_does_not_fit(tmp_path: Path):
    plain, tokens = write(tmp_path / "a.parquet"), tokens_of(tmp_path / "b.parquet")
    assert read_embeddings([tokens], clip_dim=8, features="tokens").features.shape == (2, 3, 8)
    with pytest.raises(EmbeddingError, match=r"b\.parquet: features of kind 'tokens', expected 'embedding'"):
        read_embeddings([tokens], clip_dim=8, features="embedding")
    with pytest.raises(EmbeddingError, match=r"b\.parquet: .*mixed with"):
        read_embeddings([plain, tokens])


def test_plain_sql_reads_files_with_and_without_features_together(tmp_path: Path):
    plain, tokens = write(tmp_path / "a.parquet"), tokens_of(tmp_path / "b.parquet")
    with duckdb.connect() as connection:
        rows = connection.execute(f"""
            select sample_key, clip_embedding::float[8], clip_features[9:16]
            from read_parquet(['{plain}', '{tokens}'], union_by_name = true) order by 1""").fetchall()
    assert [row[0] for row in rows] == [*(f"a-{n}" for n in range(5)), "b-0", "b-1"]
    np.testing.assert_array_equal(np.array([row[1] for row in rows[5:]]), vectors(2))
    assert all(row[2] is None for row in rows[:5])
    np.testing.assert_array_equal(rows[6][2], vectors(2, 24)[1, 8:16])  # the second token of the second image
