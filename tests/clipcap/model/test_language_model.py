"""A tokenizer and a GPT-2 of our own, and language models by name."""

import random

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from clipcap.config import LanguageModelConfig
from clipcap.errors import ModelError
from clipcap.model.language_model import EOS, new_language_model, positions_of, train_tokenizer
from clipcap.model.pretrained import load_language_model

CAPTIONS = ["A dog runs.", "a red dog sits on the grass", "Two dogs  run on the grass .", "the red ball"] * 5
SMALL = LanguageModelConfig(name="scratch", layers=2, heads=2, hidden_size=16, vocab_size=300)


def test_new_model_has_the_sizes_asked_for():
    model, tokenizer = new_language_model(SMALL, CAPTIONS, positions=40)
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd) == (2, 2, 16)
    assert len(tokenizer) <= 300 and model.config.vocab_size == len(tokenizer)
    assert positions_of(model) == 40
    assert model.config.resid_pdrop == model.config.attn_pdrop == model.config.embd_pdrop == 0.1
    assert tokenizer.eos_token == EOS and tokenizer.convert_tokens_to_ids(EOS) == tokenizer.eos_token_id


def test_any_text_survives_encoding_lower_cased_and_trimmed():
    tokenizer = train_tokenizer(CAPTIONS, 300)
    ids = tokenizer("  A Dog\truns on   the Grass! ", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).strip() == "a dog runs on the grass!"
    strange = "ein großer Hund — 犬 🐕"
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False)["input_ids"]).strip() == strange.lower()
    assert tokenizer.eos_token_id not in ids


def test_case_is_kept_where_asked():
    tokenizer = train_tokenizer(CAPTIONS, 300, lowercase=False)
    assert tokenizer.decode(tokenizer("A Dog", add_special_tokens=False)["input_ids"]).strip() == "A Dog"


def test_a_word_is_the_same_token_wherever_it_stands():
    tokenizer = train_tokenizer(CAPTIONS, 300)
    first = tokenizer("dog", add_special_tokens=False)["input_ids"]
    second = tokenizer("the dog", add_special_tokens=False)["input_ids"]
    assert second[-len(first) :] == first


def test_the_tokenizer_depends_on_the_captions_alone():
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    here = train_tokenizer(CAPTIONS, 300).backend_tokenizer.to_str()
    assert train_tokenizer(shuffled, 300).backend_tokenizer.to_str() == here


def test_tokenizer_survives_saving(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 300)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "Two red dogs, one ball"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.eos_token_id == tokenizer.eos_token_id


def test_the_new_model_computes_gpt2(tmp_path):
    """Loaded again with GPT-2's own activation name, the same weights give the same logits."""
    torch.manual_seed(0)
    model, _ = new_language_model(SMALL, CAPTIONS, positions=40)
    original = GPT2Config(**{**model.config.to_dict(), "activation_function": "gelu_new"})
    reference = GPT2LMHeadModel(original)
    reference.load_state_dict(model.state_dict())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, reference.eval()(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_folder_loads_by_name(tmp_path):
    model, tokenizer = new_language_model(SMALL, CAPTIONS, positions=40)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, again = load_language_model(str(tmp_path))
    assert not loaded.training and again.eos_token_id == tokenizer.eos_token_id
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["/no/such/folder", "no such model", "../nowhere"])
def test_a_model_that_cannot_be_found_is_one_line(name):
    with pytest.raises(ModelError) as caught:
        load_language_model(name)
    message = str(caught.value)
    assert repr(name) in message and "no such folder" in message and "hub" in message and "scratch" in message
    assert "\n" not in message


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(self, name, **options):
        raise ConnectionError("Name or service not known\nwith a long story")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match=r"'some-org/some-model' not found.*ConnectionError") as caught:
        load_language_model("some-org/some-model")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_language_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no causal language model"):
        load_language_model(str(tmp_path))


def test_missing_weights_are_an_error_and_not_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    model, tokenizer = new_language_model(SMALL, CAPTIONS, positions=40)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*h\.1\.mlp\.c_fc\.weight"):
        load_language_model(str(tmp_path))


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ModelError, match=r"hidden size 16 cannot have 3 heads"):
        new_language_model(SMALL.model_copy(update={"heads": 3}), CAPTIONS)
