"""Trains a captioner and writes it: from pairs and a configuration to a model folder (paper, section 4)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clipcap.config import CaptionConfig, TrainConfig
from clipcap.errors import DataError, EmbeddingError, ModelError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import LANGUAGE_MODEL, save_captioner
from clipcap.model.language_model import hidden_size_of, load_language_model, new_language_model, positions_of
from clipcap.model.mapping import build_mapper
from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.loop import Progress, Run
from clipcap.training.standardize import standardized


@dataclass(frozen=True)
class TrainingResult:
    """What metrics.json holds."""

    best_loss: float
    best_loss_of: str
    """"val", or "train" where there was nothing to validate on."""
    best_epoch: int
    epochs: int
    steps: int
    captions: int
    images: int
    parameters: int
    trained_parameters: int
    samples_per_s: float
    duration_s: float


def train(
    train_pairs: Pairs,
    val_pairs: Pairs,
    config: TrainConfig,
    folder: Path,
    *,
    model_id: str,
    encoder: str,
    encoder_hash: str,
    device: str = "cpu",
    on_step: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Trains and writes config.json, mapping.safetensors, lm/ (if it learned), training.jsonl and metrics.json.

    Nothing is written before training has ended well. The same seed gives the same weights on a CPU with the same
    number of threads. The caller's random state is left as it was.

    Args:
        train_pairs: learned from.
        val_pairs: decides which epoch is kept; may be empty, then the training loss does.
        config: the section [train].
        folder: of the model; made if missing.
        model_id: stored with the model, as are ``encoder`` and ``encoder_hash``.
        encoder: name of the encoder of both embeddings.
        encoder_hash: of its weights.
        device: "cpu", "cuda" …
        on_step: called about 200 times, and after each epoch.

    Raises:
        DataError: no captions to learn from.
        EmbeddingError: embeddings that are not finite, or of two dimensions.
        ModelError: the language model cannot be had, sizes do not fit, or the loss is not finite.
    """
    began = time.perf_counter()
    if not train_pairs.texts:
        raise DataError(f"nothing to train on: {len(train_pairs.captions)} training images with no caption among them")
    if len(val_pairs.captions) and val_pairs.embeddings.shape[1:] != train_pairs.embeddings.shape[1:]:
        raise EmbeddingError(
            f"training embeddings have shape {train_pairs.embeddings.shape}, validation embeddings "
            f"{val_pairs.embeddings.shape}: embed both with the same encoder"
        )
    with _seeded(config.seed, device):
        captioner = build_captioner(
            config, train_pairs, model_id=model_id, encoder=encoder, encoder_hash=encoder_hash
        ).to(device)
        tokenise = partial(
            TrainingExamples.from_pairs,
            tokenizer=captioner.tokenizer,
            eos_id=captioner.settings.eos_id,
            max_tokens=config.max_tokens,
            device=device,
        )
        examples = tokenise(train_pairs)
        val = tokenise(val_pairs, where="validation") if val_pairs.texts else None
        run = Run(captioner, examples, val, config, began, on_step)
        with standardized(captioner, examples.embeddings) if config.standardize else nullcontext():
            best_loss, best_epoch = run.all_epochs()

    duration = time.perf_counter() - began
    result = TrainingResult(
        best_loss=best_loss,
        best_loss_of="val" if val else "train",
        best_epoch=best_epoch,
        epochs=config.epochs,
        steps=run.steps,
        captions=len(examples),
        images=len(train_pairs.captions),
        parameters=sum(p.numel() for p in captioner.parameters()),
        trained_parameters=sum(p.numel() for p in captioner.parameters() if p.requires_grad),
        samples_per_s=round(len(examples) * config.epochs / run.training_s, 1),
        duration_s=round(duration, 2),
    )
    save_captioner(captioner, folder)
    lines = "".join(json.dumps(asdict(line)) + "\n" for line in run.log)
    (folder / "training.jsonl").write_text(lines, encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


def build_captioner(
    config: TrainConfig, train_pairs: Pairs, *, model_id: str = "", encoder: str = "", encoder_hash: str = ""
) -> Captioner:
    """An untrained captioner as the configuration asks for it.

    Raises:
        ModelError: the language model cannot be had, or sizes do not fit.
    """
    wanted = config.language_model
    is_new = wanted.name == "scratch"
    language_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if is_new:
        longest = max(config.max_tokens, CaptionConfig().max_new_tokens)
        language_model, tokenizer = new_language_model(wanted, train_pairs.texts, config.prefix_length + longest)
    else:
        language_model, tokenizer = load_language_model(wanted.name)
    positions = positions_of(language_model)
    if positions is not None and config.prefix_length + config.max_tokens > positions:
        raise ModelError(
            f"train.prefix_length {config.prefix_length} and train.max_tokens {config.max_tokens} need more than the "
            f"{positions} positions of language model {wanted.name!r}: lower one of them"
        )
    clip_dim, hidden_size = train_pairs.embeddings.shape[-1], hidden_size_of(language_model)
    sizes = config.model_dump(
        include={
            "mapper",
            "prefix_length",
            "clip_length",
            "mapper_layers",
            "mapper_heads",
            "mapper_hidden",
            "normalize",
        }
    )
    settings = CaptionerSettings(
        **sizes,
        model_id=model_id,
        clip_dim=clip_dim,
        hidden_size=hidden_size,
        encoder=encoder,
        encoder_hash=encoder_hash,
        language_model=LANGUAGE_MODEL if is_new or wanted.tune else wanted.name,
        tuned=is_new or wanted.tune,
        eos_id=tokenizer.eos_token_id,
    )
    return Captioner(build_mapper(config, clip_dim, hidden_size), language_model, tokenizer, settings)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seeds torch for the block and gives the caller's random state back after it."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
