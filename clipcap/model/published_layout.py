"""What stands in a checkpoint of the published code (rmokady/CLIP_prefix_caption), and what can be read off it.

A whole model holds ``gpt.*`` (transformers' names of a GPT-2) and ``clip_project.*`` (the mapping network); a mapper
alone holds only the latter, perhaps without that prefix. Nothing in such a file is ever run: torch reads it with
``weights_only=True``.

Legend: C clip_dim, P prefix_length, L clip_length, D hidden size, U hidden units of the MLP, V vocabulary, N positions.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.errors import CheckpointError
from clipcap.model.captioner import CaptionerSettings
from clipcap.model.checkpoint import check_fits
from clipcap.model.mapping import build_mapper

MAPPER = "clip_project."
GPT = "gpt."
HEAD, WORDS = "gpt.lm_head.weight", "gpt.transformer.wte.weight"
"""One tensor under two names: GPT-2's vocabulary head is tied to its word embeddings."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Causal masks, which older versions of transformers stored.
_BUFFERS = re.compile(r"(module\.)?gpt\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_HEAD_SIZE = 64  # of every GPT-2 that OpenAI published


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Reads a checkpoint as float32 tensors under the published names.

    Attention buffers are dropped, the ``module.`` of DataParallel and half precision are undone, a missing
    ``clip_project.`` or tied vocabulary head is put in.

    Raises:
        CheckpointError: no such file, not whole, not a state dict of float tensors, or code in it; the latter is
            never run.
    """
    loaded = _load(file)
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{file} holds {_kind(loaded)}, expected the tensors of model.state_dict() by name")
    loaded = {name: value for name, value in loaded.items() if not _BUFFERS.fullmatch(str(name))}
    wrong = [f"{name} is {_kind(value)}" for name, value in loaded.items() if not _is_weight(name, value)]
    if wrong:
        raise CheckpointError(
            f"{file} is no plain state dict: {len(wrong)} of {len(loaded)} entries are not named float tensors: "
            f"{'; '.join(wrong[:5])}; save model.state_dict() alone"
        )
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    if {"model.0.weight", "prefix_const"} & loaded.keys() and not any(n.startswith((GPT, MAPPER)) for n in loaded):
        loaded = {MAPPER + name: tensor for name, tensor in loaded.items()}
    weights = {name: tensor.detach().float().contiguous() for name, tensor in loaded.items()}
    if WORDS in weights:
        weights.setdefault(HEAD, weights[WORDS])
    return weights


def _load(file: Path) -> Any:
    try:
        # Mapped, not read, where the format allows it: half a gigabyte stays out of memory until it is copied on.
        with warnings.catch_warnings(action="ignore"):  # of kinds of pickle that it refuses right after
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {file}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{file} is a folder, expected a checkpoint file of the published code (.pt)") from None
    except pickle.UnpicklingError as error:
        # torch names what it met ("GLOBAL os.system"), in a text that also advises to switch the protection off.
        met = re.search(r"GLOBAL ([\w.]+)", str(error))
        if met:
            raise CheckpointError(
                f"{file} is refused: it holds more than tensors ({met[1]}), which may run code when it is loaded. "
                f"Nothing in it was run; ask its maker for model.state_dict() alone"
            ) from None
        raise CheckpointError(f"{file} is no checkpoint of tensors; nothing in it was run") from None
    except Exception as error:  # torch answers damaged files with EOFError, OSError, KeyError, RuntimeError and others
        size = file.stat().st_size
        raise CheckpointError(
            f"{file} ({size:,} bytes) is no whole checkpoint ({type(error).__name__}): "
            f"{'download it again' if size else 'it is empty'}"
        ) from None


def _is_weight(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.dtype in _FLOATS and value.layout is torch.strided


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value in ({}, [], None) else f"a {type(value).__name__}"


def mapper_sizes(weights: dict[str, Tensor], hidden_size: int) -> dict[str, Any]:
    """The mapper's sizes, as fields of ``CaptionerSettings``.

    Args:
        weights: as :func:`read_tensors` gives them.
        hidden_size: D of an MLP mapper that stands alone: P * D rows do not tell P from D.

    Raises:
        CheckpointError: no mapping network is there, or its shapes contradict each other.
    """
    words = _matrix(weights, WORDS)[1] if WORDS in weights else 0
    if f"{MAPPER}prefix_const" in weights:
        prefix_length, hidden = _matrix(weights, f"{MAPPER}prefix_const")  # (P, D)
        rows, clip_dim = _matrix(weights, f"{MAPPER}linear.weight")  # (L*D, C)
        clip_length = _divided(rows, hidden, f"{MAPPER}linear.weight", f"as {MAPPER}prefix_const has it")
        layers = _layers(weights, rf"{re.escape(MAPPER)}transformer\.layers\.(\d+)\.")
        sizes = {"mapper": "transformer", "clip_length": clip_length, "mapper_layers": layers}
    elif f"{MAPPER}model.0.weight" in weights:
        units, clip_dim = _matrix(weights, f"{MAPPER}model.0.weight")  # (U, C)
        rows, _ = _matrix(weights, f"{MAPPER}model.2.weight")  # (P*D, U)
        hidden = words or hidden_size
        source = "as gpt.transformer.wte.weight has it" if words else "give the language model's with --hidden-size"
        prefix_length = _divided(rows, hidden, f"{MAPPER}model.2.weight", source)
        sizes = {"mapper": "mlp", "mapper_hidden": 0 if units == rows // 2 else units}
    else:
        raise CheckpointError(
            f"there is no mapping network: expected {MAPPER}model.0.weight (MLP) or {MAPPER}prefix_const "
            f"(transformer) among {len(weights)} keys, first {', '.join(sorted(weights)[:5])}"
        )
    if words and words != hidden:
        raise CheckpointError(f"the mapper writes vectors of size {hidden}, {WORDS} has size {words}")
    return {**sizes, "clip_dim": clip_dim, "hidden_size": hidden, "prefix_length": prefix_length}


def gpt2_config(weights: dict[str, Tensor], heads: int = 0) -> GPT2Config | None:
    """The configuration of ``gpt.*``; None where the file holds a mapper alone.

    Args:
        heads: attention heads, which no tensor shows; 0 is one for each 64 of the hidden size, as in every GPT-2.

    Raises:
        CheckpointError: tensors that the sizes are read off are missing, or ``heads`` does not fit.
    """
    if not any(name.startswith(GPT) for name in weights):
        return None
    vocabulary, hidden = _matrix(weights, WORDS)  # (V, D)
    positions, _ = _matrix(weights, f"{GPT}transformer.wpe.weight")  # (N, D)
    _, inner = _matrix(weights, f"{GPT}transformer.h.0.mlp.c_fc.weight")  # (D, 4*D): GPT-2 stores (in, out)
    heads = heads or max(1, hidden // _HEAD_SIZE)
    if hidden % heads:
        raise CheckpointError(
            f"a GPT-2 of hidden size {hidden} cannot have {heads} heads: give its number with --gpt-heads"
        )
    end = 50256 if vocabulary > 50256 else None
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=hidden,
        n_layer=_layers(weights, r"gpt\.transformer\.h\.(\d+)\."),
        n_head=heads,
        n_inner=None if inner == 4 * hidden else inner,
        bos_token_id=end,
        eos_token_id=end,
        architectures=["GPT2LMHeadModel"],
        dtype="float32",
    )


def check_layout(weights: dict[str, Tensor], settings: CaptionerSettings, gpt2: GPT2Config | None) -> None:
    """Raises CheckpointError unless the weights are exactly the published keys and shapes of these sizes."""
    check_fits(weights, expected_layout(settings, gpt2), "keys or shapes are not those of a published ClipCap model")
    if gpt2 and not torch.equal(weights[HEAD], weights[WORDS]):
        raise CheckpointError(
            f"{HEAD} differs from {WORDS}, though GPT-2 has one tensor for both: the file is damaged, or of another "
            f"model; remove {HEAD} if the word embeddings are right"
        )


def expected_layout(settings: CaptionerSettings, gpt2: GPT2Config | None) -> dict[str, Tensor]:
    """Names and (empty) tensors of a published checkpoint, in its order: the language model, then the mapper."""
    with torch.device("meta"):
        mapper = build_mapper(settings, settings.clip_dim, settings.hidden_size)
        language_model = GPT2LMHeadModel(gpt2).state_dict() if gpt2 else {}
    layout = {GPT + name: tensor for name, tensor in language_model.items()}
    return layout | {MAPPER + name: tensor for name, tensor in mapper.state_dict().items()}


def _matrix(weights: dict[str, Tensor], name: str) -> tuple[int, int]:
    if name not in weights:
        raise CheckpointError(f"{name} is missing among {len(weights)} keys, first {', '.join(sorted(weights)[:5])}")
    shape = tuple(weights[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}, expected a matrix")
    return shape


def _layers(weights: dict[str, Tensor], pattern: str) -> int:
    """How many layers there are; counted, so that a gap in their numbers shows as missing and unknown keys."""
    return max(1, len({match[1] for name in weights if (match := re.match(pattern, name))}))


def _divided(rows: int, hidden: int, name: str, source: str) -> int:
    if rows % hidden:
        raise CheckpointError(f"{name} has {rows} rows, which is no multiple of the hidden size {hidden} ({source})")
    return rows // hidden
