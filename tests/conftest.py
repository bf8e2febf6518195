"""Fixtures for every room of the tests."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import clipcap  # noqa: F401  before any test imports transformers or open_clip: it mends torchvision

# The same examples in every run, so that what lands was decided by the change and not by chance; on a busy machine
# making them may be slow. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def forked() -> Callable[..., BaseProcess]:
    """Makes processes forked from this one, not yet started.

    They end without the exit handlers of the libraries that this one has loaded: Prefect's fail in a child, and would
    turn what went well into exit code 1.
    """

    def make(target: Callable[..., None], *arguments: Any) -> BaseProcess:
        def run() -> None:
            code = 1
            try:
                target(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

        return multiprocessing.get_context("fork").Process(target=run)

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that is not part of the project: ``$CLIPCAP_SHARED``, else ``../shared``; skips where there is none."""
    folder = Path(os.environ.get("CLIPCAP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, and there is none at {folder} (set CLIPCAP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def prefect_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect with a database, a home and results of its own, started once for all tests that run a flow or a task."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_LEVEL,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_LOGGING_LEVEL,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    settings = {
        PREFECT_HOME: home,
        PREFECT_LOCAL_STORAGE_PATH: home / "storage",
        PREFECT_LOGGING_LEVEL: "CRITICAL",
        PREFECT_LOGGING_TO_API_ENABLED: False,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL",
    }
    with (
        temporary_settings(settings, restore_defaults={PREFECT_API_URL}),
        prefect_test_harness(server_startup_timeout=180),
    ):
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> object:
    """A small lake of every kind of file, with two models and each outcome."""
    from tiny_lake import build

    return build(tmp_path / "lake")
