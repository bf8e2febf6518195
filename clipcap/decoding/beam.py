"""Beam search over any causal language model, many images at once, with a key-value cache.

Legend: B images, N of them still searched, K beams, P prefix_length, D hidden size, V vocabulary, M max_new_tokens,
W hypotheses wanted for each image.

The prefix runs through the model once per image (see cache.py). An image's search ends when no running beam can still
beat the worst hypothesis kept for it, and the image leaves the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipcap.decoding.cache import begin
from clipcap.decoding.constraints import UNCONSTRAINED, Constraints
from clipcap.decoding.extend import best_tokens
from clipcap.decoding.hypotheses import NEVER, Hypothesis, Kept, take
from clipcap.errors import ModelError, ShapeError
from clipcap.model.language_model import positions_of

__all__ = ["Hypothesis", "beam_search"]


@torch.inference_mode()
def beam_search(
    language_model: PreTrainedModel,
    prefix: Tensor,
    *,
    eos_id: int,
    beam_size: int = 5,
    max_new_tokens: int = 67,
    length_penalty: float = 1.0,
    num_hypotheses: int = 1,
    constraints: Constraints = UNCONSTRAINED,
) -> list[list[Hypothesis]]:
    """Finds likely continuations of each prefix.

    Among the 2K best extensions of an image's K beams, those of the best K that end in ``eos_id`` become finished
    hypotheses; the best K others run on. With one beam this is greedy search. Beams cut at ``max_new_tokens`` count
    with the score they have. The result for an image does not depend on the images beside it (up to rounding).

    transformers' ``generate`` finds the same with ``early_stopping="never"`` and a length penalty that is not
    negative; its default ends an image's search earlier, by a guess.

    Args:
        language_model: in eval mode, of any float dtype; sums are float32 (float64 for a float64 model).
        prefix: (B, P, D).
        eos_id: ends a caption.
        beam_size: K.
        max_new_tokens: longest caption, end-of-text included; at most what the model has positions for.
        length_penalty: exponent of the length in the score; larger prefers longer captions.
        num_hypotheses: W, at most K.
        constraints: what no caption may do. They decide what is searched and the score; ``log_probability`` stays
            what the language model gives the caption.

    Returns:
        For each image up to W hypotheses, best first.

    Raises:
        ShapeError: the prefix is not (B, P, D).
        ModelError: more hypotheses than beams, a prefix that leaves no position for a token, NaN logits, or
            constraints that no caption keeps.
    """
    images = prefix.shape[0]
    longest = check_search(language_model, prefix, beam_size, max_new_tokens, num_hypotheses)
    if images == 0:
        return []

    logits, steps = begin(language_model, prefix, beam_size, longest)  # (N, V)
    results: list[list[Hypothesis]] = [[] for _ in range(images)]
    active = torch.arange(images, device=logits.device)  # (N) which image each row is
    running = logits.new_zeros((images, 1), dtype=score_dtype(logits))  # (N, K) scores; one beam before the first token
    said = running  # (N, K) the model's log-probability; another than the score where constraints change it
    tokens = torch.zeros((images, 1, longest), dtype=torch.long, device=logits.device)  # (N, K, M)
    kept = Kept.empty(images, num_hypotheses, longest, like=running)

    for length in range(1, longest + 1):
        written = tokens[:, :, : length - 1].flatten(0, 1)  # (N*K, length-1)
        best = best_tokens(logits, 2 * beam_size, constraints, written, eos_id)
        scores, said, beam, token = _merge(running, said, *best, 2 * beam_size)  # each (N, 2K), best first
        check_finite(scores, length)
        extended = take(tokens, beam)  # (N, 2K, M)
        extended[:, :, length - 1] = token

        is_end = token == eos_id
        # At the last step whatever stands among the best K is all that it will ever be.
        counts = torch.ones_like(is_end) if length == longest else is_end
        ended = scores.masked_fill(~counts, NEVER)[:, :beam_size]
        kept.add(ended / length**length_penalty, said[:, :beam_size], length, extended[:, :beam_size])
        if length == longest:
            break

        running, order = scores.masked_fill(is_end, NEVER).topk(beam_size, dim=1)  # (N, K)
        said, parents, tokens = said.gather(1, order), beam.gather(1, order), take(extended, order)
        is_done = _bound(running[:, 0], length, longest, length_penalty) <= kept.score[:, -1]
        if beam_size == 1:
            is_done |= is_end[:, 0]  # greedy: the first end is the end
        rows = None
        if bool(is_done.any()):
            done, rows = is_done.nonzero()[:, 0], (~is_done).nonzero()[:, 0]
            for image, found in zip(active[done].tolist(), kept.rows(done).hypotheses(eos_id), strict=True):
                results[image] = found
            if rows.numel() == 0:
                return results
            active, running, said, kept = active[rows], running[rows], said[rows], kept.rows(rows)
            parents, tokens = parents[rows], tokens[rows]
        logits = steps.step(tokens[:, :, length - 1], parents, rows)  # (N*K, V)

    for image, found in zip(active.tolist(), kept.hypotheses(eos_id), strict=True):
        results[image] = found
    return results


def check_search(
    language_model: PreTrainedModel, prefix: Tensor, beam_size: int, max_new_tokens: int, num_hypotheses: int
) -> int:
    """Whether a search can be made, and the longest caption: ``max_new_tokens``, or the positions that are left.

    Raises:
        ShapeError: the prefix is not (B, P, D).
        ModelError: more hypotheses than beams, or a prefix that leaves no position for a token.
    """
    if prefix.ndim != 3:
        raise ShapeError(f"expected a prefix of shape (batch, prefix_length, hidden), got {tuple(prefix.shape)}")
    if num_hypotheses > beam_size:
        raise ModelError(
            f"{num_hypotheses} captions for an image need at least as many beams, got beam_size {beam_size}"
        )
    positions = positions_of(language_model)
    longest = max_new_tokens if positions is None else min(max_new_tokens, positions - prefix.shape[1])
    if longest < 1:
        raise ModelError(f"a prefix of {prefix.shape[1]} leaves no room in a language model with {positions} positions")
    return longest


def check_finite(scores: Tensor, length: int) -> None:
    """Refuses NaN scores (N, K), which are first in each row where there are any."""
    if bool(scores[:, 0].isnan().any()):
        raise ModelError(f"the language model gave NaN at token {length}: its weights or the prefix are not finite")


def score_dtype(logits: Tensor) -> torch.dtype:
    """What log-probabilities are summed in: float32 whatever the model computes in, float64 for a float64 model."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _merge(
    running: Tensor, said: Tensor, score: Tensor, log_probability: Tensor, token: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best ``width`` one-token extensions of each image's beams.

    Args:
        running: (N, K) summed scores.
        said: (N, K) summed log-probabilities.
        score: (N*K, w) of each beam's best tokens, as are the two that follow; only they can be among the best.
        log_probability: (N*K, w).
        token: (N*K, w).

    Returns:
        Summed score, summed log-probability, parent beam and token, each (N, width), best first; -inf where there
        are fewer.
    """
    images, beams = running.shape
    each = score.shape[1]
    scores = (running[:, :, None] + score.view(images, beams, each)).flatten(1)  # (N, K*w)
    sums = (said[:, :, None] + log_probability.view(images, beams, each)).flatten(1)
    token = token.view(images, -1)
    missing = width - scores.shape[1]
    if missing > 0:
        scores = torch.nn.functional.pad(scores, (0, missing), value=NEVER)
        sums, token = (torch.nn.functional.pad(values, (0, missing)) for values in (sums, token))
    scores, index = scores.topk(width, dim=1)  # (N, width)
    return scores, sums.gather(1, index), (index // each).clamp(max=beams - 1), token.gather(1, index)


def _bound(running: Tensor, length: int, longest: int, length_penalty: float) -> Tensor:
    """The best score that a beam can still reach: no more log-probability lost, at the kindest length left."""
    return torch.maximum(running / (length + 1) ** length_penalty, running / longest**length_penalty)
