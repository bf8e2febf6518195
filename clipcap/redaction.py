"""Secrets out of texts that are copied: logs, messages, the configuration in a manifest, reports.

What a URL needs to be fetched again (a signed query) stays where the URL itself is data: urls.parquet, shards and the
ledger. User names and passwords in URLs stand nowhere; landing refuses them. See docs/threat-model.md.
"""

from __future__ import annotations

import logging
import re
from typing import Any

_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>`]+")
_USERINFO = re.compile(r"(?<=//)[^/?#\s]*@")
_PARTS = re.compile(r"(?P<place>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?", re.DOTALL)
_WEBHOOK = re.compile(
    r"(?i)(://hooks\.slack\.com|://(?:[\w-]+\.)?discord(?:app)?\.com/api/webhooks|://[\w.-]*\.?webhook\.office\.com"
    r"|://outlook\.office\.com/webhook|://api\.telegram\.org)/.+"
)
_NAMED = re.compile(
    r"(?i)((?:secret|token|passw(?:or)?d|api[_-]?key|access[_-]?key(?:[_-]?id)?|signature|authorization)"
    r"[\"']?\s*[=:]\s*[\"']?)(?:(?:bearer|basic)\s+)?(?!\*\*\*)[^\s\"'&,;]+"
)
_SECRET_NAME = re.compile(r"(?i)sig|token|key|secret|auth|pass|pwd|cred|session|jwt|hmac|policy|^x-(?:amz|goog|oss)-")
_SECRET_VALUE = re.compile(r"[\w.~+/=%-]{32,}")
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def without_userinfo(url: str) -> str:
    """The URL with "***" in place of a user name and a password."""
    return _USERINFO.sub("***@", url, count=1)


def redact_url(url: str) -> str:
    """Where it leads, without what lets one in: userinfo, query, a fragment with values, a webhook's path."""
    found = _PARTS.fullmatch(_WEBHOOK.sub(r"\1/***", without_userinfo(url)))
    assert found is not None  # every text has these parts
    fragment = found["fragment"] or ""
    return found["place"] + ("?***" if found["query"] else "") + ("#***" if "=" in fragment else fragment)


def shown_url(url: str) -> str:
    """For people who look at an image's address: of the query only what is named or looks like a secret is left out."""

    def parameter(found: re.Match[str]) -> str:
        is_secret = _SECRET_NAME.search(found["name"]) or _SECRET_VALUE.fullmatch(found["value"] or "")
        return f"{found['name']}=***" if is_secret else found[0]

    place, mark, query = without_userinfo(url).partition("?")
    return place + mark + re.sub(r"(?P<name>[^=&;#]+)=(?P<value>[^&;#]*)", parameter, query)


def redact_text(text: str) -> str:
    """A sentence with every URL in it redacted, and what follows the words for a secret."""
    text = _URL.sub(lambda found: redact_url(found[0]), text)
    return _AWS_KEY.sub("***", _NAMED.sub(r"\1***", text))


def redact(value: Any) -> Any:
    """The same of every text in lists and dicts; names of fields stay."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return value


class RedactingFilter(logging.Filter):
    """Takes secrets out of a line and of its traceback, whatever was put into them. For loggers and handlers alike."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_text(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = redact_text(logging.Formatter().formatException(record.exc_info))
        return True
