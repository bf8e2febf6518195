"""Steps with a cache against a plain forward of everything, for the kinds of language models there are."""

import pytest
import torch
import transformers

from clipcap.decoding.beam import beam_search
from clipcap.decoding.cache import STEPS_AT_ONCE, RowPerBeam, SharedPrefix, begin

VOCABULARY, HIDDEN, PREFIX = 30, 16, 4
LLAMA = dict(hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
LLAMA |= dict(max_position_embeddings=64)
GROUPED = LLAMA | dict(num_key_value_heads=2)
NEOX = dict(hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
OPT = dict(hidden_size=HIDDEN, word_embed_proj_dim=HIDDEN, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2)
GPT2 = dict(n_embd=HIDDEN, n_layer=2, n_head=2, n_positions=64)
NEO = dict(hidden_size=HIDDEN, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=3)

SHARED = {
    "GPT2": GPT2,
    "OPT": OPT | dict(max_position_embeddings=64),
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | dict(head_dim=8),
    "GPTNeoX": NEOX | dict(max_position_embeddings=64),
    "Phi": LLAMA,
}
PER_BEAM = {
    "Bloom": dict(hidden_size=HIDDEN, n_layer=2, n_head=2),  # ALiBi
    "GPTNeo": NEO | dict(max_position_embeddings=64),  # attention windows that go by slots
    "Mistral": GROUPED | dict(sliding_window=5),
}


def tiny(kind, attention=None):
    sizes = {**SHARED, **PER_BEAM}[kind]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes
    )
    torch.manual_seed(0)
    kinds = transformers.AutoModelForCausalLM
    model = kinds.from_config(config, attn_implementation=attention).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.ndim > 1 else 1)
    return model


def prefixes(images, seed=0):
    return torch.randn(images, PREFIX, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def plain(model, prefix, tokens):
    """Logits (R, V) after each of (R, T) tokens, all positions computed anew."""
    inputs = torch.cat([prefix, model.get_input_embeddings()(tokens)], dim=1)
    return model(inputs_embeds=inputs, use_cache=False).logits[:, -1]


def families():
    cases = [(kind, "sdpa") for kind in SHARED]
    cases += [(kind, "eager") for kind in ("GPT2", "OPT", "Llama", *PER_BEAM)]
    return [(kind, attention, SharedPrefix if kind in SHARED else RowPerBeam) for kind, attention in cases]


@pytest.mark.parametrize(("kind", "attention", "expected"), families())
@torch.inference_mode()
def test_every_step_is_the_plain_forward(kind, attention, expected):
    """Beams that change places, die and multiply, and images that leave, for longer than the cache was made for."""
    tolerance = 1e-9 if attention == "sdpa" else 1e-6  # the eager softmax is float32 in a float64 model
    model, beams, images = tiny(kind, attention), 3, 4
    random = torch.Generator().manual_seed(1)
    prefix = prefixes(images)
    logits, steps = begin(model, prefix, beams, longest=3)
    assert isinstance(steps, expected)
    torch.testing.assert_close(logits, plain(model, prefix, torch.zeros(images, 0, dtype=torch.long)))
    written = torch.zeros(images, 1, 0, dtype=torch.long)
    parents = torch.zeros(images, beams, dtype=torch.long)
    for step in range(11):
        rows = {3: torch.tensor([0, 2, 3]), 6: torch.tensor([1, 2]), 9: torch.tensor([1])}.get(step)
        if rows is not None:
            prefix, written, parents = prefix[rows], written[rows], parents[rows]
        tokens = torch.randint(0, VOCABULARY, parents.shape, generator=random)
        written = torch.cat([written.gather(1, parents[:, :, None].expand(-1, -1, step)), tokens[:, :, None]], dim=2)
        logits = steps.step(tokens, parents, rows)
        together = plain(model, prefix.repeat_interleave(beams, dim=0), written.flatten(0, 1))
        torch.testing.assert_close(logits, together, rtol=tolerance, atol=tolerance)
        parents = torch.randint(0, beams, parents.shape, generator=random)


@pytest.mark.parametrize("kind", SHARED)
def test_both_caches_find_the_same_captions(kind, monkeypatch):
    model, batch = tiny(kind), prefixes(6)
    unended = beam_search(model, batch, eos_id=-1, max_new_tokens=20)
    eos_id = torch.tensor([h.tokens for (h,) in unended]).mode().values.mode().values.item()  # one that does come
    sizes = dict(eos_id=eos_id, beam_size=4, max_new_tokens=20, num_hypotheses=4)
    found = beam_search(model, batch, **sizes)
    assert any(h.is_finished for image in found for h in image)
    monkeypatch.setattr("clipcap.decoding.cache.shares_prefix", lambda language_model: False)
    for image, other in zip(found, beam_search(model, batch, **sizes), strict=True):
        assert [h.tokens for h in image] == [h.tokens for h in other]
        assert [h.log_probability for h in image] == pytest.approx([h.log_probability for h in other], abs=1e-9)


@torch.inference_mode()
def test_keys_are_written_in_place_and_never_copied():
    model = tiny("GPT2")
    _, steps = begin(model, prefixes(2), 3, longest=STEPS_AT_ONCE)
    places, parents = set(), torch.zeros(2, 3, dtype=torch.long)
    for step in range(STEPS_AT_ONCE):
        before = [layer.keys.clone() for layer in steps.layers]
        steps.step(torch.randint(0, VOCABULARY, (2, 3)), parents, None)
        parents = torch.randint(0, 3, (2, 3))
        for layer, earlier in zip(steps.layers, before, strict=True):
            assert layer.keys.shape[2] == PREFIX + 3 * (step + 1)  # the prefix once for the three beams
            assert torch.equal(layer.keys[:, :, : earlier.shape[2]], earlier)
        places.add(tuple(layer.keys.data_ptr() for layer in steps.layers))
    assert len(places) <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    """The sum of a caption is that of its logits in float32, not a rounded running sum."""
    model = tiny("GPT2").to(dtype)
    for (found,) in beam_search(model, prefixes(4), eos_id=-1, beam_size=1, max_new_tokens=30):
        assert found.log_probability != torch.tensor(found.log_probability).to(dtype).item()
