"""What was proposed, as a table for programs, for spreadsheets, and as a sheet with the pictures for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from clipcap.alt_text.propose import Row
from clipcap.errors import SourceError
from clipcap.storage.commit import commit_bytes

COLUMNS = ("page", "line", "number", "image", "status", "alt", "confidence", "reason", "approved")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
YES = ("yes", "y", "true", "1", "x")
NO = ("", "no", "n", "false", "0")


def write_tables(rows: Sequence[Row], folder: Path, model_id: str) -> list[Path]:
    """``alt-text.csv``, ``alt-text.json`` and ``review.html``."""
    files = {
        "alt-text.csv": to_csv(rows),
        "alt-text.json": json.dumps([_facts(row) for row in rows], ensure_ascii=False, indent=1),
        "review.html": _sheet(rows, model_id),
    }
    for name, text in files.items():
        commit_bytes(text.encode("utf-8", "replace"), folder / name)
    return [folder / name for name in files]


def to_csv(rows: Sequence[Row]) -> str:
    """A spreadsheet runs none of its cells: an apostrophe stands before what looks like a formula."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _defused(value) for name, value in _facts(row).items()})
    return out.getvalue()


def read_csv(file: Path) -> list[Row]:
    """The rows of a reviewed table that a person approved; one in which that cannot be read is "failed".

    Raises:
        SourceError: it cannot be read, or is not such a table.
    """
    try:
        reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig")))
        missing = {"page", "number", "image", "alt", "approved"} - set(reader.fieldnames or ())
        if missing:
            raise SourceError(
                f"{file} is not a table of clipcap alt-text: no column {', '.join(sorted(missing))}; name the "
                "alt-text.csv that an earlier run left in its --report folder"
            )
        rows = [_reviewed(record, number) for number, record in enumerate(reader, 2)]  # as a spreadsheet counts
        return [row for row in rows if row.status != "leave"]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise SourceError(f"{file} cannot be read: {error}") from None


def _reviewed(record: dict[str, str], number: int) -> Row:
    answer = (record["approved"] or "").strip()
    row = Row(
        _armed(record["page"]), 0, -1, _armed(record["image"]), "leave", _armed(record["alt"]).strip(), approved=answer
    )
    if answer.lower() in NO:
        return row
    problem = "" if answer.lower() in YES else f"approved is {answer!r}; expected yes or no"
    try:
        row.line, row.number = int(record.get("line") or 0), int(record["number"])
    except (TypeError, ValueError):
        problem = f"line is {record.get('line')!r} and number {record['number']!r}; expected what clipcap wrote there"
    row.status, row.reason = ("failed", f"row {number} of the table: {problem}") if problem else ("fill", "")
    return row


def _facts(row: Row) -> dict[str, object]:
    facts = asdict(row)
    return {name: facts[name] for name in COLUMNS}


def _defused(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def _armed(text: str | None) -> str:
    text = text or ""
    return text[1:] if text.startswith("'") and text[1:].lstrip(" ").startswith(_FORMULA) else text


def _sheet(rows: Sequence[Row], model_id: str) -> str:
    from jinja2 import Environment, PackageLoader

    from clipcap.report.thumbnails import ALL_BYTES, shrink

    order = ("review", "failed", "fill", "leave")  # what a person has to do comes first
    rows = sorted(rows, key=lambda row: order.index(row.status) if row.status in order else len(order))
    share = ALL_BYTES * 3 // 4 // max(len(rows), 1)
    pictures = [shrink(row.thumbnail, share).uri if row.thumbnail else "" for row in rows]
    page = Environment(loader=PackageLoader("clipcap.alt_text", "."), autoescape=True).get_template("review.html.j2")
    return page.render(rows=list(zip(rows, pictures, strict=True)), model_id=model_id)
