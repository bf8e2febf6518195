"""An untrained captioner as a configuration asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clipcap.config import CaptionConfig, TrainConfig
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import LANGUAGE_MODEL
from clipcap.model.language_model import hidden_size_of, new_language_model, positions_of
from clipcap.model.lora import add_adapters
from clipcap.model.mapping import build_mapper
from clipcap.model.pretrained import hub_commit, language_model_identity, load_language_model


def build_captioner(
    config: TrainConfig,
    texts: Iterable[str],
    clip_dim: int,
    *,
    clip_tokens: int = 0,
    features: str = "embedding",
    model_id: str = "",
    encoder: str = "",
    encoder_hash: str = "",
) -> Captioner:
    """A mapper with random weights (torch's current seed) in front of its language model, adapters in it if asked for.

    Args:
        config: the section [train].
        texts: captions that the tokenizer of a new language model learns from; not read for a pretrained one.
        clip_dim: size of an embedding, or of a patch token.
        clip_tokens: patch tokens of an image; 0 where an image is one vector.
        features: what of the encoder the mapper reads.
        model_id: stored with the model, as are ``encoder`` and ``encoder_hash``.

    Raises:
        ModelError: the language model cannot be had, or sizes do not fit.
    """
    wanted = config.language_model
    is_new = wanted.name == "scratch"
    language_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if is_new:
        longest = max(config.max_tokens, CaptionConfig().max_new_tokens)
        language_model, tokenizer = new_language_model(wanted, texts, config.prefix_length + longest)
    else:
        language_model, tokenizer = load_language_model(wanted.name)
    positions = positions_of(language_model)
    if positions is not None and config.prefix_length + config.max_tokens > positions:
        raise ModelError(
            f"train.prefix_length {config.prefix_length} and train.max_tokens {config.max_tokens} need more than the "
            f"{positions} positions of language model {wanted.name!r}: lower one of them"
        )
    if wanted.lora_rank:
        add_adapters(language_model, wanted)
    is_stored = is_new or wanted.tune
    sizes: dict[str, Any] = config.model_dump(
        include={
            "mapper", "prefix_length", "clip_length", "mapper_layers", "mapper_heads", "mapper_hidden", "normalize",
        }
    )  # fmt: skip
    settings = CaptionerSettings(
        **sizes,
        model_id=model_id,
        clip_dim=clip_dim,
        hidden_size=hidden_size_of(language_model),
        encoder=encoder,
        encoder_hash=encoder_hash,
        features=features,  # type: ignore[arg-type]
        clip_tokens=clip_tokens,
        language_model=LANGUAGE_MODEL if is_stored else wanted.name,
        language_model_hash="" if is_stored else language_model_identity(wanted.name) or hub_commit(wanted.name),
        tuned=is_stored,
        lora=wanted.lora_rank > 0,
        eos_id=tokenizer.eos_token_id,
    )
    return Captioner(
        build_mapper(settings, clip_dim, settings.hidden_size, clip_tokens), language_model, tokenizer, settings
    )
