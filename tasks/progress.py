"""How long work shows itself: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

from clipcap.pace import EVERY_S, Pace

if TYPE_CHECKING:
    from clipcap.embedding.rates import Rates
    from clipcap.storage.lake import Lake
    from clipcap.training.progress import Progress


@contextmanager
def show_training() -> Iterator[Callable[[Progress], None]]:
    """Yields what is called with each line of progress."""
    if sys.stderr.isatty():
        with _bar() as on_step:
            yield on_step
    else:
        yield _lines()


def describe(line: Progress) -> str:
    """Loss or reward, and what validation found."""
    facts = [f"reward {-line.loss:.3f}" if line.phase == "reward" else f"loss {line.loss:.3f}"]
    facts += [f"val loss {line.val_loss:.3f}"] if line.val_loss is not None else []
    facts += [f"val CIDEr {line.val_cider:.3f}"] if line.val_cider is not None else []
    return " · ".join(facts)


def _lines() -> Callable[[Progress], None]:
    log, pace = logging.getLogger("clipcap.train"), Pace()

    def on_step(line: Progress) -> None:
        is_validated = line.val_loss is not None or line.val_cider is not None
        if not pace.is_due(at_once=is_validated or line.step == 1):
            return
        left_s = line.seconds / max(line.step, 1) * (line.steps - line.step)
        log.info(
            "train     %s, epoch %d, step %d of %d · %s · %.0f samples/s · %.0f s left",
            line.phase, line.epoch, line.step, line.steps, describe(line), line.samples_per_s, left_s,
        )  # fmt: skip

    return on_step


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    validated = [""]
    with Bars(
        TextColumn("train     {task.fields[phase]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[facts]} · {task.fields[rate]:.0f} samples/s"), console=Console(stderr=True),
    ) as bars:  # fmt: skip
        tasks: dict[str, object] = {}

        def on_step(line: Progress) -> None:
            if line.phase not in tasks:
                tasks[line.phase] = bars.add_task("train", total=line.steps, phase=line.phase, facts="", rate=0.0)
            if line.val_loss is not None:
                validated[0] = describe(line).partition(" · ")[2]
            facts = " · ".join(part for part in (describe(line).partition(" · ")[0], validated[0]) if part)
            bars.update(tasks[line.phase], completed=line.step, facts=facts, rate=line.samples_per_s)  # type: ignore[arg-type]

        yield on_step


@contextmanager
def show_embedding(shard_id: str) -> Iterator[Callable[[Rates], None]]:
    """Yields what is called after each batch; a shard that takes long says how far it is and what limits it."""
    from clipcap.embedding.rates import describe as describe_rates

    log, pace = logging.getLogger("clipcap.embed"), Pace()

    def on_batch(rates: Rates) -> None:
        if pace.is_due():
            log.info("embed     shard %s: %s of %s images · %s", shard_id, f"{rates.done:,}", f"{rates.images:,}",
                     describe_rates(rates.facts()))  # fmt: skip

    yield on_batch


@contextmanager
def show_download(lake: Lake, shard_id: str, rows: int, every_s: float = EVERY_S) -> Iterator[None]:
    """A shard that takes long says what has arrived; img2dataset itself says nothing before its end."""
    log, began, is_over = logging.getLogger("clipcap.download"), time.monotonic(), threading.Event()

    def say() -> None:
        while not is_over.wait(every_s):
            arrived = 0
            with suppress(OSError):  # a folder that goes while it is looked at
                arrived = sum(tar.stat().st_size for tar in lake.scratch.glob(f"download-{shard_id}-*/**/*.tar"))
            log.info("download  shard %s: %s rows, %.1f MiB arrived in %.0f s", shard_id, f"{rows:,}", arrived / 2**20,
                     time.monotonic() - began)  # fmt: skip

    # In this context, or Prefect would not know whose lines they are.
    thread = threading.Thread(target=copy_context().run, args=(say,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
