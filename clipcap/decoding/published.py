"""The beam search of the published code (rmokady/CLIP_prefix_caption), many images at once, with a key-value cache.

Legend: B images, N of them still searched, K beams, P prefix_length, D hidden size, V vocabulary, M max_new_tokens.

What sets it apart from beam.py: beams are pruned at every step by summed log-probability divided by length, and a beam
that stopped keeps its slot, its sum and its length for as long as it is among the best. A search ends when all slots
have stopped.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipcap.decoding.beam import check_finite, check_search, score_dtype
from clipcap.decoding.cache import begin
from clipcap.decoding.constraints import UNCONSTRAINED
from clipcap.decoding.extend import best_tokens
from clipcap.decoding.hypotheses import NEVER, Hypothesis, take
from clipcap.errors import ModelError

FULL_STOP = 13
"""The token "." of GPT-2, the only one that ends a published caption; " ." (764) does not."""


@torch.inference_mode()
def published_beam_search(
    language_model: PreTrainedModel,
    prefix: Tensor,
    *,
    stop_id: int = FULL_STOP,
    beam_size: int = 5,
    max_new_tokens: int = 67,
    num_hypotheses: int = 1,
) -> list[list[Hypothesis]]:
    """Finds the captions that the published beam search finds.

    Args:
        language_model: in eval mode, of any float dtype; sums are float32 (float64 for a float64 model).
        prefix: (B, P, D).
        stop_id: ends a caption; counts in its sum and its length, and is not among a hypothesis' tokens.
        beam_size: K.
        max_new_tokens: longest caption; at most what the model has positions for.
        num_hypotheses: at most K.

    Returns:
        For each image up to ``num_hypotheses``, best first; ``score`` is log-probability / length.

    Raises:
        ShapeError: the prefix is not (B, P, D).
        ModelError: more hypotheses than beams, a prefix that leaves no position for a token, more beams than
            tokens in the vocabulary, or NaN logits.
    """
    images = prefix.shape[0]
    longest = check_search(language_model, prefix, beam_size, max_new_tokens, num_hypotheses)
    if images == 0:
        return []

    logits, steps = begin(language_model, prefix, beam_size, longest)  # (N, V)
    if beam_size > logits.shape[1]:
        raise ModelError(f"{beam_size} beams need as many tokens, but the vocabulary has {logits.shape[1]}")
    results: list[list[Hypothesis]] = [[] for _ in range(images)]
    active = torch.arange(images, device=logits.device)  # (N) which image each row is
    sums = logits.new_zeros((images, 1), dtype=score_dtype(logits))  # (N, K); one beam before the first token
    lengths = torch.zeros_like(sums, dtype=torch.long)  # (N, K)
    has_stopped = torch.zeros_like(sums, dtype=torch.bool)  # (N, K)
    tokens = torch.zeros((images, 1, longest), dtype=torch.long, device=logits.device)  # (N, K, M)

    for step in range(longest):
        written = tokens[:, :, :step].flatten(0, 1)
        _, gain, token = best_tokens(logits, beam_size, UNCONSTRAINED, written, stop_id)  # (N*K, K)
        gain, token = (best.view(*sums.shape, -1) for best in (gain, token))  # (N, K, K)
        # The one extension of a beam that stopped is itself.
        itself = gain.new_full(gain.shape[-1:], NEVER)
        itself[0] = 0
        gain = torch.where(has_stopped[:, :, None], itself, gain)
        lengths = lengths + ~has_stopped
        averages = ((sums[:, :, None] + gain) / lengths[:, :, None]).flatten(1)  # (N, K*K)
        averages, index = averages.topk(beam_size, dim=1)  # (N, K)
        check_finite(averages, step + 1)
        parents = index // gain.shape[2]

        lengths, has_stopped = lengths.gather(1, parents), has_stopped.gather(1, parents)
        sums, tokens = averages * lengths, take(tokens, parents)
        added = token.flatten(1).gather(1, index)
        tokens[:, :, step] = added
        has_stopped |= added == stop_id
        is_done = has_stopped.all(dim=1) | (step + 1 == longest)
        rows = None
        if bool(is_done.any()):
            done, rows = is_done.nonzero()[:, 0], (~is_done).nonzero()[:, 0]
            columns = (tokens[done], sums[done], lengths[done], averages[done], has_stopped[done])
            for image, *found in zip(active[done].tolist(), *(column.tolist() for column in columns), strict=True):
                results[image] = _hypotheses(*found)[:num_hypotheses]
            if rows.numel() == 0:
                break
            active, sums, lengths, has_stopped = active[rows], sums[rows], lengths[rows], has_stopped[rows]
            parents, tokens = parents[rows], tokens[rows]
        logits = steps.step(tokens[:, :, step], parents, rows)  # (N*K, V)
    return results


def _hypotheses(
    tokens: list[list[int]], sums: list[float], lengths: list[int], averages: list[float], stopped: list[bool]
) -> list[Hypothesis]:
    """Of one image, which come best first."""
    return [
        Hypothesis(written[: length - has_stopped], total, length, average, has_stopped)
        for written, total, length, average, has_stopped in zip(tokens, sums, lengths, averages, stopped, strict=True)
        if average > NEVER
    ]
