"""The hub's layout: transformers loads the language model, and the way back gives the same bits and captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from clipcap.config import CaptionConfig, LanguageModelConfig
from clipcap.decoding.caption import generate
from clipcap.errors import CheckpointError
from clipcap.export.huggingface import export_huggingface, import_huggingface
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import load_captioner, save_captioner
from clipcap.model.lora import adapter_weights, add_adapters
from clipcap.model.mapping import build_mapper
from clipcap.model.pretrained import language_model_identity, load_language_model

WORDS = ["<eos>", "a", "red", "blue", "circle", "square", "on", "grey"]


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A tiny GPT-2 as transformers writes it, with a tokenizer of words."""
    torch.manual_seed(3)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=32, n_embd=16, n_layer=1, n_head=2,
                                       initializer_range=1.0, bos_token_id=0, eos_token_id=0))  # fmt: skip
    for weights in (p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2):
        torch.nn.init.normal_(weights, std=3.0)  # layers that say more than the word before does
    model.save_pretrained(tmp_path / "gpt2")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def stored(gpt2: Path, folder: Path, *, tuned: bool, lora: bool = False) -> Captioner:
    """A model folder whose language model is that GPT-2: in it where it is tuned, else only named."""
    torch.manual_seed(4)
    model, tokenizer = load_language_model(str(gpt2))
    if lora:
        add_adapters(model, LanguageModelConfig(lora_rank=2))
        for weights in adapter_weights(model).values():
            torch.nn.init.normal_(weights, std=0.2)
    settings = CaptionerSettings(
        model_id="m", clip_dim=6, hidden_size=16, prefix_length=3, mapper_hidden=8,
        encoder="builtin:sample", tuned=tuned, lora=lora, eos_id=0,
        language_model="lm" if tuned else str(gpt2), decoding=CaptionConfig(beam_size=3, max_new_tokens=9),
        language_model_hash="" if tuned else language_model_identity(str(gpt2)),
    )  # fmt: skip
    captioner = Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings).eval()
    for weights in captioner.mapper.parameters():
        torch.nn.init.normal_(weights, std=3.0)
    save_captioner(captioner, folder)
    return captioner


@pytest.mark.parametrize(("tuned", "lora"), [(True, False), (False, False), (False, True)])
def test_the_way_back_gives_the_same_bits_and_captions(gpt2: Path, tmp_path: Path, tuned: bool, lora: bool):
    original = stored(gpt2, tmp_path / "m", tuned=tuned, lora=lora)
    export_huggingface(tmp_path / "m", tmp_path / "hub")
    import_huggingface(tmp_path / "hub", tmp_path / "back")
    for file in gpt2.iterdir():
        file.unlink()  # nothing may lead back to where it was
    back = load_captioner(tmp_path / "back")
    theirs = back.state_dict()
    assert theirs.keys() == original.state_dict().keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in original.state_dict().items())
    embeddings = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    captions = generate(original, embeddings, original.settings.decoding)
    assert len({caption.text for caption in captions}) > 1, "captions that are all the same show nothing"
    assert generate(back, embeddings, back.settings.decoding) == captions


def test_plain_transformers_load_what_was_written(gpt2: Path, tmp_path: Path):
    original = stored(gpt2, tmp_path / "m", tuned=True)
    export_huggingface(tmp_path / "m", tmp_path / "hub")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hub" / "lm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hub" / "lm")
    assert tokenizer.decode(tokenizer("a red circle")["input_ids"]) == "a red circle"
    embeddings = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    mapper = build_mapper(original.settings, 6, 16)
    mapper.load_state_dict(load_file(tmp_path / "hub" / "mapping.safetensors"))
    with torch.no_grad():  # decoding as the files say it: beams, length and end are in generation_config.json
        prefix = mapper(torch.nn.functional.normalize(embeddings, dim=-1))
        written = loaded.generate(inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2]))
    expected = [caption.text for caption in generate(original, embeddings, original.settings.decoding)]
    assert [" ".join(text.split()) for text in tokenizer.batch_decode(written, skip_special_tokens=True)] == expected
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "hub")
    assert (processor.size["height"], processor.do_center_crop) == (64, False)


def test_large_weights_go_into_several_files(gpt2: Path, tmp_path: Path):
    original = stored(gpt2, tmp_path / "m", tuned=True)
    facts = export_huggingface(tmp_path / "m", tmp_path / "hub", largest_file="4KB")
    shards = [name for name in facts["files"] if name.startswith("lm/model-")]
    assert len(shards) > 1 and "lm/model.safetensors.index.json" in facts["files"]
    import_huggingface(tmp_path / "hub", tmp_path / "back")
    theirs = load_captioner(tmp_path / "back").state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in original.state_dict().items())


def test_a_folder_of_this_machine_is_named_nowhere(gpt2: Path, tmp_path: Path):
    stored(gpt2, tmp_path / "m", tuned=False, lora=True)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["encoder"] = f"local-dir:{tmp_path / 'own-encoder'}"
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    facts = export_huggingface(tmp_path / "m", tmp_path / "hub")
    texts = {file: file.read_text(encoding="utf-8") for file in (tmp_path / "hub").rglob("*.json")}
    assert {file.name for file, text in texts.items() if str(tmp_path) in text} == set()
    assert set(facts["left_out"]) == {"preprocessor_config.json", "encoder"}


def test_what_is_refused(gpt2: Path, tmp_path: Path):
    stored(gpt2, tmp_path / "m", tuned=True)
    export_huggingface(tmp_path / "m", tmp_path / "hub")
    with pytest.raises(CheckpointError, match="exists"):
        export_huggingface(tmp_path / "m", tmp_path / "hub")
    with pytest.raises(CheckpointError, match="model_type"):
        import_huggingface(gpt2, tmp_path / "back")
    (tmp_path / "hub" / "mapping.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="safetensors"):
        import_huggingface(tmp_path / "hub", tmp_path / "back")
    assert not (tmp_path / "back").exists()
