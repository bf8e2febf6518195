"""What encoders are called."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from clipcap.errors import ModelError
from clipcap.resources import resource


@dataclass(frozen=True)
class EncoderName:
    """How open_clip is asked for an encoder."""

    model: str
    pretrained: str = ""
    features: Literal["embedding", "tower", "tokens"] = "embedding"
    token_grid: int = 0


def parse_encoder(name: str) -> EncoderName:
    """Reads a name: "MODEL/PRETRAINED", "MODEL/path.pt", "hf-hub:…", "local-dir:…" or "builtin:sample".

    What is stored beside the embedding may follow: "#tower", "#tokens", "#tokens7" (see ``EmbedConfig.features``).

    Raises:
        ModelError: OpenAI's weights under a name with the wrong activation, or a name without weights.
    """
    found = re.fullmatch(r"(.*)#(tower|tokens(\d*))", name)
    if found:
        kind: Any = "tower" if found[2] == "tower" else "tokens"
        return replace(parse_encoder(found[1]), features=kind, token_grid=int(found[3] or 0))
    if name == "builtin:sample":
        return EncoderName(f"local-dir:{resource('assets') / 'sample_encoder'}")
    if name.startswith(("hf-hub:", "local-dir:")):
        return EncoderName(name)
    model, slash, pretrained = name.partition("/")
    if not slash or not pretrained:
        raise ModelError(
            f"encoder {name!r} names no weights: write MODEL/PRETRAINED, for example ViT-B-32-quickgelu/openai, "
            "or hf-hub:…, local-dir:…, MODEL/path.pt"
        )
    if pretrained == "openai" and "quickgelu" not in model:
        raise ModelError(
            f"encoder {name!r}: OpenAI's weights were trained with QuickGELU and embed wrongly without it; "
            f"use {model}-quickgelu/openai"
        )
    return EncoderName(model, pretrained)
