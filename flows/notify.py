"""Tells people what they have to know: a run that failed or crashed, a night that was not whole, a refused promotion.

A message goes to a Prefect notification block, to a webhook, or to both, as ``[notify]`` says. A webhook's address is
as good as a password: it stands in an environment variable and appears in no log line, error or message.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError

from clipcap.config import NotifyConfig, load_config
from clipcap.errors import ClipCapError
from clipcap.redaction import redact, redact_text

log = logging.getLogger("clipcap.flows")
_settings = [NotifyConfig()]
DEFAULT_VARIABLE = NotifyConfig().webhook_env


def configure(config: NotifyConfig) -> None:
    """Where messages of this process go from now on; a run does it when it has read its configuration."""
    _settings[0] = config


def notify(kind: str, title: str, facts: Mapping[str, Any], config: NotifyConfig | None = None) -> bool:
    """Sends one message. Failing to send it fails nothing.

    Args:
        kind: one word for whoever sorts messages: "failed", "crashed", "refused".
        title: one sentence.
        facts: what a person needs to act; each value is shown as text.
        config: else the one of :func:`configure`.

    Returns:
        Whether it was delivered to every place that is configured; False where none is.
    """
    config = config or _settings[0]
    address = os.environ.get(config.webhook_env, "") if config.webhook_env else ""
    told = {name: redact(_without(address, value)) for name, value in facts.items()}
    title = redact_text(_without(address, title))
    text = "\n".join([title, *(f"{name}: {value}" for name, value in told.items() if value not in ("", None))])
    delivered = []
    if config.webhook_env and not address and config.webhook_env != DEFAULT_VARIABLE:
        log.warning("nobody was told: notify.webhook_env names the variable %s, which is not set", config.webhook_env)
        delivered.append(False)
    if address:
        message = {"text": text, "kind": kind, "title": title, "facts": told}
        delivered.append(_attempt("webhook", lambda: _post(address, message, config.timeout_s)))
    if config.block:
        delivered.append(_attempt(f"block {config.block}", lambda: _through_block(config.block, title, text)))
    return bool(delivered) and all(delivered)


def tell(flow: Any, flow_run: Any, state: Any) -> None:
    """A flow's hook for ``on_failure`` and ``on_crashed``."""
    given = flow_run.parameters or {}
    config = NotifyConfig()
    with suppress(ClipCapError, OSError):  # it may be what failed; the default variable still says whom to tell
        config = load_config(given.get("config") or "sample", given.get("overrides") or []).notify
    kind = str(state.name).lower()
    facts = {
        "flow": flow.name, "run": flow_run.name, "flow_run_id": str(flow_run.id), "config": given.get("config"),
        "reason": str(state.message or "").strip(),
    }  # fmt: skip
    notify(kind, f"{flow_run.name} {kind}", facts, config)


def _attempt(where: str, send: Any) -> bool:
    try:
        send()
    except HTTPError as error:
        log.warning("nobody was told by %s: it answered %d", where, error.code)
    except Exception as error:  # its text may hold the address
        log.warning("nobody was told by %s: %s", where, type(error).__name__)
    else:
        return True
    return False


def _post(address: str, message: dict[str, Any], timeout_s: float) -> None:
    if not address.startswith(("https://", "http://")):
        raise ValueError("not an address of the web")
    data = json.dumps(message, ensure_ascii=False, default=str).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", "User-Agent": "clipcap"})
    with urllib.request.urlopen(request, timeout=timeout_s):
        pass


def _through_block(name: str, title: str, text: str) -> None:
    from prefect.blocks.core import Block

    Block.load(name).notify(text, subject=title)  # type: ignore[union-attr,attr-defined]


def _without(address: str, value: Any) -> Any:
    return value.replace(address, "***") if address and isinstance(value, str) else value
