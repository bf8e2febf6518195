"""The training loop: batches, learning rate, gradients, progress, validation, the best epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap.config import TrainConfig
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner
from clipcap.training.examples import TrainingExamples

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


class Run:
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
