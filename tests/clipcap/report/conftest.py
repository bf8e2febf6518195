"""Gives these tests the tiny lake as a module and as a fixture."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    """Tests are no packages, so the module is found by its file; the three conftest.py that do so share one copy."""
    if "tiny_lake" not in sys.modules:
        file = next(p for p in Path(__file__).parents if p.name == "tests") / "sql" / "tiny_lake.py"
        spec = importlib.util.spec_from_file_location("tiny_lake", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules["tiny_lake"] = module
        spec.loader.exec_module(module)
    return sys.modules["tiny_lake"]


_load()


@pytest.fixture
def tiny(tmp_path: Path):
    return _load().build(tmp_path / "lake")
