"""Pretrained language models of transformers: a folder, a GGUF file, or a name on the Hugging Face hub."""

from __future__ import annotations

import io
import pickle
import struct
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.quantization_config import GgufConfig

from clipcap.errors import ModelError
from clipcap.model.language_model import quiet
from clipcap.storage.commit import sha256_of
from clipcap.storage.entries import digest

_FAILURES = (  # of from_pretrained; it refuses code in a pickle, and headers that lie, by errors of their own
    OSError, ValueError, TypeError, LookupError, ImportError, RuntimeError, struct.error, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip
_ADVICE = (
    "give an existing folder or .gguf file, a name on the Hugging Face hub (with internet, or downloaded before), "
    'or "scratch" for a new GPT-2'
)


@dataclass(frozen=True)
class _Source:
    """What from_pretrained is asked for."""

    place: str
    """A folder, or a repository on the hub."""
    gguf: str = ""
    """A file: its path where it is here, its name in the repository where it is there."""
    is_local: bool = False

    @classmethod
    def of(cls, name: str) -> _Source:
        path = Path(name).expanduser()
        if path.suffix == ".gguf":
            if path.is_file():
                return cls(str(path.parent), str(path.resolve()), is_local=True)
            if name.count("/") >= 2 and not name.startswith((".", "/", "~")):
                owner, repository, file = name.split("/", 2)
                return cls(f"{owner}/{repository}", file)
            raise ModelError(f"language model {name!r}: there is no such file: {_ADVICE}")
        return cls(str(path), is_local=True) if path.is_dir() else cls(name)


def load_language_model(
    name: str, safetensors_only: bool = False, tokenizer: str = "", revision: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads any causal language model of transformers in float32, in eval mode.

    Code that comes with a model is never run. The quantised weights of a GGUF file become float32.

    Args:
        name: a local folder or .gguf file, a name on the Hugging Face hub (its local cache is asked first), or a
            GGUF file there as "owner/repository/file.gguf".
        safetensors_only: refuse torch's own format too (older models on the hub have only that; transformers reads
            it with ``weights_only=True``).
        tokenizer: folder or hub name of its tokenizer, where the model's own folder has none.
        revision: commit on the hub; empty: the newest known. Says nothing about local files.

    Raises:
        ModelError: neither a folder nor the hub gives such a model, or it cannot write text.
    """
    source = _Source.of(name)
    options: dict[str, Any] = {"use_safetensors": True} if safetensors_only else {}
    if revision and not source.is_local:
        options["revision"] = revision
    with quiet():
        try:
            model, words = _from_pretrained(source, tokenizer, local_files_only=True, **options)
        except _FAILURES as error:
            if source.gguf and source.is_local:
                raise ModelError(
                    f"{name} holds no causal language model that transformers can read ({_first_line(error)}): "
                    f"take a whole .gguf file of one of its architectures, or the model's folder instead"
                ) from None
            if source.is_local:
                raise ModelError(
                    f"the folder {name} holds no causal language model with its tokenizer ({_first_line(error)}): "
                    f"expected config.json, safetensors and tokenizer files as save_pretrained writes them"
                ) from None
            model, words = _from_hub(source, name, tokenizer, **options)
    _find_end_of_text(name, model, words)
    return model, words


def find_language_model(name: str) -> None:
    """Sees whether a language model can be had, without loading it, so that a long run does not fail at its end.

    Raises:
        ModelError: no folder with a config.json, no GGUF file, nothing downloaded before, and the hub does not know it.
    """
    source = _Source.of(name)
    if source.gguf and source.is_local:
        with open(source.gguf, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"language model {name!r}: the file is not in the format GGUF: {_ADVICE}")
    elif source.is_local:
        if not (Path(source.place) / "config.json").is_file():
            raise ModelError(f"language model {name!r}: the folder has no config.json: {_ADVICE}")
    elif source.gguf:
        if not isinstance(try_to_load_from_cache(source.place, source.gguf), str):
            _ask_hub(name, source.place)
    else:
        try:
            AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError):
            _ask_hub(name, name)


def language_model_identity(name: str) -> str:
    """A hash (hex) of all that a local language model computes and reads: weights, config, tokenizer.

    Follows the files' bytes, wherever the folder lies. "" for a name on the hub, and where nothing is found.
    """
    try:
        source = _Source.of(name)
    except ModelError:
        return ""
    if not source.is_local:
        return ""
    if source.gguf:
        return digest([sha256_of(Path(source.gguf))])
    folder = Path(source.place)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))  # as from_pretrained prefers them
    rest = sorted(file for suffix in ("json", "txt", "model", "jinja") for file in folder.glob(f"*.{suffix}"))
    return digest([(file.name, sha256_of(file)) for file in [*weights, *rest]]) if weights else ""


def hub_commit(name: str) -> str:
    """The commit that a name on the hub stands for in the local cache; "" where that is unknown, and for files here."""
    source = _Source.of(name)
    if source.is_local:
        return ""
    try:
        file = try_to_load_from_cache(source.place, source.gguf or "config.json")
    except ValueError:  # no name that the hub could have
        return ""
    parts = Path(file).parts if isinstance(file, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer alone, from a folder or from the hub (its local cache is asked first).

    Raises:
        ModelError: neither has it.
    """
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = _first_line(error)
    try:
        if not Path(name).expanduser().is_dir():
            _ask_hub(name, name)
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (ModelError, OSError, ValueError, KeyError, ImportError) as error:
        reason = f"no such folder, and the hub did not give it: {type(error).__name__}"
    raise ModelError(
        f"tokenizer {name!r} not found ({reason}): connect once, so that it is downloaded, "
        f"or put its folder's path into the model's config.json as tokenizer"
    )


def _ask_hub(name: str, repository: str, revision: str = "") -> None:
    try:
        from huggingface_hub import HfApi

        # One question: from_pretrained asks for 20 s where nobody answers.
        HfApi().model_info(repository, revision=revision or None, timeout=10)
    except Exception as error:  # its own kinds, and any of the HTTP client below it
        raise ModelError(
            f"language model {name!r}{revision and f' at commit {revision}'} not found: no such folder, and the hub "
            f"did not give it ({type(error).__name__}): {_ADVICE}"
        ) from None


def _from_hub(
    source: _Source, name: str, tokenizer: str, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _ask_hub(name, source.place, options.get("revision", ""))
    try:
        return _from_pretrained(source, tokenizer, local_files_only=False, **options)
    except _FAILURES as error:
        raise ModelError(f"language model {name!r} cannot be loaded ({_first_line(error)}): {_ADVICE}") from None


def _from_pretrained(
    source: _Source, tokenizer: str, *, use_safetensors: bool | None = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options |= {"trust_remote_code": False} | ({"gguf_file": source.gguf} if source.gguf else {})
    words = load_tokenizer(tokenizer) if tokenizer else AutoTokenizer.from_pretrained(source.place, **options)
    # Weights that stay in GGUF's blocks could neither learn nor be saved.
    dense = {"quantization_config": GgufConfig(dequantize=True)} if source.gguf else {}
    # Reading GGUF shows a bar of its own, which cannot be turned off.
    with redirect_stderr(io.StringIO()) if source.gguf else nullcontext():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.place, dtype=torch.float32, output_loading_info=True, use_safetensors=use_safetensors,
            **dense, **options,
        )  # fmt: skip
    model, info = loaded
    # transformers only warns, and goes on with random weights in their place.
    broken = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if broken:
        raise ValueError(f"{len(broken)} weights are missing or of another shape, first {broken[0]}")
    return model.eval(), words


def _find_end_of_text(name: str, model: PreTrainedModel, words: PreTrainedTokenizerBase) -> None:
    """Gives a tokenizer without an end of text the model's own; the first where that is a list."""
    if words.eos_token_id is None:
        told = [getattr(model.generation_config, "eos_token_id", None), model.config.get_text_config().eos_token_id]
        known = [end for ends in told for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
        token = words.convert_ids_to_tokens(known[0]) if known and known[0] < len(words) else None
        if token is None:
            raise ModelError(
                f"the tokenizer of language model {name!r} has no end-of-text token: set eos_token in its files"
            )
        words.eos_token = token


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
