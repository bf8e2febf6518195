"""What every way of decoding gives: one caption as tokens, with what it was judged by."""

from __future__ import annotations

from dataclasses import dataclass


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
