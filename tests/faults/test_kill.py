"""kill -9 at every boundary of everything that is written or deleted: by a run from landing to the report, by a
retraining that promotes, and by maintenance.

A boundary is a moment before a file is written, when it is written, just before it gets its name, just after; the same
around each recorded entry, CURRENT, the catalog, and each file that is deleted. The default suite takes some twenty of
them, ``make faults`` all (about 460).
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from warm import (
    RETRAINING,
    Fault,
    Outcome,
    Warm,
    check_whole,
    collected,
    files_at_final_names,
    published,
    recorded,
    unfinished,
)

WITH_ALL = os.environ.get("CLIPCAP_FAULTS") == "all"
CLEANING = ["maintenance.keep_days=0", "maintenance.keep_generations=2", "maintenance.keep_models=1"]


@dataclass(frozen=True)
class Scenario:
    """Something that is killed: what it begins with, and what it leaves when nothing disturbs it."""

    begin: Path
    """The lake before it; where there is none it begins without."""
    how: dict[str, Any]
    """The flow and its options."""
    calm: Outcome
    published: dict[str, list[tuple[Any, ...]]]
    files: list[str]
    chosen: tuple[tuple[str, str], ...]
    """What the default suite takes: a kind of boundary and how its path begins; the last such one, of the entries one
    in the middle."""
    at_least: int
    """Boundaries that there must be."""

    @property
    def points(self) -> list[int]:
        """Numbers of the boundaries at which it is killed, from 1."""
        if WITH_ALL:
            return list(range(1, len(self.calm.boundaries) + 1))
        points = set()
        for what, start in self.chosen:
            found = [n for n, line in enumerate(self.calm.boundaries, start=1) if line.startswith(f"{what} {start}")]
            points.add(found[-1] if start != "manifests/pending/" or what == "forgot" else found[len(found) // 2])
        return sorted(points)


@pytest.fixture(scope="module", params=["run", "retraining", "maintenance"])
def scenario(
    request: pytest.FixtureRequest, warm: Warm, calm: Any, grown: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scenario]:
    lake = tmp_path_factory.mktemp(request.param) / "lake"

    def undisturbed(begin: Path, *rest: Any, **how: Any) -> Scenario:
        shutil.copytree(begin, lake)
        outcome = warm.run(lake, calm.config, **how)
        assert outcome.status == 0, outcome.message
        rows = published(lake)
        with collected(lake):
            pass
        return Scenario(begin, how, outcome, rows, files_at_final_names(lake), *rest)

    if request.param == "run":
        yield Scenario(lake, {}, calm.outcome, calm.published, files_at_final_names(calm.lake), (
            ("written", "batches/"), ("named", "embeddings/"), ("named", ".scratch/training/"), ("renames", "models/"),
            ("named", "ledger/caption/"), ("named", "manifests/pending/"), ("renames", "manifests/1.json"),
            ("named", "manifests/1.json"), ("forgot", "manifests/pending/"), ("renames", "catalog.duckdb"),
        ), 200)  # fmt: skip
    elif request.param == "retraining":
        found = undisturbed(grown, (
            ("named", "batches/"), ("renames", "models/"), ("named", "manifests/pending/"), ("named", "metrics/"),
            ("renames", "manifests/3.json"), ("named", "manifests/3.json"), ("named", "CURRENT"),
            ("forgot", "manifests/pending/"),
        ), 100, flow="retrain", overrides=RETRAINING)  # fmt: skip
        assert found.calm.result["verdict"] == "promoted", found.calm.result
        yield found
    else:
        kept_out = [*RETRAINING, "gate.min_gain=10"]
        begin = Path(shutil.copytree(grown, lake.parent / "begin"))
        for rate in (0.02, 0.005, 0.002, 0.001):  # models beside the two in use; one of them is retired already
            again = [*kept_out, f"train.learning_rate={rate}"] if rate < 0.02 else RETRAINING
            outcome = warm.run(begin, calm.config, flow="retrain", overrides=again, force=True)
            assert outcome.result["verdict"] == ("refused" if rate < 0.02 else "promoted"), outcome.message
            if rate == 0.002:
                warm.run(begin, calm.config, flow="cleanup", overrides=CLEANING)
        found = undisturbed(begin, (
            ("renames", "archive/"), ("named", "manifests/removed/"), ("forgot", "manifests/5"), ("forgets", "models/"),
            ("forgot", "captions/"), ("forgot", "manifests/removed/"),
        ), 30, flow="cleanup", overrides=CLEANING)  # fmt: skip
        assert {"model", "generation", "file"} <= set(found.calm.result["counts"]), found.calm.result["counts"]
        yield found
    shutil.rmtree(lake, ignore_errors=True)


@dataclass
class Case:
    """One point: what the kill left, and what the next run made of it."""

    killed: Outcome
    known: dict[str, Any] = field(default_factory=dict)
    """Entries that stood after the kill, by id."""
    damage: str = ""
    again: Outcome = field(default_factory=lambda: Outcome(1))
    after: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """What stayed beside the final names, after the next run and the collector."""
    files: list[str] = field(default_factory=list)
    """At their final names then."""


@pytest.fixture(scope="module")
def cases(
    scenario: Scenario, warm: Warm, calm: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    """By "<n> <boundary>"; two are under way at a time, and a lake is deleted when all is known of it."""
    folder = tmp_path_factory.mktemp("killed")

    def begin(lakes: list[Path], faults: list[Fault]) -> list[Outcome]:
        begun = [
            warm.start(lake, calm.config, fault, **scenario.how) for lake, fault in zip(lakes, faults, strict=True)
        ]
        return [warm.wait(run) for run in begun]

    found: dict[str, Case] = {}
    for start in range(0, len(scenario.points), 2):
        pair = scenario.points[start : start + 2]
        lakes = [folder / f"{point}" for point in pair]
        for lake in lakes:
            if scenario.begin.exists():
                shutil.copytree(scenario.begin, lake)
        for point, lake, killed in zip(pair, lakes, begin(lakes, [Fault(kill_at=p) for p in pair]), strict=True):
            lake.mkdir(exist_ok=True)
            case = found[f"{point} {scenario.calm.boundaries[point - 1]}"] = Case(killed, recorded(lake))
            try:
                check_whole(lake)
            except Exception as error:
                case.damage = f"{type(error).__name__}: {error}"
        resumed = list(found.values())[start : start + 2]
        for case, lake, again in zip(resumed, lakes, begin(lakes, [Fault()] * len(pair)), strict=True):
            case.again = again
            with collected(lake):
                pass
            case.after, case.left, case.files = recorded(lake), unfinished(lake), files_at_final_names(lake)
        with ThreadPoolExecutor(2) as threads:
            for case, rows in zip(resumed, threads.map(published, lakes), strict=True):
                case.rows = rows
        for lake in lakes:
            shutil.rmtree(lake)
    return found


def wrong(cases: dict[str, Case], told: Any) -> dict[str, Any]:
    """Points of which there is something to tell."""
    return {name: problem for name, case in cases.items() if (problem := told(case))}


def test_each_run_died_where_it_was_to_and_the_next_one_finished(cases: dict[str, Case], scenario: Scenario):
    assert len(cases) >= (scenario.at_least if WITH_ALL else len(scenario.chosen))
    assert wrong(cases, lambda c: c.killed.status != -signal.SIGKILL and c.killed.message) == {}
    assert wrong(cases, lambda c: c.again.status and c.again.message) == {}
    for name, case in cases.items():
        assert len(case.killed.boundaries) == int(name.partition(" ")[0])


def test_a_file_at_its_final_name_is_whole_and_current_can_be_read(cases: dict[str, Case]):
    assert wrong(cases, lambda case: case.damage) == {}


def test_what_was_recorded_before_the_kill_is_known_and_not_made_again(cases: dict[str, Case], scenario: Scenario):
    before = set(recorded(scenario.begin)) if scenario.begin.exists() else set()
    dropped = before - set(next(iter(cases.values())).after)  # of models that maintenance retires
    assert bool(dropped) == (scenario.how.get("flow") == "cleanup")
    for name, case in cases.items():
        named = [path for path in case.killed.named if path.startswith("manifests/pending/")]
        assert len(case.known) in (len(before) + len(named), len(before - dropped)), f"killed at {name}: found"
        made = set(case.known) - before
        assert not set(case.again.made) & made, f"killed at {name}: a finished output was made again"
        assert sorted([*made, *case.again.made]) == sorted(scenario.calm.made), f"killed at {name}"
        kept = {id: entry for id, entry in case.known.items() if id not in dropped}
        assert {id: case.after[id] for id in kept} == kept, f"killed at {name}: created_at and all else"
        finished = {file.path for entry in kept.values() for file in entry.files}
        assert not finished & set(case.again.named), f"killed at {name}: a finished file was written again"


def test_the_next_run_publishes_what_an_undisturbed_one_publishes(cases: dict[str, Case], scenario: Scenario):
    def difference(case: Case) -> list[str]:
        return [question for question, rows in scenario.published.items() if case.rows[question] != rows]

    assert wrong(cases, difference) == {}


def test_as_many_files_stand_as_after_an_undisturbed_one(cases: dict[str, Case], scenario: Scenario):
    """Names hold ids of runs, so they are counted by folder; maintenance writes none, so there they are the same."""

    def difference(case: Case) -> Any:
        if scenario.how.get("flow") == "cleanup":
            return set(case.files) ^ set(scenario.files)
        return tops(case.files) - tops(scenario.files), tops(scenario.files) - tops(case.files)

    def tops(files: list[str]) -> Counter[str]:
        return Counter(file.partition("/")[0] for file in files)

    assert {name: told for name, told in wrong(cases, difference).items() if any(told)} == {}


def test_nothing_unfinished_stays(cases: dict[str, Case]):
    assert wrong(cases, lambda case: case.left) == {}
