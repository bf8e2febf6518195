"""What every stage shares: compare keys with the manifest, submit only what is missing, say what was done."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.config import Config
from clipcap.redaction import RedactingFilter
from clipcap.storage.lake import Lake, new_run_id, resolve_data_dir
from clipcap.storage.manifest import EntryIndex, roll_forward
from clipcap.storage.records import Entry
from flows.engine import CLUSTERED, device_slot, submit_locally, submit_to
from flows.notify import configure

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture

log = logging.getLogger("clipcap.flows")
# A deployment's runs show our lines (PREFECT_LOGGING_EXTRA_LOGGERS in prefect.yaml); Prefect adds the handler and
# leaves the level to us, and Python's default would drop everything below a warning.
if logging.getLogger("clipcap").level == logging.NOTSET:
    logging.getLogger("clipcap").setLevel(logging.INFO)
for _handler in logging.getLogger("clipcap").handlers:
    _handler.addFilter(RedactingFilter())


@dataclass
class Job:
    """One output that a stage is to have, and the task that makes it."""

    id: str
    key: str
    rows: int
    """Inputs, for plans."""
    task: Callable[[], Task[..., Any]]
    """Imported late, so that planning needs no orchestrator."""
    parameters: Callable[[], dict[str, Any]]
    """Called when the task is submitted; the key and the lake are added."""
    done: Callable[[Entry], None] = lambda entry: None
    """Called with each new entry before the next job is submitted."""
    must_wait: Callable[[], bool] = lambda: False
    """Whether this job needs what one that is under way makes."""


@dataclass
class RunContext:
    """One run: its configuration, its lake, and every entry that it used so far."""

    config: Config
    lake: Lake
    flow: str
    run_id: str = field(default_factory=new_run_id)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    used: list[Entry] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """What was computed once for planning and for running: download keys by shard."""
    rates: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    """Seconds and bytes for each row by stage, as this lake has measured them; null where it has not."""

    def __post_init__(self) -> None:
        roll_forward(self.lake)
        self.index = EntryIndex(self.lake)

    @classmethod
    def of(cls, config: Config, flow: str, data_dir: str | None = None) -> RunContext:
        configure(config.notify)
        return cls(config, Lake(resolve_data_dir(data_dir, config.data_dir)), flow)


_WHOLE = ("train", "evaluate", "compare")
"""Stages whose one task is about all shards: they have hours of their own."""


def say(stage: str, text: str) -> None:
    """One line of a run's story."""
    log.info("%-9s %s", stage, text)


def run_jobs(context: RunContext, stage: str, jobs: Iterable[Job], parallel: int = 1) -> list[Entry]:
    """Makes sure that every job's output stands.

    A job whose entry has the same key and whose files stand is cached. The others run as tasks, at most ``parallel``
    at a time; where one fails the rest still runs, and the first failure is raised at the end.

    Returns:
        One entry for each job, in their order.
    """
    jobs = list(jobs)
    entries = [context.index.find(job.id, job.key) for job in jobs]
    missing = [(position, job) for position, job in enumerate(jobs) if entries[position] is None]
    failures = _run_missing(context, stage, missing, entries, parallel) if missing else []
    finished = [entry for entry in entries if entry is not None]
    context.used += finished
    _say_outcome(stage, finished, len(jobs) - len(missing), len(failures))
    if failures:
        raise failures[0]
    return finished


def _run_missing(
    context: RunContext, stage: str, missing: list[tuple[int, Job]], entries: list[Entry | None], parallel: int
) -> list[Exception]:
    """Runs jobs as tasks, fills in their entries, and returns what went wrong."""
    from flows.artifacts import Progress

    under_way: deque[tuple[int, Job, PrefectFuture[Any]]] = deque()
    failures: list[Exception] = []
    progress = Progress(stage, len(missing))
    hours = context.config.limits.model_hours if stage in _WHOLE else context.config.limits.shard_hours

    def collect() -> None:
        position, job, future = under_way.popleft()
        try:
            entry = Entry.model_validate(future.result())
        except Exception as error:
            failures.append(error)
            return
        entries[position] = entry
        job.done(entry)
        progress.step()

    with ExitStack() as held:
        submit = submit_locally
        if context.config.engine == "ray" and stage in CLUSTERED:  # joined only now that something is to be done
            submit, parallel = submit_to(context.config)
        else:
            held.enter_context(device_slot(stage))
        for position, job in missing:
            while under_way and (len(under_way) >= parallel or job.must_wait()):
                collect()
            # A miss is a miss: what Prefect remembers of this key was made of files that are gone. Its small results
            # lie below the lake; the flow's own default cannot be changed any more once the flow is running.
            task = job.task().with_options(
                refresh_cache=True, result_storage=Path(context.lake.prefect_results), timeout_seconds=hours * 3600
            )
            parameters = {"key": job.key, "data_dir": context.lake.address, **job.parameters(), "entry_id": job.id}
            under_way.append((position, job, submit(task, parameters)))
        while under_way:
            collect()
    return failures


def _say_outcome(stage: str, entries: list[Entry], cached: int, failed: int) -> None:
    rows: Counter[str] = Counter()
    for entry in entries:
        rows.update(entry.rows)
    counts = " · ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in rows.most_common())
    new = len(entries) - cached
    parts = [f"{new} new" if new else "", f"{cached} cached" if cached else "", f"{failed} FAILED" if failed else ""]
    say(stage, f"{', '.join(p for p in parts if p) or 'nothing to do'}{' · ' + counts if counts else ''}")
