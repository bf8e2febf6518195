"""Events that deployments listen to."""

from __future__ import annotations

import os
from typing import Any


def emit(event: str, resource: str, payload: dict[str, Any]) -> bool:
    """Emits a Prefect event about a batch, a model or a run.

    Returns:
        False where no server is configured: nothing was emitted, and nothing was started to emit it.
    """
    if not _api_url():
        return False
    from prefect.events import emit_event

    emitted = emit_event(
        event=event, resource={"prefect.resource.id": f"{event.rpartition('.')[0]}.{resource}"}, payload=payload
    )
    return emitted is not None


def _api_url() -> str | None:
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()
