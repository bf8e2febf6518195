"""A stored captioner out: a checkpoint of the published layout, which the published code loads.

Safetensors are copied under the published names; neither the network nor a tokenizer is needed.
"""

from __future__ import annotations

import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, GPT2Config

from clipcap.errors import CheckpointError
from clipcap.model.captioner import CaptionerSettings
from clipcap.model.checkpoint import LANGUAGE_MODEL, MAPPING, read_settings
from clipcap.model.published_layout import GPT, HEAD, MAPPER, WORDS, check_layout, expected_layout
from clipcap.storage.commit import writing


def export_weights(folder: Path, out: Path) -> dict[str, Any]:
    """Writes a stored captioner as a checkpoint of the published layout, float32, that the published code loads.

    Args:
        folder: of the model; a language model that it only refers to is not part of the checkpoint.
        out: the new ``.pt``; it must not exist yet.

    Returns:
        file, size_bytes, tensors (how many), parameters (tied ones once), has_language_model, and import_command,
        which gives the same model back.

    Raises:
        CheckpointError: the layout cannot hold this model, the folder is damaged, or ``out`` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: name a new file, nothing was written")
    settings = read_settings(folder)
    if settings.lora or settings.features != "embedding":
        what = "LoRA adapters" if settings.lora else f"features = {settings.features!r}"
        raise CheckpointError(f"{folder} cannot be exported: the published layout has no place for its {what}")
    has_gpt2 = settings.language_model == LANGUAGE_MODEL
    gpt2 = _stored_gpt2(folder) if has_gpt2 else None
    weights = {MAPPER + name: tensor for name, tensor in _stored(folder / MAPPING).items()}
    if has_gpt2:
        for file in sorted((folder / LANGUAGE_MODEL).glob("*.safetensors")):
            weights |= {GPT + name: tensor for name, tensor in _stored(file).items()}
        if WORDS in weights:
            weights.setdefault(HEAD, weights[WORDS])
    try:
        check_layout(weights, settings, gpt2)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} cannot be exported: {error}") from None
    ordered = OrderedDict((name, weights[name]) for name in expected_layout(settings, gpt2))
    with writing(out) as aside:
        torch.save(ordered, aside)
    return {
        "file": str(out),
        "size_bytes": out.stat().st_size,
        "tensors": len(ordered),
        "parameters": sum(tensor.numel() for name, tensor in ordered.items() if name != HEAD),
        "has_language_model": has_gpt2,
        "import_command": _import_command(folder, settings, gpt2, str(out)),
    }


def _stored(file: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error}): copy the whole model folder") from None


def _stored_gpt2(folder: Path) -> GPT2Config:
    """The configuration of lm/, of a GPT-2 that is computed as the published code computes it."""
    try:
        config = AutoConfig.from_pretrained(folder / LANGUAGE_MODEL, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {LANGUAGE_MODEL}/ holds no language model ({error})") from None
    if not isinstance(config, GPT2Config):
        raise CheckpointError(
            f"{folder} cannot be exported: its language model is of the kind {config.model_type!r}, "
            f"the published layout holds a GPT-2 only"
        )
    usual = GPT2Config()
    names = ["layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"]
    other = [name for name in names if getattr(config, name) != getattr(usual, name)]
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):  # two names of one function
        other.append("activation_function")
    if other:
        raise CheckpointError(
            f"{folder} cannot be exported: the published code would compute its GPT-2 differently "
            f"({', '.join(f'{name} = {getattr(config, name)}' for name in other)})"
        )
    return config


def _import_command(folder: Path, settings: CaptionerSettings, gpt2: GPT2Config | None, name: str) -> str:
    """What gives the exported model back; options that the layout does not hold are all named."""
    options: dict[str, Any] = {"--encoder": settings.encoder, "--eos-id": settings.eos_id}
    if settings.mapper == "transformer":
        options["--heads"] = settings.mapper_heads
    elif not gpt2:
        options["--hidden-size"] = settings.hidden_size
    if gpt2:
        options["--gpt-heads"] = gpt2.n_head
    else:
        options["--language-model"] = settings.language_model
    options["--tokenizer"] = settings.tokenizer or (folder / LANGUAGE_MODEL if gpt2 else "")
    words = [word for option, value in options.items() if value != "" for word in (option, str(value))]
    words.append("--normalize" if settings.normalize else "--no-normalize")
    return shlex.join(["clipcap", "import-weights", name, "--out", "DIR", *words])
