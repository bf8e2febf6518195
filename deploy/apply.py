"""Makes what deployments need on the server, as often as it is called: work pool, GPU limit, automations.

    python deploy/apply.py [--pool clipcap] [--gpu-slots 1] [--notify slack-webhook/my-block]

The server is the one of PREFECT_API_URL (and PREFECT_API_AUTH_STRING, where it asks for a password).
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from clipcap.redaction import redact_text
from flows.engine import DEVICE_LIMIT

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def automations(block_id: str = "") -> list[AutomationCore]:
    """Those of the file; with a notification block also one that tells of crashed runs.

    A run's own hook tells of failures, and of crashes that its process lives through. Of a process that was killed
    only the server can tell.
    """
    made: list[dict[str, Any]] = yaml.safe_load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]
    if block_id:
        made.append(
            {
                "name": "clipcap-tell-of-crashes",
                "description": "Tells of runs that were marked as crashed.",
                "trigger": {
                    "type": "event", "posture": "Reactive", "expect": ["prefect.flow-run.Crashed"],
                    "match": {"prefect.resource.id": "prefect.flow-run.*"},
                    "match_related": {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.clipcap"},
                },
                "actions": [
                    {"type": "send-notification", "block_document_id": block_id,
                     "subject": "{{ flow_run.name }} crashed",
                     "body": "{{ flow_run.name }}: {{ flow_run.state.message }}"}
                ],
            }
        )  # fmt: skip
    return [AutomationCore.model_validate(one) for one in made]


async def apply(pool: str, gpu_slots: int, block: str = "") -> list[str]:
    """Returns one line for each thing that is there now."""
    async with get_client() as client:
        said = [await _pool(client, pool), await _limit(client, gpu_slots)]
        block_id = ""
        if block:
            slug, _, name = block.partition("/")
            try:
                block_id = str((await client.read_block_document_by_name(name, slug)).id)
            except (ObjectNotFound, ValueError):
                raise SystemExit(f"error: the server has no block {block}: `prefect block ls` shows them") from None
        said += [await _automation(client, one) for one in automations(block_id)]
    return said


async def _pool(client: PrefectClient, name: str) -> str:
    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        found = await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return f"work pool {found.name} ({found.type})"


async def _limit(client: PrefectClient, slots: int) -> str:
    try:
        await client.read_global_concurrency_limit_by_name(DEVICE_LIMIT)
        await client.update_global_concurrency_limit(DEVICE_LIMIT, GlobalConcurrencyLimitUpdate(limit=slots))
    except ObjectNotFound:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=DEVICE_LIMIT, limit=slots))
    return f"global concurrency limit {DEVICE_LIMIT}: {slots} stage(s) on a GPU at a time"


async def _automation(client: PrefectClient, wanted: AutomationCore) -> str:
    found = await client.read_automations_by_name(wanted.name)
    if found:
        await client.update_automation(found[0].id, wanted)
    else:
        await client.create_automation(wanted)
    return f"automation {wanted.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", default="clipcap", help="a work pool of type process")
    parser.add_argument("--gpu-slots", type=int, default=1, help="stages that compute at a time: one for each GPU")
    parser.add_argument("--notify", default="", metavar="TYPE/NAME", help="a notification block that hears of crashes")
    given = parser.parse_args()
    server = redact_text(str(PREFECT_API_URL.value() or ""))
    if not server:  # Prefect would start one that ends with this script
        raise SystemExit("error: which server? export PREFECT_API_URL=http://127.0.0.1:4200/api")
    try:
        said = asyncio.run(apply(given.pool, given.gpu_slots, given.notify))
    except (httpx.TransportError, PrefectHTTPStatusError) as problem:
        why = str(problem).partition("\n")[0]
        raise SystemExit(
            f"error: the server at {server} did not do it ({why}): is `prefect server start` up, is PREFECT_API_URL "
            "its address, and PREFECT_API_AUTH_STRING its password?"
        ) from None
    print("\n".join(said))


if __name__ == "__main__":
    main()
