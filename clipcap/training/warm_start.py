"""Training that goes on from a model's weights, where the settings ask for that very architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipcap.config import TrainConfig
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner
from clipcap.model.checkpoint import LANGUAGE_MODEL, load_captioner
from clipcap.model.language_model import positions_of
from clipcap.model.pretrained import language_model_identity

_MAPPER = ("mapper", "prefix_length", "normalize")
_OF_ONE_MAPPER = {
    "mlp": ("mapper_hidden",), "transformer": ("clip_length", "mapper_layers", "mapper_heads"), "linear": (),
}  # fmt: skip


def go_on_from(
    folder: Path,
    config: TrainConfig,
    clip_dim: int,
    *,
    clip_tokens: int,
    features: str,
    model_id: str,
    encoder: str,
    encoder_hash: str,
) -> Captioner:
    """The captioner in ``folder`` under its new name, ready to learn.

    Its tokenizer stays, so captions are spelled in the words and pieces that it knows.

    Raises:
        ModelError: it is of another architecture or encoder than the settings and the embeddings ask for; each
            difference is named.
    """
    captioner = load_captioner(folder)
    stored = captioner.settings
    wanted: dict[str, Any] = {"clip_dim": clip_dim, "clip_tokens": clip_tokens, "features": features}
    wanted |= config.model_dump(include={*_MAPPER, *_OF_ONE_MAPPER[config.mapper]})
    found = {name: getattr(stored, name) for name in wanted}
    if stored.encoder_hash:
        wanted["encoder"] = f"{encoder}@{encoder_hash[:12]}"
        found["encoder"] = f"{stored.encoder}@{stored.encoder_hash[:12]}"
    for name, (now, then) in _language_models(captioner, config).items():
        wanted[f"language_model.{name}"], found[f"language_model.{name}"] = now, then
    differences = [f"{name} is {found[name]!r} there and {wanted[name]!r} here" for name in wanted
                   if wanted[name] != found[name]]  # fmt: skip
    positions = positions_of(captioner.language_model)
    if positions is not None and config.prefix_length + config.max_tokens > positions:
        differences.append(
            f"its language model has {positions} positions, and prefix_length {config.prefix_length} with max_tokens "
            f"{config.max_tokens} needs more"
        )
    if differences:
        raise ModelError(
            f"training cannot go on from {stored.model_id or folder.name}: {'; '.join(differences)}. Set "
            'retrain.start = "fresh", or train with the settings of that model'
        )
    settings = stored.model_copy(update={"model_id": model_id, "encoder": encoder, "encoder_hash": encoder_hash})
    return Captioner(captioner.mapper, captioner.language_model, captioner.tokenizer, settings)


def _language_models(captioner: Captioner, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """What is asked for and what is there, by the name of the setting."""
    wanted, stored, built = config.language_model, captioner.settings, captioner.language_model.config
    learns = wanted.tune or wanted.name == "scratch"
    facts: dict[str, tuple[Any, Any]] = {
        "tune": (learns, stored.tuned), "lora_rank > 0": (wanted.lora_rank > 0, stored.lora),
    }  # fmt: skip
    if wanted.name == "scratch":
        sizes = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "hidden_size": "hidden_size"}
        facts |= {ours: (getattr(wanted, ours), getattr(built, theirs, None)) for ours, theirs in sizes.items()}
        facts["dropout"] = (wanted.dropout, getattr(built, "resid_pdrop", None))
    elif not learns:
        here = stored.language_model
        same = here == wanted.name or (
            stored.language_model_hash and language_model_identity(wanted.name) == stored.language_model_hash
        )
        facts["name"] = (wanted.name, wanted.name if same else here)
    else:
        facts["kind"] = (LANGUAGE_MODEL, stored.language_model)
    if wanted.lora_rank and stored.lora:
        adapters: Any = captioner.language_model.peft_config["default"]
        facts["lora_rank"] = (wanted.lora_rank, adapters.r)
        facts["lora_alpha"] = (wanted.lora_alpha, adapters.lora_alpha)
    return facts
