"""What the command line prints: results on stdout, the story of the run on stderr."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from clipcap.redaction import redact_text
from flows.cells import kindly

stdout = Console()
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters that JSON lets through and that a terminal obeys, or that no file can hold."""
stderr = Console(stderr=True)


# Idle threads of torch's pool sleep instead of spinning: beside a downloader, a server or another job on the same
# cores, spinning made a training ten times slower. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_prefect(debug: bool) -> None:
    """Set before prefect is imported: no analytics, no wall of log lines, time for a slow machine to start."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "DEBUG" if debug else "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "true" if debug else "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def show_log() -> None:
    """The project's own log lines on stderr."""
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=stderr, show_path=False, show_level=False, highlighter=None)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handler.addFilter(_redacted)
    logger = logging.getLogger("clipcap")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says what takes a moment: a spinner on a terminal, one line elsewhere."""
    if not stderr.is_terminal:
        stderr.print(text, style="dim", markup=False, highlight=False)
        yield
        return
    with stderr.status(Text(text, style="dim")):
        yield


def _redacted(record: logging.LogRecord) -> bool:
    """Takes secrets and terminal codes out of a line, whatever was put into it. It has no other handler."""
    record.msg, record.args = shown(redact_text(record.getMessage())), None
    return True


def print_json(value: Any) -> None:
    """The one JSON document of a command."""
    typer.echo(json_text(value, indent=None if not sys.stdout.isatty() else 2))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that says the same to a program and nothing to a terminal."""
    text = json.dumps(value, default=str, ensure_ascii=False, indent=indent)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(rows: Sequence[dict[str, Any]], title: str = "", columns: Sequence[str] = ()) -> None:
    """Rows as a table; every value is shown as text, never as markup."""
    if not rows:
        return typer.echo(f"{title}: none" if title else "no rows")
    names = list(columns) or list(rows[0])
    table = Table(title=title or None, title_justify="left", header_style="bold", show_lines=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(kindly(row.get(name)))) for name in names))
    return (stdout if sys.stdout.isatty() else Console(width=200)).print(table)


def print_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str], is_spreadsheet: bool = False) -> None:
    """Values as they are, for programs; on a terminal without its control codes.

    Args:
        is_spreadsheet: put an apostrophe before texts that a spreadsheet would run as formulas.
    """

    def cell(value: Any) -> Any:
        if is_spreadsheet and isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")):
            value = f"'{value}"
        return shown(value) if is_terminal and isinstance(value, str) else value

    is_terminal = sys.stdout.isatty()
    writer = csv.DictWriter(sys.stdout, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def message(error: BaseException) -> str:
    """What an error says, without secrets and terminal codes."""
    return shown(redact_text(str(error)))


def shown(text: str) -> str:
    """A text for a person; control characters (a caption may hold terminal codes) are made visible."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """ "1 page", "1,200 pages"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def human_bytes(count: float | None) -> str:
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def human_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "not measured yet"
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def room(plan: dict[str, Any]) -> str:
    """The last line of a plan: what it would take of the disk."""
    needed, free = human_bytes(plan["needed_bytes"]), human_bytes(plan["free_bytes"])
    verdict = "" if plan["fits"] else " It does not fit, and would refuse to start."
    return f"needs about {needed}; free on disk: {free}.{verdict} Nothing was done."
