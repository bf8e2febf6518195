"""Lets the mapper learn on embeddings of mean 0 and variance 1, and leaves no trace of it in the checkpoint.

CLIP embeddings share a large common direction, and normalised ones have entries of about 1/sqrt(clip_dim): a mapper
with an ordinary start hardly tells two images apart, and the language model learns to speak without looking. Both
mappers begin with a linear layer, so the shift and the scale can stand before it while it learns and be folded into
its weights afterwards. The layout is the published one, and captioning knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap.model.captioner import Captioner
from clipcap.model.mapping import MlpMapper

_ROWS = 65_536  # read at a time, so that a million embeddings are never held in float32


@contextmanager
def standardized(captioner: Captioner, embeddings: Tensor, is_trained: bool = False) -> Iterator[None]:
    """Within the block the mapper's first layer sees ``(x - mean) / std``; afterwards its weights do the same.

    Args:
        captioner: its first layer is changed in place when the block ends well.
        embeddings: (N, C) or (N, L, C) of the training images, as stored.
        is_trained: whether the layer's weights are for embeddings as they are, and so have to be unfolded first for
            the captioner to be the same within the block.
    """
    mean, std = moments(embeddings, captioner.settings.normalize)
    first = captioner.mapper.model[0] if isinstance(captioner.mapper, MlpMapper) else captioner.mapper.linear
    assert isinstance(first, nn.Linear)
    if is_trained:
        with torch.no_grad():
            first.bias.copy_(first.bias.double() + first.weight.double() @ mean.double())
            first.weight.copy_(first.weight.double() * std.double())
    hook = first.register_forward_pre_hook(lambda layer, inputs: ((inputs[0] - mean) / std,))
    try:
        yield
    finally:
        hook.remove()
    with torch.no_grad():
        weight = first.weight.double() / std.double()
        first.bias.copy_(first.bias.double() - weight @ mean.double())
        first.weight.copy_(weight)


def moments(embeddings: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension, both (C) float32, of what the mapper is given.

    A dimension that hardly varies is not blown up: no deviation is taken as less than a hundredth of the mean one.
    """
    embeddings = embeddings.flatten(0, -2)  # (N, L, C) → (N*L, C)
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    squares = torch.zeros_like(total)
    for rows in embeddings.split(_ROWS):
        values = F.normalize(rows.float(), dim=-1) if normalize else rows.float()
        total += values.sum(0, dtype=torch.float64)
        squares += values.double().square().sum(0)
    mean = total / len(embeddings)
    std = (squares / len(embeddings) - mean.square()).clamp(min=0).sqrt()
    smallest = std.mean() / 100
    std = std.clamp(min=float(smallest)) if smallest > 0 else torch.ones_like(std)
    return mean.float(), std.float()
