"""Trains a captioner: AdamW, warm-up and decay, validation after each epoch, the best epoch kept (paper, section 4)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap.config import CaptionConfig, TrainConfig
from clipcap.errors import DataError, EmbeddingError, ModelError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import LANGUAGE_MODEL, save_captioner
from clipcap.model.language_model import hidden_size_of, load_language_model, new_language_model, positions_of
from clipcap.model.mapping import build_mapper
from clipcap.training.examples import Pairs, TrainingExamples

LOG_LINES = 200
"""About so many lines of progress in a whole training."""


@dataclass(frozen=True)
class Progress:
    """One line of training.jsonl."""

    step: int
    steps: int
    epoch: int
    loss: float
    """Mean over the steps since the line before."""
    lr: float
    samples_per_s: float
    """Captions."""
    seconds: float
    """Since training began."""
    val_loss: float | None = None
    """At the end of an epoch: nats per token, without smoothing, noise or dropout."""


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
        tokenised = {"eos_id": captioner.settings.eos_id, "max_tokens": config.max_tokens, "device": device}
        examples = TrainingExamples.from_pairs(train_pairs, captioner.tokenizer, **tokenised)
        val = None
        if val_pairs.texts:
            val = TrainingExamples.from_pairs(val_pairs, captioner.tokenizer, **tokenised, where="validation")
        run = _Run(captioner, examples, val, config, began, on_step)
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


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Of step 0 … steps - 1: linear warm-up (at most a tenth of all steps), then decay towards 0 after the last."""
    warmup = min(config.warmup_steps, steps // 10)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    if config.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return config.learning_rate * left


@torch.inference_mode()
def mean_loss(captioner: Captioner, examples: TrainingExamples, batch_size: int) -> float:
    """Nats per token over all captions, in eval mode."""
    was_training = captioner.training
    captioner.eval()
    total = torch.zeros((), device=examples.tokens.device, dtype=torch.float64)
    for embeddings, tokens in examples.batches(batch_size):
        total += captioner.loss(embeddings, tokens, reduction="sum")
    captioner.train(was_training)
    return float(total) / int(examples.lengths.sum())


class _Run:
    """The loop, with all that changes while it runs in one place (what a later resume has to store)."""

    def __init__(
        self,
        captioner: Captioner,
        examples: TrainingExamples,
        val: TrainingExamples | None,
        config: TrainConfig,
        began: float,
        on_step: Callable[[Progress], None] | None,
    ) -> None:
        self.captioner, self.examples, self.val, self.config = captioner, examples, val, config
        self.began, self.on_step = began, on_step
        self.steps = config.epochs * examples.steps(config.batch_size)
        self.log_every = max(1, self.steps // LOG_LINES)
        self.learning = [p for p in captioner.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.learning, config)
        self.step = 0
        self.training_s = 0.0
        self.log: list[Progress] = []

    def all_epochs(self) -> tuple[float, int]:
        """Trains; leaves the best epoch's weights in the captioner. Returns its loss and its number (from 1)."""
        best_loss, best_epoch, best_weights = math.inf, 0, []
        for epoch in range(1, self.config.epochs + 1):
            train_loss = self.one_epoch(epoch)
            val_loss = mean_loss(self.captioner, self.val, 4 * self.config.batch_size) if self.val else None
            loss = train_loss if val_loss is None else val_loss
            if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in self.learning)):
                raise self._diverged(self.step)
            self._report(replace(self.log[-1], val_loss=val_loss))
            if loss < best_loss:
                best_loss, best_epoch = loss, epoch
                best_weights = [p.detach().to("cpu", copy=True) for p in self.learning]
        with torch.no_grad():
            for parameter, best in zip(self.learning, best_weights, strict=True):
                parameter.copy_(best)
        self.captioner.eval()
        return best_loss, best_epoch

    def one_epoch(self, epoch: int) -> float:
        """Returns the mean training loss."""
        self.captioner.train()
        order = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
        recent: list[Tensor] = []  # losses since the last line, left on the device so that no step waits for it
        total, counted, began, since = 0.0, 0, time.perf_counter(), time.perf_counter()
        last = self.examples.steps(self.config.batch_size)
        captions = 0
        for number, (embeddings, tokens) in enumerate(self.examples.batches(self.config.batch_size, order), 1):
            recent.append(self._one_step(embeddings, tokens))
            captions += tokens.shape[0]
            if self.step % self.log_every == 0 or number == last:
                losses = torch.stack(recent).tolist()
                for earlier, loss in enumerate(losses):
                    if not math.isfinite(loss):
                        raise self._diverged(self.step - len(losses) + 1 + earlier)
                now = time.perf_counter()
                self._report(
                    Progress(
                        step=self.step,
                        steps=self.steps,
                        epoch=epoch,
                        loss=sum(losses) / len(losses),
                        lr=self.optimizer.param_groups[0]["lr"],
                        samples_per_s=round(captions / (now - since), 1),
                        seconds=round(now - self.began, 2),
                    )
                )
                total, counted = total + sum(losses), counted + len(losses)
                recent, captions, since = [], 0, now
        self.training_s += time.perf_counter() - began
        return total / counted

    def _one_step(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, config)
        embeddings = embeddings.float()
        if config.embedding_noise:
            if config.normalize:
                embeddings = F.normalize(embeddings, dim=-1)
            embeddings = embeddings + torch.randn_like(embeddings) * (
                config.embedding_noise / embeddings.shape[1] ** 0.5
            )
        loss = self.captioner.loss(embeddings, tokens, config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.learning, config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _report(self, line: Progress) -> None:
        if line.val_loss is not None and self.log and self.log[-1].step == line.step:
            self.log[-1] = line  # the epoch's last line, now with its validation loss
        else:
            self.log.append(line)
        if self.on_step:
            self.on_step(line)

    def _diverged(self, step: int) -> ModelError:
        return ModelError(
            f"training diverged: the loss is not finite at step {step} of {self.steps}, nothing was stored; "
            f"lower train.learning_rate (now {self.config.learning_rate:g}) or set train.gradient_clip"
        )


def _optimizer(parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW as transformers once had it (eps 1e-6); weight decay is for matrices, not for biases and norms."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=1e-6, fused=True)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seeds torch for the block and gives the caller's random state back after it."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
