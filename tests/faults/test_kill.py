"""kill -9 at every boundary of everything that a run writes, from landing to the report.

A boundary is a moment before a file is written, when it is written, just before it gets its name, just after; the same
around each recorded entry, CURRENT, the catalog, and each pending entry that is deleted. The default suite takes ten
of them, ``make faults`` all (about 220).
"""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from warm import Fault, Outcome, Warm, check_whole, collected, published, recorded, unfinished

WITH_ALL = os.environ.get("CLIPCAP_FAULTS") == "all"
CHOSEN = (  # what, and the path's beginning; the last such boundary, of the entries one in the middle
    ("written", "batches/"), ("named", "embeddings/"), ("named", ".scratch/training/"), ("renames", "models/"),
    ("named", "ledger/caption/"), ("named", "manifests/pending/"), ("renames", "manifests/1.json"),
    ("named", "manifests/1.json"), ("forgot", "manifests/pending/"), ("renames", "catalog.duckdb"),
)  # fmt: skip


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


def chosen(boundaries: list[str]) -> list[int]:
    """Numbers of the points, from 1."""
    if WITH_ALL:
        return list(range(1, len(boundaries) + 1))
    points = set()
    for what, start in CHOSEN:
        found = [n for n, line in enumerate(boundaries, start=1) if line.startswith(f"{what} {start}")]
        points.add(found[-1] if start != "manifests/pending/" or what == "forgot" else found[len(found) // 2])
    return sorted(points)


@pytest.fixture(scope="module")
def cases(warm: Warm, calm: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """By "<n> <boundary>"; two are under way at a time, and a lake is deleted when all is known of it."""
    folder = tmp_path_factory.mktemp("killed")
    points = chosen(calm.outcome.boundaries)

    def begin(lakes: list[Path], faults: list[Fault]) -> list[Outcome]:
        begun = [warm.start(lake, calm.config, fault) for lake, fault in zip(lakes, faults, strict=True)]
        return [warm.wait(run) for run in begun]

    found: dict[str, Case] = {}
    for start in range(0, len(points), 2):
        pair = points[start : start + 2]
        lakes = [folder / f"{point}" for point in pair]
        for point, lake, killed in zip(pair, lakes, begin(lakes, [Fault(kill_at=p) for p in pair]), strict=True):
            lake.mkdir(exist_ok=True)
            case = found[f"{point} {calm.outcome.boundaries[point - 1]}"] = Case(killed, recorded(lake))
            try:
                check_whole(lake)
            except Exception as error:
                case.damage = f"{type(error).__name__}: {error}"
        resumed = list(found.values())[start : start + 2]
        for case, lake, again in zip(resumed, lakes, begin(lakes, [Fault()] * len(pair)), strict=True):
            case.again = again
            with collected(lake):
                pass
            case.after, case.left = recorded(lake), unfinished(lake)
        with ThreadPoolExecutor(2) as threads:
            for case, rows in zip(resumed, threads.map(published, lakes), strict=True):
                case.rows = rows
        for lake in lakes:
            shutil.rmtree(lake)
    return found


def wrong(cases: dict[str, Case], told: Any) -> dict[str, Any]:
    """Points of which there is something to tell."""
    return {name: problem for name, case in cases.items() if (problem := told(case))}


def test_each_run_died_where_it_was_to_and_the_next_one_finished(cases: dict[str, Case]):
    assert len(cases) >= (200 if WITH_ALL else 10)
    assert wrong(cases, lambda c: c.killed.status != -signal.SIGKILL and c.killed.message) == {}
    assert wrong(cases, lambda c: c.again.status and c.again.message) == {}
    for name, case in cases.items():
        assert len(case.killed.boundaries) == int(name.partition(" ")[0])


def test_a_file_at_its_final_name_is_whole_and_current_can_be_read(cases: dict[str, Case]):
    assert wrong(cases, lambda case: case.damage) == {}


def test_what_was_recorded_before_the_kill_is_known_and_not_made_again(cases: dict[str, Case], calm: Any):
    for name, case in cases.items():
        named = [path for path in case.killed.named if path.startswith("manifests/pending/")]
        assert len(case.known) == len(named), f"killed at {name}: every recorded output is found"
        assert not set(case.again.made) & set(case.known), f"killed at {name}: a finished output was made again"
        assert sorted([*case.known, *case.again.made]) == sorted(calm.outcome.made), f"killed at {name}"
        assert {id: case.after[id] for id in case.known} == case.known, f"killed at {name}: created_at and all else"
        finished = {file.path for entry in case.known.values() for file in entry.files}
        assert not finished & set(case.again.named), f"killed at {name}: a finished file was written again"


def test_the_next_run_publishes_what_an_undisturbed_one_publishes(cases: dict[str, Case], calm: Any):
    def difference(case: Case) -> list[str]:
        return [question for question, rows in calm.published.items() if case.rows[question] != rows]

    assert wrong(cases, difference) == {}


def test_nothing_unfinished_stays(cases: dict[str, Case]):
    assert wrong(cases, lambda case: case.left) == {}
