"""Cards: what the hub's parser reads, facts that are right, limits that follow from them, and no text that acts."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard
from tiny_lake import BATCH, NEW, OLD, TinyLake, build

from clipcap.cards.dataset_card import dataset_card, dataset_facts
from clipcap.cards.licences import licence_of
from clipcap.cards.limits import limits_of
from clipcap.cards.markdown import escaped
from clipcap.cards.model_card import card_of, model_card, model_facts
from clipcap.errors import DataError
from clipcap.model.captioner import CaptionerSettings
from clipcap.training.registry import promote


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


def test_production_stands_beside_another_model(tiny: TinyLake):
    settings = CaptionerSettings(clip_dim=4, hidden_size=8, prefix_length=4, eos_id=0).model_dump_json()
    for model in (OLD, NEW):
        (tiny.lake.model(model) / "config.json").write_text(settings)
    promote(tiny.lake, OLD, "the first")
    facts = model_facts(tiny.lake, NEW)
    served = {row["metric"]: row["production_value"] for row in facts["scores"]}
    other = {row["metric"]: row["value"] for row in model_facts(tiny.lake, OLD)["scores"]}
    assert served and served == {name: other[name] for name in served}
    assert "| production |" in model_card(facts)


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


def test_a_model_of_no_lake_has_a_card_that_says_what_is_not_known(tmp_path: Path):
    import torch

    from clipcap.config import LanguageModelConfig
    from clipcap.model.captioner import Captioner
    from clipcap.model.checkpoint import save_captioner
    from clipcap.model.language_model import new_language_model
    from clipcap.model.mapping import build_mapper

    torch.manual_seed(0)
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=16, vocab_size=260)
    model, tokenizer = new_language_model(sizes, ["a dog"], positions=32)
    settings = CaptionerSettings(
        clip_dim=6, hidden_size=16, prefix_length=3, eos_id=0, encoder=f"local-dir:{tmp_path}/secret/encoder"
    )
    save_captioner(Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings), tmp_path / "mine")
    card = card_of(tmp_path / "mine", "mit")
    assert ModelCard(card).data.license == "mit"
    assert "# mine" in card and "No score is known here" in card and "training left no record" in card
    assert str(tmp_path) not in card and "`encoder`" in card


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
