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
from clipcap.embedding.towers import pool_patches
from clipcap.errors import ModelError
from clipcap.resources import resource

TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "vit": ({"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}, 24, 16),
    "vit without class token": (
        {"image_size": 32, "layers": 1, "width": 24, "head_width": 8, "patch_size": 8, "pool_type": "avg",
         "final_ln_after_pool": True}, 24, 16,
    ),
    "resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, 256, 4),
    "timm": ({"timm_model_name": "efficientnet_lite0", "timm_model_pretrained": False, "timm_pool": "avg",
              "timm_proj": "linear", "image_size": 160}, 1280, 25),
    "timm vit": ({"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
                  "timm_proj": "linear", "image_size": 224}, 192, 196),
}  # fmt: skip
"""Name → vision_cfg, size of a feature, patches."""


@pytest.fixture(params=TOWERS)
def made(request, tmp_path: Path) -> tuple[str, int, int]:
    """A folder that open_clip itself would read, with random weights."""
    vision, size, patches = TOWERS[request.param]
    config = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": TEXT}
    name = f"tower-{request.param.replace(' ', '-')}"
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    return f"local-dir:{tmp_path}", size, patches


def pixels(encoder: Encoder, count: int = 3) -> np.ndarray:
    size = (count, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def test_the_embedding_is_open_clip_s_own_and_the_features_lie_before_its_projection(made):
    name, size, patches = made
    plain = Encoder(name, "cpu")
    images = pixels(plain)
    expected, same = plain.encode_with_features(images)
    assert same is expected and expected.shape == (3, 20)
    tower_embedding, pooled = Encoder(f"{name}#tower", "cpu").encode_with_features(images)
    token_embedding, tokens = Encoder(f"{name}#tokens", "cpu").encode_with_features(images)
    for embedding in (tower_embedding, token_embedding):
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert pooled.shape == (3, size) and tokens.shape == (3, patches, size)
    visual = plain.model.visual
    with torch.no_grad():
        if type(visual).__name__ == "TimmModel":
            projected = visual.head(torch.from_numpy(pooled))
            if "efficientnet" in visual.trunk.default_cfg.get("architecture", ""):
                np.testing.assert_allclose(tokens.mean(1), pooled, atol=1e-5)  # this tower pools by averaging
        elif type(visual).__name__ == "VisionTransformer":
            projected = torch.from_numpy(pooled) @ visual.proj
        else:
            grid = torch.from_numpy(tokens).transpose(1, 2).reshape(3, size, 2, 2)
            projected = visual.attnpool(grid)
    np.testing.assert_allclose(projected.numpy(), expected, atol=1e-5)


def test_patches_are_laid_out_row_by_row_and_see_their_own_part(made):
    """Another right half of an image changes the right patches more than the left ones."""
    name, _, patches = made
    encoder = Encoder(f"{name}#tokens", "cpu")
    images = pixels(encoder, 1)
    changed = images.copy()
    changed[:, :, images.shape[2] // 2 :] = 255 - changed[:, :, images.shape[2] // 2 :]
    before, after = (encoder.encode_with_features(x)[1][0] for x in (images, changed))
    edge = round(patches**0.5)
    moved = np.abs(after - before).mean(1).reshape(edge, edge).mean(0)  # of each column
    assert moved[edge // 2 :].mean() > moved[: edge // 2].mean()


def test_pooling_to_a_grid_equals_a_plain_loop():
    patches = torch.randn(2, 9, 9, 5)
    found = pool_patches(patches, 3)
    assert found.shape == (2, 9, 5)
    for row in range(3):
        for column in range(3):
            block = patches[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            torch.testing.assert_close(found[:, 3 * row + column], block.mean((1, 2)))
    torch.testing.assert_close(pool_patches(patches, 0), patches.reshape(2, 81, 5))


def test_each_kind_of_features_is_an_encoder_of_its_own():
    folder = f"local-dir:{resource('assets') / 'sample_encoder'}"
    kinds = [folder, f"{folder}#tower", f"{folder}#tokens", f"{folder}#tokens2"]
    encoders = [Encoder(kind, "cpu") for kind in kinds]
    assert len({e.hash for e in encoders}) == len({e.id for e in encoders}) == 4
    assert [e.id.partition("@")[0] for e in encoders] == [
        "sample_encoder", "sample_encoder-tower", "sample_encoder-tokens", "sample_encoder-tokens2",
    ]  # fmt: skip


def test_a_tower_that_does_not_show_its_patches_says_which_do():
    encoder = Encoder("builtin:sample#tower", "cpu")
    encoder.model.visual = torch.nn.Identity()
    encoder.__dict__["preprocessing"] = Encoder("builtin:sample", "cpu").preprocessing
    with pytest.raises(ModelError, match=r"kind Identity .*VisionTransformer.*ModifiedResNet and timm"):
        encoder.encode_with_features(np.zeros((1, 64, 64, 3), np.uint8))
