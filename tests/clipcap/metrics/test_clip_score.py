"""CLIPScore and RefCLIPScore: by hand with open_clip on real photographs, and what holds for any encoder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from clipcap.embedding import encoder as encoders
from clipcap.embedding.store import EmbeddingInfo
from clipcap.errors import ModelError
from clipcap.metrics.clip_score import PROMPT, clip_metrics, clip_scores, text_encoder


class Directions:
    """An encoder whose texts are known vectors; counts what it embeds."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors, self.calls = vectors, []

    def encode_text(self, texts: list[str]) -> np.ndarray:
        self.calls.append(texts)
        return np.array([self.vectors[text.removeprefix(PROMPT)] for text in texts], np.float32)


def test_scores_are_cosines_cut_at_zero_and_times_two_and_a_half():
    encoder = Directions({"same": [2, 0], "half": [1, np.sqrt(3)], "away": [-1, 0]})
    images = np.array([[1, 0], [5, 0], [0.5, 0], [0, 3]], np.float16)
    scores = clip_scores(encoder, images, ["same", "half", "away", "same"])
    assert scores == pytest.approx([2.5, 1.25, 0, 0], abs=1e-6) and scores.dtype == np.float64
    assert encoder.calls == [[PROMPT + text for text in ("same", "half", "away")]], "each text once, with its prompt"


def test_the_reference_score_is_the_harmonic_mean_with_the_nearest_reference():
    encoder = Directions({"same": [1, 0], "half": [1, np.sqrt(3)], "right": [0, 1], "away": [-1, 0]})
    images = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    captions, references = ["half", "same", "same", "away"], [["right", "same"], ["half"], ["away", "right"], ["away"]]
    found = clip_metrics(encoder, images, captions, references)
    assert found["clip_score"] == pytest.approx([1.25, 2.5, 2.5, 0], abs=1e-6)
    nearest = [np.sqrt(3) / 2, 0.5, 0, 1]
    expected = [2 * c * r / (c + r) if c + r else 0 for c, r in zip(found["clip_score"], nearest, strict=True)]
    assert found["ref_clip_score"] == pytest.approx(expected, abs=1e-6)
    assert found["ref_clip_score"][2:].tolist() == [0, 0]


def info(hash: str = "h") -> EmbeddingInfo:
    return EmbeddingInfo(encoder="MODEL/weights", encoder_hash=hash, clip_dim=2, preprocessing_hash="p")


def test_an_encoder_without_a_text_tower_scores_nothing(monkeypatch):
    given = SimpleNamespace(hash="h", model=SimpleNamespace())
    monkeypatch.setattr(encoders, "get_encoder", lambda name, device: given)
    assert text_encoder(info(), "cpu") is None
    given.model.encode_text = lambda tokens: tokens
    assert text_encoder(info(), "cpu") is given


def test_other_weights_than_those_of_the_embeddings_are_refused(monkeypatch):
    given = SimpleNamespace(hash="other", model=SimpleNamespace())
    monkeypatch.setattr(encoders, "get_encoder", lambda name, device: given)
    with pytest.raises(ModelError, match=r"other weights \(other\) than the embeddings .*caption\.clip_score"):
        text_encoder(info(), "cpu")


def test_an_encoder_that_is_gone_says_how_to_do_without():
    gone = EmbeddingInfo(encoder="local-dir:/gone", encoder_hash="h", clip_dim=2, preprocessing_hash="p")
    with pytest.raises(ModelError, match=r"no folder /gone.*caption\.clip_score"):
        text_encoder(gone, "cpu")


# Real photographs

PHOTOGRAPHS = 24


@pytest.fixture(scope="module")
def photographs(shared):
    """Files and captions of validation images, which the encoder has not learned from."""
    data = json.loads((shared / "flickr8k" / "dataset_flickr8k.json").read_text())
    chosen = [image for image in data["images"] if image["split"] == "val"][:PHOTOGRAPHS]
    folder = shared / "flickr8k" / "images"
    files = [next(folder.glob(image["filename"].rpartition(".")[0] + ".*")) for image in chosen]
    return files, [[sentence["raw"] for sentence in image["sentences"]] for image in chosen]


@pytest.fixture(scope="module")
def by_hand(shared, photographs):
    """Unit vectors of images and of texts, by open_clip alone."""
    import open_clip
    import torch
    from PIL import Image

    name = f"local-dir:{shared / 'encoder'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    def texts(captions):
        with torch.no_grad():
            found = model.encode_text(tokenizer(["A photo depicts " + caption for caption in captions]))
        return torch.nn.functional.normalize(found, dim=-1).double().numpy()

    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in photographs[0]])
        images = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1).double().numpy()
    return images, texts


def test_scores_of_photographs_are_those_worked_out_with_open_clip(shared, photographs, by_hand):
    from clipcap.embedding.decode import decode
    from clipcap.embedding.encoder import get_encoder

    files, sentences = photographs
    images, texts = by_hand
    encoder = get_encoder(f"local-dir:{shared / 'encoder'}", "cpu", "float32")
    pixels = np.stack([decode(file.read_bytes(), encoder.preprocessing) for file in files])
    stored = encoder.encode(pixels).astype(np.float16)  # as the embed stage stores them
    captions, references = [each[0] for each in sentences], [each[1:] for each in sentences]
    found = clip_metrics(encoder, stored, captions, references)

    ours = texts(captions)
    expected = 2.5 * np.clip((images * ours).sum(axis=1), 0, None)
    assert found["clip_score"] == pytest.approx(expected, abs=2e-3)
    nearest = np.array([max((texts(each) @ row).max(), 0) for each, row in zip(references, ours, strict=True)])
    assert found["ref_clip_score"] == pytest.approx(2 * expected * nearest / (expected + nearest), abs=2e-3)

    exchanged = clip_metrics(encoder, stored, captions[1:] + captions[:1], references)
    for metric, values in found.items():
        assert values.mean() > 1.5 * exchanged[metric].mean() > 0, metric
        assert (values > exchanged[metric]).mean() > 0.8, metric
