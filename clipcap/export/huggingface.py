"""A model folder in the layout of the Hugging Face hub, and back.

    config.json                 model_type "clipcap" for the hub; all of the captioner's settings under "clipcap"
    mapping.safetensors         the mapping network, the model folder's own file
    lm/                         the language model as transformers writes it: config, generation config, weights
                                (in several files where they are large), tokenizer
    lora/                       adapters as peft writes them, where there are any
    encoder/                    the image encoder, where it is a folder that nobody else could name
    preprocessor_config.json    what the encoder wants of a picture, as transformers' CLIPImageProcessor reads it
    README.md                   the model card

``AutoModelForCausalLM`` and ``AutoTokenizer`` load ``lm/``. No class of transformers has a mapping network, and code
that comes with a model is never run here, so the folder names none (``auto_map``).
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from clipcap.config import CaptionConfig
from clipcap.embedding.decode import Preprocessing
from clipcap.errors import CheckpointError, ModelError
from clipcap.model.captioner import CaptionerSettings
from clipcap.model.checkpoint import (
    ADAPTERS,
    CONFIG,
    LANGUAGE_MODEL,
    MAPPING,
    load_captioner,
    parse_settings,
    weights_hash,
)
from clipcap.model.language_model import quiet
from clipcap.model.lora import ADAPTER_CONFIG
from clipcap.model.pretrained import load_language_model
from clipcap.storage.commit import writing_folder

MODEL_TYPE = "clipcap"
ENCODER = "encoder"
CARD = "README.md"
LARGEST_FILE = "5GB"
_LOCAL = "local-dir:"
_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers


def export_huggingface(folder: Path, out: Path, card: str = "", largest_file: str = LARGEST_FILE) -> dict[str, Any]:
    """Writes a stored captioner in the hub's layout, whole or not at all.

    A frozen language model is written out too, so that the folder needs nothing but the encoder.

    Args:
        folder: of the model.
        out: the new folder.
        card: text of README.md; none is written where it is empty.
        largest_file: weights of the language model are split into files of at most this size.

    Returns:
        out, files (name → bytes), left_out (what could not be written, and why), import_command.

    Raises:
        CheckpointError: the folder is damaged, or ``out`` exists.
        ModelError: the frozen language model cannot be found.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: name a new folder, nothing was written")
    captioner = load_captioner(folder)
    settings, left_out = captioner.settings, {}
    model = captioner.language_model
    if settings.lora:  # peft's layers are in that one, and its weights have other names
        is_stored = settings.language_model == LANGUAGE_MODEL
        model, _ = load_language_model(
            str(folder / LANGUAGE_MODEL) if is_stored else settings.language_model, tokenizer=settings.tokenizer,
            revision="" if is_stored else settings.language_model_hash,
        )  # fmt: skip
    with writing_folder(out) as aside:
        model.generation_config = _generation(settings, model)
        with quiet():
            model.save_pretrained(aside / LANGUAGE_MODEL, max_shard_size=largest_file)
            captioner.tokenizer.save_pretrained(aside / LANGUAGE_MODEL)
        shutil.copyfile(folder / MAPPING, aside / MAPPING)
        if settings.lora:
            shutil.copytree(folder / ADAPTERS, aside / ADAPTERS)
            config = json.loads((folder / ADAPTERS / ADAPTER_CONFIG).read_bytes())
            config["base_model_name_or_path"] = LANGUAGE_MODEL  # else perhaps a folder of this machine
            (aside / ADAPTERS / ADAPTER_CONFIG).write_text(_json(config), encoding="utf-8")
        try:
            preprocessing = _preprocessing(settings.encoder)
            (aside / "preprocessor_config.json").write_text(_json(preprocessing), encoding="utf-8")
        except ModelError as error:
            left_out["preprocessor_config.json"] = str(error)
        encoder = _with_encoder(settings.encoder, aside)
        if encoder.startswith(_LOCAL) and not (aside / ENCODER).is_dir():
            left_out[ENCODER] = f"the encoder's folder is not at {settings.encoder.removeprefix(_LOCAL)}"
        kept = settings.model_copy(
            update={"language_model": LANGUAGE_MODEL, "language_model_hash": "", "tokenizer": "", "encoder": encoder}
        )
        config = {"model_type": MODEL_TYPE, "architectures": ["Captioner"], "clipcap": kept.model_dump(mode="json")}
        (aside / CONFIG).write_text(_json(config), encoding="utf-8")
        if card:
            (aside / CARD).write_text(card, encoding="utf-8")
    files = {f.relative_to(out).as_posix(): f.stat().st_size for f in sorted(out.rglob("*")) if f.is_file()}
    return {
        "out": str(out), "files": files, "left_out": left_out,
        "import_command": shlex.join(["clipcap", "import-weights", str(out), "--out", "DIR"]),
    }  # fmt: skip


def is_huggingface(folder: Path) -> bool:
    """Whether a folder is of this layout: its config.json says so."""
    try:
        return bool(json.loads((folder / CONFIG).read_bytes()).get("model_type") == MODEL_TYPE)
    except (OSError, ValueError, AttributeError):
        return False


def import_huggingface(folder: Path, out: Path) -> dict[str, Any]:
    """Makes a model folder of one in the hub's layout; every tensor is copied bit by bit, and loaded once to see.

    Returns:
        model (the new folder), sha256 (of all that decides its captions), tuned.

    Raises:
        CheckpointError: it is none of that layout, or is damaged; or ``out`` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: name a new folder, nothing was imported")
    if not is_huggingface(folder):
        raise CheckpointError(
            f'{folder} is no model that `clipcap export --layout huggingface` wrote: its {CONFIG} has no model_type '
            f'"{MODEL_TYPE}"; a language model alone is named in train.language_model.name'
        )
    section = json.loads((folder / CONFIG).read_bytes()).get("clipcap")
    settings = parse_settings(json.dumps(section).encode(), folder / CONFIG)
    name, mark, kind = settings.encoder.partition("#")
    if name == _LOCAL + ENCODER:
        settings = settings.model_copy(update={"encoder": f"{_LOCAL}{out.resolve() / ENCODER}{mark}{kind}"})
    with writing_folder(out) as aside:
        for part in (LANGUAGE_MODEL, ADAPTERS, ENCODER):
            if (folder / part).is_dir():
                shutil.copytree(folder / part, aside / part)
        if not (folder / MAPPING).is_file():
            raise CheckpointError(f"{folder / MAPPING} is missing: copy the whole folder")
        shutil.copyfile(folder / MAPPING, aside / MAPPING)
        (aside / CONFIG).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
        load_captioner(aside)
    return {"model": str(out), "sha256": weights_hash(out), "tuned": settings.tuned}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _generation(settings: CaptionerSettings, model: PreTrainedModel) -> GenerationConfig:
    """What transformers' ``generate`` does as the model captions; its rules have the same meaning there."""
    wanted: CaptionConfig = settings.decoding
    options: dict[str, Any] = {
        "max_new_tokens": wanted.max_new_tokens,
        "repetition_penalty": wanted.repetition_penalty,
        "no_repeat_ngram_size": wanted.no_repeat_ngram,
        "eos_token_id": settings.eos_id,
        "pad_token_id": settings.eos_id,
        "bos_token_id": getattr(model.config.get_text_config(), "bos_token_id", None),
    }
    if wanted.min_new_tokens:
        options["min_new_tokens"] = wanted.min_new_tokens
    if wanted.method == "sample":
        options |= {"do_sample": True, "temperature": wanted.temperature, "top_k": wanted.top_k, "top_p": wanted.top_p}
    elif wanted.beam_size > 1:
        options |= {"num_beams": wanted.beam_size, "length_penalty": wanted.length_penalty}
    return GenerationConfig(**options)


def _with_encoder(encoder: str, aside: Path) -> str:
    """A folder of this machine would mean nothing elsewhere, and its name would be published: it comes along."""
    name, mark, kind = encoder.partition("#")
    if not name.startswith(_LOCAL):
        return encoder
    source = Path(name.removeprefix(_LOCAL))
    if source.is_dir():
        shutil.copytree(source, aside / ENCODER)
    return f"{_LOCAL}{ENCODER}{mark}{kind}"


def _preprocessing(encoder: str) -> dict[str, Any]:
    """As CLIPImageProcessor says it.

    Raises:
        ModelError: the encoder is not known or not at hand, or pads pictures, which that processor cannot.
    """
    from clipcap.embedding.encoder import get_encoder

    if not encoder:
        raise ModelError("the model names no encoder")
    wanted: Preprocessing = get_encoder(encoder, "cpu").preprocessing
    if wanted.resize_mode not in ("shortest", "squash") or wanted.interpolation not in _RESAMPLING:
        raise ModelError(f"the encoder resizes by {wanted.resize_mode!r}, {wanted.interpolation!r}")
    size = {"height": wanted.height, "width": wanted.width}
    is_cut = wanted.resize_mode == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": min(wanted.height, wanted.width)} if is_cut else size,
        "resample": _RESAMPLING[wanted.interpolation],
        "do_center_crop": is_cut,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(wanted.mean),
        "image_std": list(wanted.std),
    }
