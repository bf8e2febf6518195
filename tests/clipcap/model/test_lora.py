"""Low-rank adapters: what they compute, what learns, and files that peft itself reads."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel, PreTrainedModel

from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig, parse_config
from clipcap.decoding.caption import generate
from clipcap.errors import CheckpointError, ConfigError, ModelError
from clipcap.model.build import build_captioner
from clipcap.model.checkpoint import load_captioner, save_captioner, weights_hash
from clipcap.model.language_model import new_language_model
from clipcap.training.examples import Pairs
from clipcap.training.train import train

CAPTIONS = ["a red circle above a blue square", "two green dots", "a small yellow star on the left", "a grey field"]
TASK = Pairs(np.eye(4, 8, dtype=np.float16), [[text] for text in CAPTIONS])
NAMES = dict(model_id="toy-mlp-00000000", encoder="an encoder", encoder_hash="abc")
IDS = torch.tensor([[5, 9, 40, 7, 12]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A GPT-2 in a folder, which must stay as it is."""
    folder = tmp_path_factory.mktemp("base") / "gpt"
    torch.manual_seed(3)
    sizes = LanguageModelConfig(name="scratch", layers=2, heads=2, hidden_size=16, vocab_size=300, dropout=0.2)
    model, tokenizer = new_language_model(sizes, CAPTIONS, positions=120)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)  # its head is this table: words so small could not be told apart
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(base, **language_model):
    wanted = dict(lora_rank=2, lora_alpha=6.0) | language_model
    return TrainConfig(
        prefix_length=3, mapper_hidden=8, epochs=15, batch_size=2, learning_rate=1e-2, warmup_steps=2, max_tokens=20,
        language_model=LanguageModelConfig(name=str(base), **wanted),
    )  # fmt: skip


def make(base, *, learned=True, **language_model):
    """A captioner whose adapters say something, unless they are to be fresh."""
    torch.manual_seed(0)
    captioner = build_captioner(config(base, **language_model), [], 8)
    if learned:
        with torch.no_grad():
            for parameter in adapters(captioner).values():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return captioner.eval()


def adapters(captioner):
    return {n: p for n, p in captioner.language_model.named_parameters() if "lora_" in n}


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_fresh_adapter_changes_nothing(base):
    fresh = make(base, learned=False).language_model
    assert isinstance(fresh, GPT2LMHeadModel) and isinstance(fresh, PreTrainedModel)
    assert torch.equal(logits(fresh), logits(GPT2LMHeadModel.from_pretrained(base).eval()))


def test_adapters_compute_what_merged_weights_do(base):
    captioner = make(base)
    weights = adapters(captioner)
    assert len(weights) == 2 * 2 * 4  # A and B of c_attn, c_proj, c_fc, c_proj of two blocks; not of the head
    merged = GPT2LMHeadModel.from_pretrained(base).eval()
    before = logits(merged)
    for name, down in weights.items():
        if "lora_A" in name:
            up = weights[name.replace("lora_A", "lora_B")]
            layer = merged.get_submodule(name.split(".lora_A")[0])
            with torch.no_grad():  # alpha / r = 6 / 2; GPT-2 holds its weights as (in, out)
                layer.weight += 3.0 * (up @ down).T
    torch.testing.assert_close(logits(captioner.language_model), logits(merged), atol=1e-5, rtol=1e-5)
    assert (logits(merged) - before).abs().max() > 0.1


def test_only_the_layers_asked_for(base):
    names = {name.split(".lora_")[0] for name in adapters(make(base, lora_targets=["c_attn"]))}
    assert names == {"transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"}
    with pytest.raises(ModelError, match=r"no layer 'q_proj'.*c_attn, c_fc, c_proj") as caught:
        make(base, lora_targets=["c_attn", "q_proj"])
    assert "\n" not in str(caught.value)


def test_gradients_reach_adapters_and_mapper_alone(base):
    captioner = make(base).train()
    captioner.loss(torch.randn(2, 8), torch.tensor([[5, 9, 0], [6, 0, -100]])).backward()
    for name, parameter in captioner.named_parameters():
        learns = "lora_" in name or name.startswith("mapper.")
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
        assert not learns or parameter.grad.abs().max() > 0, name


def test_dropout_of_the_adapters_follows_the_mode_and_the_base_has_none(base):
    embedding, tokens = torch.randn(1, 8), torch.tensor([[5, 9, 0]])

    def losses(captioner):
        with torch.no_grad():
            return {captioner.loss(embedding, tokens).item() for _ in range(4)}

    without = make(base)
    assert losses(without.train()) == losses(without.eval())  # the base's own dropout is 0.2
    dropped = make(base, lora_dropout=0.5)
    assert len(losses(dropped.train())) > 1
    assert losses(dropped.eval()) == losses(without)


def test_a_round_trip_is_exact_and_leaves_the_base_out(base, tmp_path):
    original = make(base)
    save_captioner(original, tmp_path / "m")
    files = sorted(p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*") if p.is_file())
    assert [f for f in files if "README" not in f] == [
        "config.json", "lora/adapter_config.json", "lora/adapter_model.safetensors", "mapping.safetensors",
    ]  # fmt: skip
    loaded = load_captioner(tmp_path / "m")
    assert loaded.settings == original.settings and loaded.settings.lora and not loaded.settings.tuned
    theirs = loaded.state_dict()
    assert theirs.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(theirs[name], tensor), name
    assert torch.equal(logits(loaded.language_model), logits(original.language_model))
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in original.named_parameters() if p.requires_grad
    }
    save_captioner(loaded, tmp_path / "again")
    assert weights_hash(tmp_path / "again") == weights_hash(tmp_path / "m")


def test_peft_itself_reads_what_is_stored(base, tmp_path):
    original = make(base)
    save_captioner(original, tmp_path / "m")
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base).eval(), tmp_path / "m" / "lora").eval()
    assert torch.equal(logits(theirs), logits(original.language_model))
    stored = json.loads((tmp_path / "m" / "lora" / "adapter_config.json").read_text())
    assert (stored["r"], stored["lora_alpha"], stored["base_model_name_or_path"]) == (2, 6.0, str(base))


def test_beam_search_reads_adapters(base):
    """As the same search over merged weights."""
    captioner = make(base)
    merged = copy.deepcopy(captioner)
    for module in merged.language_model.modules():
        if hasattr(module, "merge"):
            module.merge()
    embeddings = np.eye(3, 8, dtype=np.float16)
    beam = CaptionConfig(beam_size=3, max_new_tokens=8)
    found, expected = generate(captioner, embeddings, beam), generate(merged, embeddings, beam)
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    plain = build_captioner(config(base, lora_rank=0), [], 8).eval()
    plain.mapper.load_state_dict(captioner.mapper.state_dict())
    assert [c.text for c in generate(plain, embeddings, beam)] != [c.text for c in found]


@pytest.mark.parametrize("name", ["lora", "lora/adapter_config.json", "lora/adapter_model.safetensors"])
def test_a_missing_file_is_named(base, tmp_path, name):
    save_captioner(make(base), tmp_path / "m")
    target = tmp_path / "m" / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(CheckpointError, match="is missing") as caught:
        load_captioner(tmp_path / "m")
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)


def test_adapters_that_do_not_fit_are_named(base, tmp_path):
    save_captioner(make(base), tmp_path / "m")
    file = tmp_path / "m" / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    first = next(iter(sorted(weights)))
    weights[first] = torch.zeros(5, 16)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 difference\).*has shape \(5, 16\), expected \(2, 16\)"):
        load_captioner(tmp_path / "m")
    described = tmp_path / "m" / "lora" / "adapter_config.json"
    stored = json.loads(described.read_text())
    described.write_text(json.dumps({**stored, "target_modules": ["q_proj"]}))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json") as caught:
        load_captioner(tmp_path / "m")
    assert "\n" not in str(caught.value)
    described.write_text("not json")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json") as caught:
        load_captioner(tmp_path / "m")


def test_the_hash_follows_the_adapters(base, tmp_path):
    captioner = make(base)
    save_captioner(captioner, tmp_path / "m")
    before = weights_hash(tmp_path / "m")
    with torch.no_grad():
        next(iter(adapters(captioner).values())).add_(1e-3)
    save_captioner(captioner, tmp_path / "m")
    assert weights_hash(tmp_path / "m") != before


def test_training_learns_the_adapters_and_leaves_the_base(base, tmp_path):
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    result = train(TASK, TASK, config(base), tmp_path / "m", **NAMES)
    lines = [json.loads(line) for line in (tmp_path / "m" / "training.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if line["val_loss"] is not None]
    assert losses[-1] < losses[0] - 0.2 and result.best_loss == min(losses)
    captioner = load_captioner(tmp_path / "m")
    learned = adapters(captioner)
    assert all(p.abs().max() > 0 for p in learned.values())  # every B too, and those begin as zeros
    count = sum(p.numel() for p in [*learned.values(), *captioner.mapper.parameters()])
    assert result.trained_parameters == count < result.parameters
    original = GPT2LMHeadModel.from_pretrained(base)
    kept = {n.replace(".base_layer", ""): t for n, t in captioner.language_model.state_dict().items()}
    for name, tensor in original.state_dict().items():
        assert torch.equal(kept[name], tensor), name
    assert {file.name: file.read_bytes() for file in base.iterdir()} == files
    assert not (tmp_path / "m" / "lm").exists()


@pytest.mark.parametrize("wrong", [{"tune": True}, {"name": "scratch"}])
def test_adapters_are_for_a_frozen_language_model(wrong):
    with pytest.raises(ConfigError, match=r"train\.language_model: .*lora_rank") as caught:
        parse_config({"train": {"language_model": {"name": "gpt2", "lora_rank": 4, **wrong}}})
    assert "\n" not in str(caught.value)
