"""Sampling against the exact distributions, measured over many draws, and against itself."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from clipcap.decoding.beam import beam_search
from clipcap.decoding.constraints import Constraints
from clipcap.decoding.sampling import draw, sample
from clipcap.errors import ShapeError

EOS, HIDDEN = 2, 16


def tiny(kind="gpt2", vocab=12, seed=0):
    torch.manual_seed(seed)
    ids = dict(bos_token_id=EOS, eos_token_id=EOS)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=vocab, n_positions=64, n_embd=HIDDEN, n_layer=2, n_head=2, **ids)
        model = GPT2LMHeadModel(config)
    else:
        heads = dict(num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2)
        sizes = dict(vocab_size=vocab, hidden_size=HIDDEN, intermediate_size=32, max_position_embeddings=64)
        config = LlamaConfig(**sizes, **heads, **ids)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model.eval()


def prefixes(count, seed=7):
    return torch.randn(count, 3, HIDDEN, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_p(model, prefix, tokens):
    """(T+1, V): after each beginning of ``tokens``, by a plain forward of everything."""
    words = model.get_input_embeddings().weight[torch.tensor(tokens, dtype=torch.long)]
    return model(inputs_embeds=torch.cat([prefix, words])[None]).logits[0, 2:].log_softmax(-1)


def nucleus(probability, mass):
    """The fewest likeliest tokens that hold the mass, renormalised; a plain loop."""
    kept, held = {}, 0.0
    for token in sorted(range(len(probability)), key=lambda t: -probability[t]):
        if held >= mass:
            break
        kept[token] = probability[token]
        held += probability[token]
    return {token: p / held for token, p in kept.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda p: dict(enumerate(p))),
        ({"top_p": 0.6}, lambda p: nucleus(p, 0.6)),
        ({"top_p": 0.05}, lambda p: nucleus(p, 0.05)),
        ({"top_k": 3}, lambda p: {t: p[t] / sum(sorted(p)[-3:]) for t in range(len(p)) if p[t] >= sorted(p)[-3]}),
        ({"top_k": 4, "top_p": 0.5}, lambda p: nucleus(
            [x / sum(sorted(p)[-4:]) if x >= sorted(p)[-4] else 0.0 for x in p], 0.5)),
    ],
)  # fmt: skip
def test_frequencies_are_those_of_the_exact_distribution(options, expected):
    draws = 40_000
    logits = torch.randn(10, generator=torch.Generator().manual_seed(1)) * 1.5
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens = draw(logits.expand(draws, -1), uniforms, **options)
    found = np.bincount(tokens.numpy(), minlength=10) / draws
    wanted = expected(logits.double().softmax(-1).tolist())
    for token in range(10):
        p = wanted.get(token, 0.0)
        assert abs(found[token] - p) <= 4.5 * np.sqrt(p * (1 - p) / draws), (token, found[token], p)


def test_the_ends_of_the_uniform_numbers_never_draw_what_is_forbidden():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]] * 3)
    ends = torch.tensor([0.0, 0.5, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert set(draw(logits, ends).tolist()) <= {1, 2}
    assert set(draw(logits, ends, top_p=0.99).tolist()) <= {1, 2}


def test_captions_come_as_often_as_the_model_says():
    """Whole captions of two tokens, from the model itself: the product of its probabilities."""
    model, prefix = tiny(vocab=4), prefixes(1)
    found = sample(model, prefix, eos_id=EOS, seeds=[3], num_samples=6_000, max_new_tokens=2)[0]
    counts: dict[tuple[int, ...], int] = {}
    for caption in found:
        ids = tuple(caption.tokens) + (EOS,) * caption.is_finished
        counts[ids] = counts.get(ids, 0) + 1
    total = 0.0
    for first in range(4):
        ends = [()] if first == EOS else [(second,) for second in range(4)]
        for rest in ends:
            ids = (first, *rest)
            steps = log_p(model, prefix[0], ids)
            p = float(sum(steps[i, t] for i, t in enumerate(ids)).exp())
            total += p
            assert abs(counts.get(ids, 0) / 6_000 - p) <= 4.5 * np.sqrt(p * (1 - p) / 6_000) + 1e-9, ids
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_each_image_alone_gives_what_it_gives_beside_others(kind):
    model, prefix = tiny(kind).double(), prefixes(64).double()
    options = dict(eos_id=EOS, num_samples=3, max_new_tokens=12, temperature=0.9, top_p=0.95)
    together = sample(model, prefix, seeds=range(64), **options)
    alone = [sample(model, prefix[i : i + 1], seeds=[i], **options)[0] for i in range(64)]
    assert [[c.tokens for c in image] for image in together] == [[c.tokens for c in image] for image in alone]
    lengths = {c.length for image in together for c in image}
    assert len(lengths) > 5 and len({tuple(c.tokens) for image in together for c in image}) > 100
    fewer = sample(model, prefix[:5], seeds=range(5), **{**options, "num_samples": 2})
    assert [[c.tokens for c in image] for image in fewer] == [[c.tokens for c in image[:2]] for image in together[:5]]


def test_log_probabilities_are_the_model_s_own():
    model, prefix = tiny(), prefixes(5)
    found = sample(model, prefix, eos_id=EOS, seeds=range(5), num_samples=2, max_new_tokens=9, temperature=0.5, top_k=4)
    for row, captions in enumerate(found):
        for caption in captions:
            ids = [*caption.tokens, EOS] if caption.is_finished else caption.tokens
            steps = log_p(model, prefix[row], ids)
            assert caption.log_probability == pytest.approx(
                float(sum(steps[i, t] for i, t in enumerate(ids))), abs=1e-4
            )
            assert caption.length == len(ids) and caption.score == caption.log_probability / len(ids)
            assert EOS not in caption.tokens and (caption.is_finished or len(ids) == 9)


def test_the_seed_decides():
    model, prefix = tiny(), prefixes(4)

    def tokens(seeds):
        torch.rand(3)  # the global state has no say
        return [c.tokens for image in sample(model, prefix, eos_id=EOS, seeds=seeds, num_samples=4) for c in image]

    assert tokens([1, 2, 3, 4]) == tokens([1, 2, 3, 4]) != tokens([5, 6, 7, 8])


def test_a_low_temperature_is_greedy_search():
    model, prefix = tiny(), prefixes(6)
    cold = sample(model, prefix, eos_id=EOS, seeds=[0] * 6, temperature=1e-4, max_new_tokens=12)
    greedy = beam_search(model, prefix, eos_id=EOS, beam_size=1, max_new_tokens=12)
    assert [image[0].tokens for image in cold] == [image[0].tokens for image in greedy]


def test_rules_are_kept():
    model, prefix = tiny(), prefixes(8)
    rules = Constraints(min_new_tokens=5, no_repeat_ngram=1)
    for image in sample(model, prefix, eos_id=EOS, seeds=range(8), num_samples=4, max_new_tokens=9, constraints=rules):
        for caption in image:
            assert len(caption.tokens) >= 5 and len(set(caption.tokens)) == len(caption.tokens)


def test_nothing_in_nothing_out_and_seeds_for_all():
    model = tiny()
    assert sample(model, prefixes(0), eos_id=EOS, seeds=[]) == []
    with pytest.raises(ShapeError, match="2 seeds"):
        sample(model, prefixes(3), eos_id=EOS, seeds=[1, 2])
