"""Running for years: what is landed by itself, kept, cleaned up and told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clipcap.config.base import Positive, Section

Hours = Annotated[float, Field(gt=0)]


class InboxConfig(Section):
    folder: str = ""
    """A watched folder: each file or folder dropped there is landed by the next night; empty: none."""
    settle_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds without a change after which what was dropped counts as whole."""


class LimitsConfig(Section):
    """What a run may take. Estimates come from what this lake has measured; where it has not, from these numbers."""

    check_disk: bool = True
    """Refuse to start a run that cannot fit on the disk; ``--force`` does not ask either."""
    keep_free_gib: Annotated[float, Field(ge=0)] = 1.0
    """Of the disk, for others."""
    image_kib: Annotated[float, Field(gt=0)] = 150.0
    """A downloaded image, before any was measured."""
    model_mib: Annotated[float, Field(ge=0)] = 600.0
    """A trained model, before any was measured."""
    shard_hours: Hours = 6.0
    """A shard that takes longer at one stage is given up: its run fails, the next one begins it again."""
    model_hours: Hours = 72.0
    """The same of training and of evaluation."""


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
    webhook_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$")] = "CLIPCAP_WEBHOOK"
    """Name of the environment variable with a webhook's address: a JSON message is POSTed there. Never the address."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that a message may take; one that cannot be sent fails no run."""
