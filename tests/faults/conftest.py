"""One warm process for all faults, a source of every kind of row, and a run that nothing disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from warm import QUESTIONS, Outcome, Warm, make_source, published


@dataclass(frozen=True)
class Calm:
    """What every other run is held against."""

    lake: Path
    config: Path
    outcome: Outcome
    published: dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture(scope="session")
def calm(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    config = make_source(folder / "source")
    outcome = warm.run(folder / "lake", config)
    assert outcome.status == 0, outcome.message
    rows = published(folder / "lake")
    assert all(rows[name] for name in QUESTIONS), {name: len(found) for name, found in rows.items()}
    return Calm(folder / "lake", config, outcome, rows)


@pytest.fixture
def lake(calm: Calm, tmp_path: Path) -> Path:
    """A copy of the undisturbed lake, with its times, to do things to."""
    return Path(shutil.copytree(calm.lake, tmp_path / "lake"))


@pytest.fixture
def runs_on(warm: Warm, calm: Calm) -> Callable[..., Outcome]:
    """Runs the flow on a lake; fails the test where the run fails."""

    def run(lake: Path, **options: Any) -> Outcome:
        outcome = warm.run(lake, calm.config, **options)
        assert outcome.status == 0, outcome.message
        return outcome

    return run
