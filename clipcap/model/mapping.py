"""Mapping networks: from one CLIP embedding to the prefix that the language model reads (paper, section 3.2).

Legend: B batch, C clip_dim, P prefix_length, L clip_length, D hidden size of the language model, H heads.

Module names are the published checkpoints' names, so that a state dict fits after its ``clip_project.`` is removed.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap.errors import ModelError


class MapperSizes(Protocol):
    """What :func:`build_mapper` reads; ``TrainConfig`` and ``CaptionerSettings`` both have it."""

    @property
    def mapper(self) -> Literal["mlp", "transformer", "linear"]: ...
    @property
    def prefix_length(self) -> int: ...
    @property
    def clip_length(self) -> int: ...
    @property
    def mapper_layers(self) -> int: ...
    @property
    def mapper_heads(self) -> int: ...
    @property
    def mapper_hidden(self) -> int: ...


class MlpMapper(nn.Module):
    """Linear, tanh, linear: light, meant for a language model that is tuned along.

    Args:
        clip_dim: C.
        hidden_size: D.
        prefix_length: P.
        hidden_units: width between the two layers; 0 is the published P * D / 2.
    """

    def __init__(self, clip_dim: int, hidden_size: int, prefix_length: int, hidden_units: int = 0) -> None:
        super().__init__()
        self.prefix_length, self.hidden_size = prefix_length, hidden_size
        units = hidden_units or hidden_size * prefix_length // 2
        self.model = nn.Sequential(nn.Linear(clip_dim, units), nn.Tanh(), nn.Linear(units, hidden_size * prefix_length))

    def forward(self, clip_embedding: Tensor) -> Tensor:
        """(B, C) → (B, P, D)."""
        prefix: Tensor = self.model(clip_embedding)
        return prefix.view(-1, self.prefix_length, self.hidden_size)  # (B, P*D) → (B, P, D)


class LinearMapper(nn.Module):
    """Each patch token is one prefix vector, after one linear layer: the language model looks at the patches itself.

    Not of the paper, which has one vector for an image. The simplest mapper for patch tokens; on Flickr8k a language
    model that learns along did better with it than behind a transformer mapper (docs/benchmarks.md).

    Args:
        clip_dim: C, of a token.
        hidden_size: D.
    """

    def __init__(self, clip_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(clip_dim, hidden_size)

    def forward(self, clip_embedding: Tensor) -> Tensor:
        """(B, L, C) → (B, L, D)."""
        prefix: Tensor = self.linear(clip_embedding)
        return prefix


class _Attention(nn.Module):
    """Self-attention of the published mapper: no bias on queries, keys and values, one on the output."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(size, size, bias=False)
        self.to_keys_values = nn.Linear(size, 2 * size, bias=False)
        self.project = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        queries = self.to_queries(x).view(batch, length, self.heads, -1)  # (B, L+P, D) → (B, L+P, H, D/H)
        keys_values = self.to_keys_values(x).view(batch, length, 2, self.heads, -1)  # (B, L+P, 2, H, D/H)
        keys, values = keys_values.unbind(2)
        mixed = (
            F.scaled_dot_product_attention(  # over the length, so heads go before it; every position sees every other
                queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
            )
        )
        attended: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, size))
        return attended


class _Mlp(nn.Module):
    def __init__(self, size: int, ratio: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, size * ratio)
        self.fc2 = nn.Linear(size * ratio, size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.relu(self.fc1(x)))
        return x


class _Layer(nn.Module):
    """Pre-norm."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.attn = _Attention(size, heads)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = _Mlp(size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class _Transformer(nn.Module):
    """Layers only: neither a positional embedding before them nor a norm after them."""

    def __init__(self, size: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(size, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TransformerMapper(nn.Module):
    """Expands the embedding to L vectors and lets P learned constants read them: enough for a frozen language model.

    Args:
        clip_dim: C.
        hidden_size: D; a multiple of ``heads``.
        prefix_length: P.
        clip_length: L.
        layers: transformer layers (published: 8).
        heads: H (published: 8).
        clip_tokens: patch tokens of an image; each becomes one of the L vectors, which get a learned position. 0 is
            the published layout: L vectors from one embedding, and no position.

    Raises:
        ModelError: ``heads`` does not divide ``hidden_size``.
    """

    def __init__(
        self,
        clip_dim: int,
        hidden_size: int,
        prefix_length: int,
        clip_length: int,
        layers: int = 8,
        heads: int = 8,
        clip_tokens: int = 0,
    ) -> None:
        super().__init__()
        if hidden_size % heads:
            raise ModelError(
                f"the transformer mapper cannot split the language model's hidden size {hidden_size} into {heads} "
                f"heads: set train.mapper_heads to a divisor of {hidden_size}"
            )
        self.clip_length = clip_tokens or clip_length
        self.linear = nn.Linear(clip_dim, hidden_size if clip_tokens else clip_length * hidden_size)
        self.token_positions = nn.Parameter(torch.randn(clip_tokens, hidden_size) * 0.02) if clip_tokens else None
        self.prefix_const = nn.Parameter(torch.randn(prefix_length, hidden_size))
        self.transformer = _Transformer(hidden_size, heads, layers)

    def forward(self, clip_embedding: Tensor) -> Tensor:
        """(B, C), or (B, L, C) where the image is patch tokens → (B, P, D)."""
        batch = clip_embedding.shape[0]
        image = self.linear(clip_embedding).view(batch, self.clip_length, -1)  # (B, L*D) or (B, L, D) → (B, L, D)
        if self.token_positions is not None:
            image = image + self.token_positions
        constants = self.prefix_const.expand(batch, -1, -1)  # (P, D) → (B, P, D)
        mapped: Tensor = self.transformer(torch.cat([image, constants], dim=1))  # (B, L+P, D)
        return mapped[:, self.clip_length :]  # the last P


Mapper = MlpMapper | TransformerMapper | LinearMapper


def build_mapper(sizes: MapperSizes, clip_dim: int, hidden_size: int, clip_tokens: int = 0) -> Mapper:
    """A fresh mapping network.

    Args:
        sizes: kind and sizes (a ``TrainConfig``, or the ``CaptionerSettings`` of a stored model).
        clip_dim: of the embeddings, or of a patch token.
        hidden_size: of the language model.
        clip_tokens: patch tokens of an image; 0 where an image is one vector.

    Raises:
        ModelError: the sizes do not fit each other, or the mapper cannot read what the encoder stores.
    """
    if sizes.mapper == "transformer":
        return TransformerMapper(
            clip_dim, hidden_size, sizes.prefix_length, sizes.clip_length, sizes.mapper_layers, sizes.mapper_heads,
            clip_tokens,
        )  # fmt: skip
    if sizes.mapper == "mlp":
        if clip_tokens:
            raise ModelError(
                f"the MLP mapper reads one vector for an image, and there are {clip_tokens} patch tokens: "
                'set train.mapper to "linear" or "transformer", or embed.features to "tower"'
            )
        return MlpMapper(clip_dim, hidden_size, sizes.prefix_length, sizes.mapper_hidden)
    if sizes.prefix_length != clip_tokens:
        raise ModelError(
            f'the mapper "linear" makes a prefix vector of each patch token: set embed.features = "tokens" and '
            f"train.prefix_length to their number; here are {clip_tokens} tokens and prefix_length "
            f"{sizes.prefix_length}"
        )
    return LinearMapper(clip_dim, hidden_size)
