"""How far ``clipcap caption`` is: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from clipcap.captioning import CaptionedImage
from clipcap.pace import Pace
from flows import console

log = logging.getLogger("clipcap.caption")
SAY_EVERY_S = 30.0


class Counted:
    """Passes rows on, counts them and shows how far they are.

    Args:
        total: rows to come, where it is known.
        passed: how many of these needed no work.
    """

    def __init__(
        self, rows: Iterable[CaptionedImage], total: int | None, passed: Callable[[], int] = lambda: 0
    ) -> None:
        self._rows, self._total, self._passed = rows, total, passed
        self.good = self.failed = 0

    def __iter__(self) -> Iterator[CaptionedImage]:
        with _bar(self._total) if console.stderr.is_terminal else _lines(self._total) as say:
            for row in self._rows:
                self.good += row.status == "ok"
                self.failed += row.status != "ok"
                yield row
                say(self.good + self.failed, self.failed, self._passed())


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("captioning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    # What goes to a terminal is printed above the bar; what goes to a file must not.
    with Progress(*columns, console=console.stderr, transient=True, redirect_stdout=sys.stdout.isatty()) as bars:
        task = bars.add_task("", total=total)
        yield lambda done, failed, passed: bars.update(
            task, completed=done + passed, description=f"{failed:,} failed" if failed else ""
        )


@contextmanager
def _lines(total: int | None) -> Iterator[Callable[[int, int, int], None]]:
    began, pace = time.monotonic(), Pace(SAY_EVERY_S)

    def say(done: int, failed: int, passed: int) -> None:
        if pace.is_due():
            rate = done / (time.monotonic() - began)
            of = "" if total is None else f" of {total - passed:,}"
            left = "" if total is None else f", {console.human_seconds((total - passed - done) / rate)} left"
            log.info("%s%s images, %s failed, %.1f/s%s", f"{done:,}", of, f"{failed:,}", rate, left)

    yield say
