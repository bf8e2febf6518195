"""The commands of operations as their users meet them: what they print, their exit codes, their plans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipcap.storage.lake import Lake

Cli = Callable[..., tuple[int, str, str]]


def settings(small_run: Any) -> list[str]:
    return [f"--set={override}" for override in small_run.overrides]


@pytest.mark.parametrize("arguments", [[], ["urls.csv", "--inbox", "folder"]])
def test_land_wants_a_source_or_an_inbox(arguments: list[str], tmp_path: Path, clipcap: Cli) -> None:
    code, _, err = clipcap("land", *arguments, "--data-dir", tmp_path / "lake")
    assert code == 2 and "--inbox" in err and not (tmp_path / "lake").exists()


def test_land_inbox_says_what_became_of_each(tmp_path: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, lake = tmp_path / "inbox", tmp_path / "lake"
    inbox.mkdir()
    assert clipcap("land", "--inbox", inbox, "--data-dir", lake)[:2] == (0, "the inbox is empty\n")
    (inbox / "urls.csv").write_text("url\nhttp://images.test/1.jpg\n")
    code, out, _ = clipcap("land", "--inbox", inbox, "--data-dir", lake, "--json")
    assert (code, json.loads(out)[0]["status"]) == (0, "waiting"), "it was written a moment ago"
    (inbox / "odd.csv").write_text("no list\n")
    now = time.time() + 100  # as if the night came
    monkeypatch.setattr("clipcap.dataset.inbox.time.time", lambda: now)
    code, out, _ = clipcap("land", "--inbox", inbox, "--data-dir", lake, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 1, "something was refused"
    assert rows["urls.csv"]["status"] == "landed" and rows["odd.csv"]["status"] == "refused"
    batch_id = rows["urls.csv"]["batch_id"]
    code, out, _ = clipcap("sql", "select batch_id from batches", "--data-dir", lake, "--json")
    assert json.loads(out) == [{"batch_id": batch_id}]
    (inbox / "again.csv").write_text("url\nhttp://images.test/2.jpg\n")
    err = clipcap("land", "--inbox", inbox, "--data-dir", lake)[2]
    assert f"clipcap nightly --data-dir {lake}" in err.splitlines()[-1], "what comes next"


@pytest.mark.usefixtures("prefect_harness")
def test_a_night_by_hand(small_run: Any, copied: Lake, clipcap: Cli) -> None:
    command = ["nightly", "sample", *settings(small_run), "--data-dir", copied.root]
    code, out, _ = clipcap(*command, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["to_do"], plan["needed_bytes"]) == (0, 0, 0) and plan["fits"]
    code, out, _ = clipcap(*command, "--dry-run")
    assert code == 0 and "captioned already" in out and "Nothing was done." in out
    code, out, _ = clipcap(*command)
    assert (code, out.splitlines()[0]) == (0, "batches: 1 all · 0 ok · 0 failed · 1 skipped · 0 captions")
    code, _, err = clipcap(*command, "--batch", "gone-1")
    assert code == 1 and "no batch gone-1" in err.splitlines()[-1]


@pytest.mark.usefixtures("prefect_harness")
def test_maintenance_by_hand(small_run: Any, copied: Lake, clipcap: Cli) -> None:
    command = ["maintenance", "sample", *settings(small_run), "--data-dir", copied.root]
    code, out, _ = clipcap(*command, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "0 things, 0 B: nothing was removed")
    code, out, _ = clipcap(*command, "--json")
    assert (code, json.loads(out)["removed"]) == (0, [])


@pytest.mark.parametrize("command", ["nightly", "maintenance"])
def test_a_wrong_configuration_is_one_line_before_anything_starts(command: str, clipcap: Cli, tmp_path: Path) -> None:
    code, out, err = clipcap(command, "sample", "--set", "maintenance.keep_days=-1", "--data-dir", tmp_path)
    assert (code, out) == (2, "") and "maintenance.keep_days" in err
