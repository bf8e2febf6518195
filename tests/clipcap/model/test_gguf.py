"""GGUF files as language models; the files are written here, with the gguf package."""

import json

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig, load_config
from clipcap.decoding.caption import generate
from clipcap.errors import CheckpointError, ModelError
from clipcap.model.checkpoint import load_captioner
from clipcap.model.language_model import hidden_size_of, train_tokenizer
from clipcap.model.pretrained import find_language_model, load_language_model
from clipcap.training.examples import Pairs
from clipcap.training.train import train

CAPTIONS = ["a red circle above a blue square", "two green dots", "a small yellow star on the left", "a grey field"]
TASK = Pairs(np.eye(4, 8, dtype=np.float16), [[text] for text in CAPTIONS])
NAMES = dict(model_id="toy-mlp-00000000", encoder="an encoder", encoder_hash="abc")
NORMAL, CONTROL = 1, 3  # token types
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def tiny_llama(vocabulary):
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def interleaved(weight, heads):
    """Rows as llama.cpp turns pairs of them: (2, half) of each head become (half, 2)."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file, model, tokenizer, kind=gguf.GGMLQuantizationType.F32):
    """Metadata and tensors by the names of the format's specification; matrices quantised where asked for."""
    config, backend = model.config, tokenizer.backend_tokenizer
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens = [token for token, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token == tokenizer.eos_token else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)

    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    named = {"token_embd.weight": weights["model.embed_tokens.weight"], "output.weight": weights["lm_head.weight"]}
    named["output_norm.weight"] = weights["model.norm.weight"]
    for layer in range(config.num_hidden_layers):
        for theirs, ours in LAYER.items():
            named[f"blk.{layer}.{theirs}.weight"] = weights[f"model.layers.{layer}.{ours}.weight"]
        for theirs, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            name = f"blk.{layer}.{theirs}.weight"
            named[name] = np.ascontiguousarray(interleaved(named[name], heads))
    for name, weight in named.items():
        if weight.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A llama, its tokenizer, and the folder of its files model.gguf (float32) and small.gguf (8 bits)."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = train_tokenizer(CAPTIONS, 300)
    model = tiny_llama(len(tokenizer))
    write_gguf(folder / "model.gguf", model, tokenizer)
    write_gguf(folder / "small.gguf", model, tokenizer, gguf.GGMLQuantizationType.Q8_0)
    return model, tokenizer, folder


def config(name, **language_model):
    return TrainConfig(
        prefix_length=3, mapper_hidden=8, epochs=4, batch_size=2, learning_rate=1e-2, warmup_steps=2, max_tokens=20,
        language_model=LanguageModelConfig(name=str(name), **language_model),
    )  # fmt: skip


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_a_file_computes_what_the_model_did(source):
    model, tokenizer, folder = source
    loaded, words = load_language_model(str(folder / "model.gguf"))
    ids = torch.tensor([tokenizer("a red dog", add_special_tokens=False)["input_ids"]])
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), atol=1e-5, rtol=1e-5)
    assert hidden_size_of(loaded) == 32 and loaded.dtype == torch.float32 and not loaded.training
    assert words.eos_token_id == tokenizer.eos_token_id
    assert words(" a red dog", add_special_tokens=False)["input_ids"] == ids[0].tolist()


def test_eight_bits_are_close_and_can_learn(source):
    model, _, folder = source
    loaded, _ = load_language_model(str(folder / "small.gguf"))
    ids = torch.arange(1, 9)[None]
    difference = (logits(loaded, ids) - logits(model, ids)).abs().max()
    assert 0 < difference < 0.05 * logits(model, ids).abs().max()
    loaded(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in loaded.parameters())


def test_a_config_names_it_relative_to_itself(source, tmp_path):
    (tmp_path / "c.toml").write_text('[train.language_model]\nname = "./m/model.gguf"\n')
    assert load_config(tmp_path / "c.toml").train.language_model.name == str(tmp_path / "m" / "model.gguf")


@pytest.mark.parametrize("learns", ["mapper", "adapters", "everything"])
def test_training_and_captioning(source, tmp_path, learns):
    _, _, folder = source
    options = {"mapper": {}, "adapters": {"lora_rank": 2}, "everything": {"tune": True}}[learns]
    file = folder / "small.gguf"
    before = file.read_bytes()
    result = train(TASK, TASK, config(file, **options), tmp_path / "m", **NAMES)
    assert file.read_bytes() == before
    captioner = load_captioner(tmp_path / "m")
    assert len(generate(captioner, TASK.embeddings, CaptionConfig(beam_size=2, max_new_tokens=5))) == 4
    mapper = sum(p.numel() for p in captioner.mapper.parameters())
    stored = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*")}
    assert ("lm/model.safetensors" in stored) == (learns == "everything")
    assert ("lora/adapter_model.safetensors" in stored) == (learns == "adapters")
    if learns == "everything":
        assert result.trained_parameters == result.parameters
        assert captioner.settings.language_model == "lm" and not any(name.endswith(".gguf") for name in stored)
    else:
        assert captioner.settings.language_model == str(file)
        assert (result.trained_parameters == mapper) == (learns == "mapper")


def test_another_file_in_its_place_is_noticed(source, tmp_path):
    folder = source[2]
    file = tmp_path / "model.gguf"
    file.write_bytes((folder / "model.gguf").read_bytes())
    train(TASK, TASK, config(file), tmp_path / "m", **NAMES)
    file.write_bytes((folder / "small.gguf").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.gguf.*not those that this model was trained with"):
        load_captioner(tmp_path / "m")
    file.unlink()
    with pytest.raises(ModelError, match=r"model\.gguf.*no such file"):
        load_captioner(tmp_path / "m")


@pytest.mark.parametrize("damage", ["words", "cut", "empty"])
def test_a_damaged_file_is_one_line(source, tmp_path, damage):
    whole = (source[2] / "model.gguf").read_bytes()
    file = tmp_path / "broken.gguf"
    file.write_bytes({"words": b"not a model at all", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(ModelError, match=r"broken\.gguf holds no causal language model") as caught:
        load_language_model(str(file))
    assert "\n" not in str(caught.value)
    if damage != "cut":
        with pytest.raises(ModelError, match=r"broken\.gguf.*not in the format GGUF"):
            find_language_model(str(file))


def test_a_missing_file_is_one_line(tmp_path):
    for look in (load_language_model, find_language_model):
        with pytest.raises(ModelError, match=r"none\.gguf.*no such file"):
            look(str(tmp_path / "none.gguf"))
