"""Why a URL was not fetched. The first word of the text says the kind, also after img2dataset made a string of it."""

from __future__ import annotations

MAY_HEAL = "may heal: "
"""Begins the reason of what may succeed another day."""


class GuardError(Exception):
    """Base of all; its text holds our words, host names and addresses, never a query string or a server's own words."""


class Refused(GuardError):
    """A rule of the guard forbids the request. Permanent."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused: {reason}")


class OptedOut(GuardError):
    """Whoever serves the image forbids this use."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"opted out: {reason}")


class Filtered(GuardError):
    """What was served is larger than configured."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"filtered: {reason}")


class NotFetched(GuardError):
    """The server did not give it.

    Args:
        is_transient: whether asking another day may help.
        wait_s: seconds to wait before asking again; None is the guard's own choice, infinite is not in this run.
        status: of the HTTP answer; 0 where there was none.
    """

    def __init__(self, reason: str, is_transient: bool = False, wait_s: float | None = None, status: int = 0) -> None:
        super().__init__(f"{MAY_HEAL}{reason}" if is_transient else reason)
        self.reason, self.is_transient, self.wait_s, self.status = reason, is_transient, wait_s, status
