"""How every stage's task behaves: what is retried, what is cached and where its small result lies."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from clipcap.errors import TransientError
from clipcap.redaction import RedactingFilter
from clipcap.storage.lake import Lake
from clipcap.storage.lock import one_at_a_time
from clipcap.storage.manifest import find_recorded


class _KnownWarning(logging.Filter):
    """Leaves out what Prefect says before every task that has a timeout and runs in a thread, as all of ours do.

    What it warns of is true: the timeout takes effect between two steps of Python, after a call that blocks.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Timeout of %s seconds configured for this task")


logging.getLogger("prefect.task_runs").addFilter(_KnownWarning())
for _name in ("prefect.task_runs", "prefect.flow_runs"):  # they tell what failed, in the words of whoever raised it
    logging.getLogger(_name).addFilter(RedactingFilter())


async def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Only what may heal by itself is tried again; a wrong config or a broken file fails at once."""
    try:
        await state.result(raise_on_failure=True)
    except TransientError:
        return True
    except BaseException:
        return False
    return False


def content_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """The key that the planner compares and the manifest holds: a digest of contents, never of paths or code lines."""
    return f"{context.task.name}-{parameters['key']}"


def once(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same function, with ``entry_id`` as one more parameter: of two runs that want one output, one makes it.

    The other waits and takes the entry that it finds then. Without an ``entry_id`` nothing is looked for.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def made(*given: Any, entry_id: str = "", **named: Any) -> dict[str, Any]:
        if not entry_id:
            return function(*given, **named)
        asked = signature.bind(*given, **named).arguments
        lake = Lake(asked["data_dir"])
        with one_at_a_time(lake, f"{entry_id} {asked['key']}"):
            known = find_recorded(lake, entry_id, asked["key"])
            return known.model_dump(mode="json") if known else function(*given, **named)

    added = inspect.Parameter("entry_id", inspect.Parameter.KEYWORD_ONLY, default="", annotation=str)
    made.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    return made


def stage_task(name: str, run_name: str, timeout_s: float | None = None) -> Callable[[Callable[..., Any]], Task]:
    """A stage's task. Its function takes ``key`` and returns its entry as a JSON object."""
    as_task = task(
        name=name,
        task_run_name=run_name,
        tags=[f"clipcap-{name}"],
        retries=3,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
        cache_key_fn=content_key,
        persist_result=True,
        result_serializer="json",
        timeout_seconds=timeout_s,
    )
    return lambda function: as_task(once(function))
