"""The mapping networks against the published layout and against plain computations written without torch.nn."""

import math

import pytest
import torch

from clipcap.config import TrainConfig
from clipcap.errors import ModelError
from clipcap.model.mapping import LinearMapper, MlpMapper, TransformerMapper, build_mapper


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_published_mlp_keys_and_shapes():
    assert shapes(MlpMapper(512, 768, 10)) == {
        "model.0.weight": (3840, 512),
        "model.0.bias": (3840,),
        "model.2.weight": (7680, 3840),
        "model.2.bias": (7680,),
    }


def test_published_coco_transformer_keys_shapes_and_size():
    with torch.device("meta"):
        mapper = TransformerMapper(640, 768, prefix_length=40, clip_length=40)
    expected = {"linear.weight": (40 * 768, 640), "linear.bias": (40 * 768,), "prefix_const": (40, 768)}
    for n in range(8):
        layer = f"transformer.layers.{n}."
        expected |= {
            layer + "norm1.weight": (768,),
            layer + "norm1.bias": (768,),
            layer + "attn.to_queries.weight": (768, 768),
            layer + "attn.to_keys_values.weight": (1536, 768),
            layer + "attn.project.weight": (768, 768),
            layer + "attn.project.bias": (768,),
            layer + "norm2.weight": (768,),
            layer + "norm2.bias": (768,),
            layer + "mlp.fc1.weight": (1536, 768),
            layer + "mlp.fc1.bias": (1536,),
            layer + "mlp.fc2.weight": (768, 1536),
            layer + "mlp.fc2.bias": (768,),
        }
    assert shapes(mapper) == expected
    assert sum(p.numel() for p in mapper.parameters()) == pytest.approx(57.5e6, rel=0.01)  # what the release says


@pytest.mark.parametrize(("units", "width"), [(0, 8 * 3 // 2), (5, 5)])
def test_mlp_equals_plain_sums(units, width):
    torch.manual_seed(0)
    mapper = MlpMapper(clip_dim=4, hidden_size=8, prefix_length=3, hidden_units=units)
    weights = {name: tensor.tolist() for name, tensor in mapper.state_dict().items()}
    embedding = [0.3, -1.0, 2.0, 0.5]
    between = [
        math.tanh(bias + sum(w * x for w, x in zip(row, embedding, strict=True)))
        for row, bias in zip(weights["model.0.weight"], weights["model.0.bias"], strict=True)
    ]
    assert len(between) == width
    flat = [
        bias + sum(w * x for w, x in zip(row, between, strict=True))
        for row, bias in zip(weights["model.2.weight"], weights["model.2.bias"], strict=True)
    ]
    expected = torch.tensor([flat[p * 8 : (p + 1) * 8] for p in range(3)])
    torch.testing.assert_close(mapper(torch.tensor([embedding]))[0], expected, atol=1e-5, rtol=1e-5)


def plain_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def plain_transformer_mapper(w, embedding, clip_length, heads, layers):
    """One embedding at a time, one head at a time, one position at a time."""
    size = w["prefix_const"].shape[1]
    image = (w["linear.weight"] @ embedding + w["linear.bias"]).reshape(clip_length, size)
    x = torch.cat([image, w["prefix_const"]])
    for n in range(layers):
        p = {k.removeprefix(f"transformer.layers.{n}."): v for k, v in w.items() if f"layers.{n}." in k}
        y = plain_norm(x, p["norm1.weight"], p["norm1.bias"])
        keys_values = y @ p["attn.to_keys_values.weight"].T  # first all keys, then all values
        queries, keys, values = y @ p["attn.to_queries.weight"].T, keys_values[:, :size], keys_values[:, size:]
        mixed, head_dim = torch.zeros_like(x), size // heads
        for h in range(heads):
            part = slice(h * head_dim, (h + 1) * head_dim)
            for i in range(len(x)):
                weight = torch.exp(torch.stack([queries[i, part] @ k[part] for k in keys]) / math.sqrt(head_dim))
                mixed[i, part] = torch.einsum("m,md->d", weight / weight.sum(), values[:, part])
        x = x + mixed @ p["attn.project.weight"].T + p["attn.project.bias"]
        y = plain_norm(x, p["norm2.weight"], p["norm2.bias"])
        hidden = (y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]).clamp(min=0)
        x = x + hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    return x[clip_length:]


def test_transformer_equals_a_plain_computation():
    torch.manual_seed(1)
    mapper = TransformerMapper(clip_dim=6, hidden_size=8, prefix_length=3, clip_length=2, layers=2, heads=4)
    for parameter in mapper.parameters():  # norms start as the identity, which would hide a missing one
        torch.nn.init.normal_(parameter, std=0.7)
    embeddings = torch.randn(3, 6)
    weights = {name: tensor.detach() for name, tensor in mapper.state_dict().items()}
    expected = torch.stack([plain_transformer_mapper(weights, e, 2, 4, 2) for e in embeddings])
    torch.testing.assert_close(mapper(embeddings), expected, atol=1e-4, rtol=1e-4)


def test_build_mapper_follows_the_configuration():
    mlp = build_mapper(TrainConfig(prefix_length=4, mapper_hidden=7), clip_dim=5, hidden_size=16)
    assert isinstance(mlp, MlpMapper) and shapes(mlp)["model.2.weight"] == (64, 7)
    sizes = TrainConfig(mapper="transformer", prefix_length=4, clip_length=3, mapper_layers=2, mapper_heads=2)
    transformer = build_mapper(sizes, clip_dim=5, hidden_size=16)
    assert isinstance(transformer, TransformerMapper)
    assert len(transformer.transformer.layers) == 2 and transformer.transformer.layers[0].attn.heads == 2
    assert transformer(torch.zeros(2, 5)).shape == (2, 4, 16)
    assert shapes(transformer)["linear.weight"] == (48, 5)


def test_heads_that_do_not_divide_the_hidden_size():
    with pytest.raises(ModelError, match=r"hidden size 12 into 8 heads.*mapper_heads"):
        build_mapper(TrainConfig(mapper="transformer"), clip_dim=5, hidden_size=12)


def test_patch_tokens_take_the_place_of_the_expanded_embedding():
    """The published mapper with L vectors of its own making equals one that is given them as tokens."""
    torch.manual_seed(2)
    tokens = torch.randn(3, 4, 6)
    mapper = TransformerMapper(6, 8, prefix_length=3, clip_length=9, layers=2, heads=2, clip_tokens=4)
    assert mapper.clip_length == 4 and shapes(mapper)["linear.weight"] == (8, 6)
    assert set(shapes(mapper)) - set(shapes(TransformerMapper(6, 8, 3, 4, 2, 2))) == {"token_positions"}
    twin = TransformerMapper(6, 8, prefix_length=3, clip_length=4, layers=2, heads=2)
    weights = {k: v for k, v in mapper.state_dict().items() if not k.startswith(("linear", "token_positions"))}
    twin.load_state_dict(weights, strict=False)
    for row in range(3):
        made = tokens[row] @ mapper.linear.weight.T + mapper.linear.bias + mapper.token_positions
        with torch.no_grad():
            twin.linear.weight.zero_()
            twin.linear.bias.copy_(made.flatten())
        torch.testing.assert_close(mapper(tokens)[row], twin(torch.zeros(1, 6))[0], atol=1e-5, rtol=1e-5)


def test_the_linear_mapper_makes_a_prefix_vector_of_each_token():
    mapper = build_mapper(TrainConfig(mapper="linear", prefix_length=4), 6, 8, clip_tokens=4)
    assert isinstance(mapper, LinearMapper)
    tokens = torch.randn(2, 4, 6)
    expected = torch.stack(
        [torch.stack([mapper.linear.weight @ t + mapper.linear.bias for t in row]) for row in tokens]
    )
    torch.testing.assert_close(mapper(tokens), expected)


def test_mappers_that_do_not_fit_patch_tokens():
    with pytest.raises(ModelError, match=r'one vector for an image, and there are 4 patch tokens.*"linear"'):
        build_mapper(TrainConfig(), 6, 8, clip_tokens=4)
    for tokens in (0, 9):
        with pytest.raises(
            ModelError, match=f'embed.features = "tokens".*here are {tokens} tokens and prefix_length 4'
        ):
            build_mapper(TrainConfig(mapper="linear", prefix_length=4), 6, 8, clip_tokens=tokens)
