"""Random captions: from the model's whole distribution, or from the part of it that is likely.

Legend: B images, N of them still written, K samples of each, P prefix_length, D hidden size, V vocabulary,
M max_new_tokens.

The published code builds a nucleus and then takes its likeliest token. Here the nucleus is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipcap.decoding.cache import begin
from clipcap.decoding.constraints import UNCONSTRAINED, Constraints
from clipcap.decoding.hypotheses import Hypothesis
from clipcap.errors import ModelError, ShapeError
from clipcap.model.language_model import positions_of


@torch.inference_mode()
def sample(
    language_model: PreTrainedModel,
    prefix: Tensor,
    *,
    eos_id: int,
    seeds: Sequence[int],
    num_samples: int = 1,
    max_new_tokens: int = 67,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    constraints: Constraints = UNCONSTRAINED,
) -> list[list[Hypothesis]]:
    """Draws captions token by token.

    A draw depends on its image's seed, the number of its sample and its place alone, so the images beside it do not
    matter (up to rounding of the probabilities).

    Args:
        language_model: in eval mode.
        prefix: (B, P, D).
        eos_id: ends a caption.
        seeds: (B) one for each image.
        num_samples: K.
        max_new_tokens: longest caption, end-of-text included; at most what the model has positions for.
        temperature: divides the logits; below 1 is more careful.
        top_k: only from the K likeliest tokens; 0 from all.
        top_p: only from the fewest likeliest tokens that hold this mass (Holtzman et al. 2020); 1 from all.
        constraints: rules on captions.

    Returns:
        For each image K hypotheses, in the order of their numbers. Log-probabilities are the model's own, without
        temperature, filters and rules; the score is their mean over the tokens.

    Raises:
        ShapeError: the prefix is not (B, P, D), or there is another number of seeds.
        ModelError: a prefix that leaves no position for a token, or NaN logits.
    """
    if prefix.ndim != 3 or len(seeds) != len(prefix):
        raise ShapeError(
            f"expected a prefix of shape (batch, prefix_length, hidden) and a seed for each image, "
            f"got {tuple(prefix.shape)} and {len(seeds)} seeds"
        )
    images, prefix_length, _ = prefix.shape
    positions = positions_of(language_model)
    if positions is not None:
        max_new_tokens = min(max_new_tokens, positions - prefix_length)
    if max_new_tokens < 1:
        raise ModelError(f"a prefix of {prefix_length} leaves no room in a language model with {positions} positions")
    if images == 0:
        return []

    device, shape = prefix.device, (num_samples, max_new_tokens)
    uniforms = torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(seed)).random(shape) for seed in seeds])
    ).to(device)  # (B, K, M)
    active = torch.arange(images, device=device)  # (N) which image each row is
    tokens = torch.full((images, *shape), eos_id, device=device)  # (B, K, M)
    lengths = torch.zeros((images, num_samples), dtype=torch.long, device=device)  # (B, K)
    total = torch.zeros((images, num_samples), dtype=torch.float64, device=device)
    is_ended = torch.zeros((images, num_samples), dtype=torch.bool, device=device)

    logits, steps = begin(language_model, prefix, num_samples, max_new_tokens)
    logits = logits.repeat_interleave(num_samples, dim=0)  # (N, V) → (N*K, V): all samples begin after one prefix
    parents = torch.zeros((images, num_samples), dtype=torch.long, device=device)
    for place in range(max_new_tokens):
        logits = logits.float() if logits.dtype != torch.float64 else logits
        if bool(logits.isnan().any()):
            raise ModelError(f"the language model gave NaN at token {place + 1}: weights or prefix are not finite")
        own = logits.log_softmax(-1)  # (N*K, V)
        allowed = logits if constraints.is_none else constraints.apply(
            logits, tokens[active, :, :place].flatten(0, 1), eos_id
        )  # fmt: skip
        token = draw(allowed / temperature, uniforms[active, :, place].flatten(), top_k, top_p)  # (N*K)
        goes_on = ~is_ended[active]  # (N, K)
        gained = own.gather(1, token[:, None]).view(len(active), -1).double()
        total[active] += gained * goes_on
        lengths[active] += goes_on
        token = token.view(len(active), -1).masked_fill(~goes_on, eos_id)
        tokens[active, :, place] = token
        is_ended[active] |= token == eos_id

        alive = (~is_ended[active].all(dim=1)).nonzero()[:, 0]
        if alive.numel() == 0 or place + 1 == max_new_tokens:
            break
        rows = None if len(alive) == len(active) else alive
        active, token = active[alive], token[alive]
        logits = steps.step(token, parents[alive], rows)
        parents = torch.arange(num_samples, device=device).expand(len(active), -1)

    found = []
    for row, length, log_probability in zip(tokens.tolist(), lengths.tolist(), total.tolist(), strict=True):
        captions = []
        for ids, count, value in zip(row, length, log_probability, strict=True):
            is_finished = ids[count - 1] == eos_id
            captions.append(Hypothesis(ids[: count - is_finished], value, count, value / count, is_finished))
        found.append(captions)
    return found


def draw(logits: Tensor, uniforms: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """One token of each row, by inverting the distribution function at a uniform number.

    Args:
        logits: (R, V).
        uniforms: (R) float64 in [0, 1).

    Returns:
        (R) long.
    """
    probability = logits.softmax(-1).double()  # (R, V)
    if not top_k and top_p >= 1:
        return _invert(probability, uniforms)
    ordered, token = probability.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = 0
    if top_p < 1:
        ordered = ordered / ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0)  # the likeliest always stays: nothing stands before it
    return token.gather(1, _invert(ordered, uniforms)[:, None])[:, 0]


def _invert(probability: Tensor, uniforms: Tensor) -> Tensor:
    """The place where the mass up to it first exceeds ``uniforms`` of the whole; never a place of mass 0."""
    mass = probability.cumsum(-1)
    place = torch.searchsorted(mass, (uniforms * mass[:, -1])[:, None], right=True)[:, 0]
    last = probability.shape[-1] - 1 - (probability.flip(-1) > 0).long().argmax(-1)  # rounding may lead past the end
    return torch.minimum(place, last)
