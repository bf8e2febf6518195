"""One token a step for many beams of many images, with the keys and values of a prefix held once per image.

Legend: N images, K beams, P prefix_length, D hidden size, S slots (keys that a row of the cache holds), V vocabulary.

An image is one row of the batch and its K beams are K queries in it. Their keys stand side by side behind the prefix's
and stay where they were written; a mask says which slots a beam descends from. So nothing is copied for a beam, and
when beams change places only the mask does. Models that this does not fit (attention that goes by slots, such as
sliding windows or ALiBi, or kernels without such masks) get a row for each beam and a cache that is reordered.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from clipcap.model.language_model import last_logits, word_embeddings

STEPS_AT_ONCE = 16
"""Steps that the cache grows by when it is full."""


class Steps(Protocol):
    """A language model that writes on."""

    def step(self, tokens: Tensor, parents: Tensor, rows: Tensor | None) -> Tensor:
        """Adds a token to each beam.

        Args:
            tokens: (N, K) long.
            parents: (N, K) long, which beam of its image each continues; all 0 after the prefix.
            rows: (N) long, ascending: which images of the step before go on; None for all.

        Returns:
            logits (N*K, V) of the token after, in the model's dtype.
        """
        ...


def begin(language_model: PreTrainedModel, prefix: Tensor, beams: int, longest: int) -> tuple[Tensor, Steps]:
    """Runs the prefixes.

    Args:
        language_model: in eval mode.
        prefix: (N, P, D), cast to the model's dtype.
        beams: K of the steps that follow.
        longest: tokens that will be written at most.

    Returns:
        logits (N, V) of the first token, and what makes the steps.
    """
    prefix = prefix.to(word_embeddings(language_model).weight.dtype)
    steps: SharedPrefix | RowPerBeam
    if shares_prefix(language_model):
        steps = SharedPrefix(language_model, prefix, beams, longest)
    else:
        steps = RowPerBeam(language_model)
    logits, _ = last_logits(language_model, 1, inputs_embeds=prefix, past_key_values=steps.cache, use_cache=True)
    return logits[:, 0], steps


def shares_prefix(language_model: PreTrainedModel) -> bool:
    """Whether positions and masks can be given from outside, and every layer attends to all that came before."""
    config = language_model.config
    return (
        language_model._supports_attention_backend
        and config._attn_implementation in ("sdpa", "eager")
        and "position_ids" in inspect.signature(language_model.forward).parameters
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    )


class SharedPrefix:
    """One row for each image."""

    def __init__(self, language_model: PreTrainedModel, prefix: Tensor, beams: int, longest: int) -> None:
        self.language_model = language_model
        images, self.position, _ = prefix.shape
        layers = len(DynamicCache(config=language_model.config).layers)
        self.layers = [_GrowingLayer(beams * min(longest, STEPS_AT_ONCE)) for _ in range(layers)]
        self.cache = Cache(layers=[*self.layers])
        # 0 where a beam descends from a slot, else the lowest number; at first one beam that sees the whole prefix
        self.mask = prefix.new_zeros((images, 1, 1, self.position))  # (N, 1, K, S)

    def step(self, tokens: Tensor, parents: Tensor, rows: Tensor | None) -> Tensor:
        if rows is not None:
            self.mask = self.mask[rows]
            for layer in self.layers:
                layer.keep(rows)
        beams = tokens.shape[1]
        self.mask = _descend(self.mask, parents)
        position = torch.full((1, beams), self.position, device=tokens.device)
        self.position += 1
        logits, _ = last_logits(
            self.language_model, beams, input_ids=tokens, attention_mask=self.mask, position_ids=position,
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        return logits.flatten(0, 1)  # (N, K, V) → (N*K, V)


def _descend(mask: Tensor, parents: Tensor) -> Tensor:
    """The mask of the next beams: what their parents (N, K) saw, and of the K new slots each its own."""
    images, beams = parents.shape
    inherited = mask.gather(2, parents[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))  # (N, 1, K, S)
    own = mask.new_full((beams, beams), torch.finfo(mask.dtype).min).fill_diagonal_(0)
    return torch.cat([inherited, own.expand(images, 1, beams, beams)], dim=-1)  # (N, 1, K, S+K)


class RowPerBeam:
    """One row for each beam, in the cache that transformers makes for the model."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        self.language_model = language_model
        self.cache = DynamicCache(config=language_model.config)
        self.beams = 1  # rows of the cache for each image

    def step(self, tokens: Tensor, parents: Tensor, rows: Tensor | None) -> Tensor:
        images, beams = tokens.shape
        images_before = torch.arange(images, device=tokens.device) if rows is None else rows
        order = (images_before[:, None] * self.beams + parents).flatten()  # (N*K) rows of the cache
        if rows is not None or not torch.equal(order, torch.arange(images * beams, device=order.device)):
            self.cache.reorder_cache(cast(torch.LongTensor, order))
        self.beams = beams
        logits, _ = last_logits(
            self.language_model, 1, input_ids=tokens.reshape(-1, 1), past_key_values=self.cache, use_cache=True
        )
        return logits[:, 0]


class _GrowingLayer(DynamicLayer):
    """Keys and values written in place, into storage that grows by many slots at once."""

    def __init__(self, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds (N, heads, S', head size) and returns all, (N, heads, S, head size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.stored_keys, self.stored_values = key_states[:, :, :0], value_states[:, :, :0]
            self.length = 0
        start, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.stored_keys.shape[2]:
            self.stored_keys = self._grow(self.stored_keys, start)
            self.stored_values = self._grow(self.stored_values, start)
        self.stored_keys[:, :, start : self.length] = key_states
        self.stored_values[:, :, start : self.length] = value_states
        self.keys, self.values = self.stored_keys[:, :, : self.length], self.stored_values[:, :, : self.length]
        return self.keys, self.values

    def _grow(self, stored: Tensor, used: int) -> Tensor:
        images, heads, _, size = stored.shape
        larger = stored.new_empty((images, heads, self.length + self.slots, size))
        larger[:, :, :used] = stored[:, :, :used]
        return larger

    def keep(self, rows: Tensor) -> None:
        """Only these images go on."""
        self.stored_keys, self.stored_values = self.stored_keys[rows], self.stored_values[rows]
