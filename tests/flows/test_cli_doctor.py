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


def test_a_server_whose_run_is_gone_is_named(tmp_path, monkeypatch):
    def process(pid: int, parent: int, command: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(command.replace(" ", "\0").encode())
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")

    server = "python -m uvicorn --factory prefect.server.api.server:create_app --port"
    (tmp_path / "self").mkdir()
    process(1, 0, "/sbin/init")
    process(20, 1, "/venv/bin/python /venv/bin/clipcap run")
    process(21, 20, f"{server} 9001")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9003/api")
    assert doctor.left_behind(tmp_path).status == "ok"
    process(30, 1, f"{server} 9002")
    process(31, 1, f"{server} 9003")
    found = doctor.left_behind(tmp_path)
    assert found.status == "warning" and found.mend.endswith("kill 30")
