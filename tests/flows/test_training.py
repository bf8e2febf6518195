"""The train stage in a lake: what a kill leaves, and several processes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from clipcap.config import TrainConfig
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.training.train_model import Shard, train_key, train_model

CONFIG = TrainConfig.model_validate(
    dict(
        prefix_length=2, mapper_hidden=8, epochs=3, batch_size=20, learning_rate=3e-3, checkpoint_every_s=0.0,
        language_model=dict(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300, dropout=0.1),
    )
)  # fmt: skip


def shards_of(lake: Lake) -> list[Shard]:
    entries = read_current(lake).entries.values()
    downloads = {e.meta["shard_id"]: e for e in entries if e.stage == "download"}
    return [Shard(downloads[e.meta["shard_id"]], e) for e in entries if e.stage == "embed"]


def model_files(entry) -> dict[str, str]:
    """What decides captions; times stand in the others."""
    return {
        file.path.partition(entry.meta["model_id"])[2]: file.sha256
        for file in entry.files
        if not file.path.endswith((".jsonl", "metrics.json", ".md", "/config.json"))
    }


def test_a_killed_training_goes_on_in_the_lake(copied: Lake):
    shards = shards_of(copied)
    key = train_key(shards, CONFIG)
    whole = train_model(copied, "toy-mlp-whole", shards, CONFIG, key)

    class Killed(BaseException):
        pass

    def stop(line) -> None:
        if line.step == 11:
            raise Killed

    with pytest.raises(Killed):
        train_model(copied, "toy-mlp-parts", shards, CONFIG, key, on_step=stop)
    unfinished = list((copied.scratch / "training").iterdir())
    assert len(unfinished) == 1 and not copied.model("toy-mlp-parts").exists()
    seen = []
    parts = train_model(copied, "toy-mlp-parts", shards, CONFIG, key, on_step=seen.append)
    assert seen[0].step == 11 and not unfinished[0].exists()
    assert model_files(parts) == model_files(whole)
    assert parts.meta["best_val_loss"] == whole.meta["best_val_loss"]


def test_two_processes_train_a_model_of_the_lake(copied: Lake):
    shards, config = shards_of(copied), CONFIG.model_copy(update={"processes": 2, "batch_size": 10})
    seen = []
    entry = train_model(copied, "toy-mlp-two", shards, config, train_key(shards, config), on_step=seen.append)
    assert seen[-1].step == seen[-1].steps and seen[-1].val_loss == pytest.approx(entry.meta["best_val_loss"])
    metrics = json.loads((copied.model("toy-mlp-two") / "metrics.json").read_text())
    assert metrics["captions"] == entry.meta["train_captions"]


def test_what_goes_wrong_in_a_process_is_told(copied: Lake):
    from clipcap.errors import ModelError

    shards = shards_of(copied)
    config = CONFIG.model_copy(update={"processes": 2, "mapper": "transformer", "mapper_heads": 3})
    with pytest.raises(ModelError, match=r"in 2 processes failed: .*hidden size 16 into 3 heads"):
        train_model(copied, "toy-transformer-bad", shards, config, train_key(shards, config))
    assert not copied.model("toy-transformer-bad").exists()


@pytest.mark.parametrize(("captions", "is_told"), [(999, True), (1000, False)])
def test_a_model_of_few_captions_says_so(captions: int, is_told: bool, monkeypatch):
    from flows import train as module

    entry = SimpleNamespace(meta={"train_captions": captions})
    monkeypatch.setattr(module, "train_job", lambda *_: None)
    monkeypatch.setattr(module, "run_jobs", lambda *_: [entry])
    told: list[str] = []
    monkeypatch.setattr(module, "say", lambda _, text: told.append(text))
    assert module.train(None, []) is entry
    assert any("999 captions" in text for text in told) == is_told
    told.clear()
    module.train(None, [], start=entry)
    assert not told, "a model that goes on from another's weights needs fewer"
