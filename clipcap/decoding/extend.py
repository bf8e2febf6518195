"""The likeliest next tokens of many rows of logits.

Legend: R rows (one per caption being written), V vocabulary, w tokens wanted for each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipcap.decoding.constraints import Constraints

CHUNK = 64
"""Tokens of the vocabulary that are first looked at together."""
CACHED_VALUES = 2**20
"""Logits that a processor's cache holds: rows are worked through so many values at a time."""


def best_tokens(
    logits: Tensor, wanted: int, constraints: Constraints, tokens: Tensor, eos_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best next tokens of each row.

    Args:
        logits: (R, V) of the language model, any float dtype; float16 and bfloat16 are computed in float32.
        wanted: w, at most V are given.
        constraints: applied to the log-probabilities, which are not made to sum to one again after it.
        tokens: (R, T) what each row has written.
        eos_id: the token that ends a caption.

    Returns:
        Score (log-probability under the constraints, -inf where forbidden), the model's log-probability, and token,
        each (R, w), best first.
    """
    rows = logits.shape[0] if logits.is_cuda else max(1, CACHED_VALUES // logits.shape[1])
    blocks = zip(logits.split(rows), tokens.split(rows), strict=True)
    parts = [_best_of_block(block, wanted, constraints, written, eos_id) for block, written in blocks]
    score, log_probability, token = (torch.cat(column) for column in zip(*parts, strict=True))
    return score, log_probability, token


def _best_of_block(
    logits: Tensor, wanted: int, constraints: Constraints, tokens: Tensor, eos_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    largest = logits.amax(dim=1, keepdim=True)
    log_sum = largest + (logits - largest).exp_().sum(dim=1, keepdim=True).log_()  # (R, 1)
    if constraints.is_none:
        best, token = largest_values(logits, wanted)
        return best - log_sum, best - log_sum, token
    log_probability = logits - log_sum
    best, token = largest_values(constraints.apply(log_probability, tokens, eos_id), wanted)
    return best, log_probability.gather(1, token), token


def largest_values(values: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """What ``values.topk(wanted)`` gives for each row of (R, V), in less time.

    The w largest lie in the w chunks with the largest maxima, so only those are ordered.
    """
    vocabulary = values.shape[1]
    chunks = vocabulary // CHUNK
    if chunks <= wanted:
        return values.topk(min(wanted, vocabulary), dim=1)
    maxima = values[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK)).amax(dim=2)  # (R, chunks)
    chosen = maxima.topk(wanted, dim=1).indices  # (R, w)
    index = (chosen[:, :, None] * CHUNK + torch.arange(CHUNK, device=values.device)).flatten(1)  # (R, w*CHUNK)
    rest = torch.arange(chunks * CHUNK, vocabulary, device=values.device).expand(values.shape[0], -1)
    index = torch.cat([index, rest], dim=1)
    largest, place = values.gather(1, index).topk(wanted, dim=1)
    return largest, index.gather(1, place)
