"""Energy is measured where the machine tells, and nowhere made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap.training.machine import EnergyMeter


def counter(folder: Path, microjoules: int, largest: int = 1_000_000) -> Path:
    package = folder / "intel-rapl:0"
    package.mkdir(exist_ok=True)
    (package / "energy_uj").write_text(f"{microjoules}\n")
    (package / "max_energy_range_uj").write_text(f"{largest}\n")
    return package


@pytest.mark.parametrize(("after", "joules"), [(700_000, 0.2), (100_000, 0.6)], ids=["grew", "wrapped around"])
def test_the_processors_counter_is_read(tmp_path: Path, after: int, joules: float):
    counter(tmp_path, 500_000)
    with EnergyMeter("cpu", rapl=tmp_path) as meter:
        counter(tmp_path, after)
    estimate = meter.estimate()
    assert estimate is not None and estimate["watt_hours"] == pytest.approx(joules / 3600)
    assert "RAPL" in estimate["formula"]


def test_no_counter_is_no_figure(tmp_path: Path):
    with EnergyMeter("cpu", rapl=tmp_path) as meter:
        pass
    assert meter.estimate() is None
