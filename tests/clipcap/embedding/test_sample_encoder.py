"""The encoder that ships with the sample: an ordinary open_clip folder that tells scenes apart.

Scenes here are of a seed that neither the sample nor the encoder's training uses.
"""

import io
import json
import logging

import pytest
import torch
from PIL import Image

from clipcap.dataset.scene_captions import captions
from clipcap.dataset.scenes import render_jpeg, scene
from clipcap.resources import resource

FOLDER = resource("assets") / "sample_encoder"
SCENES = [scene(index, seed=99) for index in range(100)]


@pytest.fixture(scope="module")
def encoder():
    import open_clip

    torch.set_num_threads(1)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{FOLDER}")


@pytest.fixture(scope="module")
def embeddings(encoder):
    """Normalised (images, texts), each (100, embed_dim); text n is a caption of image n."""
    model, preprocess, tokenizer = encoder
    images = torch.stack([preprocess(Image.open(io.BytesIO(render_jpeg(one)))) for one in SCENES])
    with torch.no_grad():
        return (
            torch.nn.functional.normalize(model.encode_image(images), dim=-1),
            torch.nn.functional.normalize(model.encode_text(tokenizer([captions(one)[0] for one in SCENES])), dim=-1),
        )


def test_the_folder_is_small_and_holds_nothing_to_unpickle():
    files = list(FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors"}


def test_dimensions_are_those_of_the_config(embeddings):
    dim = json.loads((FOLDER / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]
    assert [tuple(each.shape) for each in embeddings] == [(100, dim), (100, dim)]
    assert all(torch.isfinite(each).all() for each in embeddings)


def test_loading_finds_all_weights(caplog):
    import open_clip

    with caplog.at_level(logging.WARNING):
        first, second = (open_clip.create_model(f"local-dir:{FOLDER}").state_dict() for _ in range(2))
    assert "No pretrained weights" not in caplog.text
    assert all(torch.equal(first[name], second[name]) for name in first), "random weights differ each time"


def test_the_tokenizer_of_the_folder_knows_every_word_of_captions_and_of_the_clip_score_prompt(encoder):
    _, _, tokenizer = encoder
    tokens = tokenizer(["A photo depicts " + text for one in SCENES for text in captions(one)])
    unknown, end = tokenizer.tokenizer.unk_token_id, tokenizer.tokenizer.eos_token_id
    assert not (tokens == unknown).any()
    assert ((tokens == end).sum(dim=1) == 1).all(), "a caption was cut: it lost its end token"
    assert (tokenizer(["a quick brown fox"]) == unknown).sum() == 3


def test_images_find_their_caption_and_captions_their_image(embeddings):
    images, texts = embeddings
    similarity = images @ texts.T
    own = torch.arange(100)
    top5 = (similarity.topk(5, dim=1).indices == own[:, None]).any(dim=1).float().mean()
    assert top5 > 0.6  # chance: 0.05
    assert (similarity.argmax(dim=1) == own).float().mean() > 0.25  # chance: 0.01
    assert (similarity.argmax(dim=0) == own).float().mean() > 0.25
    shuffled = similarity[:, torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    assert similarity.diagonal().mean() > shuffled.diagonal().mean() + 0.1


def test_a_wrong_colour_lowers_the_similarity(encoder, embeddings):
    model, _, tokenizer = encoder
    images, _ = embeddings
    right, wrong = [], []
    for one in SCENES:
        main, other = one.objects[:2]
        right.append(f"A {main.colour} {main.shape} and a {other.colour} {other.shape}.")
        swapped = "blue" if "blue" not in (main.colour, other.colour) else "red"
        wrong.append(f"A {swapped} {main.shape} and a {other.colour} {other.shape}.")
    with torch.no_grad():
        pairs = [torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1) for texts in (right, wrong)]
    better = (images * pairs[0]).sum(dim=1) > (images * pairs[1]).sum(dim=1)
    assert better.float().mean() > 0.9
