"""Cards and exports by command, on the small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

from clipcap.model.checkpoint import load_captioner
from clipcap.storage.manifest import read_current

if TYPE_CHECKING:
    from conftest import Cli, SmallRun


def model_of(small_run: SmallRun) -> str:
    return read_current(small_run.lake).production_model_id


def test_the_card_of_a_model_is_what_the_lake_knows(clipcap: Cli, small_run: SmallRun):
    model_id = model_of(small_run)
    code, card, _ = clipcap("models", "card", model_id, "--licence", "MIT", "--data-dir", small_run.lake.root)
    assert code == 0
    data = ModelCard(card).data
    assert (data.license, data.model_name, data.datasets) == ("mit", model_id, ["sample"])
    _, out, _ = clipcap("sql", "--json", "select metric, value from metrics", "--data-dir", small_run.lake.root)
    cider = next(row["value"] for row in json.loads(out) if row["metric"] == "cider")
    assert next(r.metric_value for r in data.eval_results if r.metric_type == "cider") == round(cider, 4)
    code, out, _ = clipcap("models", "card", model_id, "--json", "--data-dir", small_run.lake.root)
    facts = json.loads(out)
    train = small_run.entries()[f"train/{model_id}"]
    taught = [row for row in facts["data"] if row["split"] in ("train", "restval")]
    assert sum(row["images"] for row in taught) == train.meta["train_images"]
    assert facts["changed"]["epochs"] == 1 and facts["changed"]["mapper_hidden"] == 32
    assert str(small_run.lake.root) not in card


def test_what_training_stored_is_a_card_and_part_of_the_model(small_run: SmallRun):
    model_id = model_of(small_run)
    stored = small_run.lake.model(model_id) / "MODEL_CARD.md"
    assert ModelCard.load(stored).data.model_name == model_id
    assert small_run.lake.relative(stored) in {f.path for f in small_run.entries()[f"train/{model_id}"].files}


def test_an_unknown_model_and_batch_are_one_clear_line(clipcap: Cli, small_run: SmallRun):
    for kind, other in (("models", model_of(small_run)), ("batches", "sample-")):
        code, out, err = clipcap(kind, "card", "nope", "--data-dir", small_run.lake.root)
        assert (code, out) == (1, "") and "'nope'" in err and other in err


def test_a_model_goes_to_the_hubs_layout_and_comes_back(clipcap: Cli, small_run: SmallRun, tmp_path: Path):
    root, hub = small_run.lake.root, tmp_path / "hub"
    code, out, _ = clipcap("export", "--layout", "huggingface", "--out", hub, "--json", "--data-dir", root)
    assert code == 0 and {"README.md", "config.json", "lm/generation_config.json"} <= json.loads(out)["files"].keys()
    assert ModelCard.load(hub / "README.md").data.eval_results
    assert clipcap("import-weights", hub, "--out", tmp_path / "back")[0] == 0
    before = load_captioner(small_run.lake.model(model_of(small_run)))
    after = load_captioner(tmp_path / "back").state_dict()
    assert all((after[name] == tensor).all() for name, tensor in before.state_dict().items())


def test_options_of_another_layout_are_refused(clipcap: Cli, small_run: SmallRun, tmp_path: Path):
    for options in (["--layout", "onnx", "--batch", "b"], ["--layout", "clip-retrieval", "--pixels"], ["some-model"]):
        code, _, err = clipcap("export", *options, "--out", tmp_path / "x", "--data-dir", small_run.lake.root)
        assert code == 2 and "leave it out" in err
    assert list(tmp_path.iterdir()) == []
