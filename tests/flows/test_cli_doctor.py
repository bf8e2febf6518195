"""``clipcap doctor`` on a lake of a finished run, whole and damaged, and beside servers that do not answer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from flows import doctor

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("no_server")
def test_a_good_lake_is_well_and_a_damaged_one_is_not(copied, clipcap: Cli):
    def looked() -> dict[str, str]:
        code, out, _ = clipcap("doctor", "--data-dir", copied.root, "--json")
        found = {row["check"]: row["status"] for row in json.loads(out)}
        assert code == ("broken" in found.values())
        assert all(row["mend"] for row in json.loads(out) if row["status"] in ("warning", "broken"))
        return found

    clipcap("sql", "--list", "--data-dir", copied.root)
    well = looked()
    names = ("disk", "published", "catalog", "files", "production model", "encoder", "torchvision", "dataclasses")
    assert {name: well[name] for name in names} == dict.fromkeys(names, "ok")
    copied.catalog.unlink()
    next(copied.root.glob("captions/**/*.parquet")).unlink()
    for config in copied.root.glob("models/*/config.json"):
        config.unlink()
    ill = looked()
    assert (ill["catalog"], ill["files"], ill["production model"]) == ("warning", "broken", "broken")


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1")
    assert (found := doctor.server()).status == "broken" and "ends in /api" in found.mend
    assert doctor.work_pools().status == "not checked"


def test_a_home_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "home"))
    assert doctor.home().status == "broken"
