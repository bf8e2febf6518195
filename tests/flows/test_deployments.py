"""The deployments of prefect.yaml for real: a server, a process work pool and a worker on 127.0.0.1.

One story, told once: deploy from a copy of the project, run the pipeline on a small sample, land a second batch, run
the night twice, render the report again. The tests look at what is left: the lake through SQL, the server through
its API. Everything that Prefect keeps lies in a temporary home, and every process ends with the module.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
COMMAND_S = 600.0
"""Seconds that one command may take on a busy machine."""


@dataclass
class Story:
    """Where everything is, and what the commands said."""

    clone: Path
    elsewhere: Path
    """The folder that worker and commands run in, so that nothing works by luck of the current folder."""
    lake: Path
    api: str
    environment: dict[str, str]
    runs: dict[str, str] = field(default_factory=dict)
    """Ids of flow runs."""
    generations: list[int] = field(default_factory=list)
    """What CURRENT says after each of the runs that publish."""
    landed: dict[str, Any] = field(default_factory=dict)
    landed_without_server: dict[str, Any] = field(default_factory=dict)
    said_without_server: str = ""

    def call(
        self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, may_fail: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs an installed command to its end; fails with all that it printed where it fails."""
        done = subprocess.run(
            [str(TOOLS / command[0]), *command[1:]], cwd=cwd or self.elsewhere, env=env or self.environment,
            capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert may_fail or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def deployment_run(self, name: str, deployment: str, **parameters: Any) -> None:
        """Runs a deployment, waits for its end, and remembers the run under ``name``."""
        given = [arg for key, value in parameters.items() for arg in ("-p", f"{key}={json.dumps(value)}")]
        done = self.call("prefect", "deployment", "run", deployment, "--watch", *given, may_fail=True)
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert found, done.stdout + done.stderr
        self.runs[name] = found[1]
        assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *self.log_of(name)])
        self.generations.append(int((self.lake / "CURRENT").read_text()))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Asks the server's API: with a body POST, else GET."""
        if body is None:
            answer = httpx.get(f"{self.api}/{path}", timeout=60)
        else:
            answer = httpx.post(f"{self.api}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def log_of(self, name: str) -> list[str]:
        """What a run logged, as the server shows it."""
        wanted = {"logs": {"flow_run_id": {"any_": [self.runs[name]]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.ask("logs/filter", wanted)]

    def sql(self, statement: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(
            self.call("clipcap", "sql", statement, "--json", "--data-dir", str(self.lake)).stdout
        )
        return rows


def eventually(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true answer of ``found``, asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


@contextmanager
def running(command: list[str], cwd: Path, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; when the block ends it is asked to stop, and in the end made to."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(TOOLS / command[0]), *command[1:]], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=stream, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind in its session
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], small: list[str]) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("deployments")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CLIPCAP_"))}
    environment |= {
        "PREFECT_HOME": str(root / "prefect"), "PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1", "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200",
    }  # fmt: skip
    told = Story(root / "clone", root / "elsewhere", root / "lake", api, environment)
    told.elsewhere.mkdir()
    for folder in ("clipcap", "flows", "tasks", "sql", "configs"):
        shutil.copytree(REPOSITORY / folder, told.clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "prefect.yaml", told.clone)

    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    worker = ["prefect", "worker", "start", "--pool", "clipcap"]
    with running(server, told.elsewhere, environment, root / "server.log") as process:

        def healthy() -> bool:
            assert process.poll() is None, (root / "server.log").read_text()
            try:
                return httpx.get(f"{api}/health", timeout=5).is_success
            except httpx.HTTPError:
                return False

        eventually(healthy, "server", 180)
        told.call("prefect", "work-pool", "create", "clipcap", "--type", "process")
        told.call("prefect", "--no-prompt", "deploy", "--all", cwd=told.clone)
        with running(worker, told.elsewhere, environment, root / "worker.log"):
            tell(told, root, [*small, f"serve.port={free_port()}"])
            yield told


def tell(story: Story, root: Path, overrides: list[str]) -> None:
    """What the user does, in order."""
    given = {"config": "sample", "overrides": overrides, "data_dir": str(story.lake)}
    story.deployment_run("first", "pipeline/pipeline", **given)

    holiday = root / "holiday"
    make_pictures(holiday)
    land = ["clipcap", "land", str(holiday), "--dataset", "holiday", "--data-dir", str(story.lake), "--json"]
    story.landed = json.loads(story.call(*land).stdout)
    lonely = {name: value for name, value in story.environment.items() if name != "PREFECT_API_URL"}
    story.landed_without_server = json.loads(story.call(*land, env=lonely).stdout)
    story.said_without_server = story.call(*land[:-1], env=lonely).stderr

    story.deployment_run("night", "caption-nightly/nightly", **given)
    story.deployment_run("next-night", "caption-nightly/nightly", **given)
    story.deployment_run("report", "publish/report", data_dir=str(story.lake))


def make_pictures(folder: Path) -> None:
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    folder.mkdir()
    for number in range(3):
        picture = scene(9_100 + number, seed=1)
        render(picture).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text("\n".join(captions(picture)), encoding="utf-8")


def test_every_run_ends_well(story: Story) -> None:
    for name, id in story.runs.items():
        assert story.ask(f"flow_runs/{id}")["state"]["type"] == "COMPLETED", name


def test_both_batches_are_captioned(story: Story) -> None:
    rows = story.sql("select dataset, count(*) as n from captions join batches using (batch_id) group by 1 order by 1")
    counts = {row["dataset"]: row["n"] for row in rows}
    embedded = story.sql("select count(*) as n from embeddings")[0]["n"]
    assert counts["holiday"] == 3
    assert sum(counts.values()) == embedded > 60


def test_the_second_night_publishes_nothing(story: Story) -> None:
    first, night, next_night, report = story.generations
    assert first < night == next_night == report
    assert any("nothing new" in line for line in story.log_of("next-night"))


def test_the_story_of_each_stage_is_in_the_runs_log(story: Story) -> None:
    lines = story.log_of("first")
    for stage in ("land", "download", "embed", "train", "caption", "evaluate", "publish", "report"):
        assert any(line.startswith(f"{stage} ") for line in lines), (stage, lines)


def test_runs_and_tasks_have_names_for_people(story: Story) -> None:
    tasks = story.ask("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [story.runs["first"]]}}})
    names = sorted(task["name"] for task in tasks)
    model = story.sql("select model_id from models")[0]["model_id"]
    batch = story.sql("select batch_id from batches where dataset = 'sample'")[0]["batch_id"]
    shard = batch.rpartition("-")[2]
    expected = [f"land {batch}", f"train {model}", f"evaluate {model}"]
    for number in ("00000", "00001"):
        expected += [f"download {shard}-{number}", f"embed {shard}-{number}", f"caption {shard}-{number} with {model}"]
    assert [name for name in names if not name.startswith(("publish ", "report "))] == sorted(expected)


def test_the_night_is_scheduled(story: Story) -> None:
    nightly = story.ask("deployments/name/caption-nightly/nightly")
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "UTC")
    assert schedule["active"] and not nightly["paused"]
    scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    wanted = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": scheduled}
    runs = eventually(lambda: story.ask("flow_runs/filter", wanted), "scheduled run")
    start = datetime.fromisoformat(runs[0]["expected_start_time"].replace("Z", "+00:00"))
    assert (start.hour, start.minute, start.utcoffset().total_seconds()) == (2, 0, 0)


@pytest.mark.parametrize("name", ["pipeline/pipeline", "caption-nightly/nightly"])
def test_a_deployment_runs_once_at_a_time_from_its_clone(story: Story, name: str) -> None:
    about = story.ask(f"deployments/name/{name}")
    assert about["global_concurrency_limit"]["limit"] == 1
    assert about["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    ((step,),) = [list(step.values()) for step in about["pull_steps"]]
    assert Path(step["directory"]) == story.clone.resolve()


@pytest.mark.parametrize("name", ["pipeline/pipeline", "caption-nightly/nightly", "publish/report"])
def test_every_parameter_is_described(story: Story, name: str) -> None:
    properties = story.ask(f"deployments/name/{name}")["parameter_openapi_schema"]["properties"]
    assert {"config", "data_dir"} <= set(properties)
    assert all(about["description"] for about in properties.values())


def test_landing_emits_one_event_where_there_is_a_server(story: Story) -> None:
    wanted = {"filter": {"event": {"name": ["clipcap.batch.landed"]}}}
    events = eventually(lambda: story.ask("events/filter", wanted)["events"], "event")
    batch_id = story.landed["batch_id"]
    assert [event["resource"]["prefect.resource.id"] for event in events] == [f"clipcap.batch.{batch_id}"]
    assert events[0]["payload"] | {"batch_id": batch_id, "rows": {"ok": 3}} == events[0]["payload"]
    assert story.landed["event_emitted"] is True


def test_landing_without_a_server_says_that_nothing_was_emitted(story: Story) -> None:
    assert story.landed_without_server["event_emitted"] is False
    assert "no event was emitted" in story.said_without_server
    assert story.landed_without_server["is_new"] is False
    assert story.landed_without_server["batch_id"] == story.landed["batch_id"]
