"""What training reads: each image's embedding once, and its captions as token ids that point to it.

Legend: N images, C clip_dim, S captions, T tokens of the longest caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clipcap.errors import DataError
from clipcap.model.captioner import IGNORED, check_embeddings

POOL = 50
"""Batches whose captions are sorted by length together: little padding, and still a shuffled order."""


@dataclass(frozen=True)
class Pairs:
    """Images with their captions."""

    embeddings: np.ndarray
    """(N, C), float16 or float32."""
    captions: list[list[str]]
    """For each image any number of captions."""

    def __post_init__(self) -> None:
        if len(self.captions) != len(self.embeddings):
            raise DataError(f"{len(self.embeddings)} embeddings came with captions for {len(self.captions)} images")

    @property
    def texts(self) -> list[str]:
        """All captions that hold any text."""
        return [text for captions in self.captions for text in captions if text.strip()]


@dataclass(frozen=True)
class TrainingExamples:
    """Tokenised once, padded once; a batch is a few index operations on the training device."""

    embeddings: Tensor
    """(N, C), once per image and not once per caption, in the dtype they came in."""
    tokens: Tensor
    """(S, T) int32, padded on the right with -100."""
    lengths: Tensor
    """(S) int64 on the CPU: tokens of each caption."""
    images: Tensor
    """(S) int64: row of each caption's embedding."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @classmethod
    def from_pairs(
        cls,
        pairs: Pairs,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_id: int,
        max_tokens: int,
        device: torch.device | str = "cpu",
        where: str = "training",
    ) -> TrainingExamples:
        """Tokenises; every caption ends with ``eos_id`` unless it is cut after ``max_tokens``. Empty ones are left out.

        Raises:
            EmbeddingError: values that are not finite, or not a (N, C) array of floats.
        """
        embeddings = torch.as_tensor(np.ascontiguousarray(pairs.embeddings))
        check_embeddings(embeddings, embeddings.shape[-1] if embeddings.ndim else 0, where)
        rows = [row for row, captions in enumerate(pairs.captions) for text in captions if text.strip()]
        texts = [text.strip() for text in pairs.texts]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        ids = [[*caption, eos_id][:max_tokens] for caption in ids]
        lengths = torch.tensor([len(caption) for caption in ids], dtype=torch.long)
        longest = int(lengths.max()) if ids else 1
        tokens = torch.full((len(ids), longest), IGNORED, dtype=torch.int32)
        if ids:
            flat = torch.tensor([token for caption in ids for token in caption], dtype=torch.int32)
            tokens[torch.arange(longest) < lengths[:, None]] = flat  # fills row by row
        images = torch.tensor(rows, dtype=torch.long)
        return cls(embeddings.to(device), tokens.to(device), lengths, images.to(device))

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: captions of similar length together, incomplete batches included.

        Args:
            batch_size: captions in a batch.
            generator: shuffles; without one the pass is in order of length.

        Yields:
            embeddings (b, C) and tokens (b, t) int64, padded with -100 to the longest of this batch.
        """
        for chosen in self._batch_rows(batch_size, generator):
            longest = int(self.lengths[chosen].max())
            rows = chosen.to(self.tokens.device)
            yield self.embeddings[self.images[rows]], self.tokens[rows, :longest].long()

    def _batch_rows(self, batch_size: int, generator: torch.Generator | None) -> list[Tensor]:
        if generator is None:
            return list(self.lengths.argsort(stable=True).split(batch_size))
        order = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in order.split(batch_size * POOL):
            batches += pool[self.lengths[pool].argsort(stable=True)].split(batch_size)
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]

    def steps(self, batch_size: int) -> int:
        """Batches in one pass."""
        return -(-len(self) // batch_size)
