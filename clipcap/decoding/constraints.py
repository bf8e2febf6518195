"""What a caption may not do, whatever the language model thinks: end too early, or say things twice.

Legend: R rows (one per caption being written), V vocabulary, T tokens written so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constraints:
    """Rules that change the model's logits before a token is chosen; the default changes nothing.

    They see the generated tokens only: the prefix has none. Each is what the logits processor of transformers of
    that name does.
    """

    min_new_tokens: int = 0
    """No end before so many tokens."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the caption has already are divided by it, negative ones multiplied (Keskar et al. 2019,
    section 4.1)."""
    no_repeat_ngram: int = 0
    """No sequence of so many tokens twice; 0 allows all."""

    @property
    def is_none(self) -> bool:
        return self == UNCONSTRAINED

    def apply(self, logits: Tensor, tokens: Tensor, eos_id: int) -> Tensor:
        """The logits under these rules.

        Args:
            logits: (R, V) float, not changed; log-probabilities are logits, too.
            tokens: (R, T) long, what each row has written; T may be 0.
            eos_id: the token that ends a caption.

        Returns:
            (R, V), -inf where a token is forbidden; ``logits`` itself where no rule applies.
        """
        length = tokens.shape[1]
        if self.repetition_penalty != 1 and length > 0:
            seen = logits.gather(1, tokens)  # (R, T)
            less = torch.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            logits = logits.scatter(1, tokens, less)
        if 0 < self.no_repeat_ngram <= length:
            windows = tokens.unfold(1, self.no_repeat_ngram, 1)  # (R, T-n+1, n) every n-gram so far
            begun = tokens[:, length + 1 - self.no_repeat_ngram :]  # (R, n-1) what the next token would complete
            is_repeat = (windows[:, :, :-1] == begun[:, None]).all(dim=2)  # (R, T-n+1)
            ceiling = logits.new_full(is_repeat.shape, float("inf")).masked_fill(is_repeat, float("-inf"))
            logits = logits.scatter_reduce(1, windows[:, :, -1], ceiling, "amin")
        if length < self.min_new_tokens:
            logits = logits.index_fill(1, torch.tensor([eos_id], device=logits.device), float("-inf"))
        return logits


UNCONSTRAINED = Constraints()
