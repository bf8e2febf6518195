"""Running for years: what is landed by itself, kept, cleaned up and told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipcap.config.base import Positive, Section


class InboxConfig(Section):
    folder: str = ""
    """A watched folder: each file or folder dropped there is landed by the next night; empty: none."""


class MaintenanceConfig(Section):
    keep_generations: Positive = 10
    """Generations that can be gone back to."""
    keep_days: Annotated[float, Field(ge=0)] = 7.0
    """Nothing younger is deleted, whatever else is said: longer than any reader's connection."""
    keep_models: Positive = 5
    """Models kept beside production and the one before it; older ones are archived away."""


class NotifyConfig(Section):
    block: str = ""
    """A Prefect notification block, "slack-webhook/my-block", that hears of failures and refused promotions."""
    webhook_env: str = ""
    """Name of the environment variable with a webhook's address: a JSON message is POSTed there. Never the address."""
