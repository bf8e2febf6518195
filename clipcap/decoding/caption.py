"""From embeddings to captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipcap.config import CaptionConfig
from clipcap.decoding.beam import beam_search
from clipcap.model.captioner import Captioner, check_embeddings


@dataclass(frozen=True)
class Caption:
    """One generated caption."""

    text: str
    log_probability: float
    """Sum over its tokens, in nats."""
    tokens: int
    """Tokens that the sum is over, end-of-text included."""


def generate(captioner: Captioner, clip_embeddings: Tensor | np.ndarray, config: CaptionConfig) -> list[Caption]:
    """The best caption for each embedding; see :func:`generate_many`."""
    return [captions[0] for captions in generate_many(captioner, clip_embeddings, config)]


@torch.inference_mode()
def generate_many(
    captioner: Captioner, clip_embeddings: Tensor | np.ndarray, config: CaptionConfig, num_captions: int = 1
) -> list[list[Caption]]:
    """Captions for embeddings, in their order, ``config.batch_size`` images at a time, on the captioner's device.

    Args:
        captioner: any mode; decoded in eval mode, and given back in the mode it had.
        clip_embeddings: (B, clip_dim), float16 or float32; B may be 0.
        config: beam size, longest caption, length penalty, batch size.
        num_captions: for each image, at most ``config.beam_size``.

    Returns:
        For each image its captions, best first.

    Raises:
        EmbeddingError: another dimension than the captioner's, or values that are not finite.
        ModelError: more captions than beams.
    """
    embeddings = torch.as_tensor(clip_embeddings)
    check_embeddings(embeddings, captioner.settings.input_shape, "captioning")
    was_training = captioner.training
    captioner.eval()
    found = []
    for batch in embeddings.split(config.batch_size):
        if batch.shape[0] == 0:
            continue
        found += beam_search(
            captioner.language_model,
            captioner.prefix(batch.to(captioner.device)),
            eos_id=captioner.settings.eos_id,
            beam_size=config.beam_size,
            max_new_tokens=config.max_new_tokens,
            length_penalty=config.length_penalty,
            num_hypotheses=num_captions,
        )
    captioner.train(was_training)
    texts = iter(
        captioner.tokenizer.batch_decode([h.tokens for image in found for h in image], skip_special_tokens=True)
    )
    return [[Caption(" ".join(next(texts).split()), h.log_probability, h.length) for h in image] for image in found]
