"""The two ways to learn: from captions as they are written (paper, section 3), and from a reward for sampled ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap.config import TrainConfig
from clipcap.model.captioner import Captioner
from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.processes import Processes
from clipcap.training.schedule import learning_rate
from clipcap.training.validation import autocast

if TYPE_CHECKING:
    from clipcap.training.self_critical import SelfCritical

Step = list[Tensor]
"""Rows of each batch whose gradients one step adds up: ``accumulate`` batches for each process."""


class Phase(ABC):
    """A stretch of training with an optimizer of its own.

    The order of everything follows the seed and the epoch alone, so a resumed training sees what it had not seen yet.
    """

    name: str
    epochs: int

    def __init__(self, captioner: Captioner, config: TrainConfig, processes: Processes) -> None:
        self.captioner, self.config, self.processes = captioner, config, processes
        self.rows_at_once = 0
        """Where the device has no room for a whole batch: so many of its rows; their gradients add up to the same."""
        self.autocast: Callable[[], AbstractContextManager[object]] = partial(
            autocast, processes.device, config.precision
        )

    def steps_of(self, epoch: int) -> list[Step]:
        batches = self._batches(torch.Generator().manual_seed(self.config.seed * 100_003 + epoch))
        together = self.config.accumulate * self.processes.count
        return [batches[start : start + together] for start in range(0, len(batches), together)]

    def count_steps(self) -> int:
        """Of all epochs."""
        if not self.config.tokens_per_batch:
            return self.epochs * len(self.steps_of(1))
        return sum(len(self.steps_of(epoch)) for epoch in range(1, self.epochs + 1))

    def mine(self, step: Step) -> Step:
        """The batches of this process, cut to what fits."""
        mine = step[self.processes.rank :: self.processes.count]
        return [part for rows in mine for part in rows.split(self.rows_at_once or len(rows))]

    def halve(self, step: Step) -> bool:
        """Makes batches smaller from now on; False where they cannot be."""
        rows = max(map(len, self.mine(step)), default=1)
        self.rows_at_once = max(1, rows // 2)
        return rows > 1

    @abstractmethod
    def _batches(self, order: torch.Generator) -> list[Tensor]: ...

    @abstractmethod
    def learning_rate(self, step: int, steps: int) -> float: ...

    @abstractmethod
    def backward(self, step: Step, number: int, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """Adds this process's part of the gradients.

        Args:
            step: all batches of the step.
            number: of the step, from 0.
            scale: what multiplies a loss before its gradients are taken (float16).

        Returns:
            This process's part of the step's loss, a scalar without gradient; the parts add up to it.
        """


class FromCaptions(Phase):
    """Cross-entropy of human captions."""

    name = "captions"

    def __init__(
        self, captioner: Captioner, config: TrainConfig, processes: Processes, examples: TrainingExamples
    ) -> None:
        super().__init__(captioner, config, processes)
        self.examples, self.epochs = examples, config.epochs

    def _batches(self, order: torch.Generator) -> list[Tensor]:
        return self.examples.plan(
            self.config.batch_size, order,
            tokens_per_batch=self.config.tokens_per_batch, prefix_length=self.config.prefix_length,
        )  # fmt: skip

    def learning_rate(self, step: int, steps: int) -> float:
        return learning_rate(step, steps, self.config)

    def backward(self, step: Step, number: int, scale: Callable[[Tensor], Tensor]) -> Tensor:
        # Each token weighs the same in a step, however it is cut into batches and processes.
        tokens = sum(int(self.examples.lengths[rows].sum()) for rows in step)
        total = torch.zeros((), device=self.processes.device)
        for rows in self.mine(step):
            batch = self.examples.batch(rows)
            with self.autocast():
                loss = self.captioner.loss(
                    self._noisy(batch.embeddings), batch.tokens, self.config.label_smoothing, reduction="sum"
                )
            loss = loss / tokens
            scale(loss).backward()
            total += loss.detach()
        return total

    def _noisy(self, embeddings: Tensor) -> Tensor:
        if not self.config.embedding_noise:
            return embeddings
        embeddings = embeddings.float()
        if self.config.normalize:
            embeddings = F.normalize(embeddings, dim=-1)
        scale: float = self.config.embedding_noise / embeddings.shape[-1] ** 0.5
        return embeddings + torch.randn_like(embeddings) * scale


class FromReward(Phase):
    """Self-critical: sampled captions, rewarded with CIDEr-D (Rennie et al. 2017)."""

    name = "reward"

    def __init__(
        self,
        captioner: Captioner,
        config: TrainConfig,
        processes: Processes,
        examples: TrainingExamples,
        pairs: Pairs,
    ) -> None:
        from clipcap.training.self_critical import SelfCritical

        super().__init__(captioner, config, processes)
        self.epochs = config.self_critical.epochs
        self.embeddings = examples.embeddings
        self.rows = torch.tensor([row for row, texts in enumerate(pairs.captions) if any(t.strip() for t in texts)])
        self.learner: SelfCritical = SelfCritical(captioner, pairs.captions, config.self_critical, config.max_tokens)

    def _batches(self, order: torch.Generator) -> list[Tensor]:
        shuffled = self.rows[torch.randperm(len(self.rows), generator=order)]
        return list(shuffled.split(self.config.self_critical.batch_size))

    def count_steps(self) -> int:
        return self.epochs * len(self.steps_of(1))

    def learning_rate(self, step: int, steps: int) -> float:
        return self.config.self_critical.learning_rate * min(1.0, (step + 1) / 50)

    def backward(self, step: Step, number: int, scale: Callable[[Tensor], Tensor]) -> Tensor:
        reward = torch.zeros((), device=self.processes.device)
        images = sum(len(rows) for rows in step)
        for rows in self.mine(step):
            embeddings = self.embeddings[rows.to(self.embeddings.device)].to(self.processes.device)
            with self.autocast():
                loss, mean = self.learner.loss(embeddings, rows.tolist(), self._seeds(rows, number))
            share = len(rows) / images
            scale(loss * share).backward()
            reward += mean * share
        return -reward  # what is shown as the loss: the negative mean reward

    def _seeds(self, rows: Tensor, number: int) -> Sequence[int]:
        """One for each image, another one at each step."""
        first = (self.config.seed * 1_000_003 + number) * 2_000_003
        return [(first + row) % 2**63 for row in rows.tolist()]
