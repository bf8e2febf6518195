"""A batch's card: where it is from, what became of each row and why, what its captions are like, and whose it is."""

from __future__ import annotations

import re
from typing import Any

from clipcap import __version__
from clipcap.cards.markdown import render
from clipcap.errors import DataError
from clipcap.redaction import redact_text
from clipcap.storage.lake import Lake

Row = dict[str, Any]
EXAMPLES = 3
"""Images whose captions a card shows."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def dataset_facts(lake: Lake, batch_id: str, licence: str = "") -> Row:
    """All that the card of a batch tells, as plain data.

    Args:
        licence: of the batch as a whole, as the hub names it; nothing is assumed where it is empty.

    Raises:
        DataError: the lake has no such batch.
    """
    from clipcap.report.summary import open_reader

    with open_reader(lake) as reader:
        batch = reader.row("card_batch", batch_id=batch_id)
        if batch is None:
            known = ", ".join(row["batch_id"] for row in reader.rows("card_batches")) or "none yet"
            raise DataError(f"there is no batch {batch_id!r} in the lake; there are: {known}")
        tables = {
            name: reader.rows(f"card_batch_{name}", batch_id=batch_id)
            for name in ("outcomes", "splits", "licences", "hosts")
        }
        examples = reader.rows("card_batch_examples", batch_id=batch_id, k=EXAMPLES)
    batch["source"] = _shown_source(batch["source"] or "")
    for row in tables["outcomes"]:
        row["reason"] = redact_text(row["reason"])
    outcomes = tables["outcomes"]
    return {
        "batch": batch,
        **tables,
        "examples": examples,
        "opted_out": sum(row["images"] for row in outcomes if row["status"] == "opted_out"),
        "duplicates": sum(row["images"] for row in outcomes if row["status"] == "duplicate"),
        "licence": licence,
        "version": __version__,
    }


def dataset_card(facts: Row) -> str:
    """The card as Markdown with the YAML of the hub's data set cards before it."""
    return render("dataset_card.md.j2", _front_matter(facts), facts)


def _shown_source(source: str) -> str:
    """A list in a folder of this machine by its name alone."""
    return redact_text(source) if re.match(r"[a-z0-9-]+:", source) else source.rstrip("/").rpartition("/")[2]


def _front_matter(facts: Row) -> str:
    from huggingface_hub import DatasetCardData

    images = facts["batch"]["images"]
    data = DatasetCardData(
        license=facts["licence"].lower() or "unknown",
        task_categories=["image-to-text"],
        size_categories=[next((name for limit, name in _SIZES if images < limit), "n>1T")],
        pretty_name=facts["batch"]["dataset"],
        annotations_creators="found" if facts["batch"]["captions"] else "no-annotation",
        tags=["image-captioning", "clipcap"],
    )
    return data.to_yaml()
