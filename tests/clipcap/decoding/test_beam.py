"""Beam search against exhaustive search, a search without a cache, transformers' own searches, and itself."""

import itertools

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from clipcap.decoding.beam import beam_search
from clipcap.decoding.constraints import UNCONSTRAINED, Constraints
from clipcap.errors import ModelError, ShapeError

EOS = 2
HIDDEN = 16


def tiny(vocab=6, seed=0, kind="gpt2", eos_bias=1.0, positions=48):
    """Random weights, scaled so that distributions are far from flat, with an end that is likely but not sure."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        sizes = dict(vocab_size=vocab, n_positions=positions, n_embd=HIDDEN, n_layer=2, n_head=2)
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=EOS, eos_token_id=EOS))
    else:
        sizes = dict(vocab_size=vocab, max_position_embeddings=positions, hidden_size=HIDDEN, intermediate_size=32)
        heads = dict(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=EOS, eos_token_id=EOS))
    model.lm_head = torch.nn.Linear(HIDDEN, vocab)  # of its own, so that the end can have a bias
    with torch.no_grad():
        for parameter in model.model.parameters() if kind == "llama" else model.transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
        model.lm_head.weight.normal_(std=0.4)
        model.lm_head.bias.zero_()[EOS] = eos_bias
    return model.eval()


def prefixes(count, seed=7, length=3):
    return torch.randn(count, length, HIDDEN, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_p_of_next(model, prefix, tokens):
    """log p over the vocabulary after ``tokens``, by a plain forward of everything."""
    table = model.get_input_embeddings().weight
    inputs = torch.cat([prefix, table[torch.tensor(tokens, dtype=torch.long)]])[None]
    return torch.log_softmax(model(inputs_embeds=inputs).logits[0, -1].double(), -1)


def rescore(model, prefix, tokens):
    return sum(log_p_of_next(model, prefix, tokens[:i])[token].item() for i, token in enumerate(tokens))


def full(hypothesis):
    return [*hypothesis.tokens, EOS] if hypothesis.is_finished else hypothesis.tokens


def log_p_under(rules, log_p, before):
    """The rules in plain words: what ``log_p`` of the next token becomes after the tokens ``before``."""
    changed, n = list(log_p), rules.no_repeat_ngram
    for token in range(len(log_p)):
        if token in before:
            changed[token] *= rules.repetition_penalty
        ngrams = [(*before, token)[i : i + n] for i in range(len(before) + 2 - n)] if n else []
        if len(ngrams) != len(set(ngrams)):
            changed[token] = float("-inf")
    if len(before) < rules.min_new_tokens:
        changed[EOS] = float("-inf")
    return changed


def every_caption(model, prefix, vocab, longest, penalty, rules=UNCONSTRAINED):
    """[(score, tokens)], best first, of all captions there can be: ended within ``longest`` tokens, or cut there."""
    words = [t for t in range(vocab) if t != EOS]
    known = {}  # log p after each beginning, computed once

    def log_p(tokens, index):
        before = tuple(tokens[:index])
        if before not in known:
            known[before] = log_p_under(rules, log_p_of_next(model, prefix, before).tolist(), before)
        return known[before][tokens[index]]

    found = []
    for length in range(longest + 1):
        for body in itertools.product(words, repeat=length):
            tokens = list(body) if length == longest else [*body, EOS]
            score = sum(log_p(tokens, index) for index in range(len(tokens)))
            if score > float("-inf"):
                found.append((score / len(tokens) ** penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_wide_beam_finds_what_exhaustive_search_finds(penalty, seed):
    vocab, longest = 4, 4
    model = tiny(vocab, seed)
    for prefix in prefixes(2, seed):
        expected = every_caption(model, prefix, vocab, longest, penalty)[:5]
        (found,) = beam_search(
            model, prefix[None], eos_id=EOS, beam_size=vocab**longest, max_new_tokens=longest, length_penalty=penalty,
            num_hypotheses=5,
        )  # fmt: skip
        assert [full(h) for h in found] == [tokens for _, tokens in expected]
        assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


RULES = [
    Constraints(min_new_tokens=2),
    Constraints(min_new_tokens=4),
    Constraints(repetition_penalty=2.5),
    Constraints(no_repeat_ngram=1),
    Constraints(no_repeat_ngram=2),
    Constraints(min_new_tokens=3, repetition_penalty=0.5, no_repeat_ngram=2),
]
ALL_RULES = Constraints(min_new_tokens=3, repetition_penalty=1.4, no_repeat_ngram=2)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_constrained_it_finds_what_exhaustive_search_finds_under_the_same_rules(rules, penalty):
    vocab, longest, changed = 4, 4, 0
    for seed in range(3):
        model = tiny(vocab, seed).double()
        for prefix in prefixes(2, seed).double():
            expected = every_caption(model, prefix, vocab, longest, penalty, rules)[:5]
            (found,) = beam_search(
                model, prefix[None], eos_id=EOS, beam_size=vocab**longest, max_new_tokens=longest,
                length_penalty=penalty, num_hypotheses=5, constraints=rules,
            )  # fmt: skip
            assert [full(h) for h in found] == [tokens for _, tokens in expected]
            assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-9)
            for hypothesis in found:
                said = rescore(model, prefix, full(hypothesis))
                assert hypothesis.log_probability == pytest.approx(said, abs=1e-9)
            changed += [tokens for _, tokens in expected] != [
                tokens for _, tokens in every_caption(model, prefix, vocab, longest, penalty)[:5]
            ]
    assert changed > 0


def search_without_cache(model, prefix, vocab, beams, longest, penalty):
    """The same rules in plain Python: no cache, no batch, no early end."""
    running, finished = [(0.0, [])], []
    for length in range(1, longest + 1):
        extended = []
        for score, tokens in running:
            log_p = log_p_of_next(model, prefix, tokens).tolist()
            extended += [(score + log_p[token], [*tokens, token]) for token in range(vocab)]
        extended.sort(key=lambda pair: -pair[0])
        best = extended[:beams]
        finished += [pair for pair in best if pair[1][-1] == EOS or length == longest]
        running = [pair for pair in extended if pair[1][-1] != EOS][:beams]
    return max(finished, key=lambda pair: pair[0] / len(pair[1]) ** penalty)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_cached_and_ending_early_equals_uncached_to_the_end(beams, kind):
    model = tiny(20, seed=3, kind=kind)
    lengths = set()
    for penalty in (1.0, 0.0):
        batch = prefixes(6)
        found = beam_search(model, batch, eos_id=EOS, beam_size=beams, max_new_tokens=9, length_penalty=penalty)
        for prefix, (best,) in zip(batch, found, strict=True):
            score, tokens = search_without_cache(model, prefix, 20, beams, 9, penalty)
            assert full(best) == tokens
            assert best.log_probability == pytest.approx(score, abs=1e-4)
            lengths.add(best.length)
    assert len(lengths) > 1  # else nothing left the batch early and this says little


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_one_beam_is_the_greedy_search_of_transformers(kind):
    model = tiny(20, seed=3, kind=kind)
    batch = prefixes(16)
    found = beam_search(model, batch, eos_id=EOS, beam_size=1, max_new_tokens=12)
    model.generation_config.pad_token_id = EOS
    theirs = model.generate(
        inputs_embeds=batch, attention_mask=torch.ones(batch.shape[:2]), do_sample=False, max_new_tokens=12
    )
    for (ours,), row in zip(found, theirs.tolist(), strict=True):
        tokens = row[: row.index(EOS)] if EOS in row else row
        assert ours.tokens == tokens and ours.is_finished == (EOS in row)
    assert len({h.length for (h,) in found}) > 1


@pytest.mark.filterwarnings("ignore:Passing")  # that the rules see no prompt: here they must not
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("rules", [UNCONSTRAINED, ALL_RULES])
def test_it_is_the_beam_search_of_transformers(kind, penalty, rules):
    """With early_stopping="never" and no negative length penalty, where both search for as long as it can help."""
    model, batch, beams, longest = tiny(20, seed=3, kind=kind, eos_bias=3.0), prefixes(12), 4, 10
    found = beam_search(
        model, batch, eos_id=EOS, beam_size=beams, max_new_tokens=longest, length_penalty=penalty,
        num_hypotheses=beams, constraints=rules,
    )  # fmt: skip
    model.generation_config.pad_token_id = EOS
    theirs = model.generate(
        inputs_embeds=batch, attention_mask=torch.ones(batch.shape[:2]), do_sample=False, num_beams=beams,
        num_return_sequences=beams, max_new_tokens=longest, length_penalty=penalty, early_stopping="never",
        return_dict_in_generate=True, output_scores=True, min_new_tokens=rules.min_new_tokens,
        repetition_penalty=rules.repetition_penalty, no_repeat_ngram_size=rules.no_repeat_ngram,
    )  # fmt: skip
    rows = [row[: row.index(EOS) + 1] if EOS in row else row for row in theirs.sequences.tolist()]
    ours = [hypothesis for image in found for hypothesis in image]
    assert [full(h) for h in ours] == rows
    assert [h.score for h in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)
    assert len({len(row) for row in rows}) > 2 or penalty == 2  # which no end withstands


def test_log_probability_is_that_of_the_caption():
    model = tiny(20, seed=3)
    batch = prefixes(8)
    found = beam_search(model, batch, eos_id=EOS, beam_size=4, max_new_tokens=10, num_hypotheses=4)
    for prefix, hypotheses in zip(batch, found, strict=True):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({tuple(full(h)) for h in hypotheses}) == len(hypotheses)
        for hypothesis in hypotheses:
            assert hypothesis.length == len(full(hypothesis))
            assert hypothesis.log_probability == pytest.approx(rescore(model, prefix, full(hypothesis)), abs=1e-4)
            assert hypothesis.score == pytest.approx(hypothesis.log_probability / hypothesis.length, abs=1e-5)


@pytest.mark.parametrize("rules", [UNCONSTRAINED, ALL_RULES])
def test_a_batch_of_64_is_64_batches_of_1(rules):
    model = tiny(50, seed=3).double()
    batch = prefixes(64).double()
    sizes = dict(eos_id=EOS, beam_size=5, max_new_tokens=15, num_hypotheses=2, constraints=rules)
    together = beam_search(model, batch, **sizes)
    assert len({hypotheses[0].length for hypotheses in together}) > 2
    for prefix, hypotheses in zip(batch, together, strict=True):
        (alone,) = beam_search(model, prefix[None], **sizes)
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        assert [h.log_probability for h in alone] == pytest.approx([h.log_probability for h in hypotheses], abs=1e-9)


def test_the_same_search_twice_is_the_same():
    model = tiny(50, seed=3)
    first, second = (beam_search(model, prefixes(8), eos_id=EOS, max_new_tokens=15) for _ in range(2))
    assert first == second


def test_the_prefix_runs_once_and_the_head_on_one_position():
    """Counts what goes through the model: the prefix once per image, then one token per beam, each for its head."""
    model = tiny(50, seed=3)
    seen, heads = [], []
    model.transformer.h[0].register_forward_hook(lambda m, args, out: seen.append(tuple(args[0].shape[:2])))
    model.lm_head.register_forward_hook(lambda m, args, out: heads.append(tuple(out.shape[:2])))
    beam_search(model, prefixes(4, length=7), eos_id=EOS, beam_size=3, max_new_tokens=6)
    assert seen[0] == (4, 7) and heads[0] == (4, 1)
    assert all(images <= 4 and beams == 3 for images, beams in seen[1:])
    assert heads[1:] == seen[1:]


def test_done_images_leave_the_batch():
    model = tiny(50, seed=3)
    rows = []
    model.transformer.h[0].register_forward_hook(lambda m, args, out: rows.append(args[0].shape[0]))
    found = beam_search(model, prefixes(16), eos_id=EOS, beam_size=1, max_new_tokens=30)
    lengths = [h.length for (h,) in found]
    assert rows[1:] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_the_model_s_positions_are_the_limit():
    model = tiny(20, seed=3, positions=8)
    found = beam_search(model, prefixes(4), eos_id=19, beam_size=2, max_new_tokens=67)
    assert max(h.length for (h,) in found) <= 5
    with pytest.raises(ModelError, match="prefix of 8 leaves no room"):
        beam_search(model, prefixes(1, length=8), eos_id=EOS)


def test_wrong_use():
    model = tiny()
    with pytest.raises(ShapeError, match=r"got \(3, 16\)"):
        beam_search(model, torch.zeros(3, HIDDEN), eos_id=EOS)
    with pytest.raises(ModelError, match=r"6 captions .* beam_size 5"):
        beam_search(model, prefixes(1), eos_id=EOS, beam_size=5, num_hypotheses=6)
    with pytest.raises(ModelError, match="NaN at token 1"):
        beam_search(model, prefixes(2) * float("nan"), eos_id=EOS)
    with pytest.raises(ModelError, match="no caption keeps the constraints"):
        never = Constraints(min_new_tokens=9, no_repeat_ngram=1)  # of six tokens
        beam_search(model, prefixes(2), eos_id=EOS, max_new_tokens=10, constraints=never)
    assert beam_search(model, prefixes(0), eos_id=EOS) == []
