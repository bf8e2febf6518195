"""Several processes train one model: each runs this module, started by torch's launcher, joined through accelerate.

The pipeline starts them where ``train.processes`` is above 1. By hand, on several machines for example:
``accelerate launch --num_processes 4 -m clipcap.training.launch JOB.json``.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.config import TrainConfig
from clipcap.errors import ClipCapError, ModelError
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

if TYPE_CHECKING:
    from clipcap.training.progress import Progress
    from clipcap.training.train import TrainingResult
    from clipcap.training.train_model import Shard

_PROGRESS = "progress "  # begins a line of standard output that is a Progress as JSON
_FAILED = "failed "  # begins the line of an error for people


def train_in_processes(
    lake: Lake,
    model_id: str,
    shards: Sequence[Shard],
    config: TrainConfig,
    folder: Path,
    resume_folder: Path,
    device: str,
    on_step: Callable[[Progress], None] | None,
    start_folder: Path | None = None,
    leave_out: Collection[str] = (),
) -> TrainingResult:
    """Trains in ``config.processes`` processes on this machine: one for each GPU, or all on the CPU.

    Raises:
        ModelError: a process failed; with what it said.
    """
    from clipcap.training.progress import Progress
    from clipcap.training.train import TrainingResult

    job = {
        "data_dir": lake.address if lake.mirror else str(lake.root.resolve()),
        "model_id": model_id, "config": config.model_dump(), "device": device,
        "shards": [[s.download.model_dump(mode="json"), s.embed.model_dump(mode="json")] for s in shards],
        "folder": str(folder.resolve()), "resume_folder": str(resume_folder.resolve()),
        "start_folder": str(start_folder.resolve()) if start_folder else "", "leave_out": sorted(leave_out),
    }  # fmt: skip
    resume_folder.mkdir(parents=True, exist_ok=True)
    file = resume_folder / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.processes),
        "-m", "clipcap.training.launch", str(file),
    ]  # fmt: skip
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_end_with_parent
    ) as launcher:
        assert launcher.stdout is not None and launcher.stderr is not None
        errors = threading.Thread(target=lambda: said.extend(launcher.stderr), daemon=True)  # type: ignore[arg-type]
        errors.start()
        try:
            for line in launcher.stdout:
                if line.startswith(_PROGRESS) and on_step:
                    on_step(Progress(**json.loads(line.removeprefix(_PROGRESS))))
                elif line.startswith(_FAILED):
                    said.append(line)
        except BaseException:
            launcher.terminate()
            raise
        errors.join()
    if launcher.returncode:
        failed = [line.removeprefix(_FAILED).strip() for line in said if line.startswith(_FAILED)]
        told = [line for line in said if "what():" in line or "Error: " in line] or said
        reason = failed[0] if failed else "; ".join(line.strip() for line in told[-3:])
        raise ModelError(f"training in {config.processes} processes failed: {reason}")
    return TrainingResult(**json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


def _end_with_parent() -> None:
    """A launcher whose parent was killed ends its processes too (Linux; elsewhere they end at the next step)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(file: str) -> None:
    """What each process does."""
    from dataclasses import asdict

    from clipcap.training.processes import Launched
    from clipcap.training.train import train
    from clipcap.training.train_model import TRAIN_SPLITS, Shard, read_pairs

    job = json.loads(Path(file).read_text(encoding="utf-8"))
    processes = Launched(use_cpu=job["device"] == "cpu")
    lake = Lake(job["data_dir"])
    shards = [Shard(Entry.model_validate(download), Entry.model_validate(embed)) for download, embed in job["shards"]]

    def on_step(line: Progress) -> None:
        print(_PROGRESS + json.dumps(asdict(line)), flush=True)

    try:
        pairs, info = read_pairs(lake, shards, TRAIN_SPLITS, job["leave_out"])
        validation, _ = read_pairs(lake, shards, ("val",))
        train(
            pairs, validation, TrainConfig.model_validate(job["config"]), Path(job["folder"]),
            model_id=job["model_id"], encoder=info.encoder, encoder_hash=info.encoder_hash, features=info.features,
            processes=processes, resume_folder=Path(job["resume_folder"]), on_step=on_step,
            start_folder=Path(job["start_folder"]) if job["start_folder"] else None,
        )  # fmt: skip
        processes.end()
    except ClipCapError as error:
        print(_FAILED + " ".join(str(error).split()), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
