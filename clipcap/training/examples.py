"""What training reads: each image's embedding once, and its captions as token ids that point to it.

Legend: N images, C clip_dim, S captions, b captions of a batch, t tokens of its longest caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clipcap.errors import DataError
from clipcap.model.captioner import IGNORED, check_embeddings

POOL = 50
"""Batches whose captions are sorted by length together: little padding, and still a shuffled order."""

_AT_ONCE = 10_000
"""Captions tokenised in one call; their Python lists are gone before the next."""


@dataclass(frozen=True)
class Pairs:
    """Images with their captions."""

    embeddings: np.ndarray
    """(N, C) or (N, L, C), float16 or float32."""
    captions: list[list[str]]
    """For each image any number of captions."""

    def __post_init__(self) -> None:
        if len(self.captions) != len(self.embeddings):
            raise DataError(f"{len(self.embeddings)} embeddings came with captions for {len(self.captions)} images")

    @property
    def texts(self) -> Iterator[str]:
        """All captions that hold any text, image by image."""
        return (text.strip() for captions in self.captions for text in captions if text.strip())

    def __bool__(self) -> bool:
        """Whether there is a caption at all."""
        return next(self.texts, None) is not None


@dataclass(frozen=True)
class Batch:
    """Captions of similar length, on the training device."""

    embeddings: Tensor
    """(b, C) or (b, L, C), in the dtype they are stored in."""
    tokens: Tensor
    """(b, t) int64, padded on the right with -100."""
    count: int
    """Tokens that are not padding."""


@dataclass(frozen=True)
class TrainingExamples:
    """Tokenised once, without padding; a batch is a few index operations.

    A million embeddings of 512 float16 take 1 GiB, five million captions of 13 tokens 0.3 GiB.
    """

    embeddings: Tensor
    """(N, C) or (N, L, C), once per image and not once per caption, in the dtype they came in."""
    tokens: Tensor
    """int32: the captions one after another."""
    starts: Tensor
    """(S + 1) int64: where each caption begins, and the end."""
    lengths: Tensor
    """(S) int64 on the CPU: tokens of each caption."""
    images: Tensor
    """(S) int64: row of each caption's embedding."""
    device: torch.device
    """Where batches are wanted; the tensors above are there too if they fit."""

    def __len__(self) -> int:
        return len(self.lengths)

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
            EmbeddingError: values that are not finite, or not an array of floats of one shape for each image.
        """
        embeddings = torch.as_tensor(np.ascontiguousarray(pairs.embeddings))
        check_embeddings(embeddings, tuple(embeddings.shape[1:]) if 1 < embeddings.ndim < 4 else (0,), where)
        counts = torch.tensor([sum(1 for text in texts if text.strip()) for texts in pairs.captions], dtype=torch.long)
        flat: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        texts = pairs.texts
        while chunk := list(islice(texts, _AT_ONCE)):
            encoded = tokenizer(chunk, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            ids = [[*caption, eos_id][:max_tokens] for caption in encoded]
            lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            flat.append(np.fromiter((token for caption in ids for token in caption), np.int32, int(lengths[-1].sum())))
        length = torch.from_numpy(np.concatenate(lengths)) if lengths else torch.zeros(0, dtype=torch.long)
        tokens = torch.from_numpy(np.concatenate(flat)) if flat else torch.zeros(0, dtype=torch.int32)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), length.cumsum(0)])
        images = torch.arange(len(counts)).repeat_interleave(counts)
        device = torch.device(device)
        home = _home(embeddings, device)
        return cls(embeddings.to(home), tokens.to(home), starts.to(home), length, images.to(home), device)

    def plan(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        tokens_per_batch: int = 0,
        prefix_length: int = 0,
    ) -> list[Tensor]:
        """One pass as rows of captions: those of similar length together, incomplete batches included.

        Args:
            batch_size: captions in a batch, where there is no budget.
            generator: shuffles; without one the pass is in order of length.
            tokens_per_batch: budget of a batch in positions, prefix and padding included; 0 has none. A caption
                longer than the budget is a batch of its own.
            prefix_length: positions that stand before each caption.

        Returns:
            For each batch its captions, int64 on the CPU.
        """
        pool = batch_size * POOL
        if tokens_per_batch:
            typical = prefix_length + float(self.lengths.double().mean()) if len(self) else 1.0
            pool = POOL * max(1, int(tokens_per_batch / typical))
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for rows in order.split(len(self) or 1) if generator is None else order.split(pool):
            rows = rows[self.lengths[rows].argsort(stable=True)]
            if tokens_per_batch:
                sizes = fill(self.lengths[rows].numpy() + prefix_length, tokens_per_batch)
                batches += rows.split(sizes)
            else:
                batches += rows.split(batch_size)
        if generator is None:
            return batches
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]

    def batch(self, rows: Tensor) -> Batch:
        """The captions of ``rows`` (int64, CPU), padded to the longest of them."""
        lengths = self.lengths[rows]
        place = torch.arange(int(lengths.max()))  # (t)
        is_token = place < lengths[:, None]  # (b, t)
        home = self.tokens.device
        rows, is_token = rows.to(home), is_token.to(home)
        at = (self.starts[rows][:, None] + place.to(home)).clamp(max=len(self.tokens) - 1)  # (b, t)
        tokens = self.tokens[at].long().masked_fill(~is_token, IGNORED)
        embeddings = self.embeddings[self.images[rows]]
        if home != self.device:
            embeddings, tokens = embeddings.to(self.device), tokens.to(self.device)
        return Batch(embeddings, tokens, int(lengths.sum()))


def fill(lengths: np.ndarray, budget: int) -> list[int]:
    """Sizes of batches that pack ascending ``lengths``, each at most ``budget`` when padded to its longest."""
    sizes: list[int] = []
    start = 0
    while start < len(lengths):
        # Padded sizes only grow with the number of captions, so the largest that fits is found by halving.
        low, high = 1, len(lengths) - start
        while low < high:
            middle = (low + high + 1) // 2
            if middle * int(lengths[start + middle - 1]) <= budget:
                low = middle
            else:
                high = middle - 1
        sizes.append(low)
        start += low
    return sizes


def _home(embeddings: Tensor, device: torch.device) -> torch.device:
    """The training device where the embeddings fit into a third of its free memory, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if embeddings.nbytes < free / 3 else torch.device("cpu")
