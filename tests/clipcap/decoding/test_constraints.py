"""The rules on captions against the logits processors of transformers."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from clipcap.decoding.constraints import Constraints

EOS = 4


def theirs(constraints):
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(constraints.repetition_penalty)])
    if constraints.no_repeat_ngram:
        steps.append(NoRepeatNGramLogitsProcessor(constraints.no_repeat_ngram))
    steps.append(MinNewTokensLengthLogitsProcessor(0, constraints.min_new_tokens, EOS, device="cpu"))
    return steps


CASES = [
    Constraints(min_new_tokens=5),
    Constraints(repetition_penalty=1.7),
    Constraints(repetition_penalty=0.6),
    Constraints(no_repeat_ngram=1),
    Constraints(no_repeat_ngram=2),
    Constraints(no_repeat_ngram=3),
    Constraints(min_new_tokens=9, repetition_penalty=1.3, no_repeat_ngram=2),
]


@pytest.mark.parametrize("constraints", CASES)
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_transformers_does(constraints, length, dtype):
    random = torch.Generator().manual_seed(length)
    logits = torch.randn(40, 6, generator=random, dtype=dtype)  # both signs
    tokens = torch.randint(0, 6, (40, length), generator=random)  # few words, so that n-grams repeat
    before = logits.clone()
    found = constraints.apply(logits, tokens, EOS)
    assert torch.equal(logits, before)
    assert found.dtype == dtype
    torch.testing.assert_close(found, theirs(constraints)(tokens, before.clone()), rtol=0, atol=0)


def test_every_rule_is_seen_in_these_cases():
    tokens = torch.tensor([[0, 1, 0, 1]])
    logits = torch.tensor([[2.0, -2.0, 1.0, 1.0, 1.0]])
    inf = float("inf")
    assert Constraints(min_new_tokens=5).apply(logits, tokens, EOS).tolist() == [[2, -2, 1, 1, -inf]]
    assert Constraints(min_new_tokens=4).apply(logits, tokens, EOS).tolist() == logits.tolist()
    assert Constraints(repetition_penalty=2.0).apply(logits, tokens, EOS).tolist() == [[1, -4, 1, 1, 1]]
    assert Constraints(no_repeat_ngram=1).apply(logits, tokens, EOS).tolist() == [[-inf, -inf, 1, 1, 1]]
    assert Constraints(no_repeat_ngram=2).apply(logits, tokens, EOS).tolist() == [[-inf, -2, 1, 1, 1]]
    assert Constraints(no_repeat_ngram=4).apply(logits, tokens, EOS).tolist() == logits.tolist()


def test_none():
    assert Constraints().is_none
    assert not any(case.is_none for case in CASES)
    logits = torch.randn(2, 6)
    assert Constraints().apply(logits, torch.zeros(2, 3, dtype=torch.long), EOS) is logits
