"""The watched inbox: what counts as whole, that it is taken once and never deleted, and what a kill leaves."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from clipcap.dataset.inbox import Dropped, finish, look, refuse, take
from clipcap.errors import SourceError


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def names(found: list[Dropped]) -> dict[str, str]:
    return {dropped.path.name: dropped.waits_for for dropped in found}


def test_what_is_still_being_written_waits(inbox: Path) -> None:
    for name in ("urls.csv.part", "photos.tar.crdownload", "list.csv~"):
        (inbox / name).write_text("x")
    (inbox / ".hidden.csv").write_text("x")
    (inbox / "folder").mkdir()
    (inbox / "folder" / "a.jpg.filepart").write_text("x")
    (inbox / "whole.csv").write_text("x")
    found = names(look(inbox, settle_s=0))
    assert ".hidden.csv" not in found and found.pop("whole.csv") == ""
    assert len(found) == 4 and all("still being written" in reason for reason in found.values())


def test_nothing_is_taken_before_it_has_been_quiet_for_long_enough(inbox: Path) -> None:
    (inbox / "fresh.csv").write_text("x")
    assert "it is whole after 3600 s" in names(look(inbox, 3600))["fresh.csv"]
    assert names(look(inbox, 0)) == {"fresh.csv": ""}


def test_a_time_that_was_set_back_fools_nobody(inbox: Path) -> None:
    """cp -p and tar set the time of modification of the original; the file may have arrived a moment ago."""
    (inbox / "photos").mkdir()
    (inbox / "photos" / "a.jpg").write_text("x")
    old = time.time() - 10_000
    for path in (inbox / "photos" / "a.jpg", inbox / "photos"):
        os.utime(path, (old, old))
    assert "whole after" in names(look(inbox, 3600))["photos"]


def test_it_is_taken_once_and_keeps_its_name_and_bytes(inbox: Path) -> None:
    (inbox / "Holiday 2026.csv").write_text("rows")
    [dropped] = look(inbox, 0)
    assert dropped.dataset == "holiday-2026"
    taken = take(dropped)
    assert not dropped.path.exists() and taken.path.read_text() == "rows"
    assert taken.path.is_relative_to(inbox / "landed") and taken.path.name == "Holiday 2026.csv"
    finish(taken, {"batch_id": "holiday-2026-0a1b2c3d"})
    assert look(inbox, 0) == []
    assert json.loads((taken.path.parent / "batch.json").read_text()) == {"batch_id": "holiday-2026-0a1b2c3d"}


def test_what_a_killed_run_took_is_found_first_and_where_it_lies(inbox: Path) -> None:
    (inbox / "one.csv").write_text("rows")
    taken = take(look(inbox, 0)[0])  # and here the run is killed
    (inbox / "another.csv").write_text("rows")
    first, second = look(inbox, 0)
    assert (first, second.path.name) == (taken, "another.csv")
    assert take(first) == taken and taken.path.read_text() == "rows"


def test_two_of_the_same_name_lie_apart(inbox: Path) -> None:
    places = []
    for text in ("one", "two"):
        (inbox / "urls.csv").write_text(text)
        taken = take(look(inbox, 0)[0])
        finish(taken, {})
        places.append(taken.path)
    assert [path.read_text() for path in places] == ["one", "two"]


def test_what_cannot_be_used_is_put_aside_with_its_reason(inbox: Path) -> None:
    (inbox / "odd.csv").write_text("no list")
    place = refuse(take(look(inbox, 0)[0]), "it has no column url")
    assert (place / "odd.csv").read_text() == "no list"
    assert (place / "reason.txt").read_text() == "it has no column url\n"
    assert look(inbox, 0) == []


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("a.tar.gz", "a"), ("Ünïcode!.csv", "n-code"), ("---.csv", "inbox"), ("x" * 90 + ".csv", "x" * 40)],
)
def test_a_batch_is_named_after_its_file(tmp_path: Path, name: str, dataset: str) -> None:
    assert Dropped(tmp_path / name).dataset == dataset


def test_an_inbox_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"inbox\.folder: there is no folder"):
        look(tmp_path / "nowhere", 0)
