"""A disk that is full, for a moment or for good, and a disk that is read-only: one clear error, nothing half, and on.

A small tmpfs is mounted where that is allowed; elsewhere commits are told that there is no room.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import Fault, Outcome, Warm, check_whole, published, unfinished

from clipcap.errors import StorageError
from clipcap.storage.commit import commit_bytes, writing, writing_folder

WITH_ALL = os.environ.get("CLIPCAP_FAULTS") == "all"
Mount = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A folder that is a disk of its own, and what mounts it anew with other options ("size=2m", "ro")."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield folder, again
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def contents(lake: Path) -> dict[str, str]:
    return {
        str(f.relative_to(lake)): hashlib.sha256(f.read_bytes()).hexdigest() for f in lake.rglob("*") if f.is_file()
    }


def test_there_is_no_room_at_some_commit(warm: Warm, calm: Any, tmp_path: Path, runs_on: Callable[..., Outcome]):
    commits = [n for n, line in enumerate(calm.outcome.boundaries, start=1) if line.startswith("written ")]
    for point in commits if WITH_ALL else (commits[1], commits[-3]):
        lake, where = tmp_path / f"{point}", f"full from {point} on: {calm.outcome.boundaries[point - 1]}"
        failed = warm.run(lake, calm.config, Fault(full_at=point))
        assert (failed.status, failed.error) == (1, "StorageError"), where
        assert "the disk is full" in failed.message and "goes on from there" in failed.message, where
        check_whole(lake)
        assert [path for path in unfinished(lake) if not path.startswith(".scratch/training/")] == [], where
        again = runs_on(lake)
        assert not set(again.made) & set(failed.made[:-1]), f"{where}: a finished output was made again"
        assert published(lake) == calm.published, where
        shutil.rmtree(lake)


def test_a_small_disk_fills_up_and_is_made_larger(
    warm: Warm, calm: Any, disk: tuple[Path, Mount], runs_on: Callable[..., Outcome]
):
    folder, mount = disk
    needed = sum(f.stat().st_size for f in calm.lake.rglob("*") if f.is_file())
    made: list[str] = []
    for share in (0.05, 0.15, 0.25, 0.4, 0.6, 0.8) if WITH_ALL else (0.1, 0.5):
        mount(f"size={int(needed * share)}")
        failed = warm.run(folder / "lake", calm.config, overrides=["limits.check_disk=false"])
        assert (failed.status, failed.error) == (1, "StorageError"), (share, failed.message)
        assert "the disk is full" in failed.message
        check_whole(folder / "lake")
        made += failed.made
    mount("size=64m")
    again = runs_on(folder / "lake", overrides=["limits.check_disk=false"])
    assert len(set(made)) >= 2
    assert set(made) | set(again.made) == set(calm.outcome.made)
    assert published(folder / "lake") == calm.published


def test_a_run_that_cannot_fit_is_refused_before_it_begins(warm: Warm, calm: Any, disk: tuple[Path, Mount]):
    folder, mount = disk
    mount("size=2m")
    refused = warm.run(folder / "lake", calm.config)
    assert (refused.status, refused.error) == (1, "NoRoomError"), refused.message
    assert refused.made == [] or refused.made[0].startswith("land/")
    assert not [path for path in refused.named if not path.startswith(("batches/", "ledger/land/", "manifests/"))]


def test_a_read_only_lake_can_be_read_and_says_that_it_cannot_be_written(
    warm: Warm, calm: Any, disk: tuple[Path, Mount], runs_on: Callable[..., Outcome]
):
    folder, mount = disk
    lake = Path(shutil.copytree(calm.lake, folder / "lake"))
    before = contents(lake)
    mount("ro")
    unforced = ["limits.check_disk=false"]
    assert published(lake) == calm.published
    assert runs_on(lake, overrides=unforced).made == [], "what stands needs no writing"
    failed = warm.run(lake, calm.config, overrides=[*unforced, "caption.beam_size=1"])
    assert (failed.status, failed.error) == (1, "StorageError")
    assert "Read-only file system" in failed.message and str(lake) in failed.message
    assert contents(lake) == before
    mount("rw")
    runs_on(lake, overrides=[*unforced, "caption.beam_size=1"])


def test_libraries_that_do_not_say_why_are_explained_too(disk: tuple[Path, Mount]):
    """torch and safetensors raise their own kinds; what was there before stands, and nothing stays beside it."""
    import safetensors.torch
    import torch

    folder, mount = disk
    mount("size=256k")
    commit_bytes(b"before", folder / "file")
    weights = {"weights": torch.zeros(100_000)}
    for save in (lambda path: torch.save(weights, path), lambda path: safetensors.torch.save_file(weights, path)):
        with pytest.raises(StorageError, match="the disk is full"), writing(folder / "file") as aside:
            save(aside)
        with pytest.raises(StorageError, match="the disk is full"), writing_folder(folder / "model") as aside:
            save(aside / "weights")
    assert contents(folder) == {"file": hashlib.sha256(b"before").hexdigest()}


def test_an_error_of_another_kind_stays_what_it_is(tmp_path: Path):
    with pytest.raises(KeyError), writing(tmp_path / "file"):
        raise KeyError("something else")
    with pytest.raises(FileNotFoundError), writing(tmp_path / "file"):
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []
