"""Manifests of older forms are read forward step by step, and each step is recorded once.

The oldest manifest is written out here as the code of that time wrote it, so that no later change of it goes unseen.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clipcap.errors import DataError
from clipcap.storage import migrations
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.migrations import FORM, MIGRATIONS, Migration, form_of, upgrade
from clipcap.storage.records import Promotion

FIRST_FORM = """{
 "number": 2,
 "created_at": "2026-11-24T17:41:33.123456Z",
 "entries": {
  "train/m1": {
   "stage": "train",
   "id": "train/m1",
   "key": "0123",
   "files": [
    {
     "kind": "model",
     "path": "models/m1/config.json",
     "sha256": "abcd",
     "size_bytes": 2
    }
   ],
   "rows": {},
   "meta": {
    "run_id": "r1",
    "model_id": "m1"
   },
   "run_id": "r1",
   "created_at": "2026-11-24T17:40:00Z",
   "duration_s": 1.5
  }
 },
 "runs": [
  {
   "run_id": "r1",
   "flow": "pipeline",
   "started_at": "2026-11-24T17:30:00Z",
   "finished_at": "2026-11-24T17:41:00Z",
   "config": {},
   "entries": [
    "train/m1"
   ]
  }
 ],
 "promotions": [
  {
   "model_id": "m1",
   "reason": "the first model of this lake",
   "created_at": "2026-11-24T17:41:00Z",
   "previous_model_id": ""
  },
  {
   "model_id": "m2",
   "reason": "by hand",
   "created_at": "2026-11-24T17:41:30Z",
   "previous_model_id": ""
  }
 ]
}"""


@pytest.fixture
def old(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.manifests.mkdir(parents=True)
    lake.manifest(2).write_text(FIRST_FORM)
    lake.current.write_text("2")
    return lake


def test_the_first_form_is_read(old: Lake):
    generation = read_current(old)
    assert (generation.number, generation.form, list(generation.entries)) == (2, FORM, ["train/m1"])
    assert generation.entries["train/m1"].files[0].path == "models/m1/config.json"
    assert [(p.model_id, p.previous_model_id) for p in generation.promotions] == [("m1", ""), ("m2", "m1")]
    assert [step.number for step in generation.migrations] == [step.number for step in MIGRATIONS[1:]]
    assert old.manifest(2).read_text() == FIRST_FORM, "reading rewrites nothing"


def test_the_next_generation_is_of_the_newest_form_and_remembers_the_steps(old: Lake):
    promotion = Promotion(model_id="m3", reason="better", created_at=datetime.now(UTC))
    commit_generation(old, promotion=promotion)
    text = old.manifest(3).read_text()
    assert form_of(text.encode()) == FORM == json.loads(text)["form"]
    first = read_current(old)
    assert [step.number for step in first.migrations] == [step.number for step in MIGRATIONS[1:]]
    commit_generation(old, promotion=promotion)
    assert read_current(old).migrations == first.migrations, "taken once"
    assert [p.previous_model_id for p in first.promotions] == ["", "m1", "m2"]


def test_a_new_lake_took_no_step(tmp_path: Path):
    lake = Lake(tmp_path / "lake")
    commit_generation(lake, promotion=Promotion(model_id="m", reason="first", created_at=datetime.now(UTC)))
    assert read_current(lake).migrations == [] and read_current(lake).form == FORM


def test_steps_are_taken_in_order_from_the_form_that_a_manifest_has(monkeypatch: pytest.MonkeyPatch):
    def step(number: int) -> Migration:
        return Migration(number, f"step {number}", lambda manifest: {**manifest, "taken": [*manifest["taken"], number]})

    monkeypatch.setattr(migrations, "MIGRATIONS", tuple(step(number) for number in (1, 2, 3, 4)))
    monkeypatch.setattr(migrations, "FORM", 4)
    assert upgrade({"taken": []}, 1)["taken"] == [2, 3, 4]
    newest = upgrade({"taken": [], "migrations": [{"number": 3}]}, 3)
    assert newest["taken"] == [4] and [m["number"] for m in newest["migrations"]] == [3, 4] and newest["form"] == 4


def test_numbers_have_no_gap_and_names_are_sentences():
    assert [step.number for step in MIGRATIONS] == list(range(1, FORM + 1))
    assert all(step.name.endswith(".") for step in MIGRATIONS)


def test_a_manifest_of_a_newer_clipcap_is_left_alone(old: Lake):
    old.manifest(2).write_text('{"form": 999, "number": 2, "something": "else"}')
    with pytest.raises(DataError, match=r"2\.json cannot be read: it was written by a newer clipcap \(form 999"):
        read_current(old)


@pytest.mark.parametrize("text", ["[]", '{"number": 2, "promotions": [{}]}', '{"number": 2, "promotions": 7}', "7"])
def test_what_is_no_manifest_of_any_form_is_one_clear_line(old: Lake, text: str):
    old.manifest(2).write_text(text)
    with pytest.raises(DataError, match=r"2\.json cannot be read") as raised:
        read_current(old)
    assert "\n" not in str(raised.value)
