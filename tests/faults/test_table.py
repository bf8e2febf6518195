"""docs/reliability.md promises tests: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for file, name in named:
        tests = {node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
                 if isinstance(node, ast.FunctionDef | ast.ClassDef)}  # fmt: skip
        assert not name or name in tests, f"docs/reliability.md names {file}::{name}, which is not there"


def test_every_row_of_the_page_names_a_test():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    heads = ("| fault", "| attack", "| ---")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    faults = [row for row in rows if row.count("|") == 4]
    assert len(faults) > 35 and all("`tests/" in row for row in faults if "figure" not in row)
