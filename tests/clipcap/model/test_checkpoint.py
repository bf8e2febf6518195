"""Stored models: exact round trips, and every kind of damage named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap.config import LanguageModelConfig
from clipcap.errors import CheckpointError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import load_captioner, read_settings, save_captioner, weights_hash
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper


def make(seed=0, language_model="lm", mapper="transformer"):
    torch.manual_seed(seed)
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=16, vocab_size=260)
    model, tokenizer = new_language_model(sizes, ["a small dog"], positions=32)
    settings = CaptionerSettings(
        model_id="m", mapper=mapper, clip_dim=6, hidden_size=16, prefix_length=3, clip_length=2, mapper_layers=2,
        mapper_heads=2, encoder="e", encoder_hash="h", language_model=language_model, tuned=language_model == "lm",
        eos_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings).eval()


@pytest.fixture
def stored(tmp_path):
    save_captioner(make(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_round_trip_is_exact(tmp_path, mapper):
    original = make(mapper=mapper)
    save_captioner(original, tmp_path / "m")
    loaded = load_captioner(tmp_path / "m")
    assert loaded.settings == original.settings and not loaded.training
    theirs = loaded.state_dict()
    assert theirs.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(theirs[name], tensor), name
    assert load_file(tmp_path / "m" / "mapping.safetensors").keys() == original.mapper.state_dict().keys()
    tokens = torch.tensor([[5, 9, 0]])
    embedding = torch.randn(1, 6)
    assert loaded.loss(embedding, tokens).item() == original.loss(embedding, tokens).item()
    assert loaded.tokenizer("A Small dog")["input_ids"] == original.tokenizer("a small dog")["input_ids"]


def test_a_frozen_language_model_is_referred_to_and_not_stored(tmp_path):
    original = make()
    original.language_model.save_pretrained(tmp_path / "gpt")
    original.tokenizer.save_pretrained(tmp_path / "gpt")
    frozen = make(language_model=str(tmp_path / "gpt"))
    save_captioner(frozen, tmp_path / "m")
    assert not (tmp_path / "m" / "lm").exists()
    loaded = load_captioner(tmp_path / "m")
    assert not any(p.requires_grad for p in loaded.language_model.parameters())
    assert torch.equal(loaded.language_model.transformer.wte.weight, original.language_model.transformer.wte.weight)


@pytest.mark.parametrize("name", ["config.json", "mapping.safetensors", "lm", "lm/model.safetensors"])
def test_a_missing_file_is_named(stored, name):
    target = stored / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_captioner(stored)
    assert (
        name.split("/")[0] in str(caught.value) and str(stored) in str(caught.value) and "\n" not in str(caught.value)
    )


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="nothing-here is no model folder"):
        load_captioner(tmp_path / "nothing-here")


def test_weights_that_do_not_fit_are_named_with_shapes(stored):
    file = stored / "mapping.safetensors"
    weights = load_file(file)
    weights["prefix_const"] = torch.zeros(4, 16)
    weights["other"] = weights.pop("linear.bias")
    save_file(weights, file)
    with pytest.raises(CheckpointError) as caught:
        load_captioner(stored)
    message = str(caught.value)
    assert "3 differences" in message and "linear.bias is missing" in message and "other is unknown" in message
    assert "prefix_const has shape (4, 16), expected (3, 16)" in message


def test_damaged_files(stored):
    (stored / "mapping.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_captioner(stored)
    (stored / "config.json").write_text('{"clip_dim": "many"}')
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a captioner \(clip_dim"):
        load_captioner(stored)


def test_a_newer_format_is_refused(stored):
    settings = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**settings, "version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_settings(stored)


def test_a_language_model_of_another_width_is_refused(stored):
    settings = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**settings, "hidden_size": 32}))
    with pytest.raises(CheckpointError, match=r"vectors of size 32.*reads 16"):
        load_captioner(stored)


def test_a_pickle_is_never_opened(stored):
    """Only safetensors count: a pickle of the language model beside nothing else is as good as missing."""
    weights = load_file(stored / "lm" / "model.safetensors")
    (stored / "lm" / "model.safetensors").unlink()
    torch.save(weights, stored / "lm" / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_captioner(stored)


def test_the_hash_follows_the_content(tmp_path, stored):
    save_captioner(make(), tmp_path / "same")
    assert weights_hash(tmp_path / "same") == weights_hash(stored)
    (tmp_path / "same" / "metrics.json").write_text("{}")  # says nothing about captions
    assert weights_hash(tmp_path / "same") == weights_hash(stored)
    save_captioner(make(seed=1), tmp_path / "other")
    assert weights_hash(tmp_path / "other") != weights_hash(stored)
    (tmp_path / "same" / "lm" / "tokenizer.json").write_text("{}")
    assert weights_hash(tmp_path / "same") != weights_hash(stored)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        weights_hash(tmp_path)
