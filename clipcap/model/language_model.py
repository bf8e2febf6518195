"""Language models that write the caption: what the rest asks of them, and a small new GPT-2 with its own tokenizer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from clipcap.config import LanguageModelConfig
from clipcap.errors import ModelError

EOS = "<eos>"
"""End of text of a tokenizer trained here."""


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
