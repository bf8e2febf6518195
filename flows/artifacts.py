"""What a run shows in the server's user interface beside its log: progress bars and tables."""

from __future__ import annotations

import logging
import time
from typing import Any

from clipcap.redaction import redact, redact_text
from flows.events import has_server

log = logging.getLogger("clipcap.flows")
_SECONDS_BETWEEN_UPDATES = 5.0


class Progress:
    """A bar for the outputs that one stage still has to make. Nothing where no server keeps it, or where it fails."""

    def __init__(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._last, self._id = time.monotonic(), None
        if has_server():
            self._try(self._create)

    def step(self) -> None:
        """One more is made; the server hears of it every few seconds, and of the last."""
        self._done += 1
        is_due = self._done == self._total or time.monotonic() - self._last >= _SECONDS_BETWEEN_UPDATES
        if self._id is not None and is_due:
            self._last = time.monotonic()
            self._try(self._update)

    def _create(self) -> None:
        from prefect.artifacts import create_progress_artifact

        text = f"{self._stage}: {self._total:,} to do"
        self._id = create_progress_artifact(progress=0.0, description=text)  # type: ignore[assignment]

    def _update(self) -> None:
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(artifact_id=self._id, progress=100.0 * self._done / self._total)  # type: ignore[arg-type]

    def _try(self, call: Any) -> None:
        try:
            call()
        except Exception as error:
            log.debug("no progress is shown: %s", error)
            self._id = None


def show_table(key: str, description: str, rows: list[dict[str, Any]]) -> None:
    """A table of the run; the newest of a key is also listed among the server's artifacts."""
    if not rows or not has_server():
        return
    from prefect.artifacts import create_table_artifact

    try:
        create_table_artifact(table=redact(rows), key=key, description=redact_text(description))
    except Exception as error:
        log.warning("the table %r could not be shown: %s", key, error)
