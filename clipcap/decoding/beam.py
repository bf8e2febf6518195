"""Beam search over any causal language model, many images at once, with a key-value cache.

Legend: B images, N of them still searched, K beams, P prefix_length, D hidden size, V vocabulary, M max_new_tokens,
W hypotheses wanted for each image.

The prefix runs through the model once per image; its cache rows are then copied to the beams. An image's search ends
when no running beam can still beat the worst hypothesis kept for it, and the image leaves the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from clipcap.decoding.hypotheses import Hypothesis
from clipcap.errors import ModelError, ShapeError
from clipcap.model.language_model import last_logits, positions_of, word_embeddings

__all__ = ["Hypothesis", "beam_search"]

NEVER = float("-inf")


@dataclass
class _Kept:
    """The best hypotheses so far of each image, best first; score -inf marks an empty place."""

    score: Tensor  # (N, W)
    log_probability: Tensor  # (N, W)
    length: Tensor  # (N, W)
    tokens: Tensor  # (N, W, M)

    @classmethod
    def empty(cls, images: int, wanted: int, longest: int, device: torch.device) -> _Kept:
        nothing = torch.full((images, wanted), NEVER, device=device)
        length = torch.zeros((images, wanted), dtype=torch.long, device=device)
        tokens = torch.zeros((images, wanted, longest), dtype=torch.long, device=device)
        return cls(nothing, nothing.clone(), length, tokens)

    def add(self, score: Tensor, log_probability: Tensor, length: int, tokens: Tensor) -> None:
        """Merges K new ones for each image ((N, K), (N, K), one length for all, (N, K, M)) and keeps the best W."""
        wanted = self.score.shape[1]
        self.score, best = torch.cat([self.score, score], dim=1).topk(wanted, dim=1)
        self.log_probability = torch.cat([self.log_probability, log_probability], dim=1).gather(1, best)
        lengths = torch.cat([self.length, torch.full_like(score, length, dtype=torch.long)], dim=1)
        self.length = lengths.gather(1, best)
        self.tokens = _take(torch.cat([self.tokens, tokens], dim=1), best)

    def rows(self, chosen: Tensor) -> _Kept:
        return _Kept(self.score[chosen], self.log_probability[chosen], self.length[chosen], self.tokens[chosen])

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
            found.append(kept)
        return found


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
) -> list[list[Hypothesis]]:
    """Finds likely continuations of each prefix.

    Among the 2K best extensions of an image's K beams, those of the best K that end in ``eos_id`` become finished
    hypotheses; the best K others run on. With one beam this is greedy search. Beams cut at ``max_new_tokens`` count
    with the score they have. The result for an image does not depend on the images beside it (up to rounding).

    Args:
        language_model: in eval mode.
        prefix: (B, P, D).
        eos_id: ends a caption.
        beam_size: K.
        max_new_tokens: longest caption, end-of-text included; at most what the model has positions for.
        length_penalty: exponent of the length in the score; larger prefers longer captions.
        num_hypotheses: W, at most K.

    Returns:
        For each image up to W hypotheses, best first.

    Raises:
        ShapeError: the prefix is not (B, P, D).
        ModelError: more hypotheses than beams, a prefix that leaves no position for a token, or NaN logits.
    """
    if prefix.ndim != 3:
        raise ShapeError(f"expected a prefix of shape (batch, prefix_length, hidden), got {tuple(prefix.shape)}")
    if num_hypotheses > beam_size:
        raise ModelError(
            f"{num_hypotheses} captions for an image need at least as many beams, got beam_size {beam_size}"
        )
    images, prefix_length, _ = prefix.shape
    positions = positions_of(language_model)
    if positions is not None:
        max_new_tokens = min(max_new_tokens, positions - prefix_length)
    if max_new_tokens < 1:
        raise ModelError(f"a prefix of {prefix_length} leaves no room in a language model with {positions} positions")
    if images == 0:
        return []

    device = prefix.device
    results: list[list[Hypothesis]] = [[] for _ in range(images)]
    active = torch.arange(images, device=device)  # (N) which image each row is
    running = torch.zeros((images, 1), device=device)  # (N, K) summed log-probability; one beam before the first token
    tokens = torch.zeros((images, 1, max_new_tokens), dtype=torch.long, device=device)  # (N, K, M)
    kept = _Kept.empty(images, num_hypotheses, max_new_tokens, device)
    dtype = word_embeddings(language_model).weight.dtype
    logits, cache = last_logits(
        language_model, 1, inputs_embeds=prefix.to(dtype), use_cache=True,
        past_key_values=DynamicCache(config=language_model.config),
    )  # fmt: skip

    for length in range(1, max_new_tokens + 1):
        scores, beam, token = _extend(running, logits[:, 0].float(), 2 * beam_size)  # each (N, 2K), best first
        if bool(scores[:, 0].isnan().any()):
            raise ModelError(f"the language model gave NaN at token {length}: its weights or the prefix are not finite")
        extended = _take(tokens, beam)  # (N, 2K, M)
        extended[:, :, length - 1] = token

        is_end = token == eos_id
        # At the last step whatever stands among the best K is all that it will ever be.
        counts = torch.ones_like(is_end) if length == max_new_tokens else is_end
        ended = scores.masked_fill(~counts, NEVER)[:, :beam_size]
        kept.add(ended / length**length_penalty, ended, length, extended[:, :beam_size])
        if length == max_new_tokens:
            break

        running, order = scores.masked_fill(is_end, NEVER).topk(beam_size, dim=1)  # (N, K)
        is_done = _bound(running[:, 0], length, max_new_tokens, length_penalty) <= kept.score[:, -1]
        if beam_size == 1:
            is_done |= is_end[:, 0]  # greedy: the first end is the end
        if bool(is_done.any()):
            done = is_done.nonzero()[:, 0]
            for image, found in zip(active[done].tolist(), kept.rows(done).hypotheses(eos_id), strict=True):
                results[image] = found
        alive = (~is_done).nonzero()[:, 0]
        if alive.numel() == 0:
            return results
        previous = logits.shape[0] // active.shape[0]  # beams of each row in the cache
        parents = alive[:, None] * previous + beam.gather(1, order)[alive]  # (N, K) rows of the cache
        active, running, kept = active[alive], running[alive], kept.rows(alive)
        tokens = _take(extended, order)[alive]
        _reorder(cache, parents.flatten(), logits.shape[0])
        next_token = tokens[:, :, length - 1].reshape(-1, 1)  # (N, K) → (N*K, 1)
        logits, cache = last_logits(language_model, 1, input_ids=next_token, past_key_values=cache, use_cache=True)

    for image, found in zip(active.tolist(), kept.hypotheses(eos_id), strict=True):
        results[image] = found
    return results


def _extend(running: Tensor, logits: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best ``width`` one-token extensions of each image's beams.

    Only the best ``width`` tokens of a beam can be among them, so nothing of size N*K*V is made but the logits.

    Args:
        running: (N, K) summed log-probabilities.
        logits: (N*K, V) float32.

    Returns:
        Summed log-probability, parent beam and token, each (N, width), best first; -inf where there are fewer.
    """
    images, beams = running.shape
    best, token = logits.topk(min(width, logits.shape[-1]), dim=-1)  # (N*K, w)
    log_probability = best - logits.logsumexp(dim=-1, keepdim=True)
    each = best.shape[-1]
    scores = (running[:, :, None] + log_probability.view(images, beams, each)).flatten(1)  # (N, K*w)
    token = token.view(images, -1)
    missing = width - scores.shape[1]
    if missing > 0:
        scores = torch.nn.functional.pad(scores, (0, missing), value=NEVER)
        token = torch.nn.functional.pad(token, (0, missing))
    scores, index = scores.topk(width, dim=1)  # (N, width)
    return scores, (index // each).clamp(max=beams - 1), token.gather(1, index)


def _bound(running: Tensor, length: int, longest: int, length_penalty: float) -> Tensor:
    """The best score that a beam can still reach: no more log-probability lost, at the kindest length left."""
    return torch.maximum(running / (length + 1) ** length_penalty, running / longest**length_penalty)


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """(N, K, M) and (N, J) → (N, J, M)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))


def _reorder(cache: Any, rows: Tensor, present: int) -> None:
    """Copies cache rows to the beams that go on: expands, reorders and drops done images in one step."""
    if rows.shape[0] != present or not torch.equal(rows, torch.arange(present, device=rows.device)):
        cache.reorder_cache(rows)
