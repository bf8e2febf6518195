"""The batches of a lake, and their shards as they were published."""

from __future__ import annotations

from clipcap.errors import DataError
from clipcap.storage.records import Entry
from flows.download import download
from flows.stages import RunContext, say


def landed_batches(context: RunContext, wanted: list[str] | None = None) -> list[Entry]:
    """The wanted batches, all by default, in the order in which they landed.

    Raises:
        DataError: one of them did not land.
    """
    in_order = sorted(context.index.of_stage("land"), key=lambda entry: entry.created_at)
    landed = {entry.meta["batch_id"]: entry for entry in in_order}
    if unknown := [batch_id for batch_id in wanted or [] if batch_id not in landed]:
        raise DataError(f"no batch {', '.join(unknown)} in the lake; there are: {', '.join(landed) or 'none'}")
    return [landed[batch_id] for batch_id in wanted or landed]


def published_shards(context: RunContext, batch: Entry) -> list[Entry]:
    """A batch's downloads as they were published, however they were cut and filtered; none where some are missing.

    Batches land and are downloaded under many configurations. A night run under another shard size than a batch's
    own must not fetch that batch again, least of all from a server of a sample that is described otherwise now.
    """
    found = context.index.of_batch("download", batch.meta["batch_id"])
    stand = [entry for entry in found if context.index.is_published(entry)]
    return stand if sum(sum(entry.rows.values()) for entry in stand) == batch.rows["ok"] else []


def downloaded(context: RunContext, batch: Entry) -> list[Entry]:
    """A batch's shards as they were published; downloaded where there are none."""
    stand = published_shards(context, batch)
    if not stand:
        return download(context, batch)
    context.used += stand
    say("download", f"{len(stand)} cached")
    return stand
