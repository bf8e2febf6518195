"""One warm process for all faults, a source of every kind of row, and a run that nothing disturbed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from warm import PORT, QUESTIONS, Outcome, Warm, make_source, published

from clipcap.config import load_config
from clipcap.dataset.scene_captions import captions
from clipcap.dataset.scenes import render_jpeg, scene
from clipcap.storage.lake import Lake
from flows.landing import land_source


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


@pytest.fixture(scope="session")
def grown(calm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed lake, in which one more batch has landed."""
    lake = tmp_path_factory.mktemp("grown") / "lake"
    shutil.copytree(calm.lake, lake)
    folder, rows = calm.config.parent, []
    for number in range(500, 508):
        (folder / "images" / f"{number}.jpg").write_bytes(render_jpeg(scene(number, 1, 48)))
        row = {"url": f"http://127.0.0.1:{PORT}/{number}.jpg", "caption": captions(scene(number, 1, 48))[0]}
        rows.append(row | {"split": "train"})
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    land_source(Lake(lake), load_config(str(calm.config), [f"dataset.source={folder / 'more.jsonl'}"]))
    return lake
