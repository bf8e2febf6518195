"""How far a training is, and the best that it has reached."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """One line of training.jsonl."""

    phase: str
    """"captions", then "reward" where self-critical training was asked for."""
    step: int
    """Of the phase, from 1."""
    steps: int
    epoch: int
    loss: float
    """Mean over the steps since the line before; in the reward phase the negative mean reward (CIDEr-D)."""
    lr: float
    samples_per_s: float
    """Captions; images in the reward phase."""
    seconds: float
    """Spent in training so far, earlier starts of a resumed training included."""
    val_loss: float | None = None
    """Where it was validated: nats per token, without smoothing, noise or dropout."""
    val_cider: float | None = None
    """CIDEr-D of greedy captions of train.val_captions images."""


@dataclass
class Best:
    """The best weights so far, and what they were judged by."""

    score: float = -math.inf
    """Larger is better: the negative loss, or CIDEr."""
    number: int = 0
    """Of the validation, from 1 through all phases."""
    phase: str = ""
    epoch: int = 0
    step: int = 0
    val_loss: float | None = None
    val_cider: float | None = None
    weights: list[Tensor] = field(default_factory=list)
