"""Several processes that train together, each on its own device (accelerate); alone, every call does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Processes:
    """This process among those that train together.

    Attributes:
        rank: number of this one, from 0; rank 0 writes files and reports.
        count: how many there are.
        device: this one's.
    """

    rank = 0
    count = 1

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def add_up(self, parameters: Iterable[nn.Parameter], numbers: Sequence[Tensor]) -> list[Tensor]:
        """Sums gradients in place and ``numbers`` (scalars, float32) over all processes; returns the sums."""
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in the order of ranks. Plain values and CPU tensors."""
        return [value]


class Launched(Processes):
    """A process that ``accelerate launch`` started."""

    def __init__(self, use_cpu: bool) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=use_cpu)
        self.rank, self.count = state.process_index, state.num_processes
        super().__init__(state.device)

    def add_up(self, parameters: Iterable[nn.Parameter], numbers: Sequence[Tensor]) -> list[Tensor]:
        # One sum over one long vector: many small ones would each wait for the slowest process.
        from accelerate.utils import reduce

        parameters = list(parameters)
        pieces = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        vector = torch.cat([piece.flatten().float() for piece in pieces] + [number.float()[None] for number in numbers])
        vector = reduce(vector, "sum")
        *sums, rest = vector.split([*(piece.numel() for piece in pieces), len(numbers)])
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)
        return list(rest.unbind())

    def end(self) -> None:
        """Parts from the others when all are done; one that just exits can abort a slower one's connection."""
        from accelerate import PartialState

        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        found: list[Any] = gather_object([value])
        return found
