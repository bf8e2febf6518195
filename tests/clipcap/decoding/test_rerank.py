"""Re-ranking with a real encoder: what is chosen is what its own similarity says."""

import numpy as np
import pytest

from clipcap.config import CaptionConfig
from clipcap.decoding.caption import Caption
from clipcap.decoding.rerank import ClipRerank
from clipcap.embedding.encoder import Encoder
from clipcap.errors import ConfigError

TEXTS = ["a red circle on a grey background", "a blue square", "a green triangle next to a yellow star"]


@pytest.fixture(scope="module")
def encoder():
    return Encoder("builtin:sample", "cpu")


def candidates(scores):
    return [Caption(text, score * 5, 5, score) for text, score in zip(TEXTS, scores, strict=True)]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_weight_goes_from_the_model_s_order_to_the_encoder_s(encoder):
    texts = encoder.encode_text(TEXTS)
    assert texts.dtype == np.float32 and texts.shape[0] == 3
    images = texts[[2, 0]] + 0.1  # two images that are most like the third and the first text
    given = [candidates([-0.5, -0.6, -0.7]), candidates([-0.9, -0.4, -0.8])]
    cosines = unit(images) @ unit(texts).T
    by_model = ClipRerank(encoder, images, 0.0)(given, slice(0, 2))
    assert [c.text for c in by_model[0]] == TEXTS and by_model[1][0].text == TEXTS[1]
    by_clip = ClipRerank(encoder, images, 1.0)(given, slice(0, 2))
    for row in range(2):
        assert [c.text for c in by_clip[row]] == [TEXTS[i] for i in np.argsort(-cosines[row], kind="stable")]
    half = ClipRerank(encoder, images, 0.5)(given, slice(0, 2))
    for row, image in enumerate(given):
        values = [0.5 * c.score + 5 * cosines[row, i] for i, c in enumerate(image)]
        assert [c.text for c in half[row]] == [TEXTS[i] for i in np.argsort(-np.array(values), kind="stable")]


def test_later_batches_read_their_own_images(encoder):
    texts = encoder.encode_text(TEXTS)
    rerank = ClipRerank(encoder, texts, 1.0)
    assert [rerank([candidates([-1, -1, -1])], slice(i, i + 1))[0][0].text for i in range(3)] == TEXTS


def test_it_needs_its_encoder():
    from clipcap.decoding.caption import generate_many

    with pytest.raises(ConfigError, match="rerank needs the encoder"):
        generate_many(None, np.zeros((1, 3), np.float32), CaptionConfig(rerank=0.5))  # type: ignore[arg-type]
