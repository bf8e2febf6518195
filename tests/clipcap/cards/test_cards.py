"""Cards: what the hub's parser reads, facts that are right, limits that follow from them, and no text that acts."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from tiny_lake import BATCH, TinyLake, build

from clipcap.cards.dataset_card import dataset_card, dataset_facts
from clipcap.cards.licences import licence_of
from clipcap.cards.limits import limits_of
from clipcap.cards.markdown import escaped
from clipcap.errors import DataError


@pytest.fixture
def tiny(tmp_path: Path) -> TinyLake:
    tiny = build(tmp_path / "lake")
    tiny.commit()
    return tiny


def test_a_batch_says_what_became_of_each_row_and_whose_it_is(tiny: TinyLake):
    facts = dataset_facts(tiny.lake, BATCH, licence="CC-BY-4.0")
    assert sum(row["images"] for row in facts["outcomes"] if row["stage"] == "land") == 8
    assert {row["reason"]: row["images"] for row in facts["outcomes"] if row["status"] == "duplicate"} != {}
    assert {row["split"]: row["images"] for row in facts["splits"]} == {"test": 2, "train": 3, "val": 1}
    assert facts["licences"] == [{"licence": None, "images": 6, "sources": 0}]
    data = DatasetCard(dataset_card(facts)).data
    assert (data.license, data.task_categories, data.size_categories) == ("cc-by-4.0", ["image-to-text"], ["n<1K"])


def test_an_unknown_batch_is_told_beside_those_that_are(tiny: TinyLake):
    with pytest.raises(DataError, match=f"no batch 'nope'.*{BATCH}"):
        dataset_facts(tiny.lake, "nope")


@pytest.mark.parametrize(
    "text",
    ["![x](http://a/x.png)", "<script>alert(1)</script>", "[a](javascript:b)", "a | b", "`code`", "# no\n---\nheading"],
)
def test_a_caption_is_nothing_but_text(text: str):
    shown = escaped(text)
    assert "\n" not in shown
    for mark in "|<>[]`#!":
        assert all(shown[place - 1] == "\\" for place, sign in enumerate(shown) if sign == mark)


def test_what_people_are_called_and_whether_it_grows():
    words = {"learned_men": 60, "learned_women": 40, "written_men": 9, "written_women": 1, "written_captions": 0}
    [told] = [line for line in limits_of(FACTS, [], [], words) if "men" in line]
    assert "60%" in told and "90%" in told and "larger" in told
    words |= {"written_men": 5, "written_women": 5}
    assert not any("larger" in line for line in limits_of(FACTS, [], [], words))


def test_few_images_and_a_control_that_nearly_does_as_well_are_said():
    row = {"metric": "cider", "label": "CIDEr", "value": 0.5, "low": 0.4, "high": 0.6, "images": 50, "control": 0.4}
    told = " ".join(limits_of(FACTS, [], [row], None))
    assert "Only 50 images" in told and "40% of its value" in told and "80% of the score" in told
    assert "Only" not in " ".join(limits_of(FACTS, [], [{**row, "images": 5000}], None))


FACTS = {"is_own_language_model": True, "language_model_licence": "", "language_model": "scratch"}


def test_a_licence_is_read_and_never_guessed(tmp_path: Path):
    assert licence_of(str(tmp_path)) == ""
    (tmp_path / "LICENSE").write_text("\n   Apache License\n   Version 2.0\n", encoding="utf-8")
    assert licence_of(str(tmp_path)) == "Apache License (first line of LICENSE)"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# gpt\n", encoding="utf-8")
    assert licence_of(str(tmp_path)) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert licence_of(str(tmp_path)).startswith("Apache")
