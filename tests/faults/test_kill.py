"""kill -9 at every write boundary: no finished shard is lost, none is done twice, and nothing half stands as whole.

A process of its own imports everything once and then forks: for each point one child that kills itself there, and one
that runs undisturbed in the same lake. Only the fetch is replaced (files are read, nothing is served); landing,
packing, embedding, recording and publishing are the real thing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

IMAGES, SHARD_SIZE = 40, 10


def make_images(folder: Path) -> None:
    """40 small images; one is in two shards, and one is cut so that it fails when it is embedded."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    shutil.copy(folder / "03.png", folder / "33.png")
    (folder / "15.png").write_bytes((folder / "15.png").read_bytes()[:2000])


def fetch_files(rows: Any, folder: Path, config: Any, host_map: Any) -> dict[str, Any]:
    """What img2dataset would leave, in another order than the keys'."""
    from urllib.request import urlopen

    from clipcap.dataset.shards import Fetched

    fetched = {}
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, row in enumerate(reversed(rows.to_pylist())):
            with urlopen(row["url"]) as answer:
                data = answer.read()
            info = tarfile.TarInfo(f"{number:09d}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            fetched[row["sample_key"]] = Fetched(f"{number:09d}", True, "", hashlib.sha256(data).hexdigest())
    return fetched


def run_all(root: Path, images: Path, run_id: str, publishes: bool) -> None:
    """The chain as the flows walk it: keys are compared with what is recorded, only misses are made."""
    from datetime import UTC, datetime

    from clipcap.config import Config, DatasetConfig, DownloadConfig, EmbedConfig
    from clipcap.dataset import download
    from clipcap.dataset.land import land, plan_shards, read_landing
    from clipcap.embedding.embed import embed_key, embed_shard
    from clipcap.embedding.encoder import get_encoder
    from clipcap.embedding.hash_index import HashIndex
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import EntryIndex
    from clipcap.warehouse.publish import publish

    download._fetch = fetch_files
    config = Config(
        dataset=DatasetConfig(source=str(images), name="kill"),
        download=DownloadConfig(shard_size=SHARD_SIZE),
        embed=EmbedConfig(encoder="builtin:sample", device="cpu", workers=0),
    )
    lake, encoder = Lake(root), get_encoder("builtin:sample", "cpu")
    index, landing = EntryIndex(lake), read_landing(config)
    batch = index.find(f"land/{landing.batch_id}", landing.content) or land(lake, landing, run_id)
    used = [batch]
    for job in plan_shards(landing.batch_id, batch.rows["ok"], SHARD_SIZE):
        key = download.download_key(lake, job, config.download)
        entry_id = f"download/{job.batch_id}/{job.shard_id}"
        shard = index.find(entry_id, key) or download.download_shard(lake, job, config.download, key, run_id)
        used.append(shard)
    hashes = HashIndex(lake, index.of_stage("embed"))
    for shard in used[1:]:
        key = embed_key(shard, encoder)
        done = index.find(f"embed/{encoder.id}/{shard.meta['batch_id']}/{shard.meta['shard_id']}", key)
        if done is None:
            done = embed_shard(lake, shard, encoder, config.embed, key, run_id, hashes.start(shard))
            hashes.add(done)
        used.append(done)
    if publishes:
        publish(lake, used, run_id, "pipeline", datetime.now(UTC), config.model_dump())


def child(name: str, folder: Path, publishes: bool, log: Path, kill_at: int = 0) -> int:
    """Forks, runs in the lake ``name``, and returns the status; with ``kill_at`` n it dies at its n-th rename.

    Even points die just before the rename, odd ones just after it.
    """
    root, is_before = folder / name, kill_at % 2 == 0
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    status = 1
    try:
        count = 0

        def watched(real: Any) -> Any:
            def rename(source: Any, target: Any) -> None:
                nonlocal count
                count += 1
                if count == kill_at and is_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(source, target)
                with log.open("a") as lines:
                    lines.write(f"{Path(target).relative_to(root)}\n")
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            return rename

        os.replace, os.link = watched(os.replace), watched(os.link)
        run_all(root, folder / "images", log.stem, publishes)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def main(folder: Path) -> None:
    """Makes the lakes that the tests look at: ``calm``, and for each point ``<n>`` with ``<n>-killed``."""
    import pandas  # noqa: F401  pyarrow imports it when it is first asked for a table; once here, not in each child

    import clipcap.dataset.download
    import clipcap.embedding.embed
    import clipcap.warehouse.publish  # noqa: F401
    from clipcap.embedding.encoder import get_encoder

    encoder = get_encoder("builtin:sample", "cpu")
    _ = encoder.model, encoder.hash  # loaded once, here; nothing is computed before a fork
    make_images(folder / "images")
    status = {"calm": [child("calm", folder, True, folder / "calm.log")]}
    total = len(renamed(folder / "calm.log"))
    for point in chosen(total):
        name = f"{point}"
        publishes = point > total - 4 or point % 7 == 0  # costs more than all the rest
        killed = child(name, folder, publishes, folder / f"{name}.log", point)
        (folder / name).mkdir(exist_ok=True)
        shutil.copytree(folder / name, folder / f"{name}-killed")
        status[name] = [killed, child(name, folder, publishes, folder / f"{name}-again.log")]
    (folder / "status.json").write_text(json.dumps(status))


def renamed(log: Path) -> list[str]:
    """The final names that a run gave; none where it died before or had nothing to do."""
    return log.read_text().splitlines() if log.exists() else []


def chosen(total: int) -> list[int]:
    """All of landing, the first and a later shard of both stages, and all of publishing: about 20 of 35."""
    return sorted({1, 2, 3, 4, 5, 6, 7, 10, 13, 19, 20, 21, 22, 26, 29, 31, *range(total - 3, total + 1)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    return folder


@pytest.fixture(scope="module")
def points(folder: Path) -> list[str]:
    return [name for name in json.loads((folder / "status.json").read_text()) if name != "calm"]


def entries(root: Path) -> dict[str, Any]:
    """Everything that a later run would find, by id."""
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import EntryIndex

    index = EntryIndex(Lake(root))
    return {e.id: e for stage in ("land", "download", "embed") for e in index.of_stage(stage)}


def finals(root: Path) -> list[Path]:
    """Files at their final names; what begins with a dot is unfinished by agreement."""
    found = [file for file in root.rglob("*") if file.is_file()]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)]


def content(root: Path) -> dict[str, Any]:
    """All that a run makes, without times and run ids."""
    result: dict[str, Any] = {}
    for file in finals(root):
        name = str(file.relative_to(root))
        if name.startswith("ledger/"):
            result[name] = pq.read_table(file).drop_columns(["created_at"]).to_pylist()
        elif name.startswith(("batches/", "embeddings/")):
            result[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return result


def test_each_run_died_where_it_was_to_and_the_next_one_finished(folder: Path, points: list[str]):
    status = json.loads((folder / "status.json").read_text())
    assert status.pop("calm") == [0]
    assert len(points) >= 18
    assert status == {name: [-signal.SIGKILL, 0] for name in points}


def test_a_file_at_its_final_name_is_whole(folder: Path, points: list[str]):
    calm = content(folder / "calm")
    for name in points:
        root = folder / f"{name}-killed"
        for file in finals(root):
            if file.suffix == ".parquet":
                assert pq.read_table(file).num_rows >= 0
            elif file.suffix == ".tar":
                with tarfile.open(file) as archive:
                    assert all(len(archive.extractfile(member).read()) == member.size for member in archive)
            elif file.suffix == ".json":
                json.loads(file.read_bytes())
            else:
                assert file.name in ("CURRENT", "catalog.duckdb"), file
        half_done = content(root)
        assert half_done == {path: calm[path] for path in half_done}, f"killed at {name}"


def test_what_was_recorded_before_the_kill_is_known_and_not_made_again(folder: Path, points: list[str]):
    for name in points:
        recorded = sum(path.startswith("manifests/pending/") for path in renamed(folder / f"{name}.log"))
        known = entries(folder / f"{name}-killed")
        assert len(known) == recorded, f"killed at {name}: every finished output is found"
        after = entries(folder / name)
        assert {id: after[id] for id in known} == known, f"killed at {name}: created_at and all else unchanged"
        finished = {file.path for entry in known.values() for file in entry.files}
        redone = set(renamed(folder / f"{name}-again.log"))
        assert not finished & redone, f"killed at {name}: a finished file was written again"


def test_the_second_run_ends_where_an_undisturbed_one_ends(folder: Path, points: list[str]):
    calm = content(folder / "calm")
    assert sum(path.startswith("embeddings/") for path in calm) == IMAGES // SHARD_SIZE
    for name in points:
        assert content(folder / name) == calm, f"killed at {name}"


def test_sql_shows_every_image_once(folder: Path, points: list[str]):
    from clipcap.storage.lake import Lake
    from clipcap.warehouse import ensure_catalog, query

    question = (
        "select stage, status, count(*) as n, count(distinct sample_key) as keys from ledger group by all order by all"
    )
    calm = query(Lake(folder / "calm"), question)
    assert "failed" in str(calm)
    published = [name for name in points if (folder / name / "CURRENT").exists()]
    assert len(published) >= 5
    for name in published:
        lake = Lake(folder / name)
        ensure_catalog(lake)
        assert str(query(lake, question)) == str(calm), f"killed at {name}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
