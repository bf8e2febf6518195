"""From embeddings to captions."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipcap.batches import Batches
from clipcap.config import CaptionConfig
from clipcap.decoding.beam import beam_search
from clipcap.decoding.constraints import Constraints
from clipcap.decoding.hypotheses import Hypothesis
from clipcap.decoding.published import published_beam_search
from clipcap.decoding.sampling import sample
from clipcap.errors import ConfigError, ModelError
from clipcap.model.captioner import Captioner, check_embeddings
from clipcap.model.precision import reduced_dtype


@dataclass(frozen=True)
class Caption:
    """One generated caption."""

    text: str
    log_probability: float
    """Sum over its tokens, in nats."""
    tokens: int
    """Tokens that the sum is over, end-of-text included."""
    score: float = 0.0
    """What captions of an image are ordered by, before any re-ranking."""
    token_ids: tuple[int, ...] = ()
    """The end-of-text included where there is one."""


class Rerank(Protocol):
    """Orders the candidates of each image anew; ``images`` are rows of the call's embeddings, in order."""

    def __call__(self, candidates: list[list[Caption]], images: slice) -> list[list[Caption]]: ...


def generate(
    captioner: Captioner, clip_embeddings: Tensor | np.ndarray, config: CaptionConfig, rerank: Rerank | None = None
) -> list[Caption]:
    """The best caption for each embedding; see :func:`generate_many`."""
    return [captions[0] for captions in generate_many(captioner, clip_embeddings, config, 1, rerank)]


@torch.inference_mode()
def generate_many(
    captioner: Captioner,
    clip_embeddings: Tensor | np.ndarray,
    config: CaptionConfig,
    num_captions: int | None = None,
    rerank: Rerank | None = None,
) -> list[list[Caption]]:
    """Captions for embeddings, in their order, ``config.batch_size`` images at a time, on the captioner's device.

    Where the device has no room for so many, in smaller batches; captions do not depend on what stands beside them.

    Args:
        captioner: any mode; decoded in eval mode, and given back in the mode it had.
        clip_embeddings: (B, clip_dim) or (B, clip_tokens, clip_dim), float16 or float32; B may be 0.
        config: how to decode.
        num_captions: for each image, instead of ``config.num_captions``.
        rerank: needed where ``config.rerank`` is above 0; see :mod:`clipcap.decoding.rerank`.

    Returns:
        For each image its captions, best first. No text stands twice, so there may be fewer than were asked for.

    Raises:
        ConfigError: a rule or re-ranking that this way of decoding cannot follow.
        EmbeddingError: another shape than the captioner's, or values that are not finite.
        ModelError: more captions than beams.
    """
    wanted = num_captions or config.num_captions
    _check(config, wanted, rerank)
    embeddings = torch.as_tensor(clip_embeddings)
    check_embeddings(embeddings, captioner.settings.input_shape, "captioning")
    was_training = captioner.training
    captioner.eval()
    language_model = in_precision(captioner.language_model, captioner.device, config.precision)

    def captioned(images: slice) -> list[list[Caption]]:
        hypotheses = _search(captioner, language_model, embeddings[images], config, wanted)
        captions = [_distinct(image) for image in _read(captioner, hypotheses)]
        if rerank is not None and config.rerank:
            captions = rerank(captions, images)
        return [image[:wanted] for image in captions]

    fitting = Batches(config.batch_size, "captioning", "caption.batch_size")
    found = [image for batch in fitting.map(captioned, len(embeddings)) for image in batch]
    captioner.train(was_training)
    return found


def _search(
    captioner: Captioner, language_model: PreTrainedModel, embeddings: Tensor, config: CaptionConfig, wanted: int
) -> list[list[Hypothesis]]:
    """Candidates of each image, best first."""
    prefix = captioner.prefix(embeddings.to(captioner.device))
    eos_id, longest = captioner.settings.eos_id, config.max_new_tokens
    candidates = max(wanted, config.candidates) if config.rerank else wanted
    if config.method == "sample":
        drawn = sample(
            language_model, prefix, eos_id=eos_id, seeds=_seeds(embeddings, config.seed), num_samples=candidates,
            max_new_tokens=longest, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p,
            constraints=_rules(config),
        )  # fmt: skip
        return [sorted(image, key=lambda caption: -caption.score) for image in drawn]
    # All beams where any but the first may be wanted: two token sequences can be the same text.
    kept = config.beam_size if candidates > 1 or config.rerank else 1
    if config.method == "published":
        return published_beam_search(
            language_model, prefix, stop_id=eos_id, beam_size=config.beam_size, max_new_tokens=longest,
            num_hypotheses=kept,
        )  # fmt: skip
    return beam_search(
        language_model, prefix, eos_id=eos_id, beam_size=config.beam_size, max_new_tokens=longest,
        length_penalty=config.length_penalty, num_hypotheses=kept, constraints=_rules(config),
    )  # fmt: skip


def _check(config: CaptionConfig, wanted: int, rerank: Rerank | None) -> None:
    needed = max(wanted, config.candidates if config.rerank else 0)
    if config.method != "sample" and needed > config.beam_size:
        raise ModelError(
            f"{needed} captions for an image need at least as many beams, got beam_size {config.beam_size}"
        )
    if config.method == "published" and not _rules(config).is_none:
        raise ConfigError(
            "the published beam search knows no rules: leave min_new_tokens, repetition_penalty and no_repeat_ngram "
            'as they are, or set caption.method = "beam"'
        )
    if config.rerank and rerank is None:
        raise ConfigError("caption.rerank needs the encoder that the model was trained with, and none was given")


def _rules(config: CaptionConfig) -> Constraints:
    return Constraints(config.min_new_tokens, config.repetition_penalty, config.no_repeat_ngram)


def _seeds(embeddings: Tensor, seed: int) -> list[int]:
    """Of each image's draws, from its own embedding: the same wherever the image stands, and beside whatever."""
    rows = embeddings.detach().cpu().float().flatten(1).numpy()
    start = seed.to_bytes(16, "little", signed=True)
    return [int.from_bytes(hashlib.blake2b(start + row.tobytes(), digest_size=8).digest()) for row in rows]


def _read(captioner: Captioner, hypotheses: Sequence[Sequence[Hypothesis]]) -> list[list[Caption]]:
    eos, keep = captioner.settings.eos_id, captioner.settings.keep_eos
    flat = [h for image in hypotheses for h in image]
    spoken = [h.tokens + [eos] * (keep and h.is_finished) for h in flat]
    texts = iter(captioner.tokenizer.batch_decode(spoken, skip_special_tokens=True))
    return [
        [
            Caption(
                " ".join(next(texts).split()), h.log_probability, h.length, h.score,
                (*h.tokens, eos) if h.is_finished else tuple(h.tokens),
            )
            for h in image
        ]
        for image in hypotheses
    ]  # fmt: skip


def _distinct(captions: list[Caption]) -> list[Caption]:
    """The first of each text."""
    first: dict[str, Caption] = {}
    for caption in captions:
        first.setdefault(caption.text, caption)
    return list(first.values())


_casts: WeakKeyDictionary[PreTrainedModel, tuple[object, PreTrainedModel]] = WeakKeyDictionary()


def in_precision(language_model: PreTrainedModel, device: torch.device, precision: str) -> PreTrainedModel:
    """The language model in the asked precision: itself, or a copy that is kept until its weights change."""
    dtype = reduced_dtype(device, precision)
    parameters = list(language_model.parameters())
    if dtype is None or all(p.dtype == dtype for p in parameters):
        return language_model
    state = (dtype, [(id(p), p._version) for p in parameters])
    kept = _casts.get(language_model)
    if kept is None or kept[0] != state:
        copied = copy.deepcopy(language_model)
        for parameter in copied.parameters():  # not the buffers: rotary frequencies would lose their digits
            parameter.data = parameter.data.to(dtype)
        kept = _casts[language_model] = (state, copied.eval())
    return kept[1]
