"""What a training ran on and, where the machine tells, about how much energy it took."""

from __future__ import annotations

import platform
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
EVERY_S = 5.0
"""Between two readings; a counter of the processor wraps around after a minute or more."""


def device_name(device: str) -> str:
    """As its maker calls it: "NVIDIA H100 80GB HBM3", "AMD EPYC 7763 64-Core Processor"."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


class EnergyMeter:
    """Reads the power of a GPU, or the energy counters of the processor, beside the work in its ``with`` block.

    Args:
        device: "cpu", or a GPU of ``nvidia-smi``.
        rapl: where Linux shows the processor's counters (Intel's and AMD's RAPL); often only root may read them.
    """

    def __init__(self, device: str, rapl: Path = RAPL, every_s: float = EVERY_S) -> None:
        self._is_gpu, self._every_s = device.startswith("cuda"), every_s
        self._gpu = device.partition(":")[2] or "0"
        self._counters = [] if self._is_gpu else sorted(rapl.glob("intel-rapl:[0-9]*"))
        self._counters = [folder for folder in self._counters if folder.name.count(":") == 1]  # whole packages
        self._last: list[int] = []
        self._watts: list[float] = []
        self._joules = 0.0
        self._readings = 0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._start = time.monotonic()
        self._read()
        if self._readings:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.monotonic() - self._start
        if self._thread.is_alive():
            self._is_done.set()
            self._thread.join()
            self._read()

    def estimate(self) -> dict[str, Any] | None:
        """watt_hours, and the formula in words; None where nothing could be read."""
        if self._watts:
            mean = sum(self._watts) / len(self._watts)
            formula = f"{mean:.0f} W, the mean of {len(self._watts)} readings of the GPU's power (nvidia-smi), times "
            return {"watt_hours": mean * self._seconds / 3600, "formula": f"{formula}{self._seconds:.0f} s"}
        if self._readings > 1:
            formula = "what the processor's energy counters (RAPL) gained; all that ran on the machine is in it"
            return {"watt_hours": self._joules / 3600, "formula": formula}
        return None

    def _watch(self) -> None:
        while not self._is_done.wait(self._every_s):
            self._read()

    def _read(self) -> None:
        try:
            if self._is_gpu:
                command = ["nvidia-smi", f"--id={self._gpu}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
                self._watts.append(float(done.stdout.split()[0]))
            elif self._counters:
                now = [int((folder / "energy_uj").read_text()) for folder in self._counters]
                ranges = [int((folder / "max_energy_range_uj").read_text()) for folder in self._counters]
                for before, after, largest in zip(self._last, now, ranges, strict=False):
                    self._joules += (after - before if after >= before else after + largest - before) / 1e6
                self._last = now
            else:
                return
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return  # not on this machine, or not for this user
        self._readings += 1
