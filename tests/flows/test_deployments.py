"""The deployments of prefect.yaml for real: a server, a process work pool and a worker on 127.0.0.1.

One story, told once: deploy from a copy of the project, run the pipeline on a small sample, land a second batch, run
the night twice, drop a file into the inbox, plan, clean up, render the report again; then kill the worker and the run
in the middle of a night, wait until the server has noticed, and run the night again. The tests look at what is left:
the lake through SQL, the server through its API. Everything that Prefect keeps lies in a temporary home, and every
process ends with the module.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import TOOLS, eventually, free_of_prefect, running, wait_for_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

REPOSITORY = Path(__file__).resolve().parents[2]
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
    dropped: str = ""
    """Batch of the file that was dropped into the inbox."""
    long: str = ""
    """Batch during whose night the worker was killed."""
    finished_before_the_kill: dict[str, str] = field(default_factory=dict)
    """When each output of that batch was made that the killed run had finished, by id."""
    after_the_kill: dict[str, Any] = field(default_factory=dict)
    """The killed run and its deployment, as the server showed them when it had noticed."""
    calm: Path = Path()
    """The lake as it was before the kill, in which the night was then run undisturbed and without a server."""

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

    def start(self, name: str, deployment: str, **parameters: Any) -> None:
        """Starts a deployment's run and does not wait."""
        given = [arg for key, value in parameters.items() for arg in ("-p", f"{key}={json.dumps(value)}")]
        said = self.call("prefect", "deployment", "run", deployment, *given).stdout
        self.runs[name] = re.search(r"UUID: ([0-9a-f-]{36})", said)[1]  # type: ignore[index]

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

    def sql(self, statement: str, lake: Path | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(
            self.call("clipcap", "sql", statement, "--json", "--data-dir", str(lake or self.lake)).stdout
        )
        return rows


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], small: list[str]) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("deployments")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = free_of_prefect() | {
        "PREFECT_HOME": str(root / "prefect"), "PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1", "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200", "CLIPCAP_DATA_DIR": str(root / "lake"),
    }  # fmt: skip
    told = Story(root / "clone", root / "elsewhere", root / "lake", api, environment)
    told.elsewhere.mkdir()
    for folder in ("clipcap", "flows", "tasks", "sql", "configs", "deploy"):
        shutil.copytree(REPOSITORY / folder, told.clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "prefect.yaml", told.clone)

    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    worker = ["prefect", "worker", "start", "--pool", "clipcap"]
    with running(server, told.elsewhere, environment, root / "server.log") as process:
        wait_for_server(process, api, root / "server.log")
        for _ in range(2):  # it may be applied as often as one likes
            told.call("python", "deploy/apply.py", cwd=told.clone, env=environment | {"PYTHONPATH": str(told.clone)})
        told.call("prefect", "--no-prompt", "deploy", "--all", cwd=told.clone)
        given = {"config": "sample", "overrides": [*small, f"serve.port={free_port()}"], "data_dir": str(told.lake)}
        with running(worker, told.elsewhere, environment, root / "worker.log") as first:
            tell(told, root, given)
            kill_in_the_middle(told, root, given, first)
        with running(worker, told.elsewhere, environment, root / "worker-again.log"):
            told.deployment_run("night-after", "caption-nightly/nightly", **given)
            yield told


def tell(story: Story, root: Path, given: dict[str, Any]) -> None:
    """What the user does, in order."""
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

    inbox = root / "inbox"
    inbox.mkdir()
    make_tar(inbox / "dropped.tar", seed=5, pictures=4)
    (inbox / "broken.csv").write_text("no list\n")
    watched = {**given, "overrides": [*given["overrides"], f"inbox.folder={inbox}", "inbox.settle_s=0"]}
    story.deployment_run("plan", "caption-nightly/nightly", **{**watched, "dry_run": True})
    story.deployment_run("inbox-night", "caption-nightly/nightly", **watched)
    [note] = inbox.glob("landed/*/batch.json")
    story.dropped = json.loads(note.read_text())["batch_id"]
    story.deployment_run("cleanup", "maintenance/cleanup", data_dir=str(story.lake))


def kill_in_the_middle(story: Story, root: Path, given: dict[str, Any], worker: subprocess.Popen[bytes]) -> None:
    """kill -9 of the worker and of the run, when some shards are finished and many are not."""
    make_tar(root / "long.tar", seed=6, pictures=400)
    # Without an event: retraining would start, and cut the same batch as its own configuration says.
    lonely = {name: value for name, value in story.environment.items() if name != "PREFECT_API_URL"}
    landed = story.call("clipcap", "land", str(root / "long.tar"), "--dataset", "long", "--data-dir", str(story.lake),
                        "--json", env=lonely).stdout  # fmt: skip
    story.long = json.loads(landed)["batch_id"]
    story.calm = root / "calm"
    shutil.copytree(story.lake, story.calm)
    cut = {**given, "overrides": [*given["overrides"], "download.shard_size=10"]}
    story.start("killed", "caption-nightly/nightly", **cut)

    def captioned() -> bool:
        return len(pending(story, "caption")) >= 3

    eventually(captioned, "captioned shard", 600, every_s=0.02)
    for pid in [worker.pid, *descendants(worker.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait()
    story.finished_before_the_kill = {e["id"]: e["created_at"] for e in pending(story)}
    given["overrides"] = cut["overrides"]

    def crashed() -> bool:
        return bool(story.ask(f"flow_runs/{story.runs['killed']}")["state"]["type"] == "CRASHED")

    eventually(crashed, "run that is marked as crashed", 400)
    story.after_the_kill = {
        "run": story.ask(f"flow_runs/{story.runs['killed']}"),
        "deployment": story.ask("deployments/name/caption-nightly/nightly"),
    }
    command = ["clipcap", "nightly", "sample", "--data-dir", str(story.calm)]
    lonely = {name: value for name, value in story.environment.items() if name != "PREFECT_API_URL"}
    story.call(*command, *(f"--set={one}" for one in cut["overrides"]), env=lonely)


def pending(story: Story, stage: str = "") -> list[dict[str, Any]]:
    """Finished outputs of the long batch that no generation shows yet."""
    found = []
    for file in (story.lake / "manifests" / "pending").glob("*.json"):
        with suppress(FileNotFoundError):
            found.append(json.loads(file.read_bytes()))
    return [e for e in found if e["meta"].get("batch_id") == story.long and e["stage"] == (stage or e["stage"])]


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on, in whatever session they are."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found, more = [], [pid]
    while more:
        more = [child for child, parent in parents.items() if parent in more]
        found += more
    return found


def make_tar(path: Path, seed: int, pictures: int) -> None:
    """Images and captions in a tar, which the download stage copies."""
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    with tarfile.open(path, "w") as archive:
        for number in range(pictures):
            picture, stream = scene(20_000 + number, seed=seed), io.BytesIO()
            render(picture).save(stream, "JPEG")
            for name, data in (("jpg", stream.getvalue()), ("txt", captions(picture)[0].encode())):
                info = tarfile.TarInfo(f"{seed}{number:05d}.{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


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
        expected = "CRASHED" if name == "killed" else "COMPLETED"
        assert story.ask(f"flow_runs/{id}")["state"]["type"] == expected, name


def test_every_batch_is_captioned(story: Story) -> None:
    rows = story.sql("select dataset, count(*) as n from captions join batches using (batch_id) group by 1 order by 1")
    counts = {row["dataset"]: row["n"] for row in rows}
    embedded = story.sql("select count(*) as n from embeddings")[0]["n"]
    assert (counts["holiday"], counts["dropped"], counts["long"]) == (3, 4, 400)
    assert sum(counts.values()) == embedded > 460


def test_the_second_night_publishes_nothing(story: Story) -> None:
    first, night, next_night, report, plan, dropped, cleanup, after = story.generations
    assert first < night == next_night == report == plan < dropped == cleanup < after
    assert any("nothing new" in line for line in story.log_of("next-night"))


# The worker is killed


def test_a_run_whose_process_was_killed_is_marked_as_crashed_and_holds_no_slot(story: Story) -> None:
    run, deployment = story.after_the_kill["run"], story.after_the_kill["deployment"]
    assert "No heartbeat" in run["state"]["message"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["global_concurrency_limit"]["active_slots"] == 0


def test_it_was_killed_in_the_middle(story: Story) -> None:
    stages = [id.partition("/")[0] for id in story.finished_before_the_kill]
    assert stages.count("download") == stages.count("embed") == 40
    assert 3 <= stages.count("caption") < 40


def test_the_next_night_goes_on_from_the_last_finished_shard(story: Story) -> None:
    rows = story.sql(f"select entry_id, created_at from source_entries where batch_id = '{story.long}'")
    published = {row["entry_id"]: datetime.fromisoformat(row["created_at"]) for row in rows}
    before = {id: datetime.fromisoformat(at) for id, at in story.finished_before_the_kill.items()}
    assert len(published) == 1 + 3 * 40
    assert {id: published[id] for id in before} == before, "what was finished is published as it was, not made again"


def test_what_is_published_is_what_an_undisturbed_night_publishes(story: Story) -> None:
    captions = "select sample_key, batch_id, shard_id, model_id, caption from captions order by all"
    ledger = "select sample_key, shard_id, stage, status, reason from ledger_history order by all"
    for question in (captions, ledger):
        rows = story.sql(question)
        assert rows == story.sql(question, story.calm)
        assert len(rows) == len({json.dumps(row) for row in rows}) > 460


# What else the server shows


def test_the_file_in_the_inbox_was_landed_and_told_of_with_its_entry(story: Story) -> None:
    wanted = {"filter": {"event": {"name": ["clipcap.batch.landed"]}}}
    events = story.ask("events/filter", wanted)["events"]
    [payload] = [event["payload"] for event in events if event["payload"]["batch_id"] == story.dropped]
    assert payload["entry"]["id"] == f"land/{story.dropped}" and payload["entry"]["rows"] == {"ok": 4}
    assert any("broken.csv: refused" in line for line in story.log_of("inbox-night"))


def test_publishing_captions_is_told_with_its_counts(story: Story) -> None:
    def events() -> list[dict[str, Any]]:
        wanted = {"filter": {"event": {"name": ["clipcap.captions.published"]}}, "limit": 50}
        return [event["payload"] for event in story.ask("events/filter", wanted)["events"]]

    eventually(lambda: len(events()) >= 3, "three events")
    counts = {payload["batch_ids"][0]: payload["captions"] for payload in events()}
    assert counts == {story.landed["batch_id"]: 3, story.dropped: 4, story.long: 400}


def test_names_of_runs_say_what_and_when(story: Story) -> None:
    names = {name: story.ask(f"flow_runs/{id}")["name"] for name, id in story.runs.items()}
    when = r"20\d\d-\d\d-\d\d \d\d:\d\dZ"
    assert re.fullmatch(f"nightly sample {when}", names["night"])
    assert re.fullmatch(f"nightly sample dry run {when}", names["plan"])
    assert re.fullmatch(f"cleanup sample {when}", names["cleanup"])


def test_tables_and_progress_stand_beside_the_log(story: Story) -> None:
    def of(name: str) -> dict[str, list[Any]]:
        wanted = {"artifacts": {"flow_run_id": {"any_": [story.runs[name]]}}}
        found: dict[str, list[Any]] = {}
        for artifact in story.ask("artifacts/filter", wanted):
            found.setdefault(artifact["type"], []).append(artifact)
        return found

    night = of("night")
    [table] = [artifact for artifact in night["table"] if artifact["key"] == "night"]
    assert {row["status"] for row in json.loads(table["data"])} == {"ok", "skipped"}
    assert {json.loads(str(bar["data"])) for bar in night["progress"]} == {100.0}
    assert [artifact["key"] for artifact in of("plan")["table"]] == ["night-plan"]


def test_stages_on_the_gpu_take_its_only_slot_and_give_it_back(story: Story) -> None:
    wanted = {"filter": {"event": {"name": ["prefect.concurrency-limit.acquired"]}}, "limit": 50}

    def taken() -> int:
        events = story.ask("events/filter", wanted)["events"]
        return sum(event["resource"].get("prefect.resource.name") == "clipcap-gpu" for event in events)

    eventually(lambda: taken() >= 4, "slot that was taken by embed, train, caption and evaluate")
    assert story.ask("v2/concurrency_limits/clipcap-gpu")["active_slots"] == 0


def test_what_the_server_needs_is_there_once(story: Story) -> None:
    automations = [one["name"] for one in story.ask("automations/filter", {})]
    assert automations.count("clipcap-dead-runs") == 1
    limits = {limit["name"]: limit["limit"] for limit in story.ask("v2/concurrency_limits/filter", {})}
    assert limits["clipcap-gpu"] == 1


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


@pytest.mark.parametrize("name", ["pipeline/pipeline", "caption-nightly/nightly", "maintenance/cleanup"])
def test_a_deployment_runs_once_at_a_time_from_its_clone(story: Story, name: str) -> None:
    about = story.ask(f"deployments/name/{name}")
    assert about["global_concurrency_limit"]["limit"] == 1
    assert about["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    ((step,),) = [list(step.values()) for step in about["pull_steps"]]
    assert Path(step["directory"]) == story.clone.resolve()


@pytest.mark.parametrize(
    "name", ["pipeline/pipeline", "caption-nightly/nightly", "publish/report", "maintenance/cleanup"]
)
def test_every_parameter_is_described(story: Story, name: str) -> None:
    properties = story.ask(f"deployments/name/{name}")["parameter_openapi_schema"]["properties"]
    assert {"config", "data_dir", "dry_run"} <= set(properties)
    assert all(about["description"] for about in properties.values())


def test_landing_emits_one_event_where_there_is_a_server(story: Story) -> None:
    wanted = {"filter": {"event": {"name": ["clipcap.batch.landed"]}}}
    events = eventually(lambda: story.ask("events/filter", wanted)["events"], "event")
    batch_id = story.landed["batch_id"]
    events = [event for event in events if event["payload"]["batch_id"] == batch_id]
    assert [event["resource"]["prefect.resource.id"] for event in events] == [f"clipcap.batch.{batch_id}"]
    assert events[0]["payload"] | {"batch_id": batch_id, "rows": {"ok": 3}} == events[0]["payload"]
    assert story.landed["event_emitted"] is True


def test_landing_without_a_server_says_that_nothing_was_emitted(story: Story) -> None:
    assert story.landed_without_server["event_emitted"] is False
    assert "no event was emitted" in story.said_without_server
    assert story.landed_without_server["is_new"] is False
    assert story.landed_without_server["batch_id"] == story.landed["batch_id"]
