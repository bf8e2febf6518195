"""requirements.lock is whole: what pyproject.toml asks for, in the versions of constraints.txt, each with hashes."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / "scripts" / "dependencies.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "each package has a version and a hash"
    return {canonicalize_name(name): version for name, version in found}


def test_the_lock_holds_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = locked()
    wishes = [Requirement(wish) for wish in [*project["dependencies"], *extras["test"], *extras["s3"]]]
    for own in [wish for wish in wishes if wish.name == project["name"]]:  # extras that ask for other extras
        wishes.remove(own)
        wishes += [Requirement(wish) for extra in own.extras for wish in extras[extra]]
    for wish in wishes:
        assert packages.get(canonicalize_name(wish.name)), f"{wish.name} is missing: run make lock"
        assert packages[canonicalize_name(wish.name)] in wish.specifier, f"{wish}: run make lock"


def test_the_lock_follows_the_constraints():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    packages = locked()
    differ = {name: (packages[name], pinned[name]) for name in packages.keys() & pinned.keys()
              if packages[name] != pinned[name]}  # fmt: skip
    assert differ == {}, "run make lock"


def test_the_lock_names_no_place_and_no_backport():
    text = (ROOT / "requirements.lock").read_text()
    assert "dataclasses" not in text and "://" not in text and "index-url" not in text and "nvidia" not in text


def test_blocks_of_pip_compile_are_cleaned(script: ModuleType):
    raw = (
        "torch==2.13.0+cpu \\\n    --hash=sha256:ab\nzipp==1.0 \\\n    --hash=sha256:cd \\\n    --hash=sha256:ef\n\n"
        "# The following packages are considered to be unsafe:\ndataclasses==0.6 \\\n    --hash=sha256:99\n"
    )
    assert script.cleaned(raw) == (
        "torch==2.13.0 \\\n    --hash=sha256:ab\nzipp==1.0 \\\n    --hash=sha256:cd \\\n    --hash=sha256:ef\n"
    )


CLEAN, UNKNOWN = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
FLAWED = {"name": "c", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "1 of 1 packages were checked, 0 known"),
        ([CLEAN, FLAWED], 1, "c 2: X-1, mended in 3"),
        ([FLAWED, UNKNOWN], 1, "NOT checked, because the service does not know them: b"),
        ([CLEAN, UNKNOWN], 2, "1 of 2 packages were checked"),
        (None, 2, "NOTHING was checked (Max retries exceeded)"),
    ],
)
def test_an_audit_says_whether_anybody_was_asked(
    script: ModuleType, tmp_path: Path, capfd: Any, packages: list[Any] | None, code: int, said: str
):
    told = "echo 'Max retries exceeded' >&2" if packages is None else f"echo '{json.dumps({'dependencies': packages})}'"
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\n{told}\nexit 1\n")
    tool.chmod(0o755)
    assert script.audit(tmp_path) == code
    printed = capfd.readouterr()
    assert said in printed.out + printed.err


def test_licences_are_read_from_the_packages_themselves(script: ModuleType):
    assert script.licence("pydantic") == "MIT"
    assert script.licence("no-such-package-at-all") == "not installed here"
