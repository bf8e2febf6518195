"""The numbered forms of what a lake stores, and the step from each form to the next.

A manifest names the number of its form; one of an older form takes every later step when it is read, and the next
generation is written in the newest form with a record of those steps. Parquet files are never rewritten: the catalog
reads a column that a file lacks as null. The catalog itself is derived, so it is built anew by other statements; it
shows its number (``catalog_info``) and the steps (view ``migrations``). See docs/decisions/0005-migrations.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Migration:
    """One step; what it changes is told in one sentence, for people."""

    number: int
    name: str
    upgrade: Callable[[Manifest], Manifest] = lambda manifest: manifest
    """Makes a manifest of the form before one of this form; by default nothing in it changes."""


def _name_previous_models(manifest: Manifest) -> Manifest:
    """Promotions had an empty ``previous_model_id`` however many there were."""
    promotions, before = [], ""
    for promotion in manifest.get("promotions", []):
        promotions.append({**promotion, "previous_model_id": promotion.get("previous_model_id") or before})
        before = promotion["model_id"]
    return {**manifest, "promotions": promotions}


MIGRATIONS = (
    Migration(1, "Entries, runs and promotions."),
    Migration(2, "Each promotion names the model that it replaced.", _name_previous_models),
    Migration(
        3,
        "Metrics have intervals (null where they were computed before), comparisons of two models, decisions of the "
        "gate.",
    ),
)
"""In order, without gaps. A new one goes to the end; an old one never changes."""

FORM = MIGRATIONS[-1].number


def form_of(data: bytes) -> int:
    """The number of a manifest's form, from its first bytes; 1 where it names none."""
    found = re.match(rb'\s*\{\s*"form":\s*(\d+)', data)
    return int(found[1]) if found else 1


def upgrade(manifest: Manifest, form: int) -> Manifest:
    """Takes every step from ``form`` to the newest one, and records each."""
    now = datetime.now(UTC).isoformat()
    for migration in MIGRATIONS:
        if migration.number > form:
            manifest = migration.upgrade(manifest)
            applied = {"number": migration.number, "name": migration.name, "applied_at": now}
            manifest = {**manifest, "migrations": [*manifest.get("migrations", []), applied]}
    return {**manifest, "form": FORM}
