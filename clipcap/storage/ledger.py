"""The ledger: one row for every input of a stage, whatever became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa

from clipcap.storage.commit import commit_table

Status = Literal["ok", "failed", "filtered", "opted_out", "duplicate"]

SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("batch_id", pa.string()),
        ("shard_id", pa.string()),
        ("stage", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("image_url", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input; ``reason`` is empty when ok, else a sentence for a person."""

    sample_key: str
    status: Status
    reason: str = ""
    image_url: str = ""


def write_ledger(final: Path, stage: str, batch_id: str, shard_id: str, outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Commits a stage's outcomes, sorted by key.

    Returns:
        Rows by status.
    """
    rows = sorted(outcomes, key=lambda row: row.sample_key)
    now = datetime.now(UTC)
    columns = {
        "sample_key": [row.sample_key for row in rows],
        "batch_id": [batch_id] * len(rows),
        "shard_id": [shard_id] * len(rows),
        "stage": [stage] * len(rows),
        "status": [row.status for row in rows],
        "reason": [row.reason for row in rows],
        "image_url": [row.image_url for row in rows],
        "created_at": [now] * len(rows),
    }
    commit_table(pa.table(columns, schema=SCHEMA), final)
    return dict(Counter(row.status for row in rows))
