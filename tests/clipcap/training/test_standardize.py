"""Standardised inputs while learning, the same function without them afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clipcap.model.mapping import LinearMapper, MlpMapper, TransformerMapper
from clipcap.training.standardize import moments, standardized


def captioner(kind: str, normalize: bool) -> Any:
    torch.manual_seed(0)
    mapper = {
        "mlp": lambda: MlpMapper(6, 8, 3, hidden_units=5),
        "transformer": lambda: TransformerMapper(6, 8, prefix_length=3, clip_length=2, layers=1, heads=2),
        "tokens": lambda: TransformerMapper(6, 8, prefix_length=3, clip_length=2, layers=1, heads=2, clip_tokens=4),
        "linear": lambda: LinearMapper(6, 8),
    }[kind]()
    return SimpleNamespace(mapper=mapper, settings=SimpleNamespace(normalize=normalize))


def embeddings() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(200, 6, generator=generator) * torch.tensor([3.0, 1, 0.1, 5, 1, 0]) + 2


@pytest.mark.parametrize("kind", ["mlp", "transformer", "tokens", "linear"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_folded_mapper_is_the_one_that_learned(kind: str, normalize: bool) -> None:
    model, x = captioner(kind, normalize), embeddings()
    x = x.view(50, 4, 6) if kind in ("tokens", "linear") else x
    given = F.normalize(x, dim=-1) if normalize else x
    plain = model.mapper(given)
    with standardized(model, x):
        learned = model.mapper(given)
    folded = model.mapper(given)
    assert torch.allclose(folded, learned, atol=1e-4)
    assert not torch.allclose(plain, learned, atol=1e-2)


def test_the_first_layer_sees_mean_0_and_variance_1() -> None:
    model, x = captioner("mlp", False), embeddings()
    seen = []
    with standardized(model, x):
        model.mapper.model[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
        model.mapper(x)
    assert torch.allclose(seen[0].mean(0), torch.zeros(6), atol=1e-4)
    assert torch.allclose(seen[0].std(0, correction=0)[:5], torch.ones(5), atol=1e-3)
    assert float(seen[0][:, 5].abs().max()) < 1e-3  # the one that never varies is not blown up


def test_moments_equal_torchs_and_need_no_variance() -> None:
    x = embeddings()
    mean, std = moments(x.half(), normalize=True)
    expected = F.normalize(x.half().float(), dim=-1)
    assert torch.allclose(mean, expected.mean(0), atol=1e-6)
    assert torch.allclose(std, expected.std(0, correction=0), atol=1e-6)
    assert torch.equal(moments(x[:1], normalize=False)[1], torch.ones(6))


def test_every_patch_token_counts_alike() -> None:
    x = embeddings()
    for all_at_once, by_token in zip(moments(x, True), moments(x.view(50, 4, 6), True), strict=True):
        assert torch.allclose(all_at_once, by_token, atol=1e-6)


def test_nothing_is_folded_where_training_fails() -> None:
    model, x = captioner("mlp", False), embeddings()
    before = {name: value.clone() for name, value in model.mapper.state_dict().items()}
    with pytest.raises(RuntimeError), standardized(model, x):
        raise RuntimeError("diverged")
    assert all(torch.equal(value, before[name]) for name, value in model.mapper.state_dict().items())
    assert torch.allclose(model.mapper(x), model.mapper.model(x).view(-1, 3, 8))
