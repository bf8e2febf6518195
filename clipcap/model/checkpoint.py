"""A captioner as files: ``config.json``, ``mapping.safetensors`` (float32), and what of the language model learned.

That is ``lm/`` (as save_pretrained writes it) where all of it did, ``lora/`` (as peft writes it) where adapters did.
Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clipcap.errors import CheckpointError, ModelError
from clipcap.model.captioner import VERSION, Captioner, CaptionerSettings
from clipcap.model.language_model import hidden_size_of, quiet
from clipcap.model.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_weights,
    restore_adapters,
    write_adapter_config,
)
from clipcap.model.mapping import build_mapper
from clipcap.model.pretrained import language_model_identity, load_language_model
from clipcap.storage.commit import sha256_of

CONFIG = "config.json"
MAPPING = "mapping.safetensors"
LANGUAGE_MODEL = "lm"
ADAPTERS = "lora"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json")


def save_captioner(captioner: Captioner, folder: Path) -> None:
    """Writes a captioner into a folder (made if missing).

    For a whole-or-nothing result call it inside ``clipcap.storage.commit.writing_folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(captioner.mapper.state_dict(), folder / MAPPING)
    if captioner.settings.language_model == LANGUAGE_MODEL:
        with quiet():
            captioner.language_model.save_pretrained(folder / LANGUAGE_MODEL)
            captioner.tokenizer.save_pretrained(folder / LANGUAGE_MODEL)
    if captioner.settings.lora:
        write_adapter_config(captioner.language_model, folder / ADAPTERS, captioner.settings.language_model)
        _write(adapter_weights(captioner.language_model), folder / ADAPTERS / ADAPTER_WEIGHTS)
    (folder / CONFIG).write_text(captioner.settings.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _write(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    stored = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    save_file(stored, file, metadata={"format": "pt"})


def load_captioner(folder: Path | str, device: str | torch.device = "cpu") -> Captioner:
    """Reads a captioner, ready to caption (eval mode).

    Raises:
        CheckpointError: files are missing or damaged, weights do not fit the settings, or a frozen language model is
            no longer the one that it was; each is named.
        ModelError: the frozen language model that the settings name cannot be found.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings.language_model == LANGUAGE_MODEL:
        if not (folder / LANGUAGE_MODEL).is_dir():
            raise CheckpointError(
                f"{folder}: the language model's folder {LANGUAGE_MODEL}/ is missing; copy the whole folder"
            )
        try:
            has_own = any((folder / LANGUAGE_MODEL / name).is_file() for name in TOKENIZER_FILES)
            language_model, tokenizer = load_language_model(
                str(folder / LANGUAGE_MODEL), safetensors_only=True, tokenizer="" if has_own else settings.tokenizer
            )
        except ModelError as error:
            raise CheckpointError(str(error)) from None
    else:
        language_model, tokenizer = _load_frozen(folder, settings)
    if hidden_size_of(language_model) != settings.hidden_size:
        raise CheckpointError(
            f"{folder}: the mapper writes vectors of size {settings.hidden_size}, language model "
            f"{settings.language_model!r} reads {hidden_size_of(language_model)}: use the one it was trained with"
        )
    if settings.lora:
        restore_adapters(language_model, folder / ADAPTERS / ADAPTER_CONFIG)
        adapters = adapter_weights(language_model)
        for name, tensor in _read(folder / ADAPTERS / ADAPTER_WEIGHTS, adapters).items():
            adapters[name].data.copy_(tensor)
    mapper = build_mapper(settings, settings.clip_dim, settings.hidden_size, settings.clip_tokens)
    mapper.load_state_dict(_read(folder / MAPPING, mapper.state_dict()))
    return Captioner(mapper, language_model, tokenizer, settings).to(device).eval()


def _load_frozen(folder: Path, settings: CaptionerSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model that the settings name, if it is still the one that the mapper learned for."""
    name, known = settings.language_model, settings.language_model_hash
    here = language_model_identity(name)  # empty for one on the hub: there its commit is asked for
    if here and known and here != known:
        raise CheckpointError(
            f"{folder}: the files of language model {name!r} are not those that this model was trained with "
            f"(hash {here[:12]}, then {known[:12]}): put those back, or train again"
        )
    return load_language_model(name, tokenizer=settings.tokenizer, revision="" if here else known)


def read_settings(folder: Path) -> CaptionerSettings:
    """The settings alone, without loading any weights.

    Raises:
        CheckpointError: config.json is missing, damaged, or of a newer format.
    """
    file = folder / CONFIG
    try:
        return parse_settings(file.read_bytes(), file)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no model folder: {CONFIG} is missing; clipcap models list shows what there is"
        ) from None


def parse_settings(text: bytes, file: Path) -> CaptionerSettings:
    """Settings from JSON.

    Args:
        text: the JSON document.
        file: where it stands, for errors.

    Raises:
        CheckpointError: it is damaged, or of a newer format.
    """
    try:
        settings = CaptionerSettings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise CheckpointError(f"{file} does not describe a captioner ({where}: {first['msg']})") from None
    if settings.version > VERSION:
        raise CheckpointError(
            f"{file} has format {settings.version}, this clipcap reads up to {VERSION}: upgrade clipcap"
        )
    return settings


def _read(file: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights, checked key by key against what the settings ask for."""
    try:
        weights = load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: copy the whole model folder") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a safetensors file ({error}): copy it again") from None
    beside = ADAPTER_CONFIG if file.name == ADAPTER_WEIGHTS else CONFIG
    check_fits(weights, expected, f"{file} does not fit {beside} beside it")
    return weights


def check_fits(weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises CheckpointError, which begins with ``what``, unless names and shapes are the expected ones."""
    problems = [f"{key} is missing" for key in expected.keys() - weights.keys()]
    problems += [f"{key} is unknown" for key in weights.keys() - expected.keys()]
    problems += [
        f"{key} has shape {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected.keys() & weights.keys()
        if weights[key].shape != expected[key].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{what} ({len(problems)} difference{'s' * (len(problems) > 1)}): {shown}")


def weights_hash(folder: Path) -> str:
    """sha256 (hex) over all that decides a stored model's captions: settings, weights, adapters, tokenizer.

    Raises:
        CheckpointError: config.json or mapping.safetensors is missing.
    """
    for name in (CONFIG, MAPPING):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no model folder: {name} is missing")
    learned = sorted(p for part in (LANGUAGE_MODEL, ADAPTERS) for p in (folder / part).rglob("*") if p.is_file())
    files = [folder / CONFIG, folder / MAPPING, *learned]
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
