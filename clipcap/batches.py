"""What fits on the device: where memory runs out, a batch is halved and the work goes on."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from clipcap.errors import ModelError

log = logging.getLogger("clipcap")
T = TypeVar("T")
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")


class Batches:
    """Hands out rows in batches of a size that shrinks where it has to, and then stays.

    Args:
        size: rows in a batch to begin with.
        what: "embedding", "captioning" …, for the log and for errors.
        setting: of the configuration that decides the size.
    """

    def __init__(self, size: int, what: str, setting: str) -> None:
        self.size, self._what, self._setting = size, what, setting

    def map(self, compute: Callable[[slice], T], rows: int) -> Iterator[T]:
        """Calls ``compute`` for slices of ``range(rows)``, in order; one that does not fit is computed in two halves.

        Raises:
            ModelError: the device has no room for a single row.
        """
        start = 0
        while start < rows:
            part = slice(start, min(start + self.size, rows))
            try:
                result = compute(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).strip().partition("\n")[0]
            else:
                yield result
                start = part.stop
                continue
            self._halve(part.stop - part.start, problem)  # here the error and what its frames hold are gone

    def _halve(self, rows: int, problem: str) -> None:
        if rows == 1:
            raise ModelError(
                f"{self._what}: the device has no room for a single row ({problem}); use another device "
                "(embed.device), a smaller model, or end what else computes there"
            )
        self.size = rows // 2
        log.warning("%s: the device has no room for %d rows, going on with %d (%s: %d avoids the attempt)",
                    self._what, rows, self.size, self._setting, self.size)  # fmt: skip
        release()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: CUDA's own error, the CPU allocator's RuntimeError, Python's MemoryError."""
    is_torchs = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return is_torchs or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def release() -> None:
    """Gives back what the allocator keeps for later."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
