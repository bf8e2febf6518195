"""Published checkpoints in and out: names and shapes written down by hand, outputs against plain float64 sums.

The real files are not at hand; state dicts of their layout at full size stand in for them.
"""

import json
import os
import pickle
import shlex
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig

from clipcap.config import LanguageModelConfig
from clipcap.errors import CheckpointError, ModelError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import load_captioner, read_settings, save_captioner
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper
from clipcap.model.published_export import export_weights
from clipcap.model.published_weights import ImportOptions, import_weights
from clipcap.storage.commit import sha256_of

# ---- the published layout, by hand


def mlp_shapes(clip_dim, prefix_length, hidden=768, units=0):
    units = units or hidden * prefix_length // 2
    return {
        "clip_project.model.0.weight": (units, clip_dim),
        "clip_project.model.0.bias": (units,),
        "clip_project.model.2.weight": (hidden * prefix_length, units),
        "clip_project.model.2.bias": (hidden * prefix_length,),
    }


def transformer_shapes(clip_dim, prefix_length, clip_length, hidden=768, layers=8):
    shapes = {
        "clip_project.prefix_const": (prefix_length, hidden),
        "clip_project.linear.weight": (clip_length * hidden, clip_dim),
        "clip_project.linear.bias": (clip_length * hidden,),
    }
    for n in range(layers):
        layer = f"clip_project.transformer.layers.{n}."
        shapes |= {f"{layer}{norm}.{kind}": (hidden,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        shapes |= {
            f"{layer}attn.to_queries.weight": (hidden, hidden),
            f"{layer}attn.to_keys_values.weight": (2 * hidden, hidden),
            f"{layer}attn.project.weight": (hidden, hidden),
            f"{layer}attn.project.bias": (hidden,),
            f"{layer}mlp.fc1.weight": (2 * hidden, hidden),
            f"{layer}mlp.fc1.bias": (2 * hidden,),
            f"{layer}mlp.fc2.weight": (hidden, 2 * hidden),
            f"{layer}mlp.fc2.bias": (hidden,),
        }
    return shapes


def gpt_shapes(hidden=768, layers=12, positions=1024, vocabulary=50257):
    shapes = {"gpt.transformer.wte.weight": (vocabulary, hidden), "gpt.transformer.wpe.weight": (positions, hidden)}
    for n in range(layers):
        layer = f"gpt.transformer.h.{n}."
        shapes |= {f"{layer}{norm}.{kind}": (hidden,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        for name, (inside, outside) in {
            "attn.c_attn": (hidden, 3 * hidden), "attn.c_proj": (hidden, hidden),
            "mlp.c_fc": (hidden, 4 * hidden), "mlp.c_proj": (4 * hidden, hidden),
        }.items():  # fmt: skip
            shapes |= {f"{layer}{name}.weight": (inside, outside), f"{layer}{name}.bias": (outside,)}
    return shapes | {"gpt.transformer.ln_f.weight": (hidden,), "gpt.transformer.ln_f.bias": (hidden,)}


def filled(shapes, seed=0):
    """Random weights, cheap at full size: pieces of one bank of numbers. Norms lie around 1; the head is tied."""
    bank = torch.empty(3_000_017).uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(seed))
    weights = OrderedDict()
    for number, (name, shape) in enumerate(shapes.items()):
        size, start = int(np.prod(shape)), number * 7919 % 1_000_000
        flat = bank[start : start + size] if start + size <= len(bank) else bank.repeat(size // len(bank) + 1)[:size]
        is_scale = name.endswith(".weight") and len(shape) == 1
        weights[name] = (flat + 1.0 if is_scale else flat.clone()).reshape(shape)
    if "gpt.transformer.wte.weight" in weights:
        weights["gpt.lm_head.weight"] = weights["gpt.transformer.wte.weight"]
    return weights


def saved(path, weights, **options):
    torch.save(weights, path, **options)
    return path


SMALL = {"hidden": 24, "layers": 2, "positions": 32, "vocabulary": 270}
ENCODED = ImportOptions(encoder="ViT-B-32-quickgelu/openai", gpt_heads=4, heads=4, hidden_size=24)
"""Small files: their sizes tell no encoder and no heads."""


def small(mapper="mlp", gpt=True):
    shapes = mlp_shapes(6, 4, 24) if mapper == "mlp" else transformer_shapes(6, 3, 5, 24, layers=2)
    return filled({**(gpt_shapes(**SMALL) if gpt else {}), **shapes}, seed=1)


# ---- plain computations, float64, written from the description


def plain_mlp(w, x, prefix_length):
    hidden = np.tanh(np.einsum("uc,bc->bu", w["model.0.weight"], x) + w["model.0.bias"])
    flat = np.einsum("ru,bu->br", w["model.2.weight"], hidden) + w["model.2.bias"]
    return flat.reshape(len(x), prefix_length, -1)


def plain_norm(x, weight, bias):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def plain_transformer(w, embedding, clip_length, heads, layers):
    """One embedding (clip_dim,) to (prefix_length, hidden), head by head."""
    size = w["prefix_const"].shape[1]
    width = size // heads
    x = np.concatenate([(w["linear.weight"] @ embedding + w["linear.bias"]).reshape(clip_length, size),
                        w["prefix_const"]])  # fmt: skip
    for n in range(layers):
        part = {k.removeprefix(f"transformer.layers.{n}."): v for k, v in w.items() if f".layers.{n}." in k}
        normed = plain_norm(x, part["norm1.weight"], part["norm1.bias"])
        queries = normed @ part["attn.to_queries.weight"].T
        both = (normed @ part["attn.to_keys_values.weight"].T).reshape(len(x), 2, heads, width)
        mixed = np.empty_like(x)
        for head in range(heads):
            scores = queries[:, head * width : (head + 1) * width] @ both[:, 0, head].T / np.sqrt(width)
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            mixed[:, head * width : (head + 1) * width] = share @ both[:, 1, head]
        x = x + mixed @ part["attn.project.weight"].T + part["attn.project.bias"]
        normed = plain_norm(x, part["norm2.weight"], part["norm2.bias"])
        inner = np.maximum(normed @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"], 0)
        x = x + inner @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
    return x[clip_length:]


def mapper_arrays(weights):
    return {k.removeprefix("clip_project."): v.double().numpy() for k, v in weights.items() if k.startswith("clip_")}


def embeddings(count, clip_dim):
    return torch.randn(count, clip_dim, generator=torch.Generator().manual_seed(5))


# ---- full size

FULL = {
    "mlp and gpt-2": (
        {**gpt_shapes(), **mlp_shapes(512, 10)}, 155.9,
        {"mapper": "mlp", "clip_dim": 512, "prefix_length": 10, "mapper_hidden": 0, "tuned": True, "normalize": False,
         "encoder": "ViT-B-32-quickgelu/openai", "language_model": "lm", "tokenizer": "gpt2"},
    ),
    "mlp alone": (
        mlp_shapes(512, 10), 31.5,
        {"mapper": "mlp", "clip_dim": 512, "prefix_length": 10, "mapper_hidden": 0, "tuned": False, "normalize": False,
         "encoder": "ViT-B-32-quickgelu/openai", "language_model": "gpt2", "tokenizer": ""},
    ),
    "transformer 40/40": (
        transformer_shapes(640, 40, 40), 57.5,
        {"mapper": "transformer", "clip_dim": 640, "prefix_length": 40, "clip_length": 40, "mapper_layers": 8,
         "mapper_heads": 8, "tuned": False, "normalize": True, "encoder": "RN50x4-quickgelu/openai",
         "language_model": "gpt2"},
    ),
    "transformer 10/10": (
        transformer_shapes(512, 10, 10), 41.7,
        {"mapper": "transformer", "clip_dim": 512, "prefix_length": 10, "clip_length": 10, "mapper_layers": 8,
         "tuned": False, "normalize": True, "encoder": "ViT-B-32-quickgelu/openai"},
    ),
}  # fmt: skip
"""Shapes, parameters in millions, and what the settings must say without any option."""


@pytest.mark.parametrize("name", FULL)
def test_full_size_in_and_out_is_exact_to_the_bit(tmp_path, name):
    shapes, millions, expected = FULL[name]
    weights = filled(shapes)
    imported = import_weights(saved(tmp_path / "a.pt", weights), tmp_path / "one")
    settings = read_settings(tmp_path / "one")
    assert settings == imported.settings
    assert {key: getattr(settings, key) for key in expected} == expected
    assert (settings.hidden_size, settings.eos_id, settings.keep_eos) == (768, 13, True)
    assert settings.decoding.method == "published"

    facts = export_weights(tmp_path / "one", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True, mmap=True)
    assert isinstance(back, OrderedDict) and back.keys() == weights.keys()
    for key, tensor in weights.items():
        assert back[key].dtype == torch.float32 and torch.equal(back[key], tensor), key
    counted = sum(int(np.prod(shape)) for shape in shapes.values())
    assert facts["parameters"] == counted and round(counted / 1e6, 1) == millions
    assert counted * 4 < facts["size_bytes"] < counted * 4 + 200_000  # the tied head is there once
    del back

    import_weights(tmp_path / "b.pt", tmp_path / "again" / "one")
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.*") if file.suffix != ".md"]
    assert len(files) == (4 if settings.tuned else 2)
    for file in files:
        assert sha256_of(tmp_path / "one" / file) == sha256_of(tmp_path / "again" / "one" / file), file

    check_outputs(tmp_path / "one", settings, weights)


def check_outputs(folder, settings, weights):
    """The imported mapper against the plain sums, with what would be another result if heads were read wrong."""
    mapper = build_mapper(settings, settings.clip_dim, settings.hidden_size)
    mapper.load_state_dict(load_file(folder / "mapping.safetensors"))
    arrays, asked = mapper_arrays(weights), embeddings(2, settings.clip_dim)
    with torch.inference_mode():
        ours = mapper(asked).numpy()
    if settings.mapper == "mlp":
        expected = plain_mlp(arrays, asked.numpy(), settings.prefix_length)
    else:
        sizes = {"clip_length": settings.clip_length, "layers": settings.mapper_layers}
        expected = np.stack([plain_transformer(arrays, one, heads=8, **sizes) for one in asked.double().numpy()])
        if settings.prefix_length == 10:
            other = plain_transformer(arrays, asked[0].double().numpy(), heads=4, **sizes)
            assert np.abs(ours[0] - other).max() > 0.01
    assert ours.shape == (2, settings.prefix_length, 768)
    np.testing.assert_allclose(ours, expected, atol=2e-4)


# ---- what the model computes


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder with a tokenizer, and one with a small GPT-2 and that tokenizer."""
    torch.manual_seed(0)
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=24, vocab_size=260)
    model, tokenizer = new_language_model(sizes, ["a small dog."], positions=32)
    folder = tmp_path_factory.mktemp("words")
    tokenizer.save_pretrained(folder / "tokenizer")
    model.save_pretrained(folder / "gpt")
    tokenizer.save_pretrained(folder / "gpt")
    return folder


def options(words, **more):
    return ImportOptions(**{**vars(ENCODED), "tokenizer": str(words / "tokenizer"), **more})


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
@pytest.mark.parametrize("normalize", [False, True])
def test_logits_equal_plain_prefix_and_transformers_gpt2(tmp_path, words, mapper, normalize):
    """Embedding to logits: plain float64 sums for the mapper, then GPT2LMHeadModel given the file's own gpt.* keys."""
    weights = small(mapper)
    import_weights(saved(tmp_path / "a.pt", weights), tmp_path / "m", options(words, normalize=normalize))
    captioner = load_captioner(tmp_path / "m")
    tokens, asked = torch.tensor([[7, 3, 250, 9], [1, 2, 3, 4]]), 3 * embeddings(2, 6)

    x = asked.double().numpy()
    x = x / np.sqrt((x**2).sum(axis=1, keepdims=True)) if normalize else x
    arrays = mapper_arrays(weights)
    prefix = plain_mlp(arrays, x, 4) if mapper == "mlp" else np.stack(
        [plain_transformer(arrays, one, clip_length=5, heads=4, layers=2) for one in x])  # fmt: skip
    config = GPT2Config(vocab_size=270, n_positions=32, n_embd=24, n_layer=2, n_head=4)
    theirs = GPT2LMHeadModel(config).double().eval()
    theirs.load_state_dict({k.removeprefix("gpt."): v.double() for k, v in weights.items() if k.startswith("gpt.")})
    with torch.inference_mode():
        inputs = torch.cat([torch.from_numpy(prefix), theirs.transformer.wte(tokens)], dim=1)
        expected = theirs(inputs_embeds=inputs).logits
        mine = captioner.prefix(asked)
        inputs = torch.cat([mine, captioner.language_model.transformer.wte(tokens)], dim=1)
        got = captioner.language_model(inputs_embeds=inputs).logits
    assert mine.shape == prefix.shape
    np.testing.assert_allclose(mine, prefix, atol=1e-5)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected.std() > 0.01  # there is something to agree on
    length = prefix.shape[1]
    loss = torch.nn.functional.cross_entropy(expected[:, length - 1 : -1].flatten(0, 1), tokens.flatten())
    assert captioner.loss(asked, tokens).item() == pytest.approx(loss.item(), abs=1e-5)


def test_a_mapper_alone_loads_with_the_language_model_that_it_names(tmp_path, words):
    file = saved(tmp_path / "a.pt", small(gpt=False))
    import_weights(file, tmp_path / "m", options(words, language_model=str(words / "gpt"), tokenizer=""))
    captioner = load_captioner(tmp_path / "m")
    assert captioner.settings.tuned is False and not (tmp_path / "m" / "lm").exists()
    assert not any(weight.requires_grad for weight in captioner.language_model.parameters())
    expected = plain_mlp(mapper_arrays(small(gpt=False)), embeddings(3, 6).numpy(), 4)
    np.testing.assert_allclose(captioner.prefix(embeddings(3, 6)).detach(), expected, atol=1e-5)


def test_the_tokenizer_is_the_named_one_until_lm_has_its_own(tmp_path, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = saved(tmp_path / "a.pt", small())
    import_weights(file, tmp_path / "m", options(words))
    captioner = load_captioner(tmp_path / "m")
    assert captioner.tokenizer.decode(captioner.tokenizer("a small dog")["input_ids"]).strip() == "a small dog"
    save_captioner(captioner, tmp_path / "own")  # as training on would do
    settings = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**settings, "tokenizer": "no-such-org/none"}))
    assert load_captioner(tmp_path / "own").tokenizer.get_vocab() == captioner.tokenizer.get_vocab()

    import_weights(file, tmp_path / "lost", options(words, tokenizer="no-such-org/none"))
    with pytest.raises(ModelError, match=r"tokenizer 'no-such-org/none' not found"):
        load_captioner(tmp_path / "lost")


# ---- variants of one file


def older_buffers(weights):
    """As transformers stored them until version 4.30: the causal mask as bytes, and a scalar."""
    masks = {}
    for n in range(2):
        masks[f"gpt.transformer.h.{n}.attn.bias"] = torch.ones(1, 1, 32, 32).tril().to(torch.uint8)
        masks[f"gpt.transformer.h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    return {**weights, **masks}


VARIANTS = {
    "older attention buffers": older_buffers,
    "DataParallel": lambda weights: {f"module.{name}": tensor for name, tensor in older_buffers(weights).items()},
    "no tied head": lambda weights: {name: t for name, t in weights.items() if name != "gpt.lm_head.weight"},
    "another order": lambda weights: dict(reversed(weights.items())),
    "float16": lambda weights: {name: tensor.half() for name, tensor in weights.items()},
    "bfloat16": lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()},
    "parameters": lambda weights: {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()},
    "columns first": lambda weights: {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in weights.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_variants_of_a_file_give_the_same_model(tmp_path, name, mapper):
    weights = VARIANTS[name](small(mapper))
    import_weights(saved(tmp_path / "a.pt", weights), tmp_path / "m", ENCODED)
    export_weights(tmp_path / "m", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(back) == list(expected_order(mapper))
    for key, tensor in back.items():
        given = weights.get(key, weights.get(f"module.{key}", weights.get("gpt.transformer.wte.weight")))
        assert tensor.dtype == torch.float32 and torch.equal(tensor, given.float()), key
    assert back["gpt.lm_head.weight"].data_ptr() == back["gpt.transformer.wte.weight"].data_ptr()


def expected_order(mapper):
    """The published model's own order of keys: GPT-2 with its head, then the mapper as its modules are declared."""
    weights = small(mapper)
    language_model = [name for name in weights if name.startswith("gpt.") and name != "gpt.lm_head.weight"]
    rest = [name for name in weights if name.startswith("clip_project.")]
    if mapper == "transformer":
        layers = [f"clip_project.transformer.layers.{n}.{part}" for n in range(2) for part in (
            "norm1.weight", "norm1.bias", "attn.to_queries.weight", "attn.to_keys_values.weight", "attn.project.weight",
            "attn.project.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight",
            "mlp.fc2.bias")]  # fmt: skip
        rest = ["clip_project.prefix_const", "clip_project.linear.weight", "clip_project.linear.bias", *layers]
    blocks = [f"gpt.transformer.h.{n}.{part}.{kind}" for n in range(2) for part in (
        "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")
    ]  # fmt: skip
    return [*language_model[:2], *blocks, *language_model[-2:], "gpt.lm_head.weight", *rest]


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
@pytest.mark.parametrize("old_format", [False, True])
def test_names_without_clip_project_and_files_of_the_old_format(tmp_path, mapper, old_format):
    weights = small(mapper, gpt=False)
    bare = {name.removeprefix("clip_project."): tensor for name, tensor in weights.items()}
    file = saved(tmp_path / "a.pt", bare, _use_new_zipfile_serialization=not old_format)
    import_weights(file, tmp_path / "m", ENCODED)
    export_weights(tmp_path / "m", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


# ---- what is read and what is assumed


def imported(tmp_path, shapes, **given):
    weights = filled(shapes)
    return import_weights(saved(tmp_path / "a.pt", weights), tmp_path / "m", ImportOptions(**given))


def test_sizes_are_read_off_the_tensors(tmp_path):
    gpt = gpt_shapes(hidden=128, layers=3, positions=50, vocabulary=300)
    found = imported(tmp_path, {**gpt, **mlp_shapes(768, 6, 128, units=17)}, hidden_size=5, heads=3)
    settings = found.settings
    assert (settings.clip_dim, settings.hidden_size, settings.prefix_length) == (768, 128, 6)
    assert (settings.mapper_hidden, settings.encoder) == (17, "ViT-L-14-quickgelu/openai")
    stored = GPT2Config.from_pretrained(tmp_path / "m" / "lm")
    assert (stored.n_embd, stored.n_layer, stored.n_positions, stored.vocab_size, stored.n_head) == (128, 3, 50, 300, 2)
    assert found.read["language_model_layers"] == 3 and found.assumed["gpt_heads"] == 2
    assert "hidden_size" in found.read and "heads" not in found.assumed


def test_options_and_what_is_assumed_are_told_and_stored(tmp_path):
    found = imported(
        tmp_path, mlp_shapes(512, 5, 32), hidden_size=32, normalize=True, encoder="RN101-quickgelu/openai",
        language_model="org/other", tokenizer="org/words", eos_id=30,
    )  # fmt: skip
    assert found.assumed == {
        "encoder": "RN101-quickgelu/openai", "normalize": True, "hidden_size": 32, "language_model": "org/other",
        "tokenizer": "org/words", "eos_id": 30,
    }  # fmt: skip
    assert {name: getattr(found.settings, name) for name in found.assumed} == found.assumed
    assert found.settings.prefix_length == 5 and found.read["prefix_length"] == 5
    assert found.settings.mapper_hidden == 0 and found.read["mapper_hidden"] == 80
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert found.sha256 == sha256_of(tmp_path / "a.pt") and found.sha256 in card
    assert "a.pt" in card and "RN101-quickgelu/openai" in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("clip_dim", "mapper", "encoder", "normalize"),
    [
        (512, "mlp", "ViT-B-32-quickgelu/openai", False),
        (640, "mlp", "RN50x4-quickgelu/openai", False),
        (512, "transformer", "ViT-B-32-quickgelu/openai", True),
        (640, "transformer", "RN50x4-quickgelu/openai", True),
        (1024, "transformer", "RN50-quickgelu/openai", True),
    ],
)
def test_encoder_and_normalisation_that_are_assumed(tmp_path, clip_dim, mapper, encoder, normalize):
    shapes = mlp_shapes(clip_dim, 2, 16) if mapper == "mlp" else transformer_shapes(clip_dim, 2, 3, 16, layers=1)
    found = imported(tmp_path, shapes, hidden_size=16)
    assert (found.settings.encoder, found.settings.normalize) == (encoder, normalize)
    assert found.assumed["encoder"] == encoder and found.assumed["normalize"] is normalize


# ---- what does not fit


def without(*names):
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def having(**extra):
    return lambda weights: {**weights, **{name.replace("__", "."): value for name, value in extra.items()}}


MISFITS = {
    "no mapper": (lambda w: {n: t for n, t in w.items() if n.startswith("gpt.")},
                  "no mapping network.*clip_project.model.0.weight.*among 29 keys"),
    "one layer missing": (without("clip_project.model.2.bias"),
                          r"1 difference\): clip_project.model.2.bias is missing"),
    "wrong shape": (having(clip_project__model__0__bias=torch.zeros(47)),
                    r"clip_project.model.0.bias has shape \(47,\), expected \(48,\)"),
    "a vector for a matrix": (having(clip_project__model__2__weight=torch.zeros(96)),
                              r"clip_project.model.2.weight has shape \(96,\), expected a matrix"),
    "an empty matrix": (having(clip_project__model__2__weight=torch.zeros(0, 48)), r"shape \(0, 48\), expected a"),
    "unknown key": (having(optimizer__state=torch.zeros(2)), "optimizer.state is unknown"),
    "many unknown keys": (lambda w: {**w, **{f"x.{n}": torch.zeros(1) for n in range(9)}}, r"\(9 differences\)"),
    "rows that do not divide": (having(clip_project__model__2__weight=torch.zeros(97, 48)),
                                "97 rows, which is no multiple of the hidden size 24"),
    "a gap in the layers": (lambda w: {n.replace("h.1.", "h.7."): t for n, t in w.items()},
                            "24 differences.*h.1.attn.c_attn.bias is missing"),
    "no word embeddings": (without("gpt.transformer.wte.weight"), "gpt.transformer.wte.weight is missing among"),
    "another head": (having(gpt__lm_head__weight=torch.zeros(270, 24)),
                     "gpt.lm_head.weight differs from gpt.transformer.wte.weight"),
    "integers": (having(clip_project__model__0__bias=torch.zeros(48, dtype=torch.int64)),
                 "not named float tensors: clip_project.model.0.bias is a tensor of int64"),
    "a training state": (lambda w: {"model": dict(w), "epoch": 3}, "model is a dict; epoch is a int"),
    "no dictionary": (lambda w: list(w.values()), "holds a list, expected the tensors"),
    "an empty dictionary": (lambda w: {}, "holds nothing, expected the tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, name):
    change, message = MISFITS[name]
    file = saved(tmp_path / "a.pt", change(small()))
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights(file, tmp_path / "m", ENCODED)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).count(";") <= 5
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_size": 7}, "96 rows, which is no multiple of the hidden size 7 .*--hidden-size"),
        ({"encoder": ""}, "embeddings of size 6, which none of OpenAI's encoders .*--encoder"),
        ({"encoder": "ViT-B-32/openai"}, "QuickGELU"),
        ({"gpt": True, "gpt_heads": 5}, "hidden size 24 cannot have 5 heads.*--gpt-heads"),
        ({"gpt": True, "eos_id": 270}, "token 270 cannot end a caption, the vocabulary has 270 tokens.*--eos-id"),
        ({"mapper": "transformer", "heads": 5}, "size 24 cannot have 5 heads.*--heads"),
    ],
)
def test_options_that_do_not_fit_name_the_option(tmp_path, given, message):
    which = {"mapper": given.pop("mapper", "mlp"), "gpt": given.pop("gpt", False)}
    file = saved(tmp_path / "a.pt", small(**which))
    with pytest.raises(ModelError, match=message):
        import_weights(file, tmp_path / "m", ImportOptions(**{**vars(ENCODED), **given}))
    assert os.listdir(tmp_path) == ["a.pt"]


# ---- files that are not whole, or hold code


class Malice:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", ["zip", "old format", "pickle 2", "pickle 5"])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, kind):
    file, trace = tmp_path / "a.pt", tmp_path / "ran"
    evil = {**small(gpt=False), "clip_project.model.0.bias": Malice(trace)}
    if kind.startswith("pickle"):
        file.write_bytes(pickle.dumps({"a": Malice(trace)}, protocol=int(kind[-1])))
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=r"[nN]othing in it was run") as caught:
        import_weights(file, tmp_path / "m", ENCODED)
    assert not trace.exists() and not (tmp_path / "m").exists()
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)  # torch's advice to switch it off
    if kind != "pickle 5":
        assert "mkdir" in str(caught.value)
    if kind.startswith("pickle"):
        pickle.loads(file.read_bytes())
        assert trace.exists()  # it would have


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(build_mapper(CaptionerSettings(clip_dim=6, hidden_size=4, prefix_length=2, eos_id=0), 6, 4),
               tmp_path / "a.pt")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"more than tensors \(clipcap.model.mapping.MlpMapper\).*state_dict"):
        import_weights(tmp_path / "a.pt", tmp_path / "m")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 5, 200, 0.5, 0.999])
def test_files_cut_short(tmp_path, keep, old_format):
    file = saved(tmp_path / "a.pt", small(gpt=False), _use_new_zipfile_serialization=not old_format)
    whole = file.read_bytes()
    file.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match="empty" if keep == 0 else "no whole checkpoint|no checkpoint of tensors"):
        import_weights(file, tmp_path / "m", ENCODED)


@pytest.mark.parametrize("data", [b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(300), b"PK\x05\x06" + bytes(18)])
def test_files_of_another_kind(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pt .*(no whole checkpoint|no checkpoint of tensors)"):
        import_weights(tmp_path / "a.pt", tmp_path / "m")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        import_weights(tmp_path / "none.pt", tmp_path / "m")
    with pytest.raises(CheckpointError, match="is a folder, expected"):
        import_weights(tmp_path, tmp_path / "m" / "n")


def test_nothing_is_overwritten(tmp_path):
    file = saved(tmp_path / "a.pt", small(gpt=False))
    (tmp_path / "m").mkdir()
    import_weights(file, tmp_path / "m", ENCODED)  # an empty folder is fine
    before = {path.name: sha256_of(path) for path in (tmp_path / "m").iterdir()}
    with pytest.raises(CheckpointError, match="not an empty folder"):
        import_weights(file, tmp_path / "m", ENCODED)
    with pytest.raises(CheckpointError, match="not an empty folder"):
        import_weights(file, file, ENCODED)
    assert before == {path.name: sha256_of(path) for path in (tmp_path / "m").iterdir()}
    with pytest.raises(CheckpointError, match="exists: name a new file"):
        export_weights(tmp_path / "m", file)
    assert torch.load(file, weights_only=True).keys() == small(gpt=False).keys()


# ---- out


def test_a_model_trained_here_goes_out_and_comes_back(tmp_path):
    """A GPT-2 from scratch with a tokenizer of its own; the options that are printed give the same model back."""
    torch.manual_seed(3)
    sizes = LanguageModelConfig(layers=2, heads=2, hidden_size=16, vocab_size=260)
    model, tokenizer = new_language_model(sizes, ["a small dog."], positions=32)
    settings = CaptionerSettings(
        mapper="transformer", clip_dim=6, hidden_size=16, prefix_length=3, clip_length=2, mapper_layers=2,
        mapper_heads=4, normalize=False, encoder="hf-hub:some/encoder", eos_id=tokenizer.eos_token_id,
    )  # fmt: skip
    ours = Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings).eval()
    save_captioner(ours, tmp_path / "ours")
    facts = export_weights(tmp_path / "ours", tmp_path / "b.pt")
    assert facts["has_language_model"] and facts["parameters"] == sum(p.numel() for p in ours.parameters())

    command = shlex.split(facts["import_command"])
    assert command[:5] == ["clipcap", "import-weights", str(tmp_path / "b.pt"), "--out", "DIR"]
    assert command[-1] == "--no-normalize"
    given = dict(zip(command[5:-1:2], command[6:-1:2], strict=True))
    back = ImportOptions(
        encoder=given["--encoder"], heads=int(given["--heads"]), gpt_heads=int(given["--gpt-heads"]),
        eos_id=int(given["--eos-id"]), tokenizer=given["--tokenizer"], normalize=False,
    )  # fmt: skip
    import_weights(tmp_path / "b.pt", tmp_path / "back", back)
    theirs = load_captioner(tmp_path / "back")
    assert theirs.tokenizer.get_vocab() == tokenizer.get_vocab()
    tokens = torch.tensor([[5, 9, 0, 77]])
    assert theirs.loss(embeddings(1, 6), tokens).item() == pytest.approx(
        ours.loss(embeddings(1, 6), tokens).item(), abs=1e-6
    )
    for name in ("normalize", "mapper_heads", "eos_id", "encoder", "clip_length", "prefix_length"):
        assert getattr(theirs.settings, name) == getattr(settings, name), name


def changed(folder, file="config.json", **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def other_language_model(folder):
    OPTConfig(hidden_size=24, num_hidden_layers=1).save_pretrained(folder / "lm")


def damaged(folder):
    file = folder / "lm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


REFUSED = {
    "LoRA": (lambda f: changed(f, lora=True), "no place for its LoRA adapters"),
    "patch tokens": (lambda f: changed(f, features="tokens", clip_tokens=49), "no place for its features = 'tokens'"),
    "an OPT": (other_language_model, "model is of the kind 'opt', the published layout holds a GPT-2 only"),
    "a GPT-2 of another kind": (lambda f: changed(f, "lm/config.json", activation_function="relu"),
                                r"differently \(activation_function = relu\)"),
    "an untied GPT-2": (lambda f: changed(f, "lm/config.json", tie_word_embeddings=False),
                        r"differently \(tie_word_embeddings = False\)"),
    "another size": (lambda f: changed(f, "lm/config.json", n_positions=9), r"wpe.weight has shape \(32, 24\), exp"),
    "no weights": (lambda f: (f / "lm" / "model.safetensors").unlink(), "29 differences"),
    "damaged weights": (damaged, "model.safetensors is missing or damaged"),
    "no mapping": (lambda f: (f / "mapping.safetensors").unlink(), "mapping.safetensors is missing or damaged"),
    "no settings": (lambda f: (f / "config.json").unlink(), "is no model folder"),
    "no language model": (lambda f: (f / "lm" / "config.json").unlink(), "lm/ holds no language model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold_is_refused(tmp_path, name):
    change, message = REFUSED[name]
    import_weights(saved(tmp_path / "a.pt", small()), tmp_path / "m", ENCODED)
    change(tmp_path / "m")
    with pytest.raises(CheckpointError, match=message) as caught:
        export_weights(tmp_path / "m", tmp_path / "b.pt")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "m"]
