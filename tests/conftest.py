"""Fixtures for every room of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import clipcap  # noqa: F401  before any test imports transformers or open_clip: it mends torchvision


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that is not part of the project: ``$CLIPCAP_SHARED``, else ``../shared``; skips where there is none."""
    folder = Path(os.environ.get("CLIPCAP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, and there is none at {folder} (set CLIPCAP_SHARED)")
    return folder
