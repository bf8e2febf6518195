"""A captioner as files: ``config.json``, ``mapping.safetensors`` (float32), ``lm/`` where the language model learned.

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

from clipcap.errors import CheckpointError, ModelError
from clipcap.model.captioner import VERSION, Captioner, CaptionerSettings
from clipcap.model.language_model import hidden_size_of, quiet
from clipcap.model.mapping import build_mapper
from clipcap.model.pretrained import load_language_model
from clipcap.storage.commit import sha256_of

CONFIG = "config.json"
MAPPING = "mapping.safetensors"
LANGUAGE_MODEL = "lm"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json")


def save_captioner(captioner: Captioner, folder: Path) -> None:
    """Writes a captioner into a folder (made if missing).

    For a whole-or-nothing result call it inside ``clipcap.storage.commit.writing_folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in captioner.mapper.state_dict().items()
    }
    save_file(weights, folder / MAPPING, metadata={"format": "pt"})
    if captioner.settings.language_model == LANGUAGE_MODEL:
        with quiet():
            captioner.language_model.save_pretrained(folder / LANGUAGE_MODEL)
            captioner.tokenizer.save_pretrained(folder / LANGUAGE_MODEL)
    (folder / CONFIG).write_text(captioner.settings.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_captioner(folder: Path | str, device: str | torch.device = "cpu") -> Captioner:
    """Reads a captioner, ready to caption (eval mode).

    Raises:
        CheckpointError: files are missing or damaged, or weights do not fit the settings; each is named.
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
        language_model, tokenizer = load_language_model(settings.language_model, tokenizer=settings.tokenizer)
    if hidden_size_of(language_model) != settings.hidden_size:
        raise CheckpointError(
            f"{folder}: the mapper writes vectors of size {settings.hidden_size}, language model "
            f"{settings.language_model!r} reads {hidden_size_of(language_model)}: use the one it was trained with"
        )
    mapper = build_mapper(settings, settings.clip_dim, settings.hidden_size, settings.clip_tokens)
    mapper.load_state_dict(_read_mapping(folder / MAPPING, mapper.state_dict()))
    return Captioner(mapper, language_model, tokenizer, settings).to(device).eval()


def read_settings(folder: Path) -> CaptionerSettings:
    """The settings alone, without loading any weights.

    Raises:
        CheckpointError: config.json is missing, damaged, or of a newer format.
    """
    file = folder / CONFIG
    try:
        settings = CaptionerSettings.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no model folder: {CONFIG} is missing; clipcap models list shows what there is"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise CheckpointError(f"{file} does not describe a captioner ({where}: {first['msg']})") from None
    if settings.version > VERSION:
        raise CheckpointError(
            f"{file} has format {settings.version}, this clipcap reads up to {VERSION}: upgrade clipcap"
        )
    return settings


def _read_mapping(file: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mapper's weights, checked key by key against what the settings ask for."""
    try:
        weights = load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: copy the whole model folder") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a safetensors file ({error}): copy it again") from None
    check_fits(weights, expected, f"{file} does not fit {CONFIG} beside it")
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
    """sha256 (hex) over all that decides a stored model's captions: settings, weights, tokenizer.

    Raises:
        CheckpointError: config.json or mapping.safetensors is missing.
    """
    for name in (CONFIG, MAPPING):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no model folder: {name} is missing")
    files = [folder / CONFIG, folder / MAPPING, *sorted(p for p in (folder / LANGUAGE_MODEL).rglob("*") if p.is_file())]
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
