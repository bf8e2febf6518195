"""CLIPScore and RefCLIPScore (Hessel et al. 2021): a caption against its image, and against its references too.

Images come as stored embeddings; only the encoder's text tower is needed. Scores of different encoders are not
comparable, and none is with those of OpenAI's ViT-B/32 in the paper but that encoder's.

Legend: N images, D clip_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipcap.errors import ModelError

if TYPE_CHECKING:
    from clipcap.embedding.encoder import Encoder
    from clipcap.embedding.store import EmbeddingInfo

CLIP_METRICS = ("clip_score", "ref_clip_score")
PROMPT = "A photo depicts "
"""Stands before each caption, and before each reference."""
_WEIGHT = 2.5


def text_encoder(info: EmbeddingInfo, device: str) -> Encoder | None:
    """The encoder of stored embeddings, for their captions; None where it has no text tower.

    Raises:
        ModelError: it cannot be loaded, or has other weights than the embeddings were made with.
    """
    from clipcap.embedding.encoder import get_encoder

    try:
        encoder = get_encoder(info.encoder, device)
        if encoder.hash != info.encoder_hash:
            raise ModelError(
                f"the encoder {info.encoder!r} has other weights ({encoder.hash[:12]}) than the embeddings were made "
                f"with ({info.encoder_hash[:12]})"
            )
        has_text = callable(getattr(encoder.model, "encode_text", None))
    except ModelError as error:
        raise ModelError(f"{error}; without CLIPScore (caption.clip_score, evaluate.clip_score) it is not needed"
                         ) from None  # fmt: skip
    return encoder if has_text else None


def clip_scores(encoder: Encoder, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """CLIPScore of one caption for each image.

    Args:
        images: (N, D) embeddings of ``encoder``, of any length but zero.
        captions: N texts.

    Returns:
        (N) float64, 0 to 2.5.
    """
    return _scores(images, _texts(encoder, captions))


def clip_metrics(
    encoder: Encoder, images: np.ndarray, captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """CLIPScore and RefCLIPScore of one caption for each image.

    Args:
        images: (N, D) embeddings of ``encoder``, of any length but zero.
        captions: N texts.
        references: of each image at least one.

    Returns:
        ``clip_score``, 0 to 2.5, and ``ref_clip_score``, the harmonic mean of that and the largest cosine to a
        reference: (N) float64 each.
    """
    sizes = [len(each) for each in references]
    texts = _texts(encoder, [*captions, *(text for each in references for text in each)])
    ours, theirs = texts[: len(captions)], texts[len(captions) :]
    scores = _scores(images, ours)
    owner = np.arange(len(captions)).repeat(sizes)
    nearest = np.zeros(len(captions))  # from 0: a reference that points away is as good as none
    np.maximum.at(nearest, owner, np.einsum("nd,nd->n", ours[owner], theirs))
    both = scores + nearest
    return {
        "clip_score": scores,
        "ref_clip_score": np.divide(2 * scores * nearest, both, out=np.zeros(len(scores)), where=both > 0),
    }


def _scores(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    cosines = np.einsum("nd,nd->n", unit(images), captions)
    return np.asarray(_WEIGHT * np.maximum(cosines, 0), np.float64)


def _texts(encoder: Encoder, captions: Sequence[str]) -> np.ndarray:
    """(texts, D) of length 1, each text embedded once however often it stands there."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(captions))}
    vectors = unit(encoder.encode_text([PROMPT + text for text in distinct]))
    return vectors[[distinct[text] for text in captions]]


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 of length 1, row by row; zeros stay zeros."""
    vectors = vectors.astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(min=1e-12))
