"""How often long work says how far it is: often enough to be believed, and without filling a log."""

from __future__ import annotations

import time

EVERY_S = 10.0


class Pace:
    """Keeps lines of progress ``every_s`` seconds apart, the first one that long after the start."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s, self._last = every_s, time.monotonic()

    def is_due(self, at_once: bool = False) -> bool:
        """Whether a line may be said now; the next one then waits.

        Args:
            at_once: say it whenever the last one was.
        """
        now = time.monotonic()
        if not at_once and now - self._last < self._every_s:
            return False
        self._last = now
        return True
