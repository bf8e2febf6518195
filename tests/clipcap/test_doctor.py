"""Each check of the doctor is made to fire, and says what to do; on a good lake none is broken."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pytest

from clipcap.doctor import checks_of_lake, installation, machine, run_checks
from clipcap.doctor import lake as of_lake
from clipcap.storage.lake import Lake


def fake_package(folder: Path, name: str, version: str, requires: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def test_a_version_out_of_its_range_is_named_with_its_mend(tmp_path: Path, monkeypatch):
    fake_package(tmp_path, installation.PACKAGE, "9", "fastapi<0.151,>=0.139")
    fake_package(tmp_path, "fastapi", "0.153.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = installation.versions()
    assert found.status == "broken" and "fastapi 0.153.0" in found.found and "pip install 'fastapi" in found.mend


def test_the_backport_of_dataclasses(tmp_path: Path, monkeypatch):
    fake_package(tmp_path, "dataclasses", "0.8")
    monkeypatch.syspath_prepend(tmp_path)
    assert (found := installation.dataclasses_backport()).status == "broken" and "uninstall" in found.mend


def test_an_extra_that_is_half_there(tmp_path: Path, monkeypatch):
    needs = 'there; extra == "both"\nRequires-Dist: not-there; extra == "both"'
    fake_package(tmp_path, installation.PACKAGE, "9", needs)
    fake_package(tmp_path, "there", "1")
    monkeypatch.syspath_prepend(tmp_path)
    assert (found := installation.extras()).status == "warning" and "both" in found.mend


def test_a_python_that_img2dataset_cannot_use(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert installation.python().status == "broken"


def test_open_clip_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert installation.torch_and_torchvision().status == "broken"


def test_no_java(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert installation.java().status == "warning"


@pytest.mark.parametrize("name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("OMP_NUM_THREADS", "4096")])
def test_threads_that_slow_others(name: str, value: str, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert machine.threads().status == "ok"
    monkeypatch.setenv(name, value)
    assert (found := machine.threads()).status == "warning" and name in found.mend


def test_a_gpu_that_torch_does_not_see(tmp_path: Path, monkeypatch):
    import torch

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.devices().status == "warning"


def test_few_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        assert machine.open_files().status == "warning"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert machine.open_files().status == ("ok" if soft >= machine.FEW_FILES else "warning")


def test_small_shared_memory_and_a_clock_that_was_never_set(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(machine, "SMALL_SHM", 2**70)
    assert machine.shared_memory(tmp_path).status == "warning"
    assert machine.shared_memory(tmp_path / "none").status == "ok"
    monkeypatch.setattr(machine.time, "time", lambda: 0.0)
    assert machine.clock().status == "broken"


def test_no_lake_yet_is_no_fault(tmp_path: Path):
    lake = Lake(tmp_path / "none")
    found = {finding.check: finding.status for finding in run_checks(checks_of_lake(lake))}
    assert "broken" not in found.values() and found["published"] == "warning"
    assert not lake.root.exists() and list(tmp_path.iterdir()) == []


def test_a_current_that_holds_no_number(tmp_path: Path):
    (tmp_path / "CURRENT").write_text("nonsense")
    found = of_lake.published(Lake(tmp_path))
    assert found.status == "broken" and "does not hold a number" in found.found


def test_work_that_a_killed_run_left_is_named_once_it_is_old(tiny):
    tiny.commit()
    lake, left = tiny.lake, tiny.lake.scratch / "download-0a1b2c3d-00000-f00d"
    left.mkdir(parents=True)
    (left / "00000.tar").write_bytes(bytes(2**20))
    assert of_lake.left_over(lake).status == "ok", "its run may still be going"
    eight_days_ago = time.time() - 8 * 86_400
    for path in (left / "00000.tar", left):
        os.utime(path, (eight_days_ago, eight_days_ago))
    found = of_lake.left_over(lake)
    assert found.status == "warning" and "1 of no use, 1.0 MiB" in found.found and left.name in found.found
    assert "clipcap maintenance" in found.mend and left.exists(), "it is named, and not removed"


def test_a_folder_that_takes_no_file(tmp_path: Path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(of_lake.os, "fsync", full)
    found = of_lake.disk(Lake(tmp_path))
    assert found.status == "broken" and "No space" in found.found and list(tmp_path.iterdir()) == []


def test_little_room(tmp_path: Path):
    assert of_lake.room(Lake(tmp_path), least=2**60).status == "warning"


def test_a_check_that_fails_stops_no_other():
    findings = list(run_checks([("a", lambda: 1 / 0), ("clock", machine.clock)]))
    assert [finding.status for finding in findings] == ["not checked", "ok"]


def test_weights_of_the_hub_are_looked_for_by_their_name(tmp_path: Path, monkeypatch):
    from huggingface_hub import constants

    from clipcap.doctor import weights

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = {"encoder": "hf-hub:some/encoder", "language_model": "some/lm"}
    monkeypatch.setattr(weights, "_production", lambda lake: settings)
    lake = Lake(tmp_path)
    other = tmp_path / "models--another--one" / "snapshots" / "1"
    other.mkdir(parents=True)
    (other / "model.safetensors").touch()
    for check, name in ((weights.encoder, "some--encoder"), (weights.language_model, "some--lm")):
        assert check(lake).status == "warning"
        folder = tmp_path / f"models--{name}" / "snapshots" / "1"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        assert check(lake).status == "ok"
