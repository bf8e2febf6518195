"""Near-duplicates against a plain loop over all pairs, and through the chain into SQL."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcap.embedding import neighbours
from clipcap.embedding.duplicates import duplicates_key, mark_duplicates
from clipcap.embedding.neighbours import near_duplicates, same_bytes
from clipcap.embedding.store import EmbeddingInfo, read_embeddings, read_info, write_embeddings


def planted(count: int, dim: int = 24, copies: int = 0, seed: int = 0) -> np.ndarray:
    """Random vectors around a common direction, as embeddings are; some repeat an earlier one nearly."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dim)) + 1.5
    for number in rng.choice(np.arange(count // 2, count), copies, replace=False):
        vectors[number] = vectors[rng.integers(count // 2)] * rng.uniform(0.5, 2) + rng.normal(size=dim) * 0.05
    return vectors.astype(np.float16)


def by_hand(vectors: np.ndarray, first: int, threshold: float) -> dict[int, tuple[int, float]]:
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = {}
    for number in range(max(first, 1), len(unit)):
        cosines = unit[:number] @ unit[number]
        if cosines.max() >= threshold:
            found[number] = (int(cosines.argmax()), float(cosines.max()))
    return found


def stored(
    folder: Path, vectors: np.ndarray, sizes: tuple[int, ...] = (), sha256: list[str] | None = None
) -> list[Path]:
    """Files of so many rows each, the last with what is left."""
    paths, start = [], 0
    for number, rows in enumerate([*sizes, len(vectors) - sum(sizes)]):
        part = slice(start, start + rows)
        info = EmbeddingInfo(
            encoder="e", encoder_hash="0", clip_dim=vectors.shape[1], preprocessing_hash="0", normalized=number % 2 == 1
        )  # a batch that was imported stands beside one that was not
        keys = [f"k{n}" for n in range(start, start + rows)]
        write_embeddings(folder / f"{number}.parquet", info, keys, (sha256 or [""] * len(vectors))[part], vectors[part])
        paths.append(folder / f"{number}.parquet")
        start += rows
    return paths


def pairs(found: tuple[np.ndarray, ...]) -> dict[int, int]:
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


@pytest.mark.parametrize("first", [0, 7, 150, 299])
@pytest.mark.parametrize("threshold", [0.8, 0.99])
@pytest.mark.parametrize("sizes", [(), (150, 0, 1, 100)])
def test_every_pair_is_compared(tmp_path: Path, first: int, threshold: float, sizes: tuple[int, ...]):
    vectors = planted(300, copies=40)
    found = near_duplicates(stored(tmp_path, vectors, sizes), first, threshold)
    expected = by_hand(vectors, first, threshold)
    assert pairs(found) == {n: m for n, (m, _) in expected.items()} and len(expected) >= (first < 299)
    np.testing.assert_allclose(found[2], [cosine for _, cosine in expected.values()], atol=1e-5)


@pytest.mark.parametrize("exact_pairs", [10**9, 0])
@pytest.mark.parametrize(("chunk", "block", "tile"), [(1000, 1000, 16), (64, 1000, 16), (1000, 37, 8), (61, 17, 5)])
def test_chunks_blocks_and_tiles_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, block: int, tile: int, exact_pairs: int
):
    vectors = planted(200, copies=30)
    paths = stored(tmp_path, vectors, (20, 90))
    for first in (0, 110):
        monkeypatch.undo()
        whole = near_duplicates(paths, first, 0.97, exact_pairs)
        for name, value in {"_CHUNK": chunk, "_BLOCK": block, "_TILE": tile}.items():
            monkeypatch.setattr(neighbours, name, value)
        pieces = near_duplicates(paths, first, 0.97, exact_pairs)
        assert pairs(pieces) == pairs(whole) and len(whole[0]) > 10
        np.testing.assert_allclose(pieces[2], whole[2], atol=1e-6)
        if exact_pairs:
            assert pairs(pieces) == {n: m for n, (m, _) in by_hand(vectors, first, 0.97).items()}


@pytest.mark.parametrize("first", [0, 2500])
def test_cells_find_nearly_all_and_nothing_else(tmp_path: Path, first: int):
    vectors = planted(4000, dim=64, copies=400)
    paths = stored(tmp_path, vectors, (2500,))
    exact, found = near_duplicates(paths, first, 0.97), near_duplicates(paths, first, 0.97, exact_pairs=0)
    same = pairs(exact).items() & pairs(found).items()
    assert len(exact[0]) > 300 and len(same) >= 0.97 * len(exact[0])
    assert set(found[0]) <= set(exact[0]) and (found[1] < found[0]).all() and (found[2] >= 0.97).all()


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("exact_pairs", [10**9, -1])
def test_next_to_nothing_to_compare(tmp_path: Path, count: int, exact_pairs: int):
    paths = stored(tmp_path, np.ones((count, 4), np.float16))
    assert pairs(near_duplicates(paths, 0, 0.5, exact_pairs)) == ({1: 0} if count == 2 else {})
    assert all(len(part) == 0 for part in near_duplicates(paths, count, 0.5, exact_pairs))


@pytest.mark.parametrize("first", [0, 9, 40])
def test_the_same_bytes_by_a_plain_loop(tmp_path: Path, first: int):
    rng = np.random.default_rng(0)
    known = [hashlib.sha256(bytes([n])).hexdigest() for n in range(12)] + ["", "00" * 31 + "01"]
    hashes = [known[n] for n in rng.integers(len(known), size=60)]
    paths = stored(tmp_path, planted(60), (0, 9, 20), hashes)
    expected = {n: hashes.index(h) for n, h in enumerate(hashes) if h and n >= first and hashes.index(h) < n}
    assert pairs(same_bytes(paths, first)) == expected and len(expected) > 10


def picture(seed: int, quality: int = 95, edge: int = 96) -> bytes:
    from clipcap.dataset.scenes import render_jpeg, scene

    image = Image.open(io.BytesIO(render_jpeg(scene(seed, 7), edge)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def test_through_the_chain_into_sql(tmp_path: Path):
    from clipcap.config import Config, DatasetConfig, DownloadConfig, EmbedConfig
    from clipcap.dataset.download import download_key, download_shard
    from clipcap.dataset.land import land, plan_shards, read_landing
    from clipcap.embedding.embed import embed_key, embed_shard
    from clipcap.embedding.embed_text import embed_text_key, embed_text_shard
    from clipcap.embedding.encoder import Encoder
    from clipcap.storage.lake import Lake
    from clipcap.warehouse.publish import publish
    from clipcap.warehouse.queries import query

    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in {"a": picture(1), "b": picture(2), "c": picture(1, quality=80), "d": picture(2)}.items():
        (folder / f"{name}.jpg").write_bytes(data)
        (folder / f"{name}.txt").write_text("a shape\nanother shape" if name == "a" else "a shape")
    import tarfile

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    lake, encoder = Lake(tmp_path / "lake"), Encoder("builtin:sample", "cpu", "float32")
    landing = read_landing(Config(dataset=DatasetConfig(source=str(tmp_path / "0.tar"), name="dup")))
    batch, chosen = land(lake, landing), DownloadConfig(shard_size=3)
    shards = [download_shard(lake, job, chosen, download_key(lake, job, chosen))
              for job in plan_shards(landing.batch_id, 4, 3)]  # fmt: skip
    embeds = [embed_shard(lake, s, encoder, EmbedConfig(workers=0), embed_key(s, encoder)) for s in shards]
    texts = [embed_text_shard(lake, s, encoder, embed_text_key(s, encoder)) for s in shards]
    marked = mark_duplicates(lake, embeds, [], 0.98, duplicates_key(embeds, [], 0.98))
    used = [batch, *shards, *embeds, *texts, marked]
    publish(lake, used, "20260101T000000Z-000000", "x", datetime.now(UTC), {})
    rows = query(lake, "select * from near_duplicates order by sample_key").to_pylist()
    ends = [(row["image_url"][-5], row["duplicate_of_url"][-5], row["is_exact"]) for row in rows]
    assert ends == [("c", "a", False), ("d", "b", True)] and 0.98 < rows[0]["cosine"] < 1 == rows[1]["cosine"]
    texts_found = query(lake, "select * from text_embeddings order by sample_key, caption_number").to_pylist()
    assert [row["caption"] for row in texts_found] == ["a shape another shape", "a shape", "a shape", "a shape"]
    expected = encoder.encode_text(["a shape another shape", "a shape"])
    np.testing.assert_allclose(texts_found[0]["clip_embedding"], expected[0], atol=2e-3)
    np.testing.assert_allclose(texts_found[2]["clip_embedding"], expected[1], atol=2e-3)
    nearest = query(lake, """
        select text.caption, array_cosine_similarity(
            text.clip_embedding::float[256], image.clip_embedding::float[256]) as cosine
        from text_embeddings as text join embeddings as image using (sample_key)
    """)  # fmt: skip
    assert nearest.num_rows == 4

    again = [embed_shard(lake, s, Encoder("builtin:sample", "cpu", "bfloat16"), EmbedConfig(workers=0), "other")
             for s in shards]  # fmt: skip
    publish(lake, [batch, *shards, *again], "20260102T000000Z-000000", "x", datetime.now(UTC), {})
    assert query(lake, "from near_duplicates").num_rows == 0, "what was compared is no longer there"


def test_what_was_found_with_vectors_that_were_replaced_since_is_not_published(tmp_path: Path):
    """A later batch was compared with an earlier one, whose embeddings another run makes anew."""
    from clipcap.embedding.adopt import adopt_embeddings
    from clipcap.embedding.encoder import Encoder
    from clipcap.storage.commit import commit
    from clipcap.storage.entries import describe
    from clipcap.storage.lake import Lake
    from clipcap.storage.records import Entry
    from clipcap.warehouse.publish import publish
    from clipcap.warehouse.queries import query

    lake, encoder = Lake(tmp_path / "lake"), Encoder("builtin:sample", "cpu", "float32")
    vectors = np.random.default_rng(0).normal(size=(4, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    batches: list[list[Entry]] = []
    for name in ("first", "second", "third"):
        for kind in ("img_emb", "metadata"):
            (tmp_path / name / kind).mkdir(parents=True)
        np.save(tmp_path / name / "img_emb" / "img_emb_0.npy", vectors)
        rows = pa.table({"url": [f"http://{name}/{n}" for n in range(4)]})
        pq.write_table(rows, tmp_path / name / "metadata" / "metadata_0.parquet")
        batches.append(adopt_embeddings(lake, tmp_path / name, name, encoder))
    embeds = [next(e for e in entries if e.stage == "embed") for entries in batches]
    earlier: list[list[Entry]] = [[], embeds[:1], embeds[1:2]]  # the third was never compared with the first
    marked = [mark_duplicates(lake, [e], before, 0.9, duplicates_key([e], before, 0.9))
              for e, before in zip(embeds, earlier, strict=True)]  # fmt: skip
    names = [e.meta["batch_id"] for e in embeds]

    def counted(entries: list[Entry]) -> dict[str, int]:
        publish(lake, entries, f"20260101T000000Z-{len(runs):06x}", "x", datetime.now(UTC), {})
        runs.append(1)
        found = query(lake, "select batch_id, count(*) as rows from near_duplicates group by all").to_pylist()
        return {row["batch_id"]: row["rows"] for row in found}

    runs: list[int] = []
    assert counted([*(e for entries in batches for e in entries), *marked]) == {names[1]: 4, names[2]: 4}
    assert counted([*batches[0], *marked[:1]]) == {names[1]: 4, names[2]: 4}, "nothing changed"
    path = lake.absolute(embeds[0].file("embeddings").path)
    write_embeddings(tmp_path / "again.parquet", read_info(path), read_embeddings([path]).keys, [""] * 4, vectors * 0.5)
    commit(tmp_path / "again.parquet", path)
    ledger = embeds[0].file("ledger")
    anew = embeds[0].model_copy(update={"key": "anew", "files": [describe(lake, "embeddings", path), ledger]})
    assert counted([anew]) == {names[2]: 4}
    before = [[], [anew]]
    again = [mark_duplicates(lake, [e], b, 0.9, duplicates_key([e], b, 0.9))
             for e, b in zip([anew, embeds[1]], before, strict=True)]  # fmt: skip
    assert counted(again) == {names[1]: 4, names[2]: 4}
