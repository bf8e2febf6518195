"""Landing: a source becomes an immutable batch with a key for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.config import Config
from clipcap.dataset.sources import SourceRow, problem_of, read_source
from clipcap.errors import SourceError
from clipcap.redaction import redact_text, without_userinfo
from clipcap.storage.commit import commit_table
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.ledger import Outcome, write_ledger
from clipcap.storage.records import Entry

VERSION = 1

URLS_SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("url", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),
        ("source_row", pa.int64()),
    ]
)

_WHERE_GIVEN = ("location", "licence", "source")
"""Columns of texts that urls.parquet has only where some row says something there."""


@dataclass(frozen=True)
class Landing:
    """A source, read and judged but not yet written."""

    dataset: str
    source: str
    rows: list[dict[str, Any]]
    """As in urls.parquet."""
    refused: list[Outcome]
    """Why each other row is not in ``rows``."""
    content: str
    """Digest of everything that was read: the batch's identity and cache key."""

    @property
    def batch_id(self) -> str:
        return f"{self.dataset}-{self.content[:8]}"


def read_landing(config: Config, limit: int | None = None) -> Landing:
    """Reads the configured source and judges every row.

    A URL that came before is a duplicate; its captions join those of the first (URL lists often repeat an image for
    each caption).

    Args:
        limit: land only the first rows.

    Raises:
        SourceError: the source cannot be read, or holds no usable row.
    """
    source = read_source(config)[:limit]
    content = digest([VERSION, config.dataset.name, [_identity(r) for r in source]])
    first: dict[str, dict[str, Any]] = {}
    refused: list[Outcome] = []
    for number, row in enumerate(source):
        key = f"{content[:8]}-{number:07d}"
        if problem := problem_of(row):
            refused.append(Outcome(key, "failed", problem, without_userinfo(row.url)))
        elif row.url in first:
            before = first[row.url]
            added = [c for c in row.captions if c not in before["captions"]]
            before["captions"] = before["captions"] + added
            reason = f"same URL as {before['sample_key']}" + ("; its captions were added there" if added else "")
            refused.append(Outcome(key, "duplicate", reason, row.url))
        else:
            first[row.url] = {
                "sample_key": key, "url": row.url, "captions": row.captions, "split": row.split, "source_row": number
            }  # fmt: skip
            first[row.url] |= {name: value for name in _WHERE_GIVEN if (value := getattr(row, name))}
    if not first:
        reasons = "; ".join(sorted({row.reason for row in refused})[:3]) or "it is empty"
        named = redact_text(config.dataset.source)
        raise SourceError(f"{named} has no usable row ({len(source)} read: {reasons}); nothing was landed")
    return Landing(config.dataset.name, config.dataset.source, list(first.values()), refused, content)


def _identity(row: SourceRow) -> tuple[object, ...]:
    """What makes a row another row; where its bytes are counts only if that is not its URL, its origin if known."""
    origin = [row.licence, row.source] if row.licence or row.source else []
    return (row.url, row.captions, row.split, row.sha256, *([row.location] if row.location else []), *origin)


def land(lake: Lake, landing: Landing, run_id: str = "") -> Entry:
    """Writes the batch. Landing the same rows again gives the same batch."""
    batch_id = landing.batch_id
    with Recorder(
        lake, "land", f"land/{batch_id}", landing.content, run_id,
        batch_id=batch_id, dataset=landing.dataset, source=redact_text(landing.source),
        rows_total=len(landing.rows) + len(landing.refused),
    ) as out:  # fmt: skip
        given = [name for name in _WHERE_GIVEN if any(name in row for row in landing.rows)]
        schema = pa.schema([*URLS_SCHEMA, *((name, pa.string()) for name in given)])
        commit_table(pa.Table.from_pylist(landing.rows, schema=schema), lake.urls(batch_id))
        accepted = [Outcome(row["sample_key"], "ok", "", row["url"]) for row in landing.rows]
        ledger = lake.ledger("land", batch_id, batch_id)
        out.rows = write_ledger(ledger, "land", batch_id, batch_id, accepted + landing.refused)
        out.add("urls", lake.urls(batch_id))
        out.add("ledger", ledger)
    return out.entry


@dataclass(frozen=True)
class ShardJob:
    """One shard of a batch: which rows of urls.parquet it is."""

    batch_id: str
    shard_id: str
    start: int
    stop: int

    def read(self, lake: Lake, urls: pa.Table | None = None) -> pa.Table:
        """Its rows of urls.parquet; ``urls`` is all of that file, where many shards of it are asked for."""
        table = pq.read_table(lake.at_hand(lake.urls(self.batch_id))) if urls is None else urls
        return table.slice(self.start, self.stop - self.start)


def plan_shards(batch_id: str, rows: int, shard_size: int) -> list[ShardJob]:
    """Cuts a batch of ``rows`` usable rows into shards."""
    prefix = batch_id.rsplit("-", 1)[-1]
    return [
        ShardJob(batch_id, f"{prefix}-{index:05d}", start, min(start + shard_size, rows))
        for index, start in enumerate(range(0, rows, shard_size))
    ]
