"""Checks of what the model in production is loaded with, encoder and language model, made without the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipcap.doctor.finding import Finding
from clipcap.storage.lake import Lake

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


def encoder(lake: Lake) -> Finding:
    """Whether the encoder is on this machine."""
    settings = _production(lake)
    if settings is None:
        return Finding("encoder", "not checked", "no model in production")
    name = str(settings["encoder"])
    from clipcap.embedding.encoder_name import parse_encoder

    asked = parse_encoder(name)
    if asked.model.startswith("local-dir:"):
        return _local("encoder", name, Path(asked.model.removeprefix("local-dir:")))
    if asked.pretrained.endswith((".pt", ".bin", ".safetensors")):
        return _local("encoder", name, Path(asked.pretrained))
    if asked.model.startswith("hf-hub:"):
        return _from_hub("encoder", name, asked.model.removeprefix("hf-hub:"))
    import open_clip

    known = open_clip.get_pretrained_cfg(asked.model, asked.pretrained)
    if not known:
        return Finding("encoder", "broken", f"open_clip knows no {name}", "install the open_clip that the model had")
    return _from_hub("encoder", name, known.get("hf_hub", "").rstrip("/"), known.get("url", ""))


def language_model(lake: Lake) -> Finding:
    """Whether a language model that is not stored beside the mapping network is on this machine."""
    settings = _production(lake)
    if settings is None:
        return Finding("language model", "not checked", "no model in production")
    name = str(settings.get("language_model", "lm"))
    if name == "lm":
        return Finding("language model", "ok", "stored with the model")
    if Path(name).exists() or Path(name).is_absolute():
        return _local("language model", name, Path(name))
    return _from_hub("language model", name, name.partition(":")[0])


def _production(lake: Lake) -> dict[str, Any] | None:
    from clipcap.storage.manifest import read_current

    model_id = read_current(lake).production_model_id if lake.exists(lake.current) else ""
    return dict(json.loads(lake.read_bytes(lake.model(model_id) / "config.json"))) if model_id else None


def _local(check: str, name: str, path: Path) -> Finding:
    if path.exists():
        return Finding(check, "ok", name)
    return Finding(check, "broken", f"{name}: there is no {path}", "put it back, or mount its disk")


def _from_hub(check: str, name: str, repository: str, url: str = "") -> Finding:
    """Weights in the hub's cache; open_clip has a cache of its own for what is on no hub."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    if repository and any(any(folder.glob(f"snapshots/*/{pattern}")) for pattern in _WEIGHTS):
        return Finding(check, "ok", f"{name}, in the hub's cache")
    if url and (Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]).is_file():
        return Finding(check, "ok", f"{name}, in open_clip's cache")
    mend = "it is downloaded when first used; without a network, bring the hub's cache from elsewhere and set HF_HOME"
    return Finding(check, "warning", f"{name} ({repository or url}) is not in {constants.HF_HUB_CACHE}", mend)
