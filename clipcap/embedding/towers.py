"""What an image tower knows before its projection: one pooled vector, or a token for each patch.

Legend: B images, C channels of the tower, H x W patches, L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap.errors import ModelError


def embed_with_patches(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass of an open_clip model's image tower.

    Args:
        images: (B, 3, height, width), preprocessed.

    Returns:
        embedding (B, clip_dim), as ``encode_image`` gives it; pooled (B, C), which the projection reads; and patches
        (B, H, W, C). ModifiedResNet pools by attention, projection included: its pooled vector is the patches' mean.

    Raises:
        ModelError: a tower that does not show them.
    """
    tower = model.visual
    kind = type(tower).__name__
    if kind == "TimmModel":
        seen = tower.trunk.forward_features(images)
        pooled = tower.trunk.forward_head(seen)
        if seen.ndim == 3:  # (B, class and register tokens + H*W, C)
            seen = _square(seen[:, getattr(tower.trunk, "num_prefix_tokens", 0) :])
        elif seen.shape[1] == pooled.shape[-1] or seen.shape[-1] != pooled.shape[-1]:  # (B, C, H, W)
            seen = seen.permute(0, 2, 3, 1)
        return tower.head(pooled), pooled, seen
    if kind == "VisionTransformer" and tower.attn_pool is None and not tower.output_tokens:
        hidden = tower.transformer(tower._embeds(images))
        pooled, tokens = tower._pool(hidden)
        return pooled @ tower.proj if tower.proj is not None else pooled, pooled, _square(tokens)
    if kind == "ModifiedResNet":
        seen = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))  # (B, C, H, W)
        return tower.attnpool(seen), seen.mean((2, 3)), seen.permute(0, 2, 3, 1)
    raise ModelError(
        f'an image tower of kind {kind} does not show its patches: embed.features = "tower" and "tokens" work with '
        'open_clip\'s VisionTransformer (without attention pooling), ModifiedResNet and timm towers; use "embedding"'
    )


def pool_patches(patches: Tensor, grid: int) -> Tensor:
    """Averages patches to a coarser square and lays them out row by row.

    Args:
        patches: (B, H, W, C).
        grid: edge of the square; 0 keeps the patches as they are.

    Returns:
        (B, L, C), L = grid * grid or H * W.
    """
    if grid:
        patches = F.adaptive_avg_pool2d(patches.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    return patches.flatten(1, 2)  # (B, H, W, C) → (B, H*W, C)


def _square(tokens: Tensor) -> Tensor:
    """(B, H*W, C) → (B, H, W, C); towers with square images alone."""
    edge = round(tokens.shape[1] ** 0.5)
    if edge * edge != tokens.shape[1]:
        raise ModelError(f"the image tower has {tokens.shape[1]} patches, which is no square: use square images")
    return torch.unflatten(tokens, 1, (edge, edge))
