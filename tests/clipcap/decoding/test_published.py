"""The published beam search against a plain re-statement of its rule: one image at a time, no cache, float64."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from clipcap.decoding.beam import beam_search
from clipcap.decoding.published import FULL_STOP, published_beam_search
from clipcap.errors import ModelError

HIDDEN, STOP = 16, 2


def tiny(seed, vocab=12, kind="gpt2", stop_bias=1.0, positions=48):
    torch.manual_seed(seed)
    shared = dict(vocab_size=vocab, bos_token_id=STOP, eos_token_id=STOP)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_positions=positions, n_embd=HIDDEN, n_layer=2, n_head=2, **shared))
    else:
        sizes = dict(max_position_embeddings=positions, hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=2)
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **shared))
    model.lm_head = torch.nn.Linear(HIDDEN, vocab)
    with torch.no_grad():
        for parameter in model.base_model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
        model.lm_head.weight.normal_(std=0.4)
        model.lm_head.bias.zero_()[STOP] = stop_bias
    return model.double().eval()


def prefixes(count, seed, length=3):
    return torch.randn(count, length, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def plain(model, prefix, beams, longest, stop=STOP):
    """[(average, sum, tokens with the stop)], best first, and whether a stopped caption ever lost its slot."""
    table = model.get_input_embeddings().weight
    slots, has_lost = [(0.0, [])], False
    for _ in range(longest):
        found = []
        for total, tokens in slots:
            if stop in tokens:
                found.append((total, tokens))
                continue
            inputs = torch.cat([prefix, table[torch.tensor(tokens, dtype=torch.long)]])[None]
            log_p = torch.log_softmax(model(inputs_embeds=inputs).logits[0, -1], -1).tolist()
            found += [(total + more, [*tokens, token]) for token, more in enumerate(log_p)]
        found.sort(key=lambda slot: -slot[0] / len(slot[1]))
        has_lost |= any(stop in tokens for _, tokens in slots if all(tokens != kept for _, kept in found[:beams]))
        slots = found[:beams]
        if all(stop in tokens for _, tokens in slots):
            break
    return [(total / len(tokens), total, tokens) for total, tokens in slots], has_lost


def full(hypothesis, stop=STOP):
    return [*hypothesis.tokens, stop] if hypothesis.is_finished else hypothesis.tokens


def check(model, batch, beams, longest):
    """Compares all slots of all images; gives what the plain search found."""
    found = published_beam_search(
        model, batch, stop_id=STOP, beam_size=beams, max_new_tokens=longest, num_hypotheses=beams
    )
    everything = []
    for prefix, hypotheses in zip(batch, found, strict=True):
        expected, has_lost = plain(model, prefix, beams, longest)
        assert [full(h) for h in hypotheses] == [tokens for *_, tokens in expected]
        assert [h.score for h in hypotheses] == pytest.approx([average for average, *_ in expected], abs=1e-9)
        assert [h.log_probability for h in hypotheses] == pytest.approx([total for _, total, _ in expected], abs=1e-9)
        assert [h.length for h in hypotheses] == [len(tokens) for *_, tokens in expected]
        everything.append((expected, has_lost))
    return everything


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_what_the_plain_rule_gives(kind, beams):
    everything = []
    for seed in range(12):
        model = tiny(seed, kind=kind, stop_bias=(0.0, 1.0, 2.0)[seed % 3])
        everything += check(model, prefixes(5, seed), beams, longest=8)
    lengths = {len(expected[0][2]) for expected, _ in everything}
    assert len(lengths) > 2  # else images left the batch together and this says little
    if beams == 5:
        mixed = [{STOP in tokens for *_, tokens in expected} for expected, _ in everything]
        assert {True, False} in mixed  # stopped and running captions end side by side
        assert any(has_lost for _, has_lost in everything)  # a stopped caption was pushed out of its slot
        assert any(
            expected[0][1] < other[1] for expected, _ in everything for other in expected[1:]
        )  # the average chose another than the sum would have


def test_it_is_another_search_than_the_default():
    differ = 0
    for seed in range(6):
        model, batch = tiny(seed), prefixes(5, seed)
        published = published_beam_search(model, batch, stop_id=STOP, beam_size=3, max_new_tokens=8)
        ours = beam_search(model, batch, eos_id=STOP, beam_size=3, max_new_tokens=8)
        differ += sum(full(a) != full(b) for (a,), (b,) in zip(published, ours, strict=True))
    assert differ > 0


def test_without_a_stop_both_searches_prune_alike():
    """All captions are as long as each other, so the average orders them as the sum does."""
    model, batch = tiny(1, vocab=40), prefixes(8, 1)
    published = published_beam_search(model, batch, stop_id=-1, max_new_tokens=11, num_hypotheses=5)
    ours = beam_search(model, batch, eos_id=-1, max_new_tokens=11, num_hypotheses=5)
    assert [[h.tokens for h in image] for image in published] == [[h.tokens for h in image] for image in ours]
    assert all(h.length == 11 and not h.is_finished for image in published for h in image)


def test_a_batch_of_64_is_64_batches_of_1():
    model, batch = tiny(3, vocab=30, stop_bias=2.0), prefixes(64, 3)
    together = published_beam_search(model, batch, stop_id=STOP, max_new_tokens=15)
    assert len({h.length for (h,) in together}) > 3
    for prefix, (hypothesis,) in zip(batch, together, strict=True):
        ((alone,),) = published_beam_search(model, prefix[None], stop_id=STOP, max_new_tokens=15)
        assert full(alone) == full(hypothesis)
        assert alone.log_probability == pytest.approx(hypothesis.log_probability, abs=1e-9)


def test_the_published_stop_and_limits():
    assert FULL_STOP == 13
    model = tiny(0, positions=8)
    found = published_beam_search(model, prefixes(3, 0), stop_id=-1, beam_size=2)
    assert {h.length for (h,) in found} == {5}
    with pytest.raises(ModelError, match=r"13 beams .* vocabulary has 12"):
        published_beam_search(model, prefixes(1, 0), beam_size=13)
    with pytest.raises(ModelError, match=r"3 captions .* beam_size 2"):
        published_beam_search(model, prefixes(1, 0), beam_size=2, num_hypotheses=3)
    with pytest.raises(ModelError, match="NaN at token 1"):
        published_beam_search(model, prefixes(2, 0) * float("nan"))
    assert published_beam_search(model, prefixes(0, 0)) == []
