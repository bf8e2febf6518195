"""Captioners of several families of language models, each a small random one in a folder."""

import pytest
import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from clipcap.config import LanguageModelConfig, TrainConfig
from clipcap.decoding.beam import beam_search
from clipcap.errors import ModelError
from clipcap.model.build import build_captioner
from clipcap.model.checkpoint import load_captioner, save_captioner
from clipcap.model.language_model import hidden_size_of, positions_of, train_tokenizer
from clipcap.training.examples import Pairs, TrainingExamples

CAPTIONS = ["a red dog runs", "a blue ball lies on the grass", "two dogs and a ball"]
CLIP_DIM, P = 6, 3
EOS, BOS, SECOND_EOS = 0, 9, 8  # ids of the tokenizer below

LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
FAMILIES = {
    "gpt2": (GPT2Config, dict(n_embd=32, n_layer=2, n_head=4, n_positions=64), 32, 64),
    # Its word embeddings are smaller than its layers, and projected: the prefix has the size of the former.
    "opt": (OPTConfig, dict(hidden_size=32, word_embed_proj_dim=20, ffn_dim=48, num_hidden_layers=2,
                            num_attention_heads=4, max_position_embeddings=64), 20, 64),
    "llama": (LlamaConfig, {**LLAMA, "max_position_embeddings": 64}, 32, 64),
    "qwen2": (Qwen2Config, LLAMA, 32, 32768),
    "qwen3": (Qwen3Config, {**LLAMA, "head_dim": 16}, 32, 32768),  # heads wider than the embedding
    "gpt_neox": (GPTNeoXConfig, dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                     max_position_embeddings=64), 32, 64),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A folder as the family's own models come: (name, folder, size of its word embeddings, positions)."""
    name, (kind, sizes, embedding, positions) = request.param, FAMILIES[request.param]
    tokenizer = train_tokenizer(CAPTIONS, 300)
    tokenizer.pad_token = None  # as GPT-2 has none
    if name in ("llama", "opt"):  # these begin every text with a token of their own
        token = tokenizer.convert_ids_to_tokens(BOS)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, BOS)]
        )
        assert tokenizer("a")["input_ids"][0] == BOS
    torch.manual_seed(0)
    ends = [EOS, SECOND_EOS] if name.startswith("qwen") else EOS
    config = kind(vocab_size=len(tokenizer), bos_token_id=BOS, eos_token_id=ends, pad_token_id=None, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # so that what is likely depends on what was read
    if name == "qwen3":
        tokenizer.eos_token = None  # only the model says where a text ends
    folder = tmp_path_factory.mktemp("models") / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return name, folder, embedding, positions


def make(folder, prefix_length=P, max_tokens=20, **language_model):
    torch.manual_seed(1)
    config = TrainConfig(
        prefix_length=prefix_length, mapper_hidden=8, max_tokens=max_tokens,
        language_model=LanguageModelConfig(name=str(folder), **language_model),
    )  # fmt: skip
    return build_captioner(config, [], CLIP_DIM)


def examples(captioner):
    pairs = Pairs(torch.randn(3, CLIP_DIM).numpy(), [[text] for text in CAPTIONS])
    return TrainingExamples.from_pairs(pairs, captioner.tokenizer, eos_id=captioner.settings.eos_id, max_tokens=40)


def test_sizes_and_ends_are_read_from_the_model(family):
    _, folder, embedding, positions = family
    captioner = make(folder)
    assert captioner.settings.hidden_size == hidden_size_of(captioner.language_model) == embedding
    assert captioner.prefix(torch.randn(2, CLIP_DIM)).shape == (2, P, embedding)
    assert captioner.settings.eos_id == captioner.tokenizer.eos_token_id == EOS
    assert positions_of(captioner.language_model) == positions
    if positions == 64:
        make(folder, prefix_length=24, max_tokens=40)
        with pytest.raises(
            ModelError, match=r"prefix_length 24 and train.max_tokens 41 need more than the 64 positions"
        ):
            make(folder, prefix_length=24, max_tokens=41)


def test_captions_are_learned_without_a_beginning_and_with_an_end(family):
    captioner = make(family[1])
    stored = examples(captioner)
    for row, text in enumerate(CAPTIONS):
        ids = stored.tokens[stored.starts[row] : stored.starts[row + 1]].tolist()
        assert ids[-1] == EOS and BOS not in ids and captioner.tokenizer.decode(ids[:-1]).strip() == text


@pytest.mark.parametrize("learns", ["frozen", "lora", "tuned"])
def test_the_loss_is_that_of_a_loop_and_reaches_only_what_learns(family, learns):
    captioner = make(family[1], tune=learns == "tuned", lora_rank=2 * (learns == "lora")).eval()
    model, table = captioner.language_model, captioner.language_model.get_input_embeddings()
    embeddings = torch.randn(3, CLIP_DIM)
    rows = [[*captioner.tokenizer(text, add_special_tokens=False)["input_ids"], EOS] for text in CAPTIONS]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    losses = []
    with torch.no_grad():
        for embedding, row in zip(embeddings, rows, strict=True):
            for index, token in enumerate(row):
                read = torch.cat([captioner.prefix(embedding[None]), table(torch.tensor([row[:index]]).long())], dim=1)
                losses.append(-F.log_softmax(model(inputs_embeds=read).logits[0, -1], dim=-1)[token])
    loss = captioner.loss(embeddings, tokens)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)
    loss.backward()
    for name, parameter in captioner.named_parameters():
        learning = name.startswith("mapper.") or learns == "tuned" or (learns == "lora" and "lora_" in name)
        assert (parameter.grad is not None) == learning, name
    assert all(p.grad.abs().max() > 0 for p in captioner.mapper.parameters())


@pytest.mark.parametrize("rank", [0, 2])
def test_beam_search_is_that_of_transformers(family, rank):
    captioner = make(family[1], lora_rank=rank).eval()
    model = captioner.language_model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        prefix = captioner.prefix(torch.randn(5, CLIP_DIM)) * 3
    found = beam_search(model, prefix, eos_id=EOS, beam_size=3, max_new_tokens=8, num_hypotheses=3)
    theirs = model.generate(
        inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2]), do_sample=False, num_beams=3,
        num_return_sequences=3, max_new_tokens=8, length_penalty=1.0, early_stopping="never", eos_token_id=EOS,
        pad_token_id=EOS, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    rows = [row[: row.index(EOS) + 1] if EOS in row else row for row in theirs.sequences.tolist()]
    ours = [hypothesis for image in found for hypothesis in image]
    assert [[*h.tokens, EOS] if h.is_finished else h.tokens for h in ours] == rows
    assert [h.score for h in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)
    assert len({tuple(row) for row in rows}) > 5


@pytest.mark.parametrize("learns", ["frozen", "lora", "tuned"])
def test_a_round_trip_is_exact(family, learns, tmp_path):
    original = make(family[1], tune=learns == "tuned", lora_rank=2 * (learns == "lora")).eval()
    save_captioner(original, tmp_path / "m")
    loaded = load_captioner(tmp_path / "m")
    assert (tmp_path / "m" / "lm").is_dir() == (learns == "tuned")
    theirs = loaded.state_dict()
    assert theirs.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(theirs[name], tensor), name
    assert loaded.tokenizer(CAPTIONS)["input_ids"] == original.tokenizer(CAPTIONS)["input_ids"]
    assert loaded.tokenizer.eos_token_id == EOS
