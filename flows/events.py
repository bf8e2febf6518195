"""Events that deployments listen to."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

log = logging.getLogger("clipcap.flows")

TIMEOUT_S = 30.0
"""A server that does not answer holds nobody up for longer; the nightly run needs no event."""


def emit(event: str, resource: str, payload: dict[str, Any]) -> bool:
    """Emits a Prefect event about a batch, a model or a run, and waits until the server has it.

    Returns:
        False where nothing was emitted: no server is configured (then nothing is started to emit it), or the one that
        is configured cannot be reached (then a warning says so).
    """
    url = _api_url()
    if not url:
        return False
    from prefect.events import Event

    prefects_own = logging.getLogger("prefect.events.clients")
    about = {"prefect.resource.id": f"{event.rpartition('.')[0]}.{resource}"}
    prefects_own.disabled = True  # what fails is said once, below
    try:
        # Not prefect's emit_event: it hands the event to a thread, and says that it was emitted before it knows.
        asyncio.run(asyncio.wait_for(_send(Event(event=event, resource=about, payload=payload)), TIMEOUT_S))
    except Exception as error:
        reason = str(error) or type(error).__name__
        log.warning("the Prefect server at %s cannot be reached, so %s was not emitted: %s", url, event, reason)
        return False
    finally:
        prefects_own.disabled = False
    return True


async def _send(event: Any) -> None:
    from prefect.events import get_events_client

    async with get_events_client(reconnection_attempts=1, checkpoint_every=1) as client:
        await client.emit(event)


def has_server() -> bool:
    """Whether runs belong to a server that keeps what they show, rather than to one that ends with the command."""
    return bool(_api_url())


def _api_url() -> str | None:
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()
