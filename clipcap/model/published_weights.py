"""Published ClipCap checkpoints in: a ``.pt`` of the published code becomes a model folder.

That needs no network, no language model and no tokenizer: what the file does not hold is stored as a reference. The
way back is ``published_export.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config

from clipcap.config import CaptionConfig
from clipcap.embedding.encoder_name import parse_encoder
from clipcap.errors import CheckpointError
from clipcap.model.captioner import CaptionerSettings
from clipcap.model.checkpoint import CONFIG, LANGUAGE_MODEL, MAPPING
from clipcap.model.published_layout import (
    GPT,
    HEAD,
    MAPPER,
    check_layout,
    gpt2_config,
    mapper_sizes,
    read_tensors,
)
from clipcap.storage.commit import sha256_of, writing_folder

_ENCODERS = {512: "ViT-B-32", 640: "RN50x4", 768: "ViT-L-14", 1024: "RN50"}
"""OpenAI's encoders by the size of their embeddings; of several the one that ClipCap was published with, or the
smallest."""


@dataclass(frozen=True)
class ImportOptions:
    """What tensors do not show."""

    hidden_size: int = 768
    """Of the language model; only where an MLP mapper stands alone, else it is read off."""
    heads: int = 8
    """Attention heads of a transformer mapper."""
    encoder: str = ""
    """The encoder that the model learned on; empty: OpenAI's by the size of the embedding."""
    normalize: bool | None = None
    """Whether it learned on L2-normalised embeddings; None: a transformer mapper did, an MLP did not."""
    language_model: str = "gpt2"
    """Of a mapper alone: hub name or folder."""
    tokenizer: str = ""
    """Hub name or folder; empty: the language model's."""
    gpt_heads: int = 0
    """Attention heads of ``gpt.*``; 0: one for each 64 of its hidden size."""
    eos_id: int = 13
    """The token that ends a caption: GPT-2's "."."""


@dataclass(frozen=True)
class Imported:
    """What an import made, and on which grounds."""

    settings: CaptionerSettings
    sha256: str
    """Of the source file."""
    read: dict[str, Any]
    """Read off the tensors."""
    assumed: dict[str, Any]
    """From the options and their defaults: no tensor shows it, so see that it is right."""


def import_weights(file: Path, out: Path, options: ImportOptions | None = None) -> Imported:
    """Reads a published checkpoint and writes a model folder that ``load_captioner`` reads, whole or not at all.

    Args:
        file: a state dict as the published code saves it: MLP or transformer mapper, with or without its GPT-2.
        out: the new folder; it must not hold anything yet.
        options: what the tensors do not show.

    Raises:
        CheckpointError: the file cannot be read or does not fit (keys and shapes are named), or ``out`` is not empty.
        ModelError: the encoder's name is none.
    """
    options = options or ImportOptions()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not an empty folder: name a new one, nothing was written")
    weights = read_tensors(file)
    try:
        sizes = mapper_sizes(weights, options.hidden_size)
        gpt2 = gpt2_config(weights, options.gpt_heads)
        settings, assumed = _settings(sizes, gpt2, options, out.resolve().name)
        check_layout(weights, settings, gpt2)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    read = {name: value for name, value in sizes.items() if name not in assumed}
    if settings.mapper == "mlp":
        read["mapper_hidden"] = len(weights[f"{MAPPER}model.0.bias"])  # the settings have 0 for the published width
    if gpt2:
        names = {"n_layer": "layers", "n_positions": "positions", "vocab_size": "vocabulary"}
        read |= {f"language_model_{ours}": getattr(gpt2, theirs) for theirs, ours in names.items()}
    imported = Imported(settings, sha256_of(file), read, assumed)
    with writing_folder(out) as folder:
        _save(_part(weights, MAPPER), folder / MAPPING)
        if gpt2:
            gpt2.save_pretrained(folder / LANGUAGE_MODEL)
            words = {name: tensor for name, tensor in _part(weights, GPT).items() if GPT + name != HEAD}
            _save(words, folder / LANGUAGE_MODEL / "model.safetensors")
        (folder / CONFIG).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / "MODEL_CARD.md").write_text(_card(file, imported), encoding="utf-8")
    return imported


def _settings(
    sizes: dict[str, Any], gpt2: GPT2Config | None, options: ImportOptions, name: str
) -> tuple[CaptionerSettings, dict[str, Any]]:
    """The settings to store, and those facts among them that the tensors do not show."""
    clip_dim, is_transformer = sizes["clip_dim"], sizes["mapper"] == "transformer"
    encoder = options.encoder
    if not encoder and clip_dim not in _ENCODERS:
        raise CheckpointError(
            f"the model reads embeddings of size {clip_dim}, which none of OpenAI's encoders known here gives "
            f"({', '.join(map(str, _ENCODERS))}): name its encoder with --encoder"
        )
    encoder = encoder or f"{_ENCODERS[clip_dim]}-quickgelu/openai"
    parse_encoder(encoder)
    assumed: dict[str, Any] = {
        "encoder": _anchored(encoder, "local-dir:"),
        "normalize": is_transformer if options.normalize is None else options.normalize,
    }
    if is_transformer:
        assumed["mapper_heads"] = options.heads
        if options.heads < 1 or sizes["hidden_size"] % options.heads:
            raise CheckpointError(
                f"a transformer mapper of size {sizes['hidden_size']} cannot have {options.heads} heads: "
                f"give the number it was trained with by --heads"
            )
    elif not gpt2:
        assumed["hidden_size"] = sizes["hidden_size"]
    if gpt2:
        assumed |= {"tokenizer": _anchored(options.tokenizer or options.language_model),
                    "gpt_heads": gpt2.n_head}  # fmt: skip
        if not 0 <= options.eos_id < gpt2.vocab_size:
            raise CheckpointError(
                f"token {options.eos_id} cannot end a caption, the vocabulary has {gpt2.vocab_size} tokens: "
                f"give the one of the full stop with --eos-id"
            )
    else:
        assumed |= {"language_model": _anchored(options.language_model), "tokenizer": _anchored(options.tokenizer)}
    assumed["eos_id"] = options.eos_id
    facts = {name: value for name, value in assumed.items() if name != "gpt_heads"}
    stored = {"language_model": LANGUAGE_MODEL} if gpt2 else {}
    settings = CaptionerSettings.model_validate(
        {**sizes, **facts, **stored, "model_id": name, "tuned": gpt2 is not None, "keep_eos": True,
         "decoding": CaptionConfig(method="published")}
    )  # fmt: skip
    return settings, {name: value for name, value in assumed.items() if value != ""}


def _anchored(name: str, prefix: str = "") -> str:
    """A folder's name made independent of the current folder; a hub name stays."""
    path = Path(name.removeprefix(prefix)).expanduser()
    return prefix + str(path.resolve()) if name.startswith(prefix) and name and path.is_dir() else name


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _save(weights: dict[str, Tensor], file: Path) -> None:
    save_file(weights, file, metadata={"format": "pt"})


def _card(file: Path, imported: Imported) -> str:
    settings = imported.settings
    needs = f"the encoder {settings.encoder}, " + (
        f"the tokenizer {settings.tokenizer}" if settings.tuned else f"the language model {settings.language_model}"
    )
    lines = [
        f"# {settings.model_id}", "",
        "A ClipCap captioner (arXiv 2111.09734), imported from a checkpoint of the published code.", "",
        f"- source: {file.name}, {file.stat().st_size:,} bytes, sha256 {imported.sha256}",
        f"- needs: {needs}", "",
        "Read off the tensors:", "", *(f"- {name}: {value}" for name, value in imported.read.items()), "",
        "Assumed, as no tensor shows it:", "", *(f"- {name}: {value}" for name, value in imported.assumed.items()), "",
        "The licence of the weights is that of their source.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
