"""Features before the projection, of each kind of tower, against open_clip's own forward pass and plain loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipcap.embedding.encoder import Encoder
from clipcap.embedding.encoder_name import parse_encoder
from clipcap.embedding.towers import pool_patches
from clipcap.errors import ModelError
from clipcap.resources import resource

TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}


def timm(name: str, pool: str, projection: str, size: int = 160) -> dict:
    return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": projection,
            "image_size": size}  # fmt: skip


TOWERS = {
    "vit": (VIT, 24, (4, 4, 24)),
    "vit that averages": (VIT | {"pool_type": "avg", "final_ln_after_pool": True}, 24, (4, 4, 24)),
    "vit of oblong images": (VIT | {"image_size": [32, 48]}, 24, (4, 6, 24)),
    "resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, 256, (2, 2, 256)),
    "timm": (timm("test_efficientnet", "avg", "linear"), 256, (5, 5, 256)),
    "timm with a deeper projection": (timm("test_efficientnet", "avg", "mlp"), 256, (5, 5, 256)),
    "timm with its classifier as projection": (timm("test_efficientnet", "avg", ""), 256, (5, 5, 256)),
    "timm vit": (timm("test_vit", "", "linear"), 64, (10, 10, 64)),
    "timm vit that looks with a query": (timm("test_vit", "map", "none"), 64, (10, 10, 64)),
    "timm with channels last": (timm("test_mambaout", "avg", ""), 256, (5, 5, 64)),
    "timm pooled by attention": (timm("resnet10t", "abs_attn", "", 224), 512, (7, 7, 512)),
}  # fmt: skip
"""Name → vision_cfg, size of the pooled vector, rows, columns and size of the patches."""


def save_encoder(folder: Path, vision: dict, **more: dict) -> str:
    """A folder that open_clip itself would read, with random weights; its name."""
    name = f"tower-{folder.name}"
    config = {"embed_dim": 64 if vision.get("timm_proj") == "none" else 20, "vision_cfg": vision, "text_cfg": TEXT}
    (folder / f"{name}.json").write_text(json.dumps(config | more))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {"model_cfg": config | more, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    weights = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module", params=TOWERS)
def made(request, tmp_path_factory) -> tuple[str, int, tuple[int, int, int]]:
    vision, size, patches = TOWERS[request.param]
    return save_encoder(tmp_path_factory.mktemp(request.param.replace(" ", "-")), vision), size, patches


def pixels(encoder: Encoder, count: int = 3) -> np.ndarray:
    size = (count, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def projected(visual: torch.nn.Module, pooled: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """The embedding again, from what lies before the projection, by the weights of the projection alone."""
    with torch.no_grad():
        vector, grid = torch.from_numpy(pooled), torch.from_numpy(patches).permute(0, 3, 1, 2)
        if hasattr(visual, "attnpool"):  # pools and projects at once
            return visual.attnpool(grid).numpy()
        if hasattr(visual, "proj"):
            return (vector @ visual.proj).numpy()
        if hasattr(visual.head, "pool"):
            return visual.head(grid).numpy()
        return visual.head(visual.trunk.get_classifier()(vector)).numpy()


def test_the_embedding_is_open_clip_s_own_and_the_features_lie_before_its_projection(made):
    name, size, shape = made
    plain = Encoder(name, "cpu", "float32")
    images = pixels(plain)
    expected, same = plain.encode_with_features(images)
    assert same is expected and expected.shape == (3, plain.model.encode_text(torch.ones(1, 8).long()).shape[1])
    tower_embedding, pooled = Encoder(f"{name}#tower", "cpu", "float32").encode_with_features(images)
    token_embedding, tokens = Encoder(f"{name}#tokens", "cpu", "float32").encode_with_features(images)
    for embedding in (tower_embedding, token_embedding):
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert pooled.shape == (3, size) and tokens.shape == (3, shape[0] * shape[1], shape[2])
    found = projected(plain.model.visual, pooled, tokens.reshape(3, *shape))
    np.testing.assert_allclose(found, expected, atol=1e-5)


AVERAGES = ["vit that averages", "resnet", "timm", "timm with its classifier as projection", "timm pooled by attention"]


@pytest.mark.parametrize("made", AVERAGES, indirect=True)
def test_patches_of_towers_that_average_have_the_pooled_vector_as_their_mean(made):
    name, _, _ = made
    encoder = Encoder(f"{name}#tokens", "cpu", "float32")
    images = pixels(encoder)
    pooled = Encoder(f"{name}#tower", "cpu", "float32").encode_with_features(images)[1]
    mean = encoder.encode_with_features(images)[1].mean(1)
    if hasattr(encoder.model.visual, "ln_post"):
        mean = encoder.model.visual.ln_post(torch.from_numpy(mean)).detach().numpy()
    np.testing.assert_allclose(mean, pooled, atol=1e-5)


def test_patches_are_laid_out_row_by_row_and_see_their_own_part(made):
    """Another right half of an image changes the right patches more than the left ones, and so from top to bottom."""
    name, _, (rows, columns, _) = made
    encoder = Encoder(f"{name}#tokens", "cpu", "float32")
    images = pixels(encoder, 1)

    def moved(changed: np.ndarray) -> np.ndarray:
        before, after = (encoder.encode_with_features(x)[1][0] for x in (images, changed))
        return np.abs(after - before).mean(1).reshape(rows, columns)

    right, below = images.copy(), images.copy()
    right[:, :, images.shape[2] // 2 :] = 255 - right[:, :, images.shape[2] // 2 :]
    below[:, images.shape[1] // 2 :] = 255 - below[:, images.shape[1] // 2 :]
    by_column, by_row = moved(right).mean(0), moved(below).mean(1)
    assert by_column[-1] > by_column[0] and by_row[-1] > by_row[0]


def test_one_forward_pass_gives_both(made):
    name, _, _ = made
    encoder = Encoder(f"{name}#tokens", "cpu", "float32")
    images = pixels(encoder)
    layers = [m for m in encoder.model.visual.modules() if isinstance(m, torch.nn.Conv2d)]
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in layers]
    encoder.encode_with_features(images)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(layers)


def test_pooling_to_a_grid_equals_a_plain_loop():
    patches = torch.randn(2, 9, 9, 5)
    found = pool_patches(patches, 3)
    assert found.shape == (2, 9, 5)
    for row in range(3):
        for column in range(3):
            block = patches[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            torch.testing.assert_close(found[:, 3 * row + column], block.mean((1, 2)))
    torch.testing.assert_close(pool_patches(patches, 0), patches.reshape(2, 81, 5))


def test_a_grid_finer_than_the_patches_is_refused():
    with pytest.raises(ModelError, match="token_grid 3 is finer than the image tower's 2 x 4 patches: use 2 or less"):
        pool_patches(torch.zeros(1, 2, 4, 5), 3)


def test_lakes_stay_cached_where_only_embeddings_are_stored(tmp_path: Path):
    """Written down before there were features: another hash or folder would embed everything again."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    encoder = Encoder(f"local-dir:{folder}", "cpu", "float32")
    assert encoder.hash == "e3bc34e0fd6463f1f3dcd733c481982759c59a0f165fd29358ef83869412c9c3"
    assert encoder.id == "folder@e3bc34e0fd64"


def test_each_kind_of_features_is_an_encoder_of_its_own():
    folder = f"local-dir:{resource('assets') / 'sample_encoder'}"
    kinds = [folder, f"{folder}#tower", f"{folder}#tokens", f"{folder}#tokens2"]
    encoders = [Encoder(kind, "cpu", "float32") for kind in kinds]
    assert len({e.hash for e in encoders}) == len({e.id for e in encoders}) == 4
    assert [e.id.partition("@")[0] for e in encoders] == [
        "sample_encoder", "sample_encoder-tower", "sample_encoder-tokens", "sample_encoder-tokens2",
    ]  # fmt: skip


def test_towers_that_do_not_show_their_patches_say_which_do(tmp_path: Path):
    pooler = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = TEXT | {"embed_cls": True, "output_tokens": True}
    coca = save_encoder(tmp_path, VIT | pooler, text_cfg=decoder, multimodal_cfg=TEXT, custom_text=True)
    assert Encoder(coca, "cpu", "float32").encode(pixels(Encoder(coca, "cpu", "float32"))).shape == (3, 20)
    for kind in ("tower", "tokens"):
        encoder = Encoder(f"{coca}#{kind}", "cpu", "float32")
        with pytest.raises(ModelError, match=r"kind VisionTransformer .*without attention pooling.*ModifiedResNet"):
            encoder.encode_with_features(pixels(encoder))


@pytest.mark.parametrize("name", ["X#tower7", "X/y#tower7", "X#patches"])
def test_kinds_of_features_that_do_not_exist(name: str):
    """The whole text is then the name: of no weights, or of weights that nobody has."""
    try:
        assert parse_encoder(name).features == "embedding" and "#" in parse_encoder(name).pretrained
    except ModelError as error:
        assert "names no weights" in str(error)


def test_the_shared_encoder_and_its_projection_by_hand(shared: Path):
    folder = shared / "encoder"
    if not folder.is_dir():
        pytest.skip("needs the shared encoder")
    encoder = Encoder(f"local-dir:{folder}#tower", "cpu", "float32")
    images = pixels(encoder, 2)
    embedding, pooled = encoder.encode_with_features(images)
    tokens = Encoder(f"local-dir:{folder}#tokens", "cpu", "float32").encode_with_features(images)[1]
    assert embedding.shape == (2, 512) and pooled.shape == (2, 1280) and tokens.shape == (2, 81, 1280)
    weight = encoder.model.visual.head.proj.weight.detach().numpy()
    np.testing.assert_allclose(pooled @ weight.T, embedding, atol=1e-4)
    np.testing.assert_allclose(tokens.mean(1), pooled, atol=1e-5)
    coarse = Encoder(f"local-dir:{folder}#tokens3", "cpu", "float32").encode_with_features(images)[1]
    blocks = tokens.reshape(2, 3, 3, 3, 3, 1280).mean((2, 4))  # rows and columns of 9, in threes
    np.testing.assert_allclose(coarse, blocks.reshape(2, 9, 1280), atol=1e-5)
