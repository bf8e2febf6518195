"""What every way of decoding gives: one caption as tokens, with what it was judged by.

Legend: N images, K beams, W hypotheses wanted for each image, M longest caption.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipcap.errors import ModelError

NEVER = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """One caption as tokens, the end token left out."""

    tokens: list[int]
    log_probability: float
    """Sum over the tokens, the end token included."""
    length: int
    """Tokens that the sum is over."""
    score: float
    """What hypotheses are ordered by; for beam search log_probability / length ** length_penalty."""
    is_finished: bool
    """False where max_new_tokens cut it."""


@dataclass
class Kept:
    """The best hypotheses so far of each image, best first; score -inf marks an empty place."""

    score: Tensor  # (N, W)
    log_probability: Tensor  # (N, W)
    length: Tensor  # (N, W)
    tokens: Tensor  # (N, W, M)

    @classmethod
    def empty(cls, images: int, wanted: int, longest: int, like: Tensor) -> Kept:
        nothing = like.new_full((images, wanted), NEVER)
        length = nothing.new_zeros((images, wanted), dtype=torch.long)
        tokens = nothing.new_zeros((images, wanted, longest), dtype=torch.long)
        return cls(nothing, nothing.clone(), length, tokens)

    def add(self, score: Tensor, log_probability: Tensor, length: int, tokens: Tensor) -> None:
        """Merges K new ones for each image ((N, K), (N, K), one length for all, (N, K, M)) and keeps the best W."""
        wanted = self.score.shape[1]
        self.score, best = torch.cat([self.score, score], dim=1).topk(wanted, dim=1)
        self.log_probability = torch.cat([self.log_probability, log_probability], dim=1).gather(1, best)
        lengths = torch.cat([self.length, torch.full_like(score, length, dtype=torch.long)], dim=1)
        self.length = lengths.gather(1, best)
        self.tokens = take(torch.cat([self.tokens, tokens], dim=1), best)

    def rows(self, chosen: Tensor) -> Kept:
        return Kept(self.score[chosen], self.log_probability[chosen], self.length[chosen], self.tokens[chosen])

    def hypotheses(self, eos_id: int) -> list[list[Hypothesis]]:
        found = []
        columns = (self.score.tolist(), self.log_probability.tolist(), self.length.tolist(), self.tokens.tolist())
        for image in zip(*columns, strict=True):
            kept = []
            for score, log_probability, length, tokens in zip(*image, strict=True):
                if score == NEVER:
                    continue
                is_finished = tokens[length - 1] == eos_id
                kept.append(Hypothesis(tokens[: length - is_finished], log_probability, length, score, is_finished))
            if not kept:
                raise ModelError(
                    "no caption keeps the constraints: every token was forbidden before one could end; "
                    "lower min_new_tokens or no_repeat_ngram"
                )
            found.append(kept)
        return found


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(N, K, M) and (N, J) → (N, J, M)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))
