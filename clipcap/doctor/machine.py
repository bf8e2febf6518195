"""Checks of the machine: cores and threads, devices, limits."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

from clipcap.doctor.finding import Check, Finding

FEW_FILES = 1_024
SMALL_SHM = 256 * 2**20
PROJECT_BEGAN = 1_735_689_600
"""2025-01-01: a clock before it was never set."""


def threads() -> Finding:
    """Spinning or too many threads beside other work made a training ten times slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    policy, asked = os.environ.get("OMP_WAIT_POLICY", ""), os.environ.get("OMP_NUM_THREADS", "")
    shown = f"{cores} cores, OMP_NUM_THREADS={asked or '(unset)'}, OMP_WAIT_POLICY={policy or '(unset)'}"
    if policy and policy.upper() != "PASSIVE":
        return Finding("threads", "warning", shown, "unset OMP_WAIT_POLICY: idle threads that spin slow all others")
    if asked.isdigit() and int(asked) > cores:
        return Finding("threads", "warning", shown, f"set OMP_NUM_THREADS to at most {cores}, or unset it")
    return Finding("threads", "ok", shown)


def devices() -> Finding:
    """What --device auto takes."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        half = "with" if torch.cuda.is_bf16_supported() else "without"
        return Finding("devices", "ok", f"CUDA: {', '.join(names)}, {half} bf16")
    if shutil.which("nvidia-smi"):
        mend = "install a CUDA build of torch of the same version, and see that nvidia-smi lists the GPU"
        return Finding("devices", "warning", f"a GPU's driver is here, but torch {torch.__version__} sees no GPU", mend)
    mps = ", MPS (--device mps)" if torch.backends.mps.is_available() else ""
    return Finding("devices", "ok", f"CPU{mps}; no GPU")


def open_files() -> Finding:
    """Readers of many shards hold many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return Finding("open files", "ok", f"at most {soft:,}")
    return Finding("open files", "warning", f"at most {soft:,} (hard limit {hard:,})", f"ulimit -n {FEW_FILES * 4}")


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Decoding workers and Ray hand pixels over there; containers have 64 MiB by default."""
    if not folder.is_dir():
        return Finding("shared memory", "ok", f"no {folder} on this system")
    size = shutil.disk_usage(folder).total
    shown = f"{size / 2**20:,.0f} MiB in {folder}"
    if size >= SMALL_SHM:
        return Finding("shared memory", "ok", shown)
    return Finding("shared memory", "warning", shown, "start the container with --shm-size=1g, or set embed.workers=0")


def clock() -> Finding:
    """Run ids and generations are named by the time."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now >= PROJECT_BEGAN:
        return Finding("clock", "ok", shown)
    return Finding("clock", "broken", shown, "set the clock: run ids begin with the time, and would sort before others")


MACHINE: list[tuple[str, Check]] = [
    ("threads", threads), ("devices", devices), ("open files", open_files), ("shared memory", shared_memory),
    ("clock", clock),
]  # fmt: skip
