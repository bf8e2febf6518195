"""Language models that write the caption: a pretrained one by name, or a small new GPT-2 with its own tokenizer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from clipcap.config import LanguageModelConfig
from clipcap.errors import ModelError

EOS = "<eos>"
"""End of text of a tokenizer trained here."""


def load_language_model(
    name: str, safetensors_only: bool = False, tokenizer: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads any causal language model of transformers in float32, in eval mode.

    Code that comes with a model is never run.

    Args:
        name: a local folder, or a name on the Hugging Face hub (its local cache is asked first).
        safetensors_only: refuse torch's own format too (older models on the hub have only that; transformers reads
            it with ``weights_only=True``).
        tokenizer: folder or hub name of its tokenizer, where the model's own folder has none.

    Raises:
        ModelError: neither a folder nor the hub gives such a model, or it cannot write text.
    """
    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    source = str(folder) if is_folder else name
    safe = {"use_safetensors": True} if safetensors_only else {}
    with quiet():
        try:
            model, words = _from_pretrained(source, tokenizer, local_files_only=True, **safe)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            if is_folder:
                raise ModelError(
                    f"the folder {name} holds no causal language model with its tokenizer ({_first_line(error)}): "
                    f"expected config.json, safetensors and tokenizer files as save_pretrained writes them"
                ) from None
            model, words = _from_hub(name, tokenizer, **safe)
    if words.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of language model {name!r} has no end-of-text token: set eos_token in its files"
        )
    return model, words


_ADVICE = (
    "give an existing folder, a name on the Hugging Face hub (with internet, or downloaded before), "
    'or "scratch" for a new GPT-2'
)


def find_language_model(name: str) -> None:
    """Sees whether a language model can be had, without loading it, so that a long run does not fail at its end.

    Raises:
        ModelError: no folder with a config.json, nothing downloaded before, and the hub does not know it.
    """
    if Path(name).expanduser().is_dir():
        if not (Path(name).expanduser() / "config.json").is_file():
            raise ModelError(f"language model {name!r}: the folder has no config.json: {_ADVICE}")
        return
    try:
        AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        _ask_hub(name)


def _ask_hub(name: str) -> None:
    try:
        from huggingface_hub import HfApi

        HfApi().model_info(name, timeout=10)  # one question: from_pretrained asks for 20 s where nobody answers
    except Exception as error:  # its own kinds, and any of the HTTP client below it
        raise ModelError(
            f"language model {name!r} not found: no such folder, and the hub did not give it "
            f"({type(error).__name__}): {_ADVICE}"
        ) from None


def _from_hub(name: str, tokenizer: str, **safe: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _ask_hub(name)
    try:
        return _from_pretrained(name, tokenizer, local_files_only=False, **safe)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"language model {name!r} cannot be loaded ({_first_line(error)}): {_ADVICE}") from None


def _from_pretrained(
    source: str, tokenizer: str, local_files_only: bool, **safe: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options = {"trust_remote_code": False, "local_files_only": local_files_only}
    words = load_tokenizer(tokenizer) if tokenizer else AutoTokenizer.from_pretrained(source, **options)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, **options, **safe
    )
    model, info = loaded
    # transformers only warns, and goes on with random weights in their place.
    broken = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if broken:
        raise ValueError(f"{len(broken)} weights are missing or of another shape, first {broken[0]}")
    return model.eval(), words


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
            _ask_hub(name)
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (ModelError, OSError, ValueError, KeyError, ImportError) as error:
        reason = f"no such folder, and the hub did not give it: {type(error).__name__}"
    raise ModelError(
        f"tokenizer {name!r} not found ({reason}): connect once, so that it is downloaded, "
        f"or put its folder's path into the model's config.json as tokenizer"
    )


def new_language_model(
    config: LanguageModelConfig, captions: Iterable[str], positions: int = 256
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """A GPT-2 with random weights (torch's current seed) and a byte-level BPE tokenizer trained on the captions.

    Args:
        config: sizes, dropout, size of the vocabulary, lower-casing.
        captions: what the tokenizer learns from; the same captions give the same tokenizer.
        positions: longest sequence, prefix included.

    Raises:
        ModelError: ``heads`` does not divide ``hidden_size``.
    """
    if config.hidden_size % config.heads:
        raise ModelError(
            f"a GPT-2 of hidden size {config.hidden_size} cannot have {config.heads} heads: "
            f"set train.language_model.heads to a divisor of the hidden size"
        )
    tokenizer = train_tokenizer(captions, config.vocab_size, config.lowercase, positions)
    eos = tokenizer.eos_token_id
    gpt2 = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=config.hidden_size,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        # The same function as GPT-2's "gelu_new", in one kernel instead of eight.
        activation_function="gelu_pytorch_tanh",
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return GPT2LMHeadModel(gpt2), tokenizer


def train_tokenizer(
    captions: Iterable[str], vocab_size: int, lowercase: bool = True, longest: int = 256
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, and decoding gives it back (lower-cased, single spaces)."""
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()] if lowercase else steps)
    # The space before the first word too, so that a word is the same token wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        bos_token=EOS,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def word_embeddings(language_model: PreTrainedModel) -> nn.Embedding:
    """Its table of word embeddings."""
    return cast(nn.Embedding, language_model.get_input_embeddings())


def hidden_size_of(language_model: PreTrainedModel) -> int:
    """Size of its word embeddings, which is the size of a prefix vector."""
    return word_embeddings(language_model).weight.shape[1]


def positions_of(language_model: PreTrainedModel) -> int | None:
    """Longest sequence that it has positions for; None where it has no limit."""
    return getattr(language_model.config.get_text_config(), "max_position_embeddings", None)


def last_logits(language_model: PreTrainedModel, keep: int, **inputs: Any) -> tuple[Tensor, Any]:
    """Runs the model and its vocabulary head on the last ``keep`` positions only.

    Returns:
        logits (B, keep, V), and the key-value cache (None where ``use_cache`` is off).
    """
    if "logits_to_keep" in inspect.signature(language_model.forward).parameters:
        inputs["logits_to_keep"] = keep
    output = language_model(**inputs)
    return output.logits[:, -keep:], output.past_key_values


@contextmanager
def quiet() -> Iterator[None]:
    """Without the hub's and transformers' progress bars and warnings; what matters becomes an error here."""
    loggers = [logging.getLogger("transformers"), logging.getLogger("huggingface_hub")]
    levels = [logger.level for logger in loggers]
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
