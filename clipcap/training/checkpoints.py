"""What a killed training goes on from: everything that changes while it runs, in a folder of its own."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from clipcap.storage.commit import writing

log = logging.getLogger("clipcap.train")


class Checkpoints:
    """``last.pt`` and the best weights that it names; each replaced whole, so that a kill leaves a usable pair.

    Args:
        folder: of one training; None keeps nothing.
        key: identifies the training; a checkpoint of another one is not used.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder, self.key = folder, key
        self._best = ""

    def save(self, state: dict[str, Any], best: list[torch.Tensor], best_number: int) -> None:
        """Writes plain values and tensors. ``best`` is written only where ``best_number`` was not written before."""
        if self.folder is None:
            return
        name = f"best-{best_number}.pt" if best else ""
        if name and name != self._best:
            self._write(best, name)
        self._write({"key": self.key, "best": name, **state}, "last.pt")
        for old in self.folder.glob("best-*.pt"):
            if old.name != name:
                old.unlink()
        self._best = name

    def load(self) -> tuple[dict[str, Any], list[torch.Tensor]] | None:
        """The last state and the best weights, on the CPU; None where there are none, or not of this training."""
        if self.folder is None or not (self.folder / "last.pt").is_file():
            return None
        try:
            state = torch.load(self.folder / "last.pt", map_location="cpu", weights_only=True)
            if state["key"] != self.key:
                log.warning("train     the checkpoint is of another training: starting anew")
                return None
            self._best = state["best"]
            best = torch.load(self.folder / self._best, map_location="cpu", weights_only=True) if self._best else []
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            log.warning("train     the checkpoint cannot be read (%s): starting anew", type(error).__name__)
            return None
        return state, best

    def _write(self, value: Any, name: str) -> None:
        assert self.folder is not None
        with writing(self.folder / name) as aside:
            torch.save(value, aside)
