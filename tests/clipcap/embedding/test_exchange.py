"""clip-retrieval's layout in and out: the same vectors beside the same rows, and a batch that needs no image."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clipcap.embedding.adopt import adopt_embeddings
from clipcap.embedding.encoder import Encoder
from clipcap.embedding.exchange import find_parts
from clipcap.embedding.export import export_embeddings
from clipcap.embedding.store import read_embeddings, read_info
from clipcap.errors import DataError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.warehouse.publish import publish
from clipcap.warehouse.queries import query

DIM = 256


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("builtin:sample", "cpu", "float32")


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def theirs(folder: Path, sizes: tuple[int, ...] = (5, 3), bad: int | None = None) -> list[np.ndarray]:
    """What clip-retrieval's inference leaves: numpy and pandas, nothing of ours."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    parts = []
    for number, rows in enumerate(sizes):
        part = vectors(rows, number)
        if bad is not None and number == 0:
            part[bad, 7] = np.nan
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", part)
        frame = pd.DataFrame({"image_path": [f"{number:05d}{n:04d}" for n in range(rows)],
                              "caption": [f"part {number} row {n}" for n in range(rows)],
                              "url": [f"http://h/{number}/{n}.jpg" for n in range(rows)],
                              "NSFW": ["UNLIKELY"] * rows})  # fmt: skip
        frame.to_parquet(folder / "metadata" / f"metadata_{number}.parquet")
        parts.append(part)
    return parts


def adopted(tmp_path: Path, encoder: Encoder, **options) -> tuple[Lake, list[np.ndarray]]:
    lake, parts = Lake(tmp_path / "lake"), theirs(tmp_path / "theirs", **options)
    entries = adopt_embeddings(lake, tmp_path / "theirs", "laion", encoder, "run")
    publish(lake, entries, "20260101T000000Z-000000", "import-embeddings", datetime.now(UTC), {})
    return lake, parts


def test_each_vector_lands_beside_its_row_and_checks_hold(tmp_path: Path, encoder: Encoder):
    lake, parts = adopted(tmp_path, encoder)
    rows = query(lake, "select * from embeddings join images using (sample_key) order by sample_key").to_pylist()
    assert [row["image_url"] for row in rows] == [f"http://h/{p}/{n}.jpg" for p, n in _places()]
    np.testing.assert_array_equal(np.array([row["clip_embedding"] for row in rows], np.float16), np.concatenate(parts))
    info = read_info(lake.absolute(read_current(lake).of_stage("embed")[0].file("embeddings").path))
    assert info.normalized and info.encoder_hash == encoder.hash


def _places() -> list[tuple[int, int]]:
    return [(0, n) for n in range(5)] + [(1, n) for n in range(3)]


def test_vectors_without_a_direction_are_failed_rows_even_a_whole_part_of_them(tmp_path: Path, encoder: Encoder):
    theirs(tmp_path / "theirs")
    parts = [vectors(5).astype(np.float32), np.full((3, DIM), np.nan, np.float32)]
    parts[0][1], parts[0][3, 5] = 0, 1e6
    for number, part in enumerate(parts):
        np.save(tmp_path / "theirs" / "img_emb" / f"img_emb_{number}.npy", part)
    lake = Lake(tmp_path / "lake")
    entries = adopt_embeddings(lake, tmp_path / "theirs", "laion", encoder)
    publish(lake, entries, "20260101T000000Z-000000", "import-embeddings", datetime.now(UTC), {})
    failed = query(lake, "select image_url, reason from ledger where status = 'failed' order by 1").to_pylist()
    assert [(row["image_url"][9:-4], row["reason"][14:]) for row in failed] == [
        ("0/1", "is zero"), ("0/3", "has values that are not finite"),
        *((f"1/{n}", "has values that are not finite") for n in range(3)),
    ]  # fmt: skip
    stored = read_embeddings(lake.absolute(e.file("embeddings").path) for e in read_current(lake).of_stage("embed"))
    assert stored.info.normalized
    np.testing.assert_array_equal(stored.vectors, parts[0][[0, 2, 4]].astype(np.float16))


def test_vectors_that_are_not_normalised_are_refused(tmp_path: Path, encoder: Encoder):
    theirs(tmp_path / "theirs")
    np.save(tmp_path / "theirs" / "img_emb" / "img_emb_1.npy", vectors(3) * np.float16(2))
    with pytest.raises(DataError, match=r"img_emb_1.npy holds vectors of length 2 to 2: .*divide each by its length"):
        adopt_embeddings(Lake(tmp_path / "lake"), tmp_path / "theirs", "laion", encoder)


def test_a_vector_that_is_not_finite_is_a_failed_row(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder, bad=2)
    [row] = query(lake, "select * from ledger where status <> 'ok'").to_pylist()
    assert row["stage"] == "embed" and row["image_url"] == "http://h/0/2.jpg" and "not finite" in row["reason"]
    assert len(query(lake, "from embeddings")) == 7


def test_importing_again_makes_nothing_new(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder)
    files = {f: f.stat().st_mtime_ns for f in lake.root.rglob("*.parquet")}
    entries = adopt_embeddings(lake, tmp_path / "theirs", "laion", encoder, "another")
    assert {entry.meta["run_id"] for entry in entries} == {"run"}
    assert {f: f.stat().st_mtime_ns for f in lake.root.rglob("*.parquet")} == files


@pytest.mark.parametrize("part_rows", [1, 6, 1000])
def test_out_and_in_again_is_the_same(tmp_path: Path, encoder: Encoder, part_rows: int):
    lake, parts = adopted(tmp_path, encoder)
    out = tmp_path / "out"
    facts = export_embeddings(lake, read_current(lake), out, part_rows=part_rows)
    assert facts == {"encoder_id": encoder.id, "rows": 8, "parts": 2 if part_rows == 1 else 1}
    arrays = [np.load(part.vectors) for part in find_parts(out)]
    frames = [pd.read_parquet(part.metadata) for part in find_parts(out)]
    assert all(a.dtype == np.float16 and len(a) == len(f) for a, f in zip(arrays, frames, strict=True))
    np.testing.assert_allclose(np.concatenate(arrays), np.concatenate(parts), atol=1e-3)
    frame = pd.concat(frames)
    assert list(frame["url"]) == [f"http://h/{p}/{n}.jpg" for p, n in _places()]
    assert list(frame["caption"]) == [f"part {p} row {n}" for p, n in _places()]
    other = Lake(tmp_path / "other")
    for entry in adopt_embeddings(other, out, "back", encoder):
        if entry.stage == "embed":
            stored = read_embeddings([other.absolute(entry.file("embeddings").path)])
            assert np.abs(np.linalg.norm(stored.vectors.astype(np.float32), axis=1) - 1).max() < 2e-3


@pytest.mark.parametrize(("count", "digits"), [(1, 1), (9, 1), (10, 2), (11, 2)])
def test_parts_have_as_many_digits_as_theirs(tmp_path: Path, encoder: Encoder, count: int, digits: int):
    """clip-retrieval: int(log10(parts)) + 1 digits, so that ten parts are 00 to 09."""
    lake, _ = adopted(tmp_path, encoder, sizes=(1,) * count)
    export_embeddings(lake, read_current(lake), tmp_path / "out", part_rows=1)
    assert digits == int(np.log10(count)) + 1
    names = sorted(f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.*"))
    assert names == sorted([f"img_emb/img_emb_{n:0{digits}d}.npy" for n in range(count)]
                           + [f"metadata/metadata_{n:0{digits}d}.parquet" for n in range(count)])  # fmt: skip


def test_parts_of_an_export_with_another_division_do_not_stay(tmp_path: Path, encoder: Encoder):
    lake, parts = adopted(tmp_path, encoder)
    out = tmp_path / "out"
    for part_rows, count in ((1, 2), (100, 1), (1, 2)):
        export_embeddings(lake, read_current(lake), out, part_rows=part_rows)
        found = find_parts(out)
        assert len(found) == count
        np.testing.assert_allclose(
            np.concatenate([np.load(p.vectors) for p in found]), np.concatenate(parts), atol=1e-3
        )


def test_somebody_elses_parts_are_left_alone(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder)
    before = {f: f.read_bytes() for f in (tmp_path / "theirs").rglob("*.*")}
    with pytest.raises(DataError, match=r"metadata_[01]\.parquet was not exported by clipcap"):
        export_embeddings(lake, read_current(lake), tmp_path / "theirs")
    assert {f: f.read_bytes() for f in (tmp_path / "theirs").rglob("*.*")} == before


def test_captions_vectors_stand_beside_their_images(tmp_path: Path, encoder: Encoder):
    from clipcap.embedding.embed_text import embed_text_key, embed_text_shard

    theirs(tmp_path / "theirs", bad=2)
    file = tmp_path / "theirs" / "metadata" / "metadata_1.parquet"
    frame = pd.read_parquet(file)
    frame.loc[1, "caption"] = None
    frame.to_parquet(file)
    lake = Lake(tmp_path / "lake")
    entries = adopt_embeddings(lake, tmp_path / "theirs", "laion", encoder)
    publish(lake, entries, "20260101T000000Z-000000", "import-embeddings", datetime.now(UTC), {})
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"captions of laion-\w+ have no embeddings .*embed.captions = true"):
        export_embeddings(lake, read_current(lake), out, with_text=True)
    export_embeddings(lake, read_current(lake), out)
    texts = [embed_text_shard(lake, e, encoder, embed_text_key(e, encoder)) for e in entries if e.stage == "download"]
    publish(lake, texts, "20260102T000000Z-000000", "x", datetime.now(UTC), {})
    export_embeddings(lake, read_current(lake), out, with_text=True)
    [part] = find_parts(out)
    stored, captions = np.load(part.texts), list(pd.read_parquet(part.metadata)["caption"])
    assert captions == ["part 0 row 0", "part 0 row 1", "part 0 row 3", "part 0 row 4",
                        "part 1 row 0", "", "part 1 row 2"]  # fmt: skip
    assert stored.dtype == np.float16 and stored.shape == (7, DIM) == np.load(part.vectors).shape
    for number, caption in enumerate(captions):
        alone = encoder.encode_text([caption])[0]
        expected = alone / np.linalg.norm(alone) if caption else np.zeros(DIM)
        np.testing.assert_allclose(stored[number], expected, atol=2e-3)
    export_embeddings(lake, read_current(lake), out)
    assert not part.texts.exists(), "an export without captions' vectors leaves none of an earlier one"


def test_an_export_of_images_that_all_failed_is_empty(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder, sizes=(1,), bad=0)
    export_embeddings(lake, read_current(lake), tmp_path / "out")
    [part] = find_parts(tmp_path / "out")
    assert np.load(part.vectors).shape == (0, DIM) and len(pd.read_parquet(part.metadata)) == 0


def test_more_rows_than_are_held_at_once(tmp_path: Path, encoder: Encoder):
    lake, parts = adopted(tmp_path, encoder, sizes=(21_000, 5))
    export_embeddings(lake, read_current(lake), tmp_path / "out")
    [part] = find_parts(tmp_path / "out")
    np.testing.assert_allclose(np.load(part.vectors), np.concatenate(parts), atol=1e-3)
    frame = pd.read_parquet(part.metadata)
    assert list(frame["url"]) == [f"http://h/{p}/{n}.jpg" for p, rows in enumerate((21_000, 5)) for n in range(rows)]


def test_an_export_goes_on_where_it_was_stopped(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder)
    out = tmp_path / "out"
    export_embeddings(lake, read_current(lake), out, part_rows=1)
    first, second = find_parts(out)
    kept = first.vectors.stat().st_mtime_ns
    second.metadata.unlink()
    export_embeddings(lake, read_current(lake), out, part_rows=1)
    assert first.vectors.stat().st_mtime_ns == kept and pq.read_metadata(second.metadata).num_rows == 3


def test_what_does_not_fit_is_told(tmp_path: Path, encoder: Encoder):
    with pytest.raises(DataError, match="not in clip-retrieval's layout"):
        adopt_embeddings(Lake(tmp_path / "a"), tmp_path, "x", encoder)
    theirs(tmp_path / "lonely")
    (tmp_path / "lonely" / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(DataError, match="without a partner: 1"):
        adopt_embeddings(Lake(tmp_path / "a"), tmp_path / "lonely", "x", encoder)
    theirs(tmp_path / "short")
    np.save(tmp_path / "short" / "img_emb" / "img_emb_1.npy", vectors(2))
    with pytest.raises(DataError, match=r"float16 \(2, 256\), metadata_1.parquet has 3 rows"):
        adopt_embeddings(Lake(tmp_path / "a"), tmp_path / "short", "x", encoder)
    theirs(tmp_path / "small")
    for number, rows in enumerate((5, 3)):
        np.save(tmp_path / "small" / "img_emb" / f"img_emb_{number}.npy", np.ones((rows, 10), np.float16))
    with pytest.raises(DataError, match="vectors of size 10; those of builtin:sample have 256"):
        adopt_embeddings(Lake(tmp_path / "a"), tmp_path / "small", "x", encoder)
    with pytest.raises(DataError, match="not in clip-retrieval's layout"):
        adopt_embeddings(Lake(tmp_path / "a"), tmp_path / "nowhere", "x", encoder)
    np.save(tmp_path / "small" / "img_emb" / "img_emb_0.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        adopt_embeddings(Lake(tmp_path / "b"), tmp_path / "small", "x", encoder)


def test_nothing_to_export_names_what_there_is(tmp_path: Path, encoder: Encoder):
    lake, _ = adopted(tmp_path, encoder)
    with pytest.raises(DataError, match=encoder.id):
        export_embeddings(lake, read_current(lake), tmp_path / "out", encoder_id="other@123")


def test_another_encoder_has_no_images_to_look_at(tmp_path: Path, encoder: Encoder):
    from clipcap.config import Config
    from flows.embed import embed_jobs
    from flows.stages import RunContext

    lake, _ = adopted(tmp_path, encoder)
    context = RunContext(Config(), lake, "x")
    downloads = read_current(lake).of_stage("download")
    jobs = embed_jobs(context, downloads, encoder)
    assert all(context.index.find(job.id, job.key) for job in jobs)
    with pytest.raises(DataError, match="came as embeddings of builtin-sample@"):
        embed_jobs(context, downloads, Encoder("builtin:sample#tower", "cpu"))
