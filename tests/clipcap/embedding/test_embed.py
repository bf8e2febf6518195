"""The embed stage: equal to open_clip, each image once, every row accounted for."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipcap.config import DownloadConfig, EmbedConfig
from clipcap.dataset.land import URLS_SCHEMA, ShardJob
from clipcap.dataset.scenes import render_jpeg, scene
from clipcap.dataset.shards import Fetched, pack_shard
from clipcap.embedding import embed as module
from clipcap.embedding.embed import embed_key, embed_shard
from clipcap.embedding.encoder import Encoder
from clipcap.embedding.hash_index import HashIndex
from clipcap.embedding.store import read_embeddings
from clipcap.errors import EmbeddingError
from clipcap.resources import resource
from clipcap.storage.entries import Recorder
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import write_ledger
from clipcap.storage.manifest import EntryIndex
from clipcap.storage.records import Entry

BATCH = "toy-0a1b2c3d"
CONFIG = EmbedConfig(encoder="builtin:sample", device="cpu", batch_size=3, workers=0)


def jpeg(number: int) -> bytes:
    return render_jpeg(scene(number, 5, 80))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("builtin:sample", "cpu", "float32")


@pytest.fixture
def encoded(encoder: Encoder, monkeypatch) -> list[int]:
    """Rows of each forward pass."""
    rows: list[int] = []
    encode = Encoder.start

    def counted(self: Encoder, pixels: np.ndarray):
        rows.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Encoder, "start", counted)
    return rows


def download(lake: Lake, images: list[bytes], index: int = 0, captions: list[str] | None = None) -> Entry:
    """A downloaded shard without a downloader."""
    job = ShardJob(BATCH, f"0a1b2c3d-{index:05d}", 0, len(images))
    keys = [f"0a1b2c3d-{index * 100 + n:07d}" for n in range(len(images))]
    raw = lake.scratch / "raw.tar"
    raw.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(raw, "w") as archive:
        for key, data in zip(keys, images, strict=True):
            info = tarfile.TarInfo(f"{key}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    fetched = {k: Fetched(k, True, "", hashlib.sha256(d).hexdigest()) for k, d in zip(keys, images, strict=True)}
    texts = [[text] for text in captions] if captions else [[]] * len(keys)
    rows = [
        {"sample_key": key, "url": f"http://a/{key}", "captions": text, "split": "train" if text else ""}
        for key, text in zip(keys, texts, strict=True)
    ]
    tar, table = lake.shard(BATCH, job.shard_id, "tar"), lake.shard(BATCH, job.shard_id, "parquet")
    ledger = lake.ledger("download", BATCH, job.shard_id)
    entry_id = f"download/{BATCH}/{job.shard_id}"
    with Recorder(lake, "download", entry_id, "k", "", batch_id=BATCH, shard_id=job.shard_id) as out:
        outcomes = pack_shard(
            pa.Table.from_pylist(rows, schema=URLS_SCHEMA), fetched, [raw], tar, table, job, DownloadConfig()
        )
        out.rows = write_ledger(ledger, "download", BATCH, job.shard_id, outcomes)
        out.add("shard_tar", tar), out.add("shard", table), out.add("ledger", ledger)
    return out.entry


def embed(lake: Lake, shard: Entry, encoder: Encoder, **options) -> Entry:
    config = CONFIG.model_copy(update=options.pop("config", {}))
    return embed_shard(lake, shard, encoder, config, embed_key(shard, encoder), "run", **options)


def stored(lake: Lake, entry: Entry):
    return read_embeddings([lake.absolute(entry.file("embeddings").path)])


def ledger(lake: Lake, entry: Entry) -> list[tuple[str, str, str]]:
    rows = pq.read_table(lake.absolute(entry.file("ledger").path)).to_pylist()
    return [(row["sample_key"][-3:], row["status"], row["reason"]) for row in rows]


def test_vectors_are_those_of_open_clip(lake: Lake, encoder: Encoder):
    import open_clip
    import torch

    images = [jpeg(n) for n in range(7)]
    entry = embed(lake, download(lake, images), encoder)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{resource('assets') / 'sample_encoder'}")
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data in images])
        expected = model.eval().encode_image(batch).numpy()
    got = stored(lake, entry)
    assert got.keys == [f"0a1b2c3d-{n:07d}" for n in range(7)]
    assert got.sha256 == [hashlib.sha256(data).hexdigest() for data in images]
    vectors = got.vectors.astype(np.float64)
    cosine = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert (1 - cosine < 1e-3).all()
    np.testing.assert_allclose(vectors, expected, rtol=2e-3, atol=2e-3)  # not normalised, rounded to float16
    assert got.info.encoder == "builtin:sample" and got.info.encoder_hash == encoder.hash
    assert got.info.clip_dim == entry.meta["clip_dim"] == 256 and not got.info.normalized


def test_the_entry_is_found_and_has_its_place(lake: Lake, encoder: Encoder):
    shard = download(lake, [jpeg(0)])
    entry = embed(lake, shard, encoder)
    assert entry.id == f"embed/{encoder.id}/{BATCH}/0a1b2c3d-00000"
    assert entry.file("embeddings").path == f"embeddings/{encoder.id}/{BATCH}/0a1b2c3d-00000.parquet"
    assert EntryIndex(lake).find(entry.id, embed_key(shard, encoder)) == entry
    assert entry.rows == {"ok": 1}


def test_each_unique_image_is_encoded_once_within_a_shard(lake: Lake, encoder: Encoder, encoded: list[int]):
    a, b, c = (jpeg(n) for n in range(3))
    entry = embed(lake, download(lake, [a, b, a, a, c, b]), encoder)
    assert sum(encoded) == 3
    vectors = stored(lake, entry).vectors
    assert len(vectors) == 6 and entry.rows == {"ok": 6}
    for one, two in ((0, 2), (0, 3), (1, 5)):
        np.testing.assert_array_equal(vectors[one], vectors[two])
    assert len(np.unique(vectors, axis=0)) == 3


def test_each_unique_image_is_encoded_once_across_shards(lake: Lake, encoder: Encoder, encoded: list[int]):
    a, b, c, d = (jpeg(n) for n in range(4))
    first, second = download(lake, [a, b, c], 0), download(lake, [c, d, a], 1)
    one = embed(lake, first, encoder)
    index = HashIndex(lake, [one], "float32")
    assert index.start(second) == [one.file("embeddings").path]
    two = embed(lake, second, encoder, others=index.start(second))
    assert encoded == [3, 1]
    np.testing.assert_array_equal(stored(lake, two).vectors[[0, 2]], stored(lake, one).vectors[[2, 0]])
    alone = Lake(lake.root.parent / "alone")
    np.testing.assert_array_equal(
        stored(lake, two).vectors, stored(alone, embed(alone, download(alone, [c, d, a], 1), encoder)).vectors
    )


def test_the_index_learns_from_each_new_shard_and_forgets_other_versions(lake: Lake, encoder: Encoder, monkeypatch):
    first, second = download(lake, [jpeg(0)], 0), download(lake, [jpeg(0)], 1)
    index = HashIndex(lake, [], "float32")
    assert index.start(second) == []
    one = embed(lake, first, encoder)
    index.add(one)
    assert index.start(second) == [one.file("embeddings").path]
    monkeypatch.setattr(module, "_libraries", lambda: {"torch": "99.0"})
    assert embed_key(first, encoder) != one.key
    assert HashIndex(lake, [one], "float32").start(second) == [], "the key promises vectors of the new versions"


def test_images_that_cannot_be_decoded_have_their_row_and_stop_nothing(
    lake: Lake, encoder: Encoder, encoded: list[int]
):
    cut = jpeg(9)[: len(jpeg(9)) // 2]
    shard = download(lake, [jpeg(0), cut, jpeg(1), cut, jpeg(2)])
    assert shard.rows == {"ok": 5}, "the header is whole, so downloading cannot know"
    entry = embed(lake, shard, encoder)
    rows = ledger(lake, entry)
    assert [(key, status) for key, status, _ in rows] == [
        ("000", "ok"), ("001", "failed"), ("002", "ok"), ("003", "failed"), ("004", "ok"),
    ]  # fmt: skip
    assert all("truncated" in reason for _, status, reason in rows if status == "failed")
    assert entry.rows == {"ok": 3, "failed": 2}
    assert stored(lake, entry).keys == [f"0a1b2c3d-{n:07d}" for n in (0, 2, 4)]
    assert sum(encoded) == 3


def test_a_shard_of_broken_or_of_no_images_gives_an_empty_file(lake: Lake, encoder: Encoder):
    for index, images in enumerate(([jpeg(0)[: len(jpeg(0)) // 2]], [])):
        entry = embed(lake, download(lake, images, index), encoder)
        assert stored(lake, entry).vectors.shape == (0, 256)
        assert len(ledger(lake, entry)) == len(images)


@pytest.mark.parametrize("config", [{"batch_size": 1}, {"batch_size": 64}, {"workers": 2}], ids=str)
def test_speed_settings_change_no_vector(lake: Lake, encoder: Encoder, config: dict):
    shard = download(lake, [jpeg(n) for n in range(4)])
    expected = stored(lake, embed(lake, shard, encoder)).vectors.astype(np.float32)
    got = stored(lake, embed(lake, shard, encoder, config=config)).vectors
    np.testing.assert_allclose(got, expected, atol=2e-3, rtol=2e-3)


def test_values_that_are_not_finite_stop_the_stage_and_write_nothing(lake: Lake, encoder: Encoder, monkeypatch):
    import torch

    bad = lambda images: (torch.full((len(images), 256), torch.nan),) * 2  # noqa: E731
    monkeypatch.setattr(encoder.forward_pass, "_run", bad)
    with pytest.raises(EmbeddingError, match="not finite"):
        embed(lake, download(lake, [jpeg(0)]), encoder)
    assert not (lake.root / "embeddings").exists() or not list((lake.root / "embeddings").rglob("*.parquet"))
    assert EntryIndex(lake).of_stage("embed") == []


def test_the_key_follows_images_weights_and_versions(lake: Lake, encoder: Encoder, tmp_path: Path, monkeypatch):
    shard = download(lake, [jpeg(0), jpeg(1)])
    key = embed_key(shard, encoder)
    assert embed_key(download(lake, [jpeg(0), jpeg(1)]), encoder) == key
    assert embed_key(download(lake, [jpeg(1), jpeg(0)]), encoder) != key
    folder = Path(shutil.copytree(resource("assets") / "sample_encoder", tmp_path / "copy"))
    assert embed_key(shard, Encoder(f"local-dir:{folder}", "cpu", "float32")) == key, (
        "the same weights elsewhere are the same"
    )
    weights = folder / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert embed_key(shard, Encoder(f"local-dir:{folder}", "cpu", "float32")) != key
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert embed_key(shard, encoder) != key


@pytest.mark.parametrize("kind", ["tower", "tokens", "tokens1"])
def test_features_are_stored_once_for_each_image_and_beside_the_same_embedding(
    lake: Lake, encoder: Encoder, encoded: list[int], kind: str
):
    plain = stored(lake, embed(lake, download(lake, [jpeg(n) for n in range(4)]), encoder))
    encoded.clear()
    other = Encoder(f"builtin:sample#{kind}", "cpu", "float32")
    first, second = download(lake, [jpeg(0), jpeg(1), jpeg(0)], 1), download(lake, [jpeg(1), jpeg(2), jpeg(3)], 2)
    assert embed_key(first, other) != embed_key(first, encoder)
    one = embed(lake, first, other)
    two = embed(lake, second, other, others=HashIndex(lake, [one], "float32").start(second))
    assert sum(encoded) == 4
    got = read_embeddings(lake.absolute(entry.file("embeddings").path) for entry in (one, two))
    images = [0, 1, 0, 1, 2, 3]
    np.testing.assert_allclose(got.vectors, plain.vectors[images], atol=2e-3)
    shape = {"tower": (768,), "tokens": (4, 768), "tokens1": (1, 768)}[kind]
    assert got.features.shape == (6, *shape) and got.info.feature_shape == shape and got.info.encoder_hash == other.hash
    assert one.meta["clip_dim"] == 768
    for a, b in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(got.features[a], got.features[b])
    empty = stored(lake, embed(lake, download(lake, [], 3), other))
    assert empty.features.shape == (0, *shape) and empty.info == got.info


@pytest.mark.parametrize(("kind", "mapper"), [("tower", "mlp"), ("tokens", "transformer"), ("tokens", "linear")])
def test_a_model_learns_from_features_and_captions_no_others(lake: Lake, tmp_path: Path, kind: str, mapper: str):
    """From images to captions through every stage; each caption holds the word of its own image."""
    from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig
    from clipcap.decoding.caption_shard import caption_shard
    from clipcap.model.checkpoint import load_captioner
    from clipcap.training.train_model import Shard, read_pairs, train_model

    words = ["one circle", "two squares here", "a third thing", "four"]
    downloaded = download(lake, [jpeg(n) for n in range(4)], captions=words)
    encoder = Encoder(f"builtin:sample#{kind}", "cpu", "float32")
    shards = [Shard(downloaded, embed(lake, downloaded, encoder))]
    pairs, info = read_pairs(lake, shards, ("train",))
    np.testing.assert_array_equal(pairs.embeddings, stored(lake, shards[0].embed).features)
    config = TrainConfig(
        mapper=mapper, prefix_length=4, mapper_layers=1, mapper_heads=2, mapper_hidden=32, epochs=60, batch_size=4,
        learning_rate=1e-2, warmup_steps=2, precision="float32",
        language_model=LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=32, dropout=0.0),
    )  # fmt: skip
    train_model(lake, "toy-model", shards, config, "k" * 64)
    captioner = load_captioner(lake.model("toy-model"))
    assert captioner.settings.features == kind and captioner.settings.encoder == encoder.name
    assert captioner.settings.input_shape == info.feature_shape
    entry = caption_shard(lake, shards[0].embed, captioner, CaptionConfig(beam_size=2), "k", "run")
    assert pq.read_table(lake.absolute(entry.file("captions").path))["caption"].to_pylist() == words

    plain = embed(lake, downloaded, Encoder("builtin:sample", "cpu", "float32"))
    with pytest.raises(EmbeddingError, match="dimension 256, expected 768"):
        caption_shard(lake, plain, captioner, CaptionConfig(), "k", "run")
    captioner.settings = captioner.settings.model_copy(update={"clip_dim": 256})
    with pytest.raises(EmbeddingError, match=f"features of kind 'embedding', expected '{kind}'"):
        caption_shard(lake, plain, captioner, CaptionConfig(), "k", "run")


def test_precision_is_part_of_the_key_and_its_cosine_is_told(lake: Lake, encoder: Encoder):
    shard = download(lake, [jpeg(n) for n in range(6)])
    reduced = Encoder("builtin:sample", "cpu", "bfloat16")
    assert reduced.hash == encoder.hash and reduced.id == encoder.id
    assert embed_key(shard, reduced) != embed_key(shard, encoder)
    exact = embed(lake, shard, encoder)
    assert exact.meta["measured"]["precision"] == "float32" and exact.meta["measured"]["cosine_to_float32"] is None
    full = stored(lake, exact).vectors.astype(np.float64)
    entry = embed(lake, shard, reduced)
    half = stored(lake, entry).vectors.astype(np.float64)
    cosines = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert entry.meta["measured"]["precision"] == "bfloat16"
    assert entry.meta["measured"]["cosine_to_float32"] == pytest.approx(cosines.min(), abs=5e-5)
    assert 0.99 < cosines.min() < 1 - 1e-7, "computed in bfloat16, and near"


def test_vectors_of_another_precision_are_not_reused(lake: Lake, encoder: Encoder):
    one = embed(lake, download(lake, [jpeg(0)], 0), encoder)
    second = download(lake, [jpeg(0)], 1)
    assert HashIndex(lake, [one], "float32").start(second) != []
    assert HashIndex(lake, [one], "bfloat16").start(second) == []


def test_what_each_part_took_is_told_and_stored(lake: Lake, encoder: Encoder):
    from clipcap.embedding.rates import describe

    seen = []
    images = [jpeg(n) for n in range(10)] + [jpeg(0), jpeg(99)[:-200]]
    shard = download(lake, images)
    entry = embed_shard(
        lake, shard, encoder, EmbedConfig(batch_size=4, workers=0), embed_key(shard, encoder),
        on_batch=lambda rates: seen.append((rates.images, rates.decoded, rates.done)),
    )  # fmt: skip
    assert seen[-1] == (11, 11, 10), "one image is there twice, one is none"
    assert [done for _, _, done in seen] == [4, 8, 10, 10]
    facts = entry.meta["measured"]
    assert facts["encoded"] == 10 and facts["known"] == 0
    assert min(facts["decode_s"], facts["forward_s"], facts["write_s"]) > 0
    slowest = {"encoded": 10, "decode_s": 5.0, "forward_s": 1.0, "write_s": 0.5}
    assert describe(slowest) == "decode 2/s · forward 10/s · write 20/s · limited by decode"
    assert describe(slowest | {"write_s": 0.0}) == "decode 2/s · forward 10/s · limited by decode", "not yet written"
    again = embed(lake, download(lake, images[:3], 1), encoder, others=[entry.file("embeddings").path])
    assert again.meta["measured"]["known"] == 3 and again.meta["measured"]["encoded"] == 0


def test_a_shard_waits_for_one_under_way_that_holds_its_image(lake: Lake, encoder: Encoder):
    first, second, third = (download(lake, [jpeg(n) for n in ns], i) for i, ns in enumerate([(0, 1), (1, 2), (3, 4)]))
    index = HashIndex(lake, [], "float32")
    assert not index.must_wait(first)
    assert index.start(first) == []
    assert index.must_wait(second) and not index.must_wait(third)
    index.start(third)
    done = embed(lake, first, encoder)
    index.add(done)
    assert not index.must_wait(second)
    assert index.start(second) == [done.file("embeddings").path]
    assert HashIndex(lake, [done], "float32").start(second) == [done.file("embeddings").path]


def test_the_index_of_many_files_finds_what_a_dictionary_finds(lake: Lake, tmp_path: Path):
    rng = np.random.default_rng(0)
    pool = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    files, first = [], {}
    for number in range(90):
        path = tmp_path / f"{number}.parquet"
        chosen = [*rng.choice(pool, 4), "", None]
        pq.write_table(pa.table({"sha256": pa.array(chosen, pa.string())}), path)
        files.append(path)
        for sha in chosen:
            first.setdefault(sha, str(path))
    from datetime import UTC, datetime

    from clipcap.embedding.embed import made_with
    from clipcap.storage.records import FileRecord

    def entry(path: Path, kind: str) -> Entry:
        return Entry(
            stage="x", id=path.name, key="", created_at=datetime.now(UTC),
            files=[FileRecord(kind=kind, path=str(path), sha256="", size_bytes=0)],
            meta={"made_with": made_with("auto"), "shard_id": path.name},
        )  # fmt: skip

    index = HashIndex(lake, [entry(path, "embeddings") for path in files[:70]])
    for path in files[70:]:
        index.add(entry(path, "embeddings"))
    for number in range(20):
        wanted = [*rng.choice(pool, 5), ""]
        path = tmp_path / f"wanted-{number}.parquet"
        pq.write_table(pa.table({"sha256": pa.array(wanted, pa.string())}), path)
        assert set(index.start(entry(path, "shard"))) >= {first[sha] for sha in wanted if sha in first and sha}
