"""A process that has imported everything, and forks a run for each fault: a case costs about a second.

The forked runs are the real flows, from landing to the report. Only two things are replaced: tasks are called where
they are submitted (no orchestrator), and images are fetched by this process and not by img2dataset, which takes
seconds to start; the server that they come from is the real one on 127.0.0.1.

As a script it reads orders from stdin, a JSON object a line; :class:`Warm` is the other end.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

SCENES, SHARD_SIZE, PORT = 30, 13, 8797
"""Three shards of 13, 13 and 9 rows: the scenes, and what :func:`make_source` adds to them."""
SETTINGS = f"""
[dataset]
name = "kill"
source = "list.jsonl"
[serve]
folder = "images"
port = {PORT}
[download]
shard_size = {SHARD_SIZE}
[embed]
encoder = "builtin:sample"
device = "cpu"
workers = 0
batch_size = 8
[train]
epochs = 2
batch_size = 40
mapper_hidden = 16
prefix_length = 2
learning_rate = 0.001
checkpoint_every_s = 0.0
[train.language_model]
name = "scratch"
layers = 1
heads = 2
hidden_size = 16
[caption]
beam_size = 2
max_new_tokens = 8
batch_size = 8
[evaluate]
split = "test"
resamples = 20
[report]
images = 2
"""

RETRAINING = ["train.epochs=8", "train.learning_rate=0.02", "train.checkpoint_every_s=100", "retrain.min_new_pairs=1",
              "gate.min_images=3", "gate.guards=[]", "gate.primary=rouge_l"]  # fmt: skip
"""Of a model that production's two epochs cannot match, so that the gate promotes it."""


def make_source(folder: Path, scenes: int = SCENES) -> Path:
    """Images, a list of their URLs with captions and splits, and a configuration; every kind of outcome is among them.

    The last rows are: an image of another row under another URL, a file cut in half, one that is no image, a small
    one, one that is not there, a URL that came before.
    """
    from clipcap.dataset.sample import split_of
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, render_jpeg, scene

    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(scenes):
        (images / f"{number:03d}.jpg").write_bytes(render_jpeg(scene(number, 1, 48)))
    shutil.copy(images / "003.jpg", images / "again.jpg")
    whole = render_jpeg(scene(1_000, 1, 48))
    (images / "cut.jpg").write_bytes(whole[:-300])
    (images / "text.jpg").write_text("no image\n")
    render(scene(1_001, 1, 16)).save(images / "small.png")
    named = {f"{number:03d}.jpg": (number, split_of(number)) for number in range(scenes)}
    named |= {name: (3, "train") for name in ("again.jpg", "cut.jpg", "text.jpg", "small.png", "missing.jpg")}
    rows = [
        {"url": f"http://127.0.0.1:{PORT}/{name}", "caption": captions(scene(number, 1, 48))[:2], "split": split}
        for name, (number, split) in named.items()
    ]
    rows.append(rows[0])
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "kill.toml").write_text(SETTINGS)
    return folder / "kill.toml"


@dataclass
class Fault:
    """What happens to one run, and when; boundaries are counted from 1 through all that it writes."""

    kill_at: int = 0
    hold_s: float = 0.0
    """Seconds for which it stands there before it is killed, with the locks that it holds."""
    full_at: int = 0
    """From this boundary on the disk is full, for the rest of the run."""
    copy_to: str = ""
    """The lake is copied there while the run writes: the first half of its folders at the first boundary of
    ``copy_at``, the other half at the second one."""
    copy_at: tuple[int, int] = (0, 0)
    clock_days: float = 0.0
    """The run believes that it is so much later."""
    fits: int = 0
    """The device holds so many images at a time, and no more."""
    broken_image: int = 0
    """The encoder gives NaN for this image, counted from 1."""


@dataclass
class Outcome:
    """What became of one run."""

    status: int
    """0, 1 after an error, -9 where it was killed."""
    error: str = ""
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    """Ids of the entries that the run recorded, in order."""
    encoded: int = 0
    """Images that passed the encoder."""
    refused: int = 0
    """Times that the device had no room."""
    boundaries: list[str] = field(default_factory=list)
    """"<what> <path>" of each boundary that was reached: writes, written, renames, named, forgets, forgot."""

    @property
    def named(self) -> list[str]:
        """Files that got their final names, relative to the lake."""
        return [line.partition(" ")[2] for line in self.boundaries if line.startswith("named ")]


class Warm:
    """The parent's other end. Use it as a context; runs may be under way side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = 0

    def __enter__(self) -> Warm:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
        self._log = (self.folder / "warm.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True,
        )  # fmt: skip
        assert self._answer() == {"ready": True}
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()

    def start(
        self, lake: Path, config: Path, fault: Fault | None = None, flow: str = "pipeline",
        overrides: Sequence[str] = (), **parameters: Any,
    ) -> tuple[int, Path]:  # fmt: skip
        """Begins a run; :meth:`wait` gives its outcome."""
        self._runs += 1
        log = self.folder / f"{self._runs:04d}.log"
        order = {
            "lake": str(lake), "config": str(config), "fault": (fault or Fault()).__dict__, "flow": flow,
            "overrides": list(overrides), "parameters": parameters, "log": str(log),
        }  # fmt: skip
        return self._ask(order)["pid"], log

    def wait(self, run: tuple[int, Path]) -> Outcome:
        pid, log = run
        status = self._ask({"wait": pid})["status"]
        told = log.with_suffix(".json")
        facts = json.loads(told.read_text()) if told.exists() else {}
        return Outcome(status, boundaries=log.read_text().splitlines() if log.exists() else [], **facts)

    def run(self, lake: Path, config: Path, fault: Fault | None = None, **options: Any) -> Outcome:
        return self.wait(self.start(lake, config, fault, **options))

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise AssertionError(f"the warm process ended: {self._log.read()[-3000:]}")
        return dict(json.loads(line))


def serve_orders() -> None:
    """The warm process: imports, answers that it is ready, and forks until its stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints is none of the answers
    _prepare()

    def answer(facts: dict[str, Any]) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer({"status": os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])})
            continue
        pid = os.fork()
        if pid == 0:
            _be_a_run(order)
        answer({"pid": pid})
    os._exit(0)  # an orderly end takes seconds


def _prepare() -> None:
    """Imports all that a run needs and loads the encoder; nothing is computed before a fork."""
    import pandas  # noqa: F401  pyarrow imports it when it is first asked for a table; once here, not in each run
    import prefect
    from prefect.utilities.annotations import quote

    import clipcap.dataset.download
    import clipcap.decoding.caption
    import clipcap.report.html
    import clipcap.training.train
    import clipcap.warehouse.publish
    from clipcap.embedding.encoder import get_encoder

    class Done:
        def __init__(self, call: Callable[[], Any]) -> None:
            self._failure: Exception | None = None
            try:
                self._value = call()
            except Exception as error:
                self._failure = error

        def result(self) -> Any:
            if self._failure is not None:
                raise self._failure
            return self._value

    def plain(value: Any) -> Any:
        return value.unquote() if isinstance(value, quote) else value

    def call(self: Any, *given: Any, **named: Any) -> Any:
        return self.fn(*map(plain, given), **{name: plain(value) for name, value in named.items()})

    prefect.Task.__call__ = call  # type: ignore[method-assign]
    prefect.Task.submit = lambda self, **named: Done(lambda: call(self, **named))  # type: ignore[method-assign,assignment]
    clipcap.dataset.download._fetch = fetch  # type: ignore[assignment]
    encoder = get_encoder("builtin:sample", "cpu")
    _ = encoder.model, encoder.hash, encoder.forward_pass


def fetch(rows: Any, folder: Path, *rest: Any) -> dict[str, Any]:
    """What img2dataset would leave, in another order than the keys'."""
    from urllib.error import HTTPError
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    from clipcap.dataset.shards import Fetched

    hosts = next((value for value in rest if isinstance(value, Mapping)), {})
    fetched = {}
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, row in enumerate(reversed(rows.to_pylist())):
            parts = urlsplit(row["url"])
            try:
                with urlopen(parts._replace(netloc=hosts.get(parts.netloc, parts.netloc)).geturl()) as answer:
                    data = answer.read()
            except HTTPError as error:
                fetched[row["sample_key"]] = Fetched(f"{number:09d}", False, f"HTTP {error.code}", None)
                continue
            info = tarfile.TarInfo(f"{number:09d}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            fetched[row["sample_key"]] = Fetched(f"{number:09d}", True, "", hashlib.sha256(data).hexdigest())
    return fetched


def _be_a_run(order: dict[str, Any]) -> None:
    """In the forked child: one run, its outcome in a file; never returns."""
    log, status = Path(order["log"]), 1
    told: dict[str, Any] = {"made": [], "encoded": 0, "refused": 0}
    try:
        fault = Fault(**order["fault"])
        _watch(Path(order["lake"]), log, fault)
        _count(told, fault)
        if fault.clock_days:
            _shift_clock(timedelta(days=fault.clock_days))
        from flows.maintenance import cleanup
        from flows.nightly import caption_nightly
        from flows.pipeline import pipeline
        from flows.retrain import retrain

        flows = {"pipeline": pipeline, "nightly": caption_nightly, "retrain": retrain, "cleanup": cleanup}
        flow = flows[order["flow"]]
        told["result"] = flow.fn(order["config"], order["overrides"], order["lake"], **order["parameters"])
        status = 0
    except BaseException as error:
        import traceback

        traceback.print_exc()
        told |= {"error": type(error).__name__, "message": str(error)}
    finally:
        log.with_suffix(".json").write_text(json.dumps(told, default=str))
        sys.stderr.flush()
        os._exit(status)


def _watch(root: Path, log: Path, fault: Fault) -> None:
    """Counts and logs every boundary of :mod:`clipcap.storage.commit`, and does there what is to be done."""
    from clipcap.storage import commit
    from clipcap.warehouse import catalog

    count = 0
    real_name, real_commit, real_unlink = commit._aside, commit.commit, os.unlink
    lake = root.resolve()

    def at(what: str, path: Any, can_be_full: bool = False) -> None:
        nonlocal count
        count += 1
        if fault.copy_to and count in fault.copy_at:
            half = fault.copy_at.index(count)
            for top in sorted(root.iterdir())[half::2]:
                copy = shutil.copytree if top.is_dir() else shutil.copy2
                copy(top, Path(fault.copy_to) / top.name, **({"dirs_exist_ok": True} if top.is_dir() else {}))
        is_full = can_be_full and fault.full_at and count >= fault.full_at
        with log.open("a") as lines:
            lines.write(f"{what} {os.path.relpath(Path(path).resolve(), lake)}\n")
        if count == fault.kill_at:
            time.sleep(fault.hold_s)
            os.kill(os.getpid(), signal.SIGKILL)
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def name(final: Path) -> Path:
        at("writes", final)
        return real_name(final)

    def commits(local_file: Path, final: Path, exclusive: bool = False) -> bool:
        at("written", final, can_be_full=True)
        return real_commit(local_file, final, exclusive)

    def renames(real: Any) -> Any:
        def rename(source: Any, target: Any, *rest: Any, **more: Any) -> None:
            is_ours = Path(target).resolve().is_relative_to(lake)
            if is_ours:
                at("renames", target)
            real(source, target, *rest, **more)
            if is_ours:
                at("named", target)

        return rename

    def unlink(path: Any, *rest: Any, **more: Any) -> None:
        is_ours = is_final(Path(path).absolute(), root.absolute())
        if is_ours:
            at("forgets", path)
        real_unlink(path, *rest, **more)
        if is_ours:
            at("forgot", path)

    commit._aside, commit.commit, catalog.commit = name, commits, commits  # type: ignore[attr-defined]
    os.replace, os.link, os.rename = renames(os.replace), renames(os.link), renames(os.rename)
    os.unlink = unlink


def is_final(path: Path, lake: Path) -> bool:
    """Whether a path is a final name of the lake: inside it, and nothing on the way there is hidden."""
    return path.is_relative_to(lake) and not any(part.startswith(".") for part in path.relative_to(lake).parts)


def _count(told: dict[str, Any], fault: Fault) -> None:
    """Notes each recorded entry and each encoded image, and lets the device and the encoder fail as they are to."""
    import torch

    from clipcap.embedding import encoder
    from clipcap.model import captioner
    from clipcap.storage import entries

    record, start, prefix = entries.record, encoder.Encoder.start, captioner.Captioner.prefix

    def refuse(rows: int) -> None:
        if fault.fits and rows > fault.fits:
            told["refused"] += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def noted(lake: Any, entry: Any) -> Any:
        told["made"].append(entry.id)
        return record(lake, entry)

    def counted(self: Any, pixels: Any) -> Any:
        refuse(len(pixels))
        pending = start(self, pixels)
        place = fault.broken_image - told["encoded"] - 1
        if 0 <= place < len(pixels):
            pending._embedding.numpy()[place, 3] = float("nan")
        told["encoded"] += len(pixels)
        return pending

    def limited(self: Any, embeddings: Any) -> Any:
        if not self.training:
            refuse(len(embeddings))
        return prefix(self, embeddings)

    entries.record, encoder.Encoder.start, captioner.Captioner.prefix = noted, counted, limited


def _shift_clock(by: timedelta) -> None:
    """Every ``datetime.now`` of ours says another time; files keep the machine's."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("clipcap", "flows", "tasks") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


QUESTIONS = {
    "captions": "select sample_key, image_url, caption, model_id, batch_id, shard_id, split, round(clip_score, 4), "
    "round(log_probability, 4), tokens from captions order by all",
    "latest_captions": "select sample_key, caption, model_id from latest_captions order by all",
    "metrics": "select model_id, split, metric, round(value, 6) as value, images from metrics order by all",
    "metrics_per_image": "select model_id, sample_key, metric, round(value, 6) as value "
    "from metrics_per_image order by all",
    "ledger": "select sample_key, batch_id, shard_id, stage, status, reason from ledger order by all",
    "ledger_history": "select sample_key, shard_id, stage, status, reason from ledger_history order by all",
    "embeddings": "select sample_key, sha256, clip_embedding from source_embeddings order by all",
    "images": "select * exclude (created_at) from images order by all",
    "models": "select model_id, is_production from models order by all",
    "lineage": "select sample_key, image_url, caption, model_id from lineage order by all",
}
"""All that a lake publishes, without ids of runs and times."""
DECISIONS = {
    "decisions": "select candidate_model_id, production_model_id, verdict, reason, evaluation_set from decisions",
    "promotions": "select model_id, previous_model_id, reason, is_rollback, is_current from promotions",
    "comparisons": "select * exclude (run_id, created_at) from comparisons order by all",
    "evaluation_sets": "select * from evaluation_sets order by all",
}
"""What a retraining adds."""


def published(lake: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that answer :data:`QUESTIONS` and :data:`DECISIONS`."""
    from clipcap.storage.lake import Lake
    from clipcap.warehouse.catalog import connect, ensure_catalog

    ensure_catalog(Lake(lake))
    with connect(Lake(lake)) as connection:
        return {name: connection.execute(text).fetchall() for name, text in (QUESTIONS | DECISIONS).items()}


def unfinished(lake: Path) -> list[str]:
    """What is not at a final name: anything hidden that holds a file."""
    files = [path for path in lake.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(lake)) for path in files if not is_final(path, lake))


def files_at_final_names(lake: Path) -> list[str]:
    return sorted(str(path.relative_to(lake)) for path in lake.rglob("*") if path.is_file() and is_final(path, lake))


def check_whole(lake: Path) -> None:
    """Every file at its final name can be read to its end; a manifest that can be read names files that are there."""
    import duckdb
    import pyarrow.parquet as pq

    for file in (lake / name for name in files_at_final_names(lake)):
        if file.suffix == ".parquet":
            assert pq.read_table(file).num_rows >= 0, file
        elif file.suffix == ".tar":
            with tarfile.open(file) as archive:
                assert all(len(archive.extractfile(member).read()) == member.size for member in archive), file  # type: ignore[union-attr]
        elif file.suffix == ".json":
            facts = json.loads(file.read_bytes())
            if file.parent == lake / "manifests":
                named = [named["path"] for entry in facts["entries"].values() for named in entry["files"]]
                assert [path for path in named if not (lake / path).is_file()] == [], file
        elif file.name == "CURRENT":
            assert (lake / "manifests" / f"{int(file.read_bytes())}.json").is_file()
        elif file.name == "catalog.duckdb":
            duckdb.connect(str(file), read_only=True).close()


def recorded(lake: Path) -> dict[str, Any]:
    """Every entry that a later run would find, by id."""
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import EntryIndex

    index = EntryIndex(Lake(lake))
    return {e.id: e for e in index._entries.values() if index.find(e.id, e.key)}


@contextmanager
def collected(lake: Path) -> Iterator[None]:
    """After the block everything that the collector may remove two days later is removed."""
    from clipcap.storage.collect import collect
    from clipcap.storage.lake import Lake

    yield
    collect(Lake(lake), keep_generations=2, keep_days=0, now=datetime.now(UTC) + timedelta(days=2))


if __name__ == "__main__":
    serve_orders()
