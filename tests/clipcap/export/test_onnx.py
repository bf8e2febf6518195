"""One ONNX file writes the captions that torch writes, with nothing of torch; another file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from clipcap.config import CaptionConfig, LanguageModelConfig
from clipcap.decoding.caption import generate
from clipcap.errors import ModelError
from clipcap.export import onnx
from clipcap.export.onnx import GreedyCaptions, export_onnx
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import load_captioner, save_captioner, weights_hash
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper

onnxruntime = pytest.importorskip("onnxruntime")
LONGEST = 7


def make(clip_dim: int = 6, encoder: str = "") -> Captioner:
    """A model with random weights, large enough that captions end early, late, and differ."""
    torch.manual_seed(1)
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=16, vocab_size=270)
    model, tokenizer = new_language_model(sizes, ["a small dog"] * 5, positions=32)
    settings = CaptionerSettings(
        model_id="m", clip_dim=clip_dim, hidden_size=16, prefix_length=3, mapper_hidden=8, encoder=encoder,
        eos_id=tokenizer.eos_token_id, decoding=CaptionConfig(max_new_tokens=LONGEST),
    )  # fmt: skip
    captioner = Captioner(build_mapper(settings, clip_dim, 16), model, tokenizer, settings).eval()
    for weights in captioner.mapper.parameters():
        torch.nn.init.normal_(weights, std=3.0)
    for name, weights in model.named_parameters():  # layers that say more than the word before does
        if weights.ndim == 2:
            torch.nn.init.normal_(weights, std=1.0 if ".h." in name else 0.3)
    with torch.no_grad():  # the end is about as likely as a word
        model.get_output_embeddings().weight[settings.eos_id] *= 2.5
    return captioner


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("onnx")
    save_captioner(make(), folder / "m")
    return folder / "m", folder / "m.onnx", export_onnx(folder / "m", folder / "m.onnx")


def test_the_file_alone_writes_the_captions(exported: tuple[Path, Path, dict[str, Any]]):
    model, file, facts = exported
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    tokenizer = Tokenizer.from_str(told["clipcap.tokenizer.json"])
    embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(9))
    captioner = load_captioner(model)
    expected = generate(captioner, embeddings, CaptionConfig(beam_size=1, max_new_tokens=LONGEST))
    ids, log_probability, prefix = session.run(None, {"clip_embedding": embeddings.numpy()})
    texts = [" ".join(tokenizer.decode(row.tolist(), skip_special_tokens=True).split()) for row in ids]
    assert texts == [caption.text for caption in expected]
    lengths = {caption.tokens for caption in expected}
    assert len(set(texts)) > 5 and len(lengths) > 2, "captions must differ, and end at different places"
    assert np.allclose(log_probability, [caption.log_probability for caption in expected], atol=1e-3)
    with torch.inference_mode():
        assert np.allclose(prefix, captioner.prefix(embeddings).numpy(), atol=1e-4)
    one = session.run(None, {"clip_embedding": embeddings[3:4].numpy()})[0]
    assert (one == ids[3:4]).all(), "a caption does not depend on what stands beside it"
    assert (told["clipcap.model_id"], told["clipcap.weights_sha256"]) == ("m", weights_hash(model))
    assert facts["max_new_tokens"] == LONGEST == ids.shape[1]


def test_a_file_that_computes_something_else_is_refused(exported: tuple[Path, Path, dict[str, Any]]):
    model, file, _ = exported
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    other, slightly = load_captioner(model), load_captioner(model)
    with torch.no_grad():
        other.mapper.model[2].weight *= -1
        slightly.mapper.model[2].bias[0] += 0.05
    for captioner, problem in ((other, "another caption than torch"), (slightly, "prefix differs from torch's by")):
        with pytest.raises(ModelError, match=problem):
            onnx._compare(captioner, GreedyCaptions(captioner, LONGEST), inputs, "clip_embedding", LONGEST, file)


def test_what_cannot_be_written_is_said_before_anything_is(exported, tmp_path: Path, monkeypatch):
    model, file, _ = exported
    with pytest.raises(ModelError, match="exists"):
        export_onnx(model, file)
    with pytest.raises(ModelError, match="positions for 29"):
        export_onnx(model, tmp_path / "x.onnx", max_new_tokens=30)
    with pytest.raises(ModelError, match="names none"):
        export_onnx(model, tmp_path / "x.onnx", pixels=True)
    monkeypatch.setattr(onnx, "_NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(ModelError, match=r"needs no_such_package.*\[onnx\]"):
        export_onnx(model, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pictures_in_and_token_ids_out(tmp_path: Path):
    from clipcap.embedding.encoder import get_encoder

    save_captioner(make(256, "builtin:sample"), tmp_path / "m")
    export_onnx(tmp_path / "m", tmp_path / "m.onnx", pixels=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["clipcap.preprocessing"])
    pixels = np.random.default_rng(5).integers(0, 256, (3, told["height"], told["width"], 3), dtype=np.uint8)
    ids, _, _, embedding = session.run(None, {"pixels": pixels})
    expected = get_encoder("builtin:sample", "cpu", "float32").encode(pixels)
    assert np.allclose(embedding, expected, atol=1e-4)
    captioner = load_captioner(tmp_path / "m")
    captions = generate(captioner, expected, CaptionConfig(beam_size=1, max_new_tokens=LONGEST))
    for row, caption in zip(ids, captions, strict=True):
        assert tuple(row[: caption.tokens]) == caption.token_ids
