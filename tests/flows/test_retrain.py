"""Retraining in a real lake: what lands leads to a candidate, and the gate keeps a worse one out.

Covers: nothing due; a better candidate promoted and a deliberately worse one refused, each in one generation with its
evidence; the frozen set that later batches do not change; what was tried is not tried again; what lands during a run;
warm starts; a promotion by somebody else meanwhile; checks that refuse; the dry run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import flows.candidate as module
from clipcap.config import parse_config
from clipcap.dataset.land import land, read_landing
from clipcap.errors import CheckFailed, ModelError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Promotion
from clipcap.warehouse.queries import query
from flows.retrain import retrain

pytestmark = [pytest.mark.usefixtures("prefect_harness"), pytest.mark.timeout(900)]

GATE = ["gate.min_images=20", "retrain.drift_threshold=0", "evaluate.resamples=200", "evaluate.clip_score=false",
        "caption.clip_score=false"]  # fmt: skip
BETTER = ["train.epochs=14", "train.learning_rate=4e-3", "train.mapper_hidden=64", "train.batch_size=32",
          "train.language_model.hidden_size=64", "caption.max_new_tokens=24"]  # fmt: skip
WORSE = [*BETTER, "train.epochs=1", "train.learning_rate=1e-6"]


def scenes(folder: Path, first: int, count: int) -> Path:
    """Pictures with their captions beside them."""
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    folder.mkdir(parents=True)
    for number in range(first, first + count):
        picture = scene(number, seed=1)
        render(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("\n".join(captions(picture)), encoding="utf-8")
    return folder


def land_scenes(lake: Lake, folder: Path, first: int, count: int, split: str = "train") -> str:
    """As ``clipcap land`` does; returns the batch's id."""
    dataset = {"name": f"scenes{first}", "source": str(scenes(folder, first, count)), "default_split": split}
    landing = read_landing(parse_config({"dataset": dataset}))
    commit_generation(lake, [land(lake, landing)])
    return landing.batch_id


@dataclass
class Story:
    """One lake, and what became of it in the order in which it happened."""

    lake: Lake
    overrides: list[str]
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    frozen: bytes = b""

    def retrain(self, name: str, *more: str, **parameters: Any) -> None:
        self.outcomes[name] = retrain("sample", [*self.overrides, *more], str(self.lake.root), **parameters)
        self.generations[name] = read_current(self.lake).number


@pytest.fixture(scope="module")
def story(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing due; a batch lands and a better model is trained; another one lands and a worse one is."""
    folder = tmp_path_factory.mktemp("retrain")
    shutil.copytree(small_run.lake.root, folder / "lake")
    story = Story(Lake(folder / "lake"), [*small_run.overrides, *GATE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "emit", lambda name, about, payload: story.events.append((name, payload)) or True)
        story.generations["before"] = read_current(story.lake).number
        story.retrain("nothing")
        story.batches["test"] = land_scenes(story.lake, folder / "test", 5_000, 40, "test")
        story.batches["train"] = land_scenes(story.lake, folder / "train", 6_000, 110)
        story.generations["landed"] = read_current(story.lake).number
        story.retrain("better", *BETTER, "retrain.min_new_pairs=500", batch_id=story.batches["train"])
        story.frozen = story.lake.evaluation_set("default").read_bytes()
        story.batches["more"] = land_scenes(story.lake, folder / "more", 7_000, 12)
        story.batches["more test"] = land_scenes(story.lake, folder / "more_test", 8_000, 5, "test")
        story.generations["landed again"] = read_current(story.lake).number
        story.retrain("worse", *WORSE, "retrain.min_new_pairs=50")
        story.retrain("again", *WORSE, "retrain.min_new_pairs=50")
        story.retrain("forced", *WORSE, force=True)
    return story


def test_with_nothing_due_it_is_a_short_run_that_says_so(story: Story) -> None:
    outcome = story.outcomes["nothing"]
    assert not outcome["due"] and outcome["verdict"] == "" and outcome["reason"] == "no new model is due"
    assert outcome["reasons"] == ["0 new pairs < 1,000"]
    assert story.generations["nothing"] == story.generations["before"]


def test_a_better_candidate_is_promoted_in_one_generation_with_all_of_its_evidence(story: Story) -> None:
    outcome = story.outcomes["better"]
    assert outcome["verdict"] == "promoted" and outcome["reasons"][0] == "550 new pairs ≥ 500"
    assert story.generations["better"] == story.generations["landed"] + 1
    before = read_current_at(story.lake, story.generations["landed"])
    after = read_current_at(story.lake, story.generations["better"])
    new = {id.partition("/")[0] for id in set(after.entries) - set(before.entries)}
    assert {"train", "caption", "evaluate", "compare", "evaluation_set", "download", "embed"} <= new
    assert (before.production_model_id, after.production_model_id) == (
        outcome["production_model_id"], outcome["model_id"]
    )  # fmt: skip
    [decision] = after.decisions
    assert (decision.candidate_model_id, decision.verdict) == (outcome["model_id"], "promoted")
    assert after.promotions[-1].previous_model_id == outcome["production_model_id"]
    assert after.promotions[-1].reason == decision.reason == outcome["reason"]
    assert Path(outcome["report"]).is_file()
    batches = after.entries[f"train/{outcome['model_id']}"].meta["batch_ids"]
    assert {story.batches["train"], story.batches["test"]} < set(batches) and len(batches) == 3


def read_current_at(lake: Lake, number: int):
    from clipcap.storage.manifest import read_generation

    return read_generation(lake, number)


def test_the_evidence_in_sql_is_the_comparison_on_exactly_the_frozen_images(story: Story) -> None:
    [row, *_] = query(story.lake, "select * from decisions").to_pylist()
    evidence = json.loads(row["evidence"])
    frozen = query(story.lake, "select sample_key from evaluation_sets").num_rows
    assert evidence["images"] == frozen == 46  # six scenes of the small run, forty that landed
    assert evidence["limits"]["primary"] == "cider"
    shown = query(
        story.lake,
        f"select metric, low, images from comparisons where split = 'frozen-default' "
        f"and candidate_model_id = '{row['candidate_model_id']}' order by metric",
    ).to_pylist()
    assert {(r["metric"], r["low"]) for r in shown} == {(r["metric"], r["low"]) for r in evidence["comparison"]}
    assert {r["images"] for r in shown} == {46}
    cider = next(r for r in evidence["comparison"] if r["metric"] == "cider")
    assert cider["low"] > 0 and f"{cider['candidate_value']:.4f}" in row["reason"]


def test_a_worse_candidate_is_refused_and_production_stays(story: Story) -> None:
    outcome = story.outcomes["worse"]
    assert outcome["verdict"] == "refused" and "not lie above" in outcome["reason"]
    assert outcome["production_model_id"] == story.outcomes["better"]["model_id"]
    assert story.generations["worse"] == story.generations["landed again"] + 1
    current = read_current(story.lake)
    assert current.production_model_id == story.outcomes["better"]["model_id"]
    assert [decision.verdict for decision in current.decisions] == ["promoted", "refused"]
    assert f"train/{outcome['model_id']}" in current.entries, "it can be looked at, and promoted by hand"


def test_new_batches_do_not_change_the_frozen_set(story: Story) -> None:
    assert story.lake.evaluation_set("default").read_bytes() == story.frozen
    images = query(
        story.lake,
        "select distinct images from metrics where split = 'frozen-default'",
    ).to_pylist()
    assert images == [{"images": 46}]


def test_what_was_tried_is_not_tried_again(story: Story) -> None:
    again, forced = story.outcomes["again"], story.outcomes["forced"]
    assert again["reasons"] == ["0 new pairs < 50", "60 more were learned from by a candidate that was refused"]
    assert again["verdict"] == forced["verdict"] == ""
    assert f"{story.outcomes['worse']['model_id']} was refused by these limits already" in forced["reason"]
    assert story.generations["forced"] == story.generations["again"] == story.generations["worse"]


def test_listeners_hear_of_promotions_alone(story: Story) -> None:
    [(name, payload)] = story.events
    assert name == "clipcap.model.promoted"
    assert payload["model_id"] == story.outcomes["better"]["model_id"] and payload["by"] == "gate"
    assert payload["previous_model_id"] == story.outcomes["better"]["production_model_id"]


@pytest.fixture
def landed(story: Story, tmp_path: Path) -> tuple[Lake, list[str]]:
    """The story's lake before its worse candidate, copied: 60 pairs have just landed."""
    shutil.copytree(story.lake.root, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    (lake.current).write_text(str(story.generations["landed again"]))
    for number in range(story.generations["landed again"] + 1, story.generations["forced"] + 1):
        lake.manifest(number).unlink()
    return lake, [*story.overrides, *WORSE, "retrain.min_new_pairs=50"]


@pytest.fixture
def ready(story: Story, landed: tuple[Lake, list[str]]) -> tuple[Lake, list[str]]:
    """The same, with what landed downloaded and embedded."""
    done = [e for e in read_current(story.lake).entries.values() if e.stage in ("download", "embed")]
    commit_generation(landed[0], done)
    return landed


def test_what_lands_during_a_run_is_looked_at_before_it_ends(
    ready: tuple[Lake, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, overrides = ready
    landed = []

    def publish(*arguments: Any) -> str:
        if not landed:
            landed.append(land_scenes(lake, tmp_path / "late", 9_000, 11))
        return original(*arguments)

    original = module.publish
    monkeypatch.setattr(module, "publish", publish)
    outcome = retrain("sample", overrides, str(lake.root))
    decisions = read_current(lake).decisions[1:]
    assert [decision.verdict for decision in decisions] == ["refused", "refused"]
    assert landed[0] in decisions[1].evidence["batch_ids"] and landed[0] not in decisions[0].evidence["batch_ids"]
    assert outcome["model_id"] == decisions[1].candidate_model_id and outcome["reasons"][0] == "55 new pairs ≥ 50"


def test_another_promotion_meanwhile_is_compared_with_anew(
    ready: tuple[Lake, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, overrides = ready
    first = read_current(lake).promotions[0].model_id

    def publish(*arguments: Any) -> str:
        if read_current(lake).production_model_id != first:
            commit_generation(
                lake, promotion=Promotion(model_id=first, reason="by hand", created_at=arguments[0].started_at)
            )
        return original(*arguments)

    original = module.publish
    monkeypatch.setattr(module, "publish", publish)
    outcome = retrain("sample", overrides, str(lake.root))
    decision = read_current(lake).decisions[-1]
    assert outcome["production_model_id"] == decision.production_model_id == first
    assert len(read_current(lake).decisions) == 2, "what was decided of another production model is not published"


def test_captions_that_fail_a_check_keep_the_candidate_out_and_the_decision_is_published(
    ready: tuple[Lake, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, overrides = ready

    def publish(context: Any, decision: Any) -> str:
        if any(entry.stage == "caption" and entry.meta["model_id"] == decision.candidate_model_id
               for entry in context.used):  # fmt: skip
            raise CheckFailed("captions_not_empty", [{"sample_key": "a"}])
        return original(context, decision)

    original = module.publish
    monkeypatch.setattr(module, "publish", publish)
    outcome = retrain("sample", overrides, str(lake.root))
    assert outcome["verdict"] == "refused" and "captions_not_empty" in outcome["reason"]
    after = read_current(lake)
    stages = {entry.stage for entry in after.entries.values() if entry.meta.get("model_id") == outcome["model_id"]}
    assert stages == {"train"} and after.decisions[-1].reason == outcome["reason"]


def test_a_warm_start_is_another_model_that_goes_on_from_production(ready: tuple[Lake, list[str]]) -> None:
    lake, overrides = ready
    production = read_current(lake).production_model_id
    gently = [*overrides, "train.learning_rate=1e-5", 'retrain.start="warm"']
    outcome = retrain("sample", gently, str(lake.root))
    entries = read_current(lake).entries
    warm, before = entries[f"train/{outcome['model_id']}"].meta, entries[f"train/{production}"].meta
    assert warm["start_model_id"] == production and before["start_model_id"] == ""
    assert warm["best_val_loss"] == pytest.approx(before["best_val_loss"], abs=0.3), "it did not begin anew"
    other = [*gently, "train.prefix_length=5", "retrain.min_new_pairs=1"]
    with pytest.raises(ModelError, match=r"cannot go on from .*prefix_length is 4 there and 5 here"):
        retrain("sample", other, str(lake.root), force=True)


def test_too_few_frozen_images_train_nothing(ready: tuple[Lake, list[str]]) -> None:
    lake, overrides = ready
    number = read_current(lake).number
    outcome = retrain("sample", [*overrides, "gate.min_images=47"], str(lake.root))
    assert outcome["due"] and outcome["verdict"] == "" and outcome["model_id"] == ""
    assert outcome["reason"] == "evaluation set 'default' has 46 images, and gate.min_images asks for 47"
    other = retrain("sample", [*overrides, "gate.min_images=52", "gate.evaluation_set=later"], str(lake.root))
    assert "'later' has 51 images" in other["reason"], "with the five that landed since, and not made from so few"
    assert read_current(lake).number == number and not lake.evaluation_set("later").exists()


def test_the_plan_says_what_is_due_and_changes_nothing(
    story: Story, landed: tuple[Lake, list[str]], unchanged: Callable[[Lake], Any]
) -> None:
    lake, overrides = landed
    before = unchanged(lake)
    plan = retrain("sample", overrides, str(lake.root), dry_run=True)
    assert plan["due"] is None, "what is not embedded may fail"
    assert plan["reasons"][0] == "0 new pairs < 50" and plan["reasons"][1].startswith("up to 60 more in what is not")
    assert [stage["stage"] for stage in plan["stages"]] == ["download", "embed", "train"]
    assert plan["evaluation_images"] == 46 and plan["fits"]
    assert unchanged(lake) == before
    done = [e for e in read_current(story.lake).entries.values() if e.stage in ("download", "embed")]
    commit_generation(lake, done)
    plan = retrain("sample", overrides, str(lake.root), dry_run=True)
    assert plan["due"] is True and plan["reasons"] == ["60 new pairs ≥ 50"]
    assert [(s["stage"], s["shards_to_do"]) for s in plan["stages"]] == [("download", 0), ("embed", 0), ("train", 1)]


@pytest.fixture
def unchanged() -> Callable[[Lake], Any]:
    """All files of a lake with their times, but for Prefect's own."""

    def look(lake: Lake) -> Any:
        return {
            str(file.relative_to(lake.root)): file.stat().st_mtime_ns
            for file in lake.root.rglob("*")
            if file.is_file() and ".prefect" not in file.parts
        }

    return look


def test_a_lake_without_a_model_gets_its_first_one(small_run: Any, copied: Lake) -> None:
    generation = read_current(copied)
    without = {id: e for id, e in generation.entries.items() if e.stage in ("land", "download", "embed")}
    fresh = Lake(copied.root.parent / "fresh")
    shutil.copytree(
        copied.root, fresh.root, ignore=shutil.ignore_patterns("manifests", "CURRENT", "models", "*.duckdb")
    )
    commit_generation(fresh, without.values())
    overrides = [*small_run.overrides, *GATE, "retrain.min_new_pairs=100", "retrain.recaption=true"]
    outcome = retrain("sample", overrides, str(fresh.root))
    assert outcome["verdict"] == "promoted" and outcome["reason"] == "the first model of this lake"
    after = read_current(fresh)
    assert after.production_model_id == outcome["model_id"] == small_run.outcome["model_id"], "trained on the same"
    assert after.decisions[0].production_model_id == "" and after.decisions[0].evaluation_set == ""
    captioned = query(fresh, f"select count(*) as images from captions where model_id = '{outcome['model_id']}'")
    assert captioned.to_pylist()[0]["images"] >= small_run.scenes, "earlier batches were captioned with it at once"
