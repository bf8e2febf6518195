"""The built wheel works from another folder: sql/, configs/ and the sample's encoder travel with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "CLIPCAP_DATA_DIR": str(site.parent / "lake")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=site.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_resources_are_inside(unpacked: Path) -> None:
    code = "import clipcap; from clipcap.resources import resource as r; print(r('sql'), r('configs'), r('assets'))"
    found = [Path(p) for p in python(unpacked, "-c", code).stdout.split()]
    assert len(found) == 3 and all(unpacked in path.parents for path in found)
    for part in ("views", "schema", "checks", "metrics", "reports"):
        expected = sorted(f.name for f in (ROOT / "sql" / part).glob("*.sql"))
        assert sorted(f.name for f in (found[0] / part).glob("*.sql")) == expected and expected
    assert (unpacked / "clipcap" / "py.typed").is_file(), "type checkers read annotations only where this says so"


def test_a_shipped_config_is_found_by_name_and_planned(unpacked: Path) -> None:
    done = python(unpacked, "-m", "flows.cli", "run", "sample", "--dry-run", "--json", "--set", "sample.scenes=12")
    assert done.returncode == 0, done.stderr
    assert '"stage": "embed"' in done.stdout
