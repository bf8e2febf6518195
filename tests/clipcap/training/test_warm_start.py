"""Training that goes on from a model: the same function at its start, the same refusals as a checkpoint would need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipcap.config import LanguageModelConfig, TrainConfig
from clipcap.errors import ModelError
from clipcap.model.checkpoint import load_captioner, weights_hash
from clipcap.training.examples import Pairs
from clipcap.training.standardize import standardized
from clipcap.training.train import train
from clipcap.training.warm_start import go_on_from

CAPTIONS = ["a red circle above a blue square", "two green dots", "a small yellow star", "nothing but a grey field"]
RANDOM = np.random.default_rng(0)
TASK = Pairs(RANDOM.standard_normal((8, 6)).astype(np.float16) + 1, [[CAPTIONS[n % 4]] for n in range(8)])
TINY = LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=32, vocab_size=300, dropout=0.1)
CONFIG = TrainConfig(
    prefix_length=3, mapper_hidden=16, epochs=40, batch_size=4, learning_rate=1e-2, warmup_steps=5,
    checkpoint_every_s=0.0, language_model=TINY,
)  # fmt: skip
NAMES = dict(encoder="an encoder", encoder_hash="abc")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(**fields: Any) -> TrainConfig:
    return CONFIG.model_copy(update=fields)


def run(folder: Path, config: TrainConfig = CONFIG, model_id: str = "toy-mlp-0", **options: Any):
    return train(TASK, TASK, config, folder, model_id=model_id, **NAMES, **options)


def start(folder: Path, config: TrainConfig = CONFIG, **other: Any):
    asked = {"clip_dim": 6, "clip_tokens": 0, "features": "embedding", "model_id": "toy-mlp-1", **NAMES, **other}
    return go_on_from(folder, config, asked.pop("clip_dim"), **asked)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    run(folder)
    return folder


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_it_begins_as_the_function_that_the_model_is(tmp_path: Path, mapper: str):
    config = changed(mapper=mapper, clip_length=2, mapper_layers=1, mapper_heads=2, epochs=3)
    run(tmp_path, config)
    stored, warm = load_captioner(tmp_path), start(tmp_path, config)
    x = torch.from_numpy(TASK.embeddings).float()
    with torch.no_grad(), standardized(warm, torch.from_numpy(TASK.embeddings), is_trained=True):
        torch.testing.assert_close(warm.prefix(x), stored.prefix(x), atol=1e-4, rtol=1e-3)
        pairs = zip(warm.mapper.parameters(), stored.mapper.parameters(), strict=True)
        assert not all(torch.allclose(ours, theirs) for ours, theirs in pairs), "its weights are standardised meanwhile"
    with torch.no_grad():
        torch.testing.assert_close(warm.prefix(x), stored.prefix(x), atol=1e-4, rtol=1e-3)
    assert (warm.settings.model_id, stored.settings.model_id) == ("toy-mlp-1", "toy-mlp-0")


def test_a_warm_start_is_where_the_model_left_off_and_a_fresh_one_is_not(trained: Path, tmp_path: Path):
    lines: dict[str, list] = {"warm": [], "fresh": []}
    gently = changed(epochs=1, learning_rate=1e-5)
    warm = run(tmp_path / "w", gently, "toy-mlp-1", start_folder=trained, on_step=lines["warm"].append)
    fresh = run(tmp_path / "f", gently, "toy-mlp-1", on_step=lines["fresh"].append)
    assert warm.best_loss < 0.2 < 3 < fresh.best_loss
    assert load_captioner(tmp_path / "w").settings.model_id == "toy-mlp-1"
    assert weights_hash(tmp_path / "w") != weights_hash(trained), "it learned"


def test_a_killed_warm_start_goes_on_to_the_same_weights(trained: Path, tmp_path: Path):
    config = changed(epochs=6)
    run(tmp_path / "whole", config, start_folder=trained)

    class Killed(BaseException):
        pass

    def stop(line) -> None:
        if line.step == 7:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "parts", config, start_folder=trained, resume_folder=tmp_path / "resume", on_step=stop)
    seen: list = []
    run(tmp_path / "parts", config, start_folder=trained, resume_folder=tmp_path / "resume", on_step=seen.append)
    assert seen[0].step == 7
    assert weights_hash(tmp_path / "parts") == weights_hash(tmp_path / "whole")


@pytest.mark.parametrize(
    ("config", "other", "told"),
    [
        (changed(prefix_length=4), {}, "prefix_length is 3 there and 4 here"),
        (changed(mapper="transformer"), {}, "mapper is 'mlp' there and 'transformer' here"),
        (changed(mapper_hidden=8), {}, "mapper_hidden is 16 there and 8 here"),
        (changed(normalize=False), {}, "normalize is True there and False here"),
        (changed(max_tokens=200), {}, "its language model has"),
        (changed(language_model=TINY.model_copy(update={"layers": 2})), {}, "layers is 1 there and 2 here"),
        (changed(language_model=TINY.model_copy(update={"hidden_size": 64})), {}, "hidden_size is 32 there and 64"),
        (changed(language_model=TINY.model_copy(update={"dropout": 0.5})), {}, "dropout is 0.1 there and 0.5 here"),
        (changed(language_model=LanguageModelConfig(name="gpt2")), {}, "language_model.tune is True there and False"),
        (CONFIG, {"clip_dim": 8}, "clip_dim is 6 there and 8 here"),
        (CONFIG, {"encoder_hash": "def"}, "encoder is 'an encoder@abc' there and 'an encoder@def' here"),
        (CONFIG, {"features": "tower"}, "features is 'embedding' there and 'tower' here"),
    ],
)
def test_another_architecture_or_encoder_is_refused(trained: Path, config: TrainConfig, other: dict, told: str):
    with pytest.raises(ModelError, match=r"cannot go on from toy-mlp-0: .*retrain\.start = \"fresh\"") as error:
        start(trained, config, **other)
    assert told in str(error.value)


def test_settings_that_are_no_architecture_may_change(trained: Path):
    start(trained, changed(epochs=1, learning_rate=1e-4, batch_size=2, clip_length=7, mapper_layers=5))
