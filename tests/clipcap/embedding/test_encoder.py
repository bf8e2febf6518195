"""Names of encoders, what identifies them, and one clear line where one cannot be had."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipcap.embedding.encoder import Encoder, get_encoder, resolve_device
from clipcap.embedding.encoder_name import EncoderName, parse_encoder
from clipcap.errors import ModelError
from clipcap.resources import resource
from clipcap.storage.lake import Lake

SHIPPED = resource("assets") / "sample_encoder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped encoder that a test may damage."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "my encoder"))


def problem(name: str) -> str:
    with pytest.raises(ModelError) as raised:
        encoder = Encoder(name, "cpu")
        encoder.model  # noqa: B018
    text = str(raised.value)
    assert "\n" not in text and len(text) < 700 and repr(name) in text
    return text


def test_names_are_read():
    assert parse_encoder("ViT-B-32/laion2b_s34b_b79k") == EncoderName("ViT-B-32", "laion2b_s34b_b79k")
    assert parse_encoder("ViT-B-32-quickgelu/openai") == EncoderName("ViT-B-32-quickgelu", "openai")
    assert parse_encoder("RN50/weights/best.pt") == EncoderName("RN50", "weights/best.pt")
    assert parse_encoder("RN50//weights/best.pt") == EncoderName("RN50", "/weights/best.pt")
    assert parse_encoder("hf-hub:owner/name") == EncoderName("hf-hub:owner/name")
    assert parse_encoder("local-dir:/a/b") == EncoderName("local-dir:/a/b")
    assert parse_encoder("builtin:sample") == EncoderName(f"local-dir:{SHIPPED}")


@pytest.mark.parametrize("name", ["ViT-B-32/openai", "RN50/openai", "ViT-L-14-336/openai"])
def test_openai_weights_need_their_activation(name: str):
    with pytest.raises(ModelError, match=f"use {name.partition('/')[0]}-quickgelu/openai"):
        parse_encoder(name)


@pytest.mark.parametrize("name", ["", "ViT-B-32", "ViT-B-32/", "builtin:other"])
def test_a_name_without_weights_is_refused(name: str):
    with pytest.raises(ModelError, match="names no weights: write MODEL/PRETRAINED"):
        parse_encoder(name)


def test_a_folder_that_is_missing_or_empty(tmp_path: Path):
    assert "there is no folder" in problem(f"local-dir:{tmp_path / 'missing'}")
    with pytest.raises(ModelError, match=r"there is no folder .*; correct embed\.encoder"):
        Encoder(f"local-dir:{tmp_path / 'missing'}").hash  # noqa: B018
    with pytest.raises(ModelError, match="is no open_clip folder"):
        Encoder(f"local-dir:{tmp_path}").hash  # noqa: B018
    assert "cannot be loaded" in problem(f"local-dir:{tmp_path}")


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_weights_is_refused_instead_of_embedding_with_random_ones(folder: Path):
    (folder / "open_clip_model.safetensors").unlink()
    assert "cannot be loaded" in problem(f"local-dir:{folder}")


def test_damaged_weights_or_settings(folder: Path):
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in problem(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    assert "cannot be loaded" in problem(f"local-dir:{folder}")


def test_weights_of_another_model(folder: Path):
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 128
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert "cannot be loaded" in problem(f"local-dir:{folder}")


@pytest.mark.parametrize("name", ["NoSuchModel/laion", "ViT-B-32/nosuchtag", "ViT-B-32/no/such.pt"])
def test_names_that_open_clip_does_not_know(name: str, caplog):
    caplog.set_level(logging.CRITICAL)
    assert "cannot be loaded" in problem(name) and "open_clip.list_pretrained()" in problem(name)


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "ViT-S-32-alt/nothing", "ViT-B-32/datacomp_s_s13m_b4k"])
def test_a_hub_that_cannot_be_reached(name: str, monkeypatch, tmp_path: Path, caplog):
    import huggingface_hub.constants as constants

    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "cannot be loaded" in problem(name)


class TestHash:
    def test_it_follows_the_files_and_not_their_place(self, folder: Path):
        shipped = Encoder("builtin:sample").hash
        assert Encoder(f"local-dir:{folder}").hash == shipped == Encoder("builtin:sample").hash

    @pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
    def test_a_changed_byte_changes_it(self, folder: Path, name: str):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        assert Encoder(f"local-dir:{folder}").hash != Encoder("builtin:sample").hash

    @pytest.mark.parametrize("suffix", [".bin", ".pth", ".safetensors"])
    def test_whatever_open_clip_would_load_counts(self, tmp_path: Path, suffix: str):
        from open_clip.factory import _find_checkpoint_in_dir

        (tmp_path / "open_clip_config.json").write_text("{}")
        weights = tmp_path / f"open_clip_pytorch_model{suffix}"
        hashes = set()
        for content in (b"one", b"two"):
            weights.write_bytes(content)
            assert _find_checkpoint_in_dir(tmp_path) == str(weights)
            hashes.add(Encoder(f"local-dir:{tmp_path}").hash)
        assert len(hashes) == 2

    def test_it_needs_no_loading(self, folder: Path):
        (folder / "open_clip_config.json").write_text("{")
        assert Encoder(f"local-dir:{folder}").hash

    @pytest.mark.parametrize("name", ["my encoder", "кодер", "_x", "a.b", "-", "x" * 90])
    def test_every_folder_name_gives_a_usable_id(self, folder: Path, name: str, tmp_path: Path):
        place = folder.rename(tmp_path / name)
        encoder = Encoder(f"local-dir:{place}")
        assert encoder.id.endswith(f"@{encoder.hash[:12]}")
        assert Lake("/lake").embeddings(encoder.id, "b", "s")

    def test_ids_of_other_names(self):
        assert Encoder("builtin:sample").id.startswith("builtin-sample@")


class TestCheckpointPath:
    """MODEL/path.pt, with the shipped weights under a small configuration made known to open_clip."""

    @pytest.fixture
    def name(self, tmp_path: Path) -> str:
        import open_clip

        config = json.loads((SHIPPED / "open_clip_config.json").read_text())["model_cfg"]
        del config["text_cfg"]["hf_tokenizer_name"]
        (tmp_path / "tiny-for-tests.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "tiny-for-tests.json")
        torch.save(Encoder("builtin:sample", "cpu").model.state_dict(), tmp_path / "weights.pt")
        return f"tiny-for-tests/{tmp_path / 'weights.pt'}"

    def test_it_loads_and_is_identified_by_its_bytes(self, name: str, tmp_path: Path):
        encoder = Encoder(name, "cpu", "float32")
        pixels = np.full((2, 64, 64, 3), 100, np.uint8)
        assert encoder.encode(pixels).shape == (2, 256)
        loaded, shipped = encoder.model.state_dict(), Encoder("builtin:sample", "cpu").model.state_dict()
        assert all(torch.equal(loaded[key], shipped[key]) for key in shipped)
        before = encoder.hash
        weights = loaded | {"logit_scale": loaded["logit_scale"] + 1}
        torch.save(weights, tmp_path / "weights.pt")
        assert Encoder(name, "cpu").hash != before

    def test_nothing_in_it_is_executed(self, name: str, tmp_path: Path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        torch.save({"state_dict": Evil()}, tmp_path / "weights.pt")
        assert "cannot be loaded" in problem(name)
        assert not (tmp_path / "executed").exists()


def test_preprocessing_is_that_of_the_model():
    encoder = Encoder("builtin:sample", "cpu")
    wanted = encoder.preprocessing
    assert (wanted.height, wanted.width, wanted.mean, wanted.std) == (64, 64, (0.5,) * 3, (0.25,) * 3)
    assert (wanted.interpolation, wanted.resize_mode) == ("bicubic", "squash")


def test_vectors_do_not_depend_on_the_batch():
    encoder = Encoder("builtin:sample", "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    together = encoder.encode(pixels)
    apart = np.concatenate([encoder.encode(pixels[n : n + 1]) for n in range(5)])
    assert together.dtype == np.float32 and together.shape == (5, 256)
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_devices_and_one_encoder_for_each_name():
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ModelError, match="there is no device 'gpu'; this machine has: auto, cpu"):
        resolve_device("gpu")
    if torch.cuda.is_available():
        assert resolve_device("cuda:0") == "cuda:0"
    else:
        with pytest.raises(ModelError, match="'cuda:1': this torch sees no GPU"):
            resolve_device("cuda:1")
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert get_encoder("builtin:sample", "cpu") is get_encoder("builtin:sample", "cpu")


def test_parallel_callers_share_one_model_and_get_their_own_rows():
    from concurrent.futures import ThreadPoolExecutor

    encoder = Encoder("builtin:sample", "cpu", "float32")
    size = (6, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    batches = [np.random.default_rng(n).integers(0, 256, size, dtype=np.uint8) for n in range(6)]
    alone = [Encoder("builtin:sample", "cpu", "float32").encode(batch) for batch in batches]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(encoder.encode, batches))
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_texts_are_float32_whatever_images_are_computed_in():
    reduced, exact = Encoder("builtin:sample", "cpu", "bfloat16"), Encoder("builtin:sample", "cpu", "float32")
    reduced.encode(np.zeros((1, exact.preprocessing.height, exact.preprocessing.width, 3), np.uint8))
    texts = ["a red circle", "two blue squares"]
    np.testing.assert_array_equal(reduced.encode_text(texts), exact.encode_text(texts))


def test_an_encoder_without_a_text_tower_says_so():
    encoder = Encoder("builtin:sample", "cpu")
    encoder.__dict__["_model"] = SimpleNamespace(visual=encoder.model.visual)  # as of a library that has none
    with pytest.raises(ModelError, match=r"'builtin:sample' has no text tower: set embed\.captions = false"):
        encoder.encode_text(["a red circle"])


def test_auto_is_what_the_processor_multiplies():
    import torch

    from clipcap.embedding.forward import tower_dtype

    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert tower_dtype(torch.device("cpu"), "auto") == (torch.bfloat16 if has_bf16 else torch.float32)
    assert tower_dtype(torch.device("cpu"), "float16") == torch.float16


def test_auto_and_its_device_are_the_same_encoder():
    device = resolve_device("auto")
    assert get_encoder("builtin:sample") is get_encoder("builtin:sample", device)
    assert get_encoder("builtin:sample") is not get_encoder("builtin:sample", device, "float32")
