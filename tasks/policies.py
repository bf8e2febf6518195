"""How every stage's task behaves: what is retried, what is cached and where its small result lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from clipcap.errors import TransientError


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


def stage_task(name: str, run_name: str, timeout_s: float | None = None) -> Callable[[Callable[..., Any]], Task]:
    """A stage's task. Its function takes ``key`` and returns its entry as a JSON object."""
    return task(
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
