"""Chooses among the candidates of an image the one that the CLIP encoder finds most like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipcap.metrics.clip_score import unit

if TYPE_CHECKING:
    from clipcap.decoding.caption import Caption
    from clipcap.embedding.encoder import Encoder

COSINE_SCALE = 10.0
"""Cosines of an image's candidates differ by hundredths, their mean log-probabilities by tenths."""


@dataclass(frozen=True)
class ClipRerank:
    """Orders candidates by ``(1 - weight) * score + weight * 10 * cosine(image, caption)``.

    Scores per token and scaled cosines are of the same size, so the weight means what it says; standardising both
    within an image would blow up differences that mean nothing where there are few candidates.
    """

    encoder: Encoder
    image_embeddings: np.ndarray
    """(B, clip_dim), the projected ones, of all images of the call."""
    weight: float

    def __call__(self, candidates: list[list[Caption]], images: slice) -> list[list[Caption]]:
        """The candidates of each image in their new order."""
        texts = list(dict.fromkeys(caption.text for image in candidates for caption in image))
        vectors = unit(self.encoder.encode_text(texts))
        row_of = {text: row for row, text in enumerate(texts)}
        ordered = []
        for image, captions in zip(unit(self.image_embeddings[images]), candidates, strict=True):
            cosines = vectors[[row_of[caption.text] for caption in captions]] @ image
            values = [
                (1 - self.weight) * caption.score + self.weight * COSINE_SCALE * float(cosine)
                for caption, cosine in zip(captions, cosines, strict=True)
            ]
            ordered.append([captions[place] for place in sorted(range(len(values)), key=lambda i: -values[i])])
        return ordered
