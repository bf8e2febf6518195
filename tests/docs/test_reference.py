"""docs/reference/ says what the code says, and `import clipcap` offers what it lists."""

from __future__ import annotations

import ast
import importlib.util
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import clipcap

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says(reference: ModuleType):
    old = [
        name for name, text in reference.pages().items()
        if (reference.FOLDER / name).read_text(encoding="utf-8") != text
    ]  # fmt: skip
    assert old == [], "python scripts/reference.py writes them again"


def test_no_name_of_the_reference_lacks_its_meaning(reference: ModuleType):
    for name, text in reference.pages().items():
        empty = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
        assert empty == [], name


def test_public_names_are_what_their_modules_have():
    assert len(clipcap.__all__) > 20
    for module, names in clipcap._MODULES.items():
        for name in names:
            assert getattr(clipcap, name) is getattr(import_module(module), name)
            assert name in dir(clipcap)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "clipcap" / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        node.module: tuple(alias.name for alias in node.names)
        for block in tree.body if isinstance(block, ast.If)
        for node in block.body if isinstance(node, ast.ImportFrom)
    }  # fmt: skip
    assert seen == clipcap._MODULES


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'captoner'"):
        clipcap.captoner  # noqa: B018
