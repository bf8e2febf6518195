"""What a manifest says: entries with their files, runs, promotions, decisions, and the generation of them all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from clipcap.storage.migrations import FORM


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    kind: str
    """What it is to readers: urls, ledger, shard_tar, shard, embeddings, model, captions, corpus, per_image, report."""
    path: str
    """Relative to the lake's root."""
    sha256: str
    size_bytes: int


class Entry(BaseModel):
    """One finished output. ``id`` says what it is of (stage/…), ``key`` says what it was made from."""

    model_config = ConfigDict(frozen=True)

    stage: str
    id: str
    key: str
    files: list[FileRecord] = []
    rows: dict[str, int] = {}
    """Inputs of the stage by status."""
    meta: dict[str, Any] = {}
    """Small facts that later stages and SQL need (batch_id, shard_id, model_id, metrics …)."""
    run_id: str = ""
    created_at: datetime
    duration_s: float = 0.0

    def file(self, kind: str) -> FileRecord:
        return next(file for file in self.files if file.kind == kind)


class Run(BaseModel):
    """One published run: what it was asked to do and what it used."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    flow: str
    started_at: datetime
    finished_at: datetime
    config: dict[str, Any] = {}
    entries: list[str] = []
    """Ids of all entries that the run used, cached ones included."""


class Promotion(BaseModel):
    """A model goes into production."""

    model_config = ConfigDict(frozen=True)

    model_id: str
    reason: str
    created_at: datetime
    previous_model_id: str = ""
    """The one in production until then; filled in when it is committed."""
    is_rollback: bool = False
    """Whether it takes back the promotion before, instead of adding one."""


class Decision(BaseModel):
    """What the gate said about a new model, and on what evidence."""

    model_config = ConfigDict(frozen=True)

    decided_at: datetime
    run_id: str
    candidate_model_id: str
    production_model_id: str
    """The model that it was compared with; "" where there was none."""
    verdict: Literal["promoted", "refused"]
    reason: str
    """One sentence."""
    evidence: dict[str, Any] = {}
    """The rows of the comparison, and the limits that they were held against."""
    evaluation_set: str = ""
    """The frozen images that both were scored on."""


class AppliedMigration(BaseModel):
    """A step of :mod:`clipcap.storage.migrations` that this lake's older manifests took."""

    model_config = ConfigDict(frozen=True)

    number: int
    name: str
    applied_at: datetime


class Generation(BaseModel):
    """All that SQL shows."""

    form: int = FORM
    """Of the manifest, see :mod:`clipcap.storage.migrations`; stands first in the file."""
    number: int = 0
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    entries: dict[str, Entry] = {}
    runs: list[Run] = []
    promotions: list[Promotion] = []
    decisions: list[Decision] = []
    migrations: list[AppliedMigration] = []

    @property
    def production_model_id(self) -> str:
        """The model that nightly captioning uses: the one promoted last, "" before the first promotion."""
        return self.promotions[-1].model_id if self.promotions else ""

    def of_stage(self, stage: str) -> list[Entry]:
        """Entries of one stage, ordered by id."""
        return sorted((e for e in self.entries.values() if e.stage == stage), key=lambda e: e.id)
