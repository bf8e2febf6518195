"""Training on small tasks whose right answer is known."""

import json
import math

import numpy as np
import pytest
import torch

from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig
from clipcap.decoding.caption import generate
from clipcap.errors import DataError, EmbeddingError, ModelError
from clipcap.model.checkpoint import load_captioner, weights_hash
from clipcap.model.language_model import new_language_model
from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.schedule import learning_rate
from clipcap.training.train import train
from clipcap.training.validation import mean_loss

CAPTIONS = [
    "a red circle above a blue square",
    "two green dots",
    "a small yellow star on the left",
    "a blue square above a red circle",
    "three tiny dots near a star",
    "nothing but a grey field",
]
TASK = Pairs(np.eye(6, 8, dtype=np.float16), [[text] for text in CAPTIONS])
NONE = Pairs(np.zeros((0, 8), np.float16), [])
TINY = LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=32, vocab_size=300, dropout=0.0)
CONFIG = TrainConfig(
    prefix_length=3, clip_length=2, mapper_layers=1, mapper_heads=2, mapper_hidden=32, epochs=60, batch_size=3,
    learning_rate=1e-2, warmup_steps=5, language_model=TINY,
)  # fmt: skip
NAMES = dict(model_id="toy-mlp-00000000", encoder="an encoder", encoder_hash="abc")


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(**fields):
    return CONFIG.model_copy(update=fields)


def run(folder, config=CONFIG, task=TASK, val=TASK, **options):
    return train(task, val, config, folder, **NAMES, **options)


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_it_learns_which_image_has_which_caption(tmp_path, mapper):
    result = run(tmp_path, changed(mapper=mapper))
    assert result.best_loss < 0.1 and result.best_loss_of == "val"
    captioner = load_captioner(tmp_path)
    turned = np.roll(np.arange(6), 2)  # in another order than they were learned
    for beams in (1, 3):
        found = generate(captioner, TASK.embeddings[turned], CaptionConfig(beam_size=beams))
        assert [caption.text for caption in found] == [CAPTIONS[i] for i in turned]


def test_a_frozen_language_model_is_left_as_it_is(tmp_path):
    torch.manual_seed(3)
    model, tokenizer = new_language_model(TINY, CAPTIONS, positions=80)
    model.save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    frozen = TINY.model_copy(update={"name": str(tmp_path / "gpt")})
    result = run(tmp_path / "frozen", changed(language_model=frozen, epochs=8))
    lines = [json.loads(line) for line in (tmp_path / "frozen" / "training.jsonl").read_text().splitlines()]
    vals = [line["val_loss"] for line in lines if line["val_loss"] is not None]
    assert len(vals) == 8 and vals == sorted(vals, reverse=True) and vals[-1] < vals[0] - 0.01
    loaded = load_captioner(tmp_path / "frozen")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.language_model.state_dict()[name], tensor), name
    assert not (tmp_path / "frozen" / "lm").exists()
    assert result.trained_parameters == sum(p.numel() for p in loaded.mapper.parameters()) < result.parameters

    tuned = frozen.model_copy(update={"tune": True})
    result = run(tmp_path / "tuned", changed(language_model=tuned, epochs=8))
    loaded = load_captioner(tmp_path / "tuned")
    assert not torch.equal(loaded.language_model.transformer.wte.weight, model.transformer.wte.weight)
    assert result.trained_parameters == result.parameters


def test_same_seed_same_weights(tmp_path):
    noisy = TINY.model_copy(update={"dropout": 0.2})
    config = changed(epochs=3, language_model=noisy, embedding_noise=0.5, label_smoothing=0.1)
    run(tmp_path / "a", config)
    torch.rand(5)  # the caller's random state has no say
    run(tmp_path / "b", config)
    run(tmp_path / "c", config.model_copy(update={"seed": 1}))
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b") != weights_hash(tmp_path / "c")


def test_the_caller_s_random_state_is_left_alone(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(tmp_path, changed(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_best_epoch_is_kept(tmp_path):
    """Validation captions that contradict training: the loss on them rises, so an early epoch is the best."""
    contradiction = Pairs(np.roll(TASK.embeddings, 1, axis=0), TASK.captions)
    result = run(tmp_path, val=contradiction)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    vals = {line["epoch"]: line["val_loss"] for line in lines if line["val_loss"] is not None}
    assert len(vals) == 60 and result.best_loss == min(vals.values()) < vals[60] - 0.01
    assert 1 < result.best_epoch < 60
    assert vals[result.best_epoch] == result.best_loss
    loaded = load_captioner(tmp_path)
    examples = TrainingExamples.from_pairs(
        contradiction, loaded.tokenizer, eos_id=loaded.settings.eos_id, max_tokens=64
    )
    assert mean_loss(loaded, examples, 6) == pytest.approx(result.best_loss, abs=1e-5)


def test_without_validation_the_training_loss_decides_and_is_named(tmp_path):
    result = run(tmp_path, changed(epochs=5), val=NONE)
    assert result.best_loss_of == "train" and result.best_epoch == 5
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["best_loss_of"] == "train" and metrics["steps"] == 10 and metrics["captions"] == 6


def test_mean_loss_is_per_token_and_does_not_depend_on_batches(tmp_path):
    run(tmp_path, changed(epochs=2))
    captioner = load_captioner(tmp_path)
    examples = TrainingExamples.from_pairs(TASK, captioner.tokenizer, eos_id=captioner.settings.eos_id, max_tokens=64)
    total = 0.0
    for row in range(6):
        tokens = examples.tokens[examples.starts[row] : examples.starts[row + 1]][None].long()
        with torch.no_grad():
            total += captioner.loss(examples.embeddings[row][None], tokens, reduction="sum").item()
    assert mean_loss(captioner, examples, 4) == pytest.approx(total / int(examples.lengths.sum()), abs=1e-5)


def test_progress_is_reported_and_written(tmp_path):
    seen = []
    run(tmp_path, changed(epochs=3), on_step=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and [line["epoch"] for line in lines] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert [line["val_loss"] is not None for line in lines] == [False, True] * 3
    assert all(line["steps"] == 6 and line["samples_per_s"] > 0 for line in lines)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert {line.step for line in seen} == {1, 2, 3, 4, 5, 6}
    settings = load_captioner(tmp_path).settings
    assert (settings.model_id, settings.encoder, settings.encoder_hash) == tuple(NAMES.values())
    assert settings.clip_dim == 8 and settings.tuned and settings.language_model == "lm"


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rate_rises_then_falls(schedule):
    config = changed(schedule=schedule, learning_rate=0.5, warmup_steps=20)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert max(rates) == rates[20] == 0.5 and rates[0] == pytest.approx(0.5 / 21)
    assert np.allclose(np.diff(rates[:21]), 0.5 / 21)
    assert (np.diff(rates[20:]) < 0).all() and 0 < rates[-1] < 0.001
    half = rates[20 + 490]
    assert half == pytest.approx(0.25)
    quarter = 0.375 if schedule == "linear" else 0.25 * (1 + math.cos(math.pi / 4))
    assert rates[20 + 245] == pytest.approx(quarter)


def test_warm_up_is_at_most_a_tenth():
    rates = [learning_rate(step, 100, changed(warmup_steps=5000, learning_rate=1.0)) for step in range(100)]
    assert rates.index(max(rates)) == 10 and max(rates) == 1.0


def test_divergence_names_the_step_and_stores_nothing(tmp_path):
    folder = tmp_path / "m"
    with pytest.raises(
        ModelError, match=r"not finite at step \d+ of 120, nothing was stored; lower train.learning_rate"
    ):
        run(folder, changed(learning_rate=1e30, gradient_clip=0))
    assert not folder.exists()


def test_the_step_that_diverged_is_the_first(tmp_path, monkeypatch):
    from clipcap.model.captioner import Captioner

    calls, loss = [], Captioner.loss

    def poisoned(self, *args, **options):
        calls.append(1)
        return loss(self, *args, **options) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setattr(Captioner, "loss", poisoned)
    with pytest.raises(ModelError, match="at step 7 of 10"):
        run(tmp_path / "m", changed(epochs=5), val=NONE)


def test_nothing_to_train_on(tmp_path):
    for empty in (NONE, Pairs(TASK.embeddings, [[" "]] * 6)):
        with pytest.raises(DataError, match="nothing to train on"):
            run(tmp_path / "m", task=empty)
    assert not (tmp_path / "m").exists()


def test_embeddings_that_cannot_be_trained_on(tmp_path):
    bad = TASK.embeddings.copy()
    bad[3, 3] = np.nan
    with pytest.raises(EmbeddingError, match="training: 1 of 6 embeddings are not finite, first at row 3"):
        run(tmp_path / "m", task=Pairs(bad, TASK.captions))
    with pytest.raises(EmbeddingError, match=r"\(6, 8\).*\(6, 5\).*same encoder"):
        run(tmp_path / "m", val=Pairs(TASK.embeddings[:, :5], TASK.captions))
    assert not (tmp_path / "m").exists()


def test_a_prefix_that_the_language_model_has_no_positions_for(tmp_path):
    model, tokenizer = new_language_model(TINY, CAPTIONS, positions=20)
    model.save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    short = TINY.model_copy(update={"name": str(tmp_path / "gpt")})
    with pytest.raises(ModelError, match=r"prefix_length 3 and train.max_tokens 64 need more than the 20 positions"):
        run(tmp_path / "m", changed(language_model=short))
