"""A server for more than one worker: PostgreSQL below it, a password in front of it, two workers behind it.

PostgreSQL is Debian's, run as an unprivileged user in a folder of its own on 127.0.0.1; where it is not installed the
module is skipped. What docs/operations.md tells to set is what is set here.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import TOOLS, eventually, free_of_prefect, running, wait_for_server
from tiny_lake import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = 6


def postgres_tools() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL's own programs (apt-get install postgresql)")
    return found[-1].parent


@dataclass
class Database:
    url: str
    psql: list[str]
    environment: dict[str, str]

    def ask(self, statement: str) -> str:
        command = [*self.psql, "--tuples-only", "--no-align", "--command", statement]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def database(free_port: Callable[[], int]) -> Iterator[Database]:
    """An empty database "prefect", with a password."""
    tools, port, password = postgres_tools(), free_port(), secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="clipcap-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    (folder / "password").write_text(password)
    if user:
        owner = pwd.getpwnam(user)
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    try:
        initdb = [str(tools / "initdb"), "-D", str(folder / "data"), "-U", "clipcap", "-A", "scram-sha-256",
                  f"--pwfile={folder / 'password'}", "--no-sync"]  # fmt: skip
        subprocess.run(initdb, user=user, cwd=folder, check=True, capture_output=True)
        serve = [str(tools / "postgres"), "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port),
                 "-k", str(folder)]  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(serve, user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            environment = free_of_prefect() | {"PGPASSWORD": password}
            psql = [str(tools / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "clipcap"]

            def created() -> bool:
                command = [*psql, "--dbname=postgres", "--command=create database prefect"]
                return subprocess.run(command, env=environment, capture_output=True).returncode == 0

            eventually(created, "database", 60)
            url = f"postgresql+asyncpg://clipcap:{password}@127.0.0.1:{port}/prefect"
            yield Database(url, [*psql, "--dbname=prefect"], environment)
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Served:
    """A server behind a password and what happened on it."""

    api: str
    login: tuple[str, str]
    environment: dict[str, str]
    logs: dict[str, Path]
    runs: list[str]
    landed: dict[str, Any]
    landed_by_a_stranger: dict[str, Any]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, f"{self.api}/{path}", json=body, auth=self.login, timeout=60)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def served(
    database: Database, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Served]:
    root, port, login = tmp_path_factory.mktemp("secured"), free_port(), ("night", secrets.token_hex(8))
    api = f"http://127.0.0.1:{port}/api"
    tiny = build(root / "lake")
    tiny.commit()
    common = free_of_prefect() | {
        "PREFECT_HOME": str(root / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200",
    }  # fmt: skip
    server = common | {
        "PREFECT_SERVER_API_AUTH_STRING": ":".join(login), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url
    }  # fmt: skip
    client = common | {
        "PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": ":".join(login), "PREFECT_WORKER_QUERY_SECONDS": "2",
        "CLIPCAP_DATA_DIR": str(root / "lake"),
    }  # fmt: skip
    stranger = {name: value for name, value in client.items() if name != "PREFECT_API_AUTH_STRING"}
    logs = {name: root / f"{name}.log" for name in ("server", "one", "two")}

    def call(*command: str, environment: dict[str, str] = client) -> str:
        done = subprocess.run([str(TOOLS / command[0]), *command[1:]], cwd=REPOSITORY, env=environment,
                              capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def land(name: str, environment: dict[str, str]) -> dict[str, Any]:
        source = root / f"{name}.csv"
        source.write_text(f"url\nhttp://images.test/{name}.jpg\n")
        told: dict[str, Any] = json.loads(call("clipcap", "land", str(source), "--json", environment=environment))
        return told

    with ExitStack() as stack:
        start = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        process = stack.enter_context(running(start, root, server, logs["server"]))
        wait_for_server(process, api, logs["server"])
        call("python", "deploy/apply.py")
        call("prefect", "--no-prompt", "deploy", "--all")
        for name in ("one", "two"):
            work = ["prefect", "worker", "start", "--pool", "clipcap", "--name", name, "--limit", "1"]
            stack.enter_context(running(work, root, client, logs[name]))
        told = Served(api, login, client, logs, [], {}, {})

        def online() -> bool:
            workers = told.ask("work_pools/clipcap/workers/filter", {})
            return {worker["name"] for worker in workers if worker["status"] == "ONLINE"} == {"one", "two"}

        eventually(online, "two workers", 300)
        for _ in range(RUNS):
            said = call("prefect", "deployment", "run", "publish/report")
            told.runs.append(said.partition("UUID: ")[2].split()[0])
        ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        eventually(lambda: {told.ask(f"flow_runs/{id}")["state"]["type"] for id in told.runs} <= ended, "end", 600)
        told.landed, told.landed_by_a_stranger = land("mine", client), land("theirs", stranger)  # starts a retraining
        yield told


def test_every_run_ends_well(served: Served) -> None:
    assert [served.ask(f"flow_runs/{id}")["state"]["type"] for id in served.runs] == ["COMPLETED"] * RUNS


def test_both_workers_took_some_of_them(served: Served) -> None:
    texts = [served.logs[name].read_text() for name in ("one", "two")]
    taken = [{id for id in served.runs if id in text} for text in texts]
    assert taken[0] and taken[1] and len(taken[0] | taken[1]) == RUNS and not taken[0] & taken[1]


def test_all_of_it_lies_in_postgresql(served: Served, database: Database) -> None:
    question = "select count(*) from flow_run join flow on flow.id = flow_run.flow_id where flow.name = 'publish'"
    assert database.ask(question) == str(RUNS)
    assert not list(Path(served.environment["PREFECT_HOME"]).glob("*.db"))


@pytest.mark.parametrize("login", [None, ("night", "wrong"), ("", "")])
def test_who_does_not_know_the_password_sees_nothing(served: Served, login: tuple[str, str] | None) -> None:
    answer = httpx.post(f"{served.api}/flow_runs/filter", json={}, auth=login, timeout=60)
    assert answer.status_code == 401


def test_events_need_the_password_too(served: Served) -> None:
    assert served.landed["event_emitted"] is True
    assert served.landed_by_a_stranger["event_emitted"] is False, "and the batch has landed all the same"


def test_the_password_is_in_no_log(served: Served) -> None:
    password = served.login[1]
    assert all(password not in log.read_text() for log in served.logs.values())
    lines = served.ask("logs/filter", {"logs": {}, "limit": 200})
    assert lines and password not in json.dumps(lines)
