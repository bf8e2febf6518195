"""Learning rate, optimizer and moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clipcap.config import TrainConfig


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Of step 0 … steps - 1: linear warm-up (at most a tenth of all steps), then decay towards 0 after the last."""
    warmup = min(config.warmup_steps, steps // 10)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    if config.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return config.learning_rate * left


def make_optimizer(parameters: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW as transformers once had it (eps 1e-6); weight decay is for matrices, not for biases and norms."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, eps=1e-6, fused=True)


class MovingAverage:
    """Exponential moving average of the weights (Polyak and Juditsky 1992); steadier than the last step's weights.

    Args:
        parameters: what is averaged.
        decay: 0 keeps no average, and :meth:`applied` leaves the weights as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.average: list[Tensor] = [p.detach().clone() for p in parameters] if decay else []

    def update(self, step: int) -> None:
        """After step number ``step`` (from 1); the first steps count more, so that the start is soon forgotten."""
        if self.average:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold their average."""
        if not self.average:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)
