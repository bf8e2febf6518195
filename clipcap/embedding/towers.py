"""What an image tower knows before its projection: one pooled vector, or a token for each patch.

Legend: B images, C channels of the tower, H x W patches, L tokens.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from clipcap.errors import ModelError


def embed_with_patches(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass of an open_clip model's image tower.

    Args:
        images: (B, 3, height, width), preprocessed.

    Returns:
        embedding (B, clip_dim), as ``encode_image`` gives it; pooled (B, C), which the projection reads; and patches
        (B, H, W, C). Where pooling and projection are one attention layer (ModifiedResNet, timm towers with
        ``timm_pool`` "abs_attn" or "rot_attn"), the pooled vector is the patches' mean.

    Raises:
        ModelError: a tower that does not show them.
    """
    tower = model.visual
    kind = type(tower).__name__
    if kind == "TimmModel":
        trunk = tower.trunk
        seen = trunk.forward_features(images)
        pooled = trunk.forward_head(seen, pre_logits=True)
        # Without timm_proj the trunk's own classifier is the projection.
        embedding = tower.head(trunk.forward_head(seen) if trunk.num_classes else pooled)
        if seen.ndim == 3:  # (B, class and register tokens + H*W, C)
            seen = _square(seen[:, getattr(trunk, "num_prefix_tokens", 0) :])
        elif seen.shape[1] == trunk.num_features:  # (B, C, H, W); Swin has (B, H, W, C)
            seen = seen.permute(0, 2, 3, 1)
        return embedding, seen.mean((1, 2)) if pooled.ndim == 4 else pooled, seen
    if kind == "VisionTransformer" and tower.attn_pool is None and not tower.output_tokens:
        hidden = tower.transformer(tower._embeds(images))
        pooled, tokens = tower._pool(hidden)
        patches = tokens.unflatten(1, tower.grid_size)
        return pooled @ tower.proj if tower.proj is not None else pooled, pooled, patches
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

    Raises:
        ModelError: a finer grid than the patches are.
    """
    if grid > min(patches.shape[1:3]):
        raise ModelError(
            f"embed.token_grid {grid} is finer than the image tower's {patches.shape[1]} x {patches.shape[2]} patches: "
            f"use {min(patches.shape[1:3])} or less"
        )
    if grid:
        patches = F.adaptive_avg_pool2d(patches.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    return patches.flatten(1, 2)  # (B, H, W, C) → (B, H*W, C)


def _square(tokens: Tensor) -> Tensor:
    """(B, H*W, C) → (B, H, W, C): timm towers have square images."""
    edge = round(tokens.shape[1] ** 0.5)
    if edge * edge != tokens.shape[1]:
        raise ModelError(f"the image tower has {tokens.shape[1]} patches, which is no square: use square images")
    return tokens.reshape(tokens.shape[0], edge, edge, *tokens.shape[2:])
