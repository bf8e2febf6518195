"""The training loop: steps, progress, validation, early stopping, checkpoints, the best weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from clipcap.batches import is_out_of_memory, release
from clipcap.config import TrainConfig
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner
from clipcap.model.precision import reduced_dtype
from clipcap.training.checkpoints import Checkpoints
from clipcap.training.phases import Phase, Step
from clipcap.training.processes import Processes
from clipcap.training.progress import Best, Progress
from clipcap.training.schedule import MovingAverage, make_optimizer
from clipcap.training.validation import is_finite

log = logging.getLogger("clipcap.train")
LOG_LINES = 200
"""About so many lines of progress in a phase."""


class TrainingLoop:
    """One training, and all that changes while it runs.

    Args:
        captioner: on its device; its trainable parameters learn.
        phases: one after another; each starts from the best weights so far.
        validate: val_loss and val_cider of the captioner as it is; called by rank 0 alone.
        checkpoints: where a killed training left off, and leaves off.
        on_step: called with each line of progress, by rank 0 alone.
    """

    def __init__(
        self,
        captioner: Captioner,
        phases: Sequence[Phase],
        config: TrainConfig,
        processes: Processes,
        checkpoints: Checkpoints,
        validate: Callable[[], tuple[float | None, float | None]],
        on_step: Callable[[Progress], None] | None = None,
    ) -> None:
        self.captioner, self.phases, self.config, self.processes = captioner, list(phases), config, processes
        self.checkpoints, self.validate, self.on_step = checkpoints, validate, on_step
        self.learning = [p for p in captioner.parameters() if p.requires_grad]
        self.log: list[Progress] = []
        self.best = Best()
        self.validations = self.without_better = 0
        self.samples = 0
        self.seconds = 0.0
        self._since = time.perf_counter()
        self._begin(0)

    def _begin(self, phase: int) -> None:
        self.at = phase
        self.phase = self.phases[phase]
        self.steps = self.phase.count_steps()
        self.log_every = max(1, self.steps // LOG_LINES)
        self.epoch, self.position, self.step = 1, 0, 0
        self.recent: list[Tensor] = []  # losses since the last line, left on the device so that no step waits for it
        self.recent_samples, self.recent_s = 0, 0.0
        self.is_stopped = False
        self.without_better = 0
        self.optimizer = make_optimizer(self.learning, self.config.weight_decay)
        self.average = MovingAverage(self.learning, self.config.ema)
        is_half = reduced_dtype(self.processes.device, self.config.precision) == torch.float16
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=is_half)

    def run(self) -> Best:
        """Trains, from the last checkpoint if there is one; leaves the best weights in the captioner, in eval mode."""
        self._resume()
        self._checkpointed = self._since = time.perf_counter()
        self.captioner.train()
        try:
            while True:
                self._run_phase()
                self._use_best()
                if self.at + 1 == len(self.phases):
                    break
                self._begin(self.at + 1)
        except KeyboardInterrupt:
            if self.processes.count == 1:  # several cannot agree on it any more: their last checkpoint stands
                self._save()
            raise
        self.captioner.eval()
        return self.best

    @property
    def taken(self) -> int:
        """Steps, in all phases."""
        return sum(max((line.step for line in self.log if line.phase == phase.name), default=0)
                   for phase in self.phases)  # fmt: skip

    def log_of(self, best: Best) -> Progress:
        """The line of progress that the best weights were validated in."""
        return next(line for line in self.log if (line.phase, line.step) == (best.phase, best.step))

    def _run_phase(self) -> None:
        while self.epoch <= self.phase.epochs and not self.is_stopped:
            steps = self.phase.steps_of(self.epoch)
            while self.position < len(steps) and not self.is_stopped:
                is_due = self._one_step(steps[self.position])
                self.position += 1
                is_last = self.position == len(steps)
                every = self.config.validate_every
                if is_last if not every else self.step % every == 0 or self.step == self.steps:
                    self._validate()
                elif self.step % self.log_every == 0 or is_last:
                    self._report(None, None)
                if is_due:
                    self._save()
            if not self.is_stopped:
                self.epoch, self.position = self.epoch + 1, 0

    def _one_step(self, step: Step) -> bool:
        """Returns whether a checkpoint is due, on which all processes agree."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.phase.learning_rate(self.step, self.steps)
        loss = self._backward(step)
        is_due = time.perf_counter() - self._checkpointed >= self.config.checkpoint_every_s
        wish = torch.tensor(float(is_due and self.processes.rank == 0), device=loss.device)
        loss, wish = self.processes.add_up(self.learning, [loss, wish])
        self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.learning, self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.average.update(self.step)
        self.recent.append(loss)
        self.recent_samples += sum(len(rows) for rows in step)
        return is_due if self.processes.count == 1 else bool(wish)

    def _backward(self, step: Step) -> Tensor:
        """Leaves the step's gradients in the parameters; computed anew in smaller parts where memory runs out."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self.phase.backward(step, self.step, self.scaler.scale)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).strip().partition("\n")[0]
            release()
            if not self.phase.halve(step):
                raise ModelError(
                    f"training: the device has no room for a single row at step {self.step + 1} ({problem}); "
                    "use another device (embed.device), or a smaller language model"
                )
            log.warning("train     the device has no room for a whole batch: going on with %d rows at a time",
                        self.phase.rows_at_once)  # fmt: skip

    def _report(self, val_loss: float | None, val_cider: float | None) -> None:
        """Adds a line of progress."""
        losses = torch.stack(self.recent).tolist()
        for earlier, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._diverged(self.step - len(losses) + 1 + earlier)
        now = time.perf_counter()
        self.recent_s += now - self._since
        self._since = now
        self.seconds += self.recent_s
        self.samples += self.recent_samples
        line = Progress(
            self.phase.name, self.step, self.steps, self.epoch, sum(losses) / len(losses),
            self.optimizer.param_groups[0]["lr"], round(self.recent_samples / max(self.recent_s, 1e-9), 1),
            round(self.seconds, 2), val_loss, val_cider,
        )  # fmt: skip
        self.recent, self.recent_samples, self.recent_s = [], 0, 0.0
        self.log.append(line)
        if self.on_step and self.processes.rank == 0:
            self.on_step(line)

    def _validate(self) -> None:
        self._report(None, None)
        if not is_finite(self.learning):
            raise self._diverged(self.step)
        with self.average.applied():
            scores = self.validate() if self.processes.rank == 0 else (None, None)
            val_loss, val_cider = self.processes.gather(scores)[0]
            line = replace(self.log[-1], val_loss=val_loss, val_cider=val_cider)
            self.log[-1] = line
            if self.on_step and self.processes.rank == 0:
                self.on_step(line)
            loss = line.loss if val_loss is None else val_loss
            score = val_cider if self.config.select == "cider" and val_cider is not None else -loss
            if not math.isfinite(score):
                raise self._diverged(self.step)
            self.validations += 1
            if score > self.best.score:
                weights = [p.detach().to("cpu", copy=True) for p in self.learning]
                self.best = Best(score, self.validations, self.phase.name, self.epoch, self.step, val_loss, val_cider,
                                 weights)  # fmt: skip
                self.without_better = 0
            else:
                self.without_better += 1
        self.is_stopped = bool(self.config.patience) and self.without_better >= self.config.patience
        self._since = time.perf_counter()  # validation is no training time

    @torch.no_grad()
    def _use_best(self) -> None:
        for parameter, best in zip(self.learning, self.best.weights, strict=True):
            parameter.copy_(best)

    def _diverged(self, step: int) -> ModelError:
        return ModelError(
            f"training diverged: the loss is not finite at step {step} of {self.steps}, nothing was stored; "
            f"lower train.learning_rate (now {self.config.learning_rate:g}) or set train.gradient_clip"
        )

    def _save(self) -> None:
        if self.recent and not all(map(math.isfinite, torch.stack(self.recent).tolist())):
            return  # nothing may be resumed from here; the next line of progress says where it diverged
        now = time.perf_counter()
        self.recent_s += now - self._since
        self._since = now
        cuda = torch.cuda.get_rng_state(self.processes.device) if self.processes.device.type == "cuda" else None
        random = self.processes.gather([torch.get_rng_state(), cuda])  # of each process: they drop different units
        if self.processes.rank == 0:
            best = asdict(replace(self.best, weights=[]))
            state = {
                "phase": self.at, "epoch": self.epoch, "position": self.position, "step": self.step,
                "weights": [p.detach() for p in self.learning], "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(), "average": self.average.average, "random": random,
                "recent": self.recent, "recent_samples": self.recent_samples, "recent_s": self.recent_s,
                "seconds": self.seconds, "samples": self.samples, "log": [asdict(line) for line in self.log],
                "best_of": best, "validations": self.validations, "without_better": self.without_better,
                "is_stopped": self.is_stopped,
            }  # fmt: skip
            self.checkpoints.save(state, self.best.weights, self.best.number)
        self._checkpointed = self._since = time.perf_counter()

    def _resume(self) -> None:
        found = self.checkpoints.load()
        if found is None or len(found[0]["random"]) != self.processes.count:
            return
        state, best = found
        self._begin(state["phase"])
        self._restore(state)
        self.best = Best(**{**state["best_of"], "weights": best})

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        device = self.processes.device
        for name in ("epoch", "position", "step", "recent_samples", "recent_s", "seconds", "samples", "validations",
                     "without_better", "is_stopped"):  # fmt: skip
            setattr(self, name, state[name])
        for parameter, stored in zip(self.learning, state["weights"], strict=True):
            parameter.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average.average = [stored.to(device) for stored in state["average"]]
        self.recent = [loss.to(device) for loss in state["recent"]]
        self.log = [Progress(**line) for line in state["log"]]
        cpu, cuda = state["random"][self.processes.rank]
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
