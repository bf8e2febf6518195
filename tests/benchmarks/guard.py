"""What the guard costs: the same URLs of the same loopback server, with it and with img2dataset's own fetch.

    python tests/benchmarks/guard.py [--urls 1000] [--kilobytes 60] [--repeats 5]

Both run img2dataset with the same options; only the entry differs. Prints JSON with the median rates and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.dataset.guard import Guard, Policy

SERVER = """
import socketserver, sys, os
body = b"\\xff\\xd8" + os.urandom(int(sys.argv[1]))
head = b"HTTP/1.1 200 OK\\r\\nContent-Type: image/jpeg\\r\\nConnection: close\\r\\nContent-Length: "
head += b"%d\\r\\n\\r\\n" % len(body)
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            data += self.request.recv(65536)
        self.request.sendall(head + body)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 256
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
GUARDED = "from clipcap.dataset.guard.worker import main; main()"
BARE = "import img2dataset; img2dataset.main()"


def rate(folder: Path, port: int, urls: int, is_guarded: bool, threads: int, is_inside: bool) -> float:
    """URLs per second by img2dataset's own clock, which leaves out its start."""
    here = f"127.0.0.1:{port}"
    prefix = "guard:" if is_guarded else ""
    table = pa.table({"url": [f"{prefix}http://{here}/{number}.jpg" for number in range(urls)]})
    folder.mkdir()
    pq.write_table(table, folder / "urls.parquet")
    # "allowed" goes the whole way that a stranger's host goes (look-up, turn, robots.txt); "served" is our own server
    policy = Policy(allow_hosts=(here,), host_rate=1e9, host_connections=threads) if is_inside else Policy(
        served={here: here})  # fmt: skip
    (folder / "policy.json").write_text(policy.dumps())
    options = {
        "url_list": "urls.parquet", "input_format": "parquet", "url_col": "url", "output_folder": "out",
        "output_format": "webdataset", "number_sample_per_shard": urls, "processes_count": 1, "thread_count": threads,
        "timeout": 10, "retries": 0, "disable_all_reencoding": True, "extract_exif": False, "compute_hash": "sha256",
    } | ({"policy": "policy.json", "disallowed_header_directives": "[]"} if is_guarded else {})  # fmt: skip
    command = [sys.executable, "-c", GUARDED if is_guarded else BARE]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    facts = json.loads((folder / "out" / "00000_stats.json").read_text())
    if facts["successes"] != urls:
        raise SystemExit(f"{facts['successes']} of {urls} came: {facts['status_dict']}")
    return urls / (facts["end_time"] - facts["start_time"])


def processor_us(port: int, count: int = 1000) -> dict[str, float]:
    """Processor time of one fetch in this process: unlike a rate, it does not depend on who else is busy."""
    here = f"127.0.0.1:{port}"
    url = f"http://{here}/1.jpg"
    guard = Guard(Policy(allow_hosts=(here,), host_rate=1e9, host_connections=16))

    def bare() -> None:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "x"}), timeout=10) as answer:
            answer.read()

    found: dict[str, list[float]] = {"bare": [], "guarded": []}
    for _ in range(5):
        for name, fetch in (("bare", bare), ("guarded", lambda: guard.fetch(url))):
            fetch()
            started = time.process_time()
            for _ in range(count):
                fetch()
            found[name].append((time.process_time() - started) / count * 1e6)
    return {name: round(statistics.median(values)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--urls", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=60)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(asked.kilobytes * 1024)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    rates: dict[str, list[float]] = {"bare": [], "guarded": [], "guarded, served by the run": []}
    started = time.monotonic()
    try:
        processor = processor_us(port)
        with tempfile.TemporaryDirectory() as root:
            for number in range(asked.repeats):  # in turn, so that whatever else the machine does is shared
                for name in rates:
                    folder = Path(root) / f"{name.replace(', ', ' ').replace(' ', '-')}-{number}"
                    rates[name].append(rate(folder, port, asked.urls, name != "bare", asked.threads, name == "guarded"))
    finally:
        server.kill()
        server.wait()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        json.dumps(
            {
                "urls": asked.urls, "kilobytes": asked.kilobytes, "threads": asked.threads, "repeats": asked.repeats,
                "urls_per_second": {name: round(value) for name, value in medians.items()},
                "all": {name: [round(value) for value in values] for name, values in rates.items()},
                "ratio": {name: round(value / medians["bare"], 3) for name, value in medians.items()},
                "processor_us_per_url": processor,
                "seconds": round(time.monotonic() - started),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
