"""A site from the command line: proposed, filled in, reviewed and applied; what is there stays."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from clipcap.dataset.scenes import render, scene

PAGE = (
    b"<!doctype html>\r\n<html lang=en><p>\xc3\xa9<img src='img/0.png'><IMG SRC=img/1.png>\r\n"
    b"<img src=img/0.png alt=kept><img src=no.png>"
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "img").mkdir(parents=True)
    for number in range(2):
        render(scene(9_000 + number, seed=1)).save(folder / "img" / f"{number}.png")
    (folder / "index.html").write_bytes(PAGE)
    (folder / "index.html").chmod(0o640)
    return folder


def alts(file: Path) -> list[str | None]:
    return [node.attributes.get("alt") for node in LexborHTMLParser(file.read_bytes()).css("img")]


def test_by_default_nothing_of_the_site_changes(clipcap, small_run, site: Path, tmp_path: Path):
    code, out, err = clipcap(
        "alt-text", site, "--data-dir", small_run.lake.root, "--report", tmp_path / "r", "--sure", 2.5, "--json"
    )
    rows = json.loads(out)["rows"]
    assert code == 0, err
    assert [(row["image"], row["status"]) for row in rows] == [
        ("img/0.png", "review"), ("img/1.png", "review"), ("no.png", "failed")
    ]  # fmt: skip
    assert all(row["alt"] and "below 2.50" in row["reason"] for row in rows[:2]) and "no such file" in rows[2]["reason"]
    assert (site / "index.html").read_bytes() == PAGE
    sheet = LexborHTMLParser((tmp_path / "r" / "review.html").read_bytes())
    assert len(sheet.css("li")) == 3 and len(sheet.css("li img[src^='data:image/']")) == 2
    assert rows[0]["alt"] in sheet.text()


def test_what_is_sure_is_filled_in_once(clipcap, small_run, site: Path, tmp_path: Path):
    asked = ["alt-text", site, "--data-dir", small_run.lake.root, "--report", tmp_path / "r", "--sure", 0, "--write"]
    code, out, err = clipcap(*asked, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["changed"] == {"index.html": 2}, err
    words = [row["alt"] for row in facts["rows"][:2]]
    made = (site / "index.html").read_bytes()
    assert alts(site / "index.html") == [*words, "kept", None]
    assert re.sub(rb' alt="[^"]*" data-alt-by="clipcap"', b"", made) == PAGE
    assert (tmp_path / "r" / "originals" / "index.html").read_bytes() == PAGE
    assert (site / "index.html").stat().st_mode & 0o777 == 0o640
    before = (site / "index.html").read_bytes()
    code, out, _ = clipcap(*asked, "--json")
    assert code == 0 and json.loads(out)["changed"] == {} and (site / "index.html").read_bytes() == before


def test_a_copy_and_a_reviewed_table(clipcap, small_run, site: Path, tmp_path: Path):
    """What a person wrote goes in as it is, unmarked; an approved empty text is decoration; the rest is left."""
    lake = small_run.lake.root
    clipcap("alt-text", site, "--data-dir", lake, "--report", tmp_path / "r", "--sure", 2.5)
    table = tmp_path / "r" / "alt-text.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    rows[0] |= {"alt": 'a "red" <thing> – mine', "approved": "yes"}
    rows[1] |= {"alt": "", "approved": "yes"}
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code, out, err = clipcap("alt-text", site, "--apply", table, "--out", tmp_path / "copy", "--json")
    assert code == 0 and json.loads(out)["changed"] == {"index.html": 2}, err
    assert alts(tmp_path / "copy" / "index.html") == ['a "red" <thing> – mine', "", "kept", None]
    assert b"data-alt-by" not in (tmp_path / "copy" / "index.html").read_bytes()
    assert (site / "index.html").read_bytes() == PAGE
    assert (tmp_path / "copy" / "img" / "0.png").read_bytes() == (site / "img" / "0.png").read_bytes()
    table.write_text(table.read_text(encoding="utf-8").replace(",yes", ",maybe", 1), encoding="utf-8")
    code, out, _ = clipcap("alt-text", site, "--apply", table, "--out", tmp_path / "again")
    assert code == 0 and "1 text filled in, in 1 page\n" in out, "an answer that is none costs its own row"
    assert "row 2 of the table: approved is 'maybe'; expected yes or no" in re.sub("[│\\s]+", " ", out)


def test_wrong_use(clipcap, site: Path, tmp_path: Path):
    assert clipcap("alt-text", tmp_path / "none")[0] == 1
    assert clipcap("alt-text", site, "--apply", "x.csv", "--write")[0] == 2
    code, _, err = clipcap("alt-text", site, "--write", "--out", site / "inside")
    assert code == 1 and "must not exist" in err
