"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from clipcap.redaction import redact_text

Status = Literal["ok", "warning", "broken", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One check; ``mend`` says what to do where it is not ok."""

    check: str
    status: Status
    found: str
    mend: str = ""


Check = Callable[[], Finding]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Runs checks one after another; one that fails itself is "not checked" and stops no other."""
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            text = redact_text(str(error).partition("\n")[0])
            yield Finding(name, "not checked", f"{type(error).__name__}: {text}", "see the message")
