"""The best next tokens against torch's own topk over log_softmax of everything."""

import pytest
import torch

from clipcap.decoding import extend
from clipcap.decoding.constraints import UNCONSTRAINED, Constraints
from clipcap.decoding.extend import best_tokens, largest_values

NO_TOKENS = torch.zeros(9, 0, dtype=torch.long)


@pytest.mark.parametrize("vocabulary", [3, 64, 640, 641, 5000, 50257])
@pytest.mark.parametrize("wanted", [1, 2, 10])
def test_largest_values_are_topk(vocabulary, wanted):
    values = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    values[0, -min(vocabulary, 10) :] += 20  # all in the rest that fills no chunk, or in the last one
    values[1, : min(vocabulary, 10)] += 20  # all in one chunk
    largest, index = largest_values(values, wanted)
    expected = values.topk(min(wanted, vocabulary), dim=1)
    assert torch.equal(largest, expected.values) and torch.equal(index, expected.indices)


@pytest.mark.parametrize("fill", [0.0, float("-inf")])
def test_ties_and_forbidden_tokens(fill):
    values = torch.full((2, 1000), fill)
    values[0, 999] = 1.0
    largest, index = largest_values(values, 10)
    assert largest[0].tolist() == [1.0] + [fill] * 9 and largest[1].tolist() == [fill] * 10
    assert index[0, 0] == 999 and all(len(set(row)) == 10 for row in index.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_log_probabilities(dtype, monkeypatch):
    logits = (5 * torch.randn(9, 3000, generator=torch.Generator().manual_seed(0))).to(dtype)
    precise = logits.double().log_softmax(1)
    for cached in (1, 4 * 3000, 2**20):  # one row at a time, four, all
        monkeypatch.setattr(extend, "CACHED_VALUES", cached)
        score, log_probability, token = best_tokens(logits, 6, UNCONSTRAINED, NO_TOKENS, 0)
        assert score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(score, log_probability)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        expected = precise.topk(6, dim=1).values.to(score.dtype)
        torch.testing.assert_close(score, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(precise.gather(1, token).to(score.dtype), expected, rtol=0, atol=tolerance)


def test_constraints_change_the_score_and_not_the_log_probability():
    logits = torch.randn(9, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.randint(0, 300, (9, 200), generator=torch.Generator().manual_seed(1))
    rules = Constraints(repetition_penalty=1.5, no_repeat_ngram=1, min_new_tokens=300)
    score, log_probability, token = best_tokens(logits, 300, rules, tokens, 7)
    precise = logits.log_softmax(1)
    expected = rules.apply(precise, tokens, 7).gather(1, token)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-12)
    assert (score.diff(dim=1).nan_to_num() <= 0).all() and torch.isinf(score[:, -1]).all()
    torch.testing.assert_close(log_probability, precise.gather(1, token), rtol=0, atol=1e-12)


def test_nan_comes_first():
    logits = torch.randn(9, 3000)
    logits[4, 1234] = float("nan")
    score, _, _ = best_tokens(logits, 4, UNCONSTRAINED, NO_TOKENS, 0)
    assert score[:, 0].isnan().tolist() == [row == 4 for row in range(9)]
