"""Every error that clipcap raises on purpose.

    ClipCapError
    ├ ConfigError        every problem of the file at once
    ├ DataError          SourceError · ImageDecodeError (a row status, never fatal) · ShardError · EmbeddingError ·
    │                    StaleDecision · StorageError
    ├ ModelError         ShapeError · CheckpointError
    ├ WarehouseError     CheckFailed(check, rows)
    ├ TransientError     the only kind that a task retries
    └ NoRoomError · NightFailed(summary)

A message says what happened, where, what was expected, and what to do next, in one line. It is copied into logs, run
states and messages, so that secrets are taken out of it when it is made.
"""

from __future__ import annotations

from typing import Any

from clipcap.redaction import redact_text


class ClipCapError(Exception):
    """Base of all; the command line prints it as one line and exits with ``exit_code``."""

    exit_code = 1

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact_text(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(ClipCapError):
    """The configuration is wrong; the message lists every problem found."""

    exit_code = 2


class DataError(ClipCapError):
    """Something in the data cannot be used."""


class SourceError(DataError):
    """What was to be landed cannot be read, or holds no usable row."""


class ImageDecodeError(DataError):
    """One image cannot be decoded; becomes a ledger row and never stops a shard."""


class ShardError(DataError):
    """A shard's files disagree with what its stage was given."""


class EmbeddingError(DataError):
    """Embeddings of the wrong dimension, dtype, encoder, or with values that are not finite."""


class StaleDecision(DataError):
    """A candidate was compared with a model that is no longer the one in production."""


class StorageError(DataError):
    """The lake cannot be written to: its disk is full, or it is read-only."""


class ModelError(ClipCapError):
    """A model cannot be built, found or used."""


class ShapeError(ModelError):
    """Tensors whose shapes do not fit the model."""


class CheckpointError(ModelError):
    """Weights that are missing, of another layout, or not safe to load."""


class WarehouseError(ClipCapError):
    """The catalog cannot be built or queried."""


class CheckFailed(WarehouseError):
    """A check of severity error returned rows, so nothing was published.

    Args:
        check: name of the check (its file below ``sql/checks/``).
        rows: the first offending rows.
    """

    def __init__(self, check: str, rows: list[Any]) -> None:
        self.check, self.rows = check, rows
        shown = "; ".join(str(row) for row in rows[:5])
        super().__init__(f"check {check!r} failed on {len(rows)} row(s), nothing was published: {shown}")


class TransientError(ClipCapError):
    """May well succeed when tried again (network, a busy disk); the only kind that tasks retry."""


class NoRoomError(ClipCapError):
    """What a run would write does not fit on the disk, so nothing was begun."""


class NightFailed(ClipCapError):
    """Some batches of a night failed; all others are published.

    Args:
        summary: what the night would have returned, with the failures and their reasons.
    """

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        self.summary = summary
        super().__init__(message)
