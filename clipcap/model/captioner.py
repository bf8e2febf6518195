"""The captioner: a mapping network in front of a language model.

Legend: B batch, C clip_dim, P prefix_length, T tokens of the longest caption, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clipcap.config import CaptionConfig
from clipcap.errors import EmbeddingError, ShapeError
from clipcap.model.language_model import last_logits, word_embeddings
from clipcap.model.lora import adapter_weights, train_adapters

VERSION = 2
"""Of the stored format (config.json)."""

IGNORED = -100
"""Padding of token ids: never read, never learned. A real id (the published code takes 0) would lose that word."""


class CaptionerSettings(BaseModel):
    """All that is needed to rebuild a captioner and to use it as it was trained; stored as ``config.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    model_id: str = ""
    mapper: Literal["mlp", "transformer", "linear"] = "mlp"
    clip_dim: int
    hidden_size: int
    """Of the language model."""
    prefix_length: int
    clip_length: int = 10
    mapper_layers: int = 8
    mapper_heads: int = 8
    mapper_hidden: int = 0
    normalize: bool = True
    """Embeddings are L2-normalised before the mapper, in training and in captioning alike."""
    encoder: str = ""
    """The encoder whose embeddings this model reads."""
    encoder_hash: str = ""
    features: Literal["embedding", "tower", "tokens"] = "embedding"
    """What of the encoder the mapper reads; ``clip_dim`` is its size."""
    clip_tokens: int = 0
    """Patch tokens of an image, each of size ``clip_dim``; 0 where an image is one vector."""
    language_model: str = "lm"
    """Hub name, folder or GGUF file of a frozen language model; "lm" for one stored beside this file."""
    language_model_hash: str = ""
    """Of a frozen one: a hash of its files, or the commit on the hub, and captioning takes no other; empty: any."""
    tuned: bool = True
    """Whether the language model learned too (then it is stored in lm/)."""
    lora: bool = False
    """Whether low-rank adapters of a frozen language model are stored beside this file, in lora/."""
    tokenizer: str = ""
    """Hub name or folder of the tokenizer where lm/ holds none (imported weights); empty: the language model's."""
    eos_id: int
    """The token that ends a caption."""
    keep_eos: bool = False
    """Whether that token is part of the text: published weights end with a full stop instead of an end-of-text."""
    decoding: CaptionConfig = CaptionConfig()
    """What captioning does where nothing else is asked for."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of what the mapper reads of one image: (clip_dim,), or (clip_tokens, clip_dim)."""
        return (self.clip_tokens, self.clip_dim) if self.clip_tokens else (self.clip_dim,)


class Captioner(nn.Module):
    """Writes captions for CLIP embeddings.

    A language model that is not tuned needs no gradients and stays in eval mode, whatever ``train()`` is called with;
    its adapters (``settings.lora``, see :mod:`clipcap.model.lora`) learn and follow it.

    Attributes:
        mapper: (B, C) → (B, P, D).
        language_model: any causal language model of transformers.
        tokenizer: its tokenizer.
        settings: what is stored as config.json.
    """

    def __init__(
        self,
        mapper: nn.Module,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: CaptionerSettings,
    ) -> None:
        super().__init__()
        self.mapper, self.language_model, self.tokenizer, self.settings = mapper, language_model, tokenizer, settings
        if not settings.tuned:
            language_model.requires_grad_(False)
        if settings.lora:
            for parameter in adapter_weights(language_model).values():
                parameter.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Captioner:
        """Switches dropout of what learns; a frozen language model never drops anything."""
        super().train(mode)
        if not self.settings.tuned:
            self.language_model.eval()
        if self.settings.lora:
            train_adapters(self.language_model, mode)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.mapper.parameters()).device

    def prefix(self, clip_embedding: Tensor) -> Tensor:
        """Maps embeddings to the vectors that stand before the caption.

        Args:
            clip_embedding: (B, C), or (B, L, C) patch tokens where the settings say so; any float dtype; each vector
                is normalised here where the settings say so.

        Returns:
            (B, P, D).

        Raises:
            ShapeError: neither.
        """
        expected = self.settings.input_shape
        if tuple(clip_embedding.shape[1:]) != expected:
            raise ShapeError(
                f"the captioner {self.settings.model_id or 'here'} reads embeddings of shape "
                f"(batch, {', '.join(map(str, expected))}), got {tuple(clip_embedding.shape)}: "
                "use the encoder it was trained with" + (f" ({self.settings.encoder})" if self.settings.encoder else "")
            )
        clip_embedding = clip_embedding.float()
        if self.settings.normalize:
            clip_embedding = F.normalize(clip_embedding, dim=-1)
        prefix: Tensor = self.mapper(clip_embedding)
        return prefix

    def loss(
        self,
        clip_embedding: Tensor,
        tokens: Tensor,
        label_smoothing: float = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """Cross-entropy of the captions' tokens given the embeddings (paper, equation 2).

        Args:
            clip_embedding: (B, C).
            tokens: (B, T) ids, the end-of-text token included, padded on the right with -100.
            label_smoothing: mass given to the other tokens, 0 to 1.
            reduction: over all tokens that are not padding.

        Returns:
            A scalar in nats.

        Raises:
            ShapeError: as in :meth:`prefix`, or another number of captions than of embeddings.
        """
        if tokens.ndim != 2 or tokens.shape[0] != clip_embedding.shape[0]:
            raise ShapeError(
                f"expected one row of token ids for each of {clip_embedding.shape[0]} embeddings, "
                f"got tokens of shape {tuple(tokens.shape)}"
            )
        prefix = self.prefix(clip_embedding)
        # The last token is predicted, never read. Padding reads as token 0, and only positions after it see it.
        words = word_embeddings(self.language_model)(tokens[:, :-1].clamp(min=0))  # (B, T-1, D)
        inputs = torch.cat([prefix.to(words.dtype), words], dim=1)  # (B, P+T-1, D)
        # The last T positions, P-1 … P+T-2, predict tokens 0 … T-1.
        logits, _ = last_logits(self.language_model, tokens.shape[1], inputs_embeds=inputs, use_cache=False)
        return F.cross_entropy(
            logits.flatten(0, 1).float(),  # (B, T, V) → (B*T, V)
            tokens.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )


def check_embeddings(embeddings: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Raises EmbeddingError unless ``embeddings`` is (N, *shape), of floats, and finite."""
    if tuple(embeddings.shape[1:]) != shape or not embeddings.ndim or not embeddings.is_floating_point():
        raise EmbeddingError(
            f"{where} expects float embeddings of shape (images, {', '.join(map(str, shape))}), "
            f"got {str(embeddings.dtype).removeprefix('torch.')} {tuple(embeddings.shape)}: use the model's own encoder"
        )
    bad = (~embeddings.isfinite().flatten(1).all(dim=1)).nonzero()[:, 0]
    if bad.numel():
        raise EmbeddingError(
            f"{where}: {bad.numel()} of {embeddings.shape[0]} embeddings are not finite, first at row {int(bad[0])}: "
            f"embed those images again"
        )
