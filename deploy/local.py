"""A first look at the deployments, all on this machine: server, work pool, automations, deployments and one worker.

    make deploy-local          stops cleanly with Ctrl-C

Everything that Prefect keeps lies below the data folder; nothing outside 127.0.0.1 is listened to.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PORT = 4200
START_S = 180.0


def free_port(wanted: int) -> int:
    """The wanted one, else any that nobody has."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise SystemExit("there is no free port on 127.0.0.1")


@contextmanager
def running(name: str, command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that Ctrl-C reaches only this script, which stops all in order."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            print(f"stopping the {name} …", flush=True)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"the server did not start; {log} says why")
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise SystemExit(f"the server did not answer within {START_S:.0f} s; see {log}")


def main() -> None:
    data = Path(os.environ.get("CLIPCAP_DATA_DIR") or ROOT / "data").resolve()
    home, lake = data / "prefect", data / "lake"
    home.mkdir(parents=True, exist_ok=True)
    port = free_port(int(os.environ.get("CLIPCAP_PREFECT_PORT", PORT)))
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PREFECT_HOME": str(home), "PREFECT_API_URL": f"{url}/api", "CLIPCAP_DATA_DIR": str(lake),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    server_log, worker_log = home / "server.log", home / "worker.log"

    def call(*command: str) -> None:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background job ignores it otherwise
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        print("starting the server …", flush=True)
        serve = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = stack.enter_context(running("server", serve, environment, server_log))
        wait_for(f"{url}/api/health", server, server_log)
        print("work pool, GPU limit, automations, deployments …", flush=True)
        call(sys.executable, "deploy/apply.py")
        call(str(BIN / "prefect"), "--no-prompt", "deploy", "--all")
        work = [str(BIN / "prefect"), "worker", "start", "--pool", "clipcap"]
        worker = stack.enter_context(running("worker", work, environment, worker_log))
        print(
            f"""
  user interface  {url}
  lake            {lake}
  logs            {server_log}, {worker_log}

In another terminal:
  . .venv/bin/activate
  export PREFECT_API_URL={url}/api CLIPCAP_DATA_DIR={lake}
  prefect deployment run 'pipeline/pipeline' --watch            # trains the sample's model, a few minutes
  clipcap land FOLDER_OF_IMAGES --dataset holiday               # a batch; emits clipcap.batch.landed
  prefect deployment run 'caption-nightly/nightly' --watch      # captions it
  clipcap sql "select image_url, caption from latest_captions limit 5"

Ctrl-C stops everything; the lake and the server's database stay.
""",
            flush=True,
        )
        while server.poll() is None and worker.poll() is None:
            time.sleep(0.5)
        print("the server or the worker has ended by itself; its log says why", flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
    print("stopped", flush=True)
