"""What a server says of its answer: who may use it (X-Robots-Tag, TDM Reservation Protocol), and when to come back."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

_DIRECTIVES = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))


def why_opted_out(headers: Message, user_agent: str) -> str:
    """ "" where nothing forbids it. A directive that names another user agent is not for us."""
    us = user_agent.partition("/")[0].partition(" ")[0].lower()
    for value in headers.get_all("X-Robots-Tag", []):
        agent = ""  # holds until another one is named
        for part in str(value).lower().split(","):
            named, colon, directive = part.partition(":")
            if colon and named.strip() not in ("unavailable_after", "max-snippet", "max-image-preview"):
                agent, part = named.strip(), directive
            if agent in ("", "*", us) and part.strip() in _DIRECTIVES:
                return "the server's X-Robots-Tag header forbids this use"
    if str(headers.get("TDM-Reservation", "")).strip() == "1":
        return "the server's TDM-Reservation header forbids this use"
    return ""


def seconds_of(value: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3), seconds or a date, to seconds from now; None where there is neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
