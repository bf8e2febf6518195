"""Near-duplicates against a plain loop over all pairs, and through the chain into SQL."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcap.embedding.duplicates import duplicates_key, mark_duplicates, near_duplicates


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


@pytest.mark.parametrize("first", [0, 7, 150, 299])
@pytest.mark.parametrize("threshold", [0.8, 0.99])
def test_every_pair_is_compared(first: int, threshold: float):
    vectors = planted(300, copies=40)
    numbers, repeated, cosines = near_duplicates(vectors, first, threshold)
    expected = by_hand(vectors, first, threshold)
    assert dict(zip(numbers.tolist(), repeated.tolist(), strict=True)) == {n: m for n, (m, _) in expected.items()}
    np.testing.assert_allclose(cosines, [cosine for _, cosine in expected.values()], atol=1e-5)


def test_more_than_a_block(monkeypatch):
    from clipcap.embedding import duplicates as module

    monkeypatch.setattr(module, "_BLOCK", 16)
    vectors = planted(200, copies=30)
    numbers, repeated, _ = near_duplicates(vectors, 0, 0.99)
    assert dict(zip(numbers.tolist(), repeated.tolist(), strict=True)) == {
        n: m for n, (m, _) in by_hand(vectors, 0, 0.99).items()
    }


@pytest.mark.parametrize("first", [0, 2500])
def test_cells_find_nearly_all_and_nothing_else(first: int):
    vectors = planted(4000, dim=64, copies=400)
    exact = near_duplicates(vectors, first, 0.97)
    numbers, repeated, cosines = near_duplicates(vectors, first, 0.97, exact=0)
    pairs, wanted = set(zip(numbers, repeated, strict=True)), set(zip(exact[0], exact[1], strict=True))
    assert len(wanted) > 300 and len(pairs & wanted) >= 0.97 * len(wanted)
    assert set(numbers) <= set(exact[0]) and (repeated < numbers).all() and (cosines >= 0.97).all()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int):
    assert all(len(part) == 0 for part in near_duplicates(planted(max(count, 1))[:count], 0, 0.5))


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
    assert ends == [("c", "a", False), ("d", "b", True)] and all(row["cosine"] > 0.98 for row in rows)
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
