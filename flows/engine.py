"""Where tasks run: in this process, or on a Ray cluster. The tasks, their files and their entries are the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clipcap.config import Config
from clipcap.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture

Submit = Callable[["Task[..., Any]", dict[str, Any]], "PrefectFuture[Any]"]
CLUSTERED = ("embed", "caption")
"""Stages whose shards go to the cluster."""
ON_DEVICE = ("embed", "embed_text", "train", "caption", "evaluate")
"""Stages that compute on the GPU where there is one."""
DEVICE_LIMIT = "clipcap-gpu"
"""The global concurrency limit that deployments' runs ask before such a stage: one slot for each GPU machine."""
_PASSED_ON = ("PREFECT_", "CLIPCAP_", "AWS_", "FSSPEC_", "HF_", "OMP_WAIT_POLICY", "DO_NOT_TRACK")


def submit_locally(task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
    from prefect.utilities.annotations import quote

    # Prefect looks for futures in all that a task is given: thousands of entries would cost it minutes.
    return task.submit(**{name: quote(value) for name, value in parameters.items()})


@contextmanager
def device_slot(stage: str) -> Iterator[None]:
    """Holds the GPU for one stage of one deployment's run, so that two runs never compute at the same time.

    The limit is about runs and not about tasks: shards of one stage overlap on purpose (``parallel_shards``), one
    being read while another computes. The lease is renewed; a process that dies loses it within a minute. Without a
    limit of that name (deploy/apply.py makes it) nobody waits.
    """
    from prefect.runtime import deployment

    if stage not in ON_DEVICE or not deployment.id or not _has_limit():
        yield
        return
    from prefect.concurrency.sync import concurrency

    with concurrency(DEVICE_LIMIT, occupy=1, lease_duration=60):
        yield


def _has_limit() -> bool:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(DEVICE_LIMIT)
        except ObjectNotFound:
            return False
    return True


def submit_to(config: Config) -> tuple[Submit, int]:
    """How to hand a task to the Ray cluster, and how many shards it has room for. Joins or starts it when first asked.

    Raises:
        ConfigError: ray or prefect-ray is not installed, or no cluster answers.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError:
        raise ConfigError(
            "engine: \"ray\" needs Ray, which is not installed here: pip install 'clipcap-pipeline[ray]'"
        ) from None
    from prefect.cache_policies import NO_CACHE

    asked = config.ray
    if not ray.is_initialized():
        _join(ray, asked.address)
    runner = RayTaskRunner()
    runner.__enter__()  # finds the cluster that was joined, and leaves it running for the next stage
    options = {"num_cpus": asked.cpus_per_shard, "num_gpus": asked.gpus_per_shard, "max_retries": asked.retries}

    def submit(task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
        # Nothing is persisted: another machine's folder is no place for a result that this one reads.
        fresh = task.with_options(persist_result=False, cache_policy=NO_CACHE, cache_key_fn=None)
        with remote_options(**options):
            return runner.submit(fresh, parameters)

    room = ray.cluster_resources()
    fits = int(room.get("CPU", 1) / asked.cpus_per_shard)
    if asked.gpus_per_shard:
        fits = min(fits, int(room.get("GPU", 0) / asked.gpus_per_shard))
    if not fits:
        has = ", ".join(f"{room.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
        raise ConfigError(
            f"ray: no shard fits the cluster: it has {has}, and a shard takes {asked.cpus_per_shard} CPU and "
            f"{asked.gpus_per_shard:g} GPU; lower ray.cpus_per_shard or ray.gpus_per_shard, or join a larger cluster"
        )
    return submit, asked.parallel_shards or fits


def _join(ray: Any, address: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        api_url = str(client.api_url)  # the server that this run talks to, ephemeral or not: no worker starts its own
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    variables |= {"PREFECT_API_URL": api_url, "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        ray.init(
            address=address or None, namespace="clipcap", log_to_driver=False, include_dashboard=False,
            configure_logging=False, runtime_env={"env_vars": variables},
            **({} if address else {"object_store_memory": 200 * 2**20}),  # results are small JSON objects
        )  # fmt: skip
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError, …
        where = f"at ray.address {address!r}" if address else "of this machine"
        reason, advice = str(error).splitlines()[0], 'see that it runs (`ray status`), or set engine = "local"'
        raise ConfigError(f"ray: the cluster {where} cannot be joined: {reason}; {advice}") from None
