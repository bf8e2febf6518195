"""Nothing imports upward, and what a command needs first costs no seconds of imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "clipcap": {"prefect", "prefect_ray", "flows", "tasks"},
    "tasks": {"flows"},
    "flows": set(),
}
HEAVY = ("torch", "torchvision", "transformers", "open_clip", "prefect", "duckdb", "pandas")


def imported(source: str) -> set[str]:
    """Top-level names of every import, wherever it stands, those by name included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                names.add(str(node.args[0].value).partition(".")[0])
    return names


def test_the_reader_of_imports_sees_every_kind():
    source = (
        "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n    importlib.import_module('j.k')"
    )
    assert imported(source) == {"a", "c", "d", "i", "j"}


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_nothing_imports_upward(floor: str):
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): imported(f.read_text(encoding="utf-8")) & FORBIDDEN[floor] for f in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_every_floor_is_watched():
    packages = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()}
    assert packages == set(FORBIDDEN)


def test_no_statement_of_the_warehouse_hides_in_python():
    """SQL stands below sql/, where a person can run it; Python may name tables and set variables."""
    wrong = {}
    for file in sorted((ROOT / "clipcap").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        documented = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body and isinstance(node.body[0], ast.Expr)
        }  # fmt: skip
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                 and id(n) not in documented]  # fmt: skip
        long = [text for text in texts if text.lower().lstrip().startswith(("create ", "with ", "insert ", "select "))
                and " join " in " ".join(text.lower().split())]  # fmt: skip
        if long:
            wrong[str(file.relative_to(ROOT))] = long
    assert wrong == {}


LIGHT = {
    "clipcap": HEAVY,
    "clipcap.config": HEAVY,
    "clipcap.storage.manifest": HEAVY,
    "clipcap.dataset.land": HEAVY,
    "clipcap.dataset.serve": HEAVY,
    "clipcap.embedding.decode": HEAVY,
    "clipcap.embedding.embed": HEAVY,
    "clipcap.captioning": HEAVY,
    "clipcap.metrics.evaluate": ("torch", "transformers", "prefect", "open_clip"),
    "clipcap.warehouse.queries": ("torch", "transformers", "prefect", "open_clip"),
    "clipcap.warehouse.publish": ("torch", "transformers", "prefect", "open_clip"),
    "flows.cli": ("torch", "transformers", "prefect", "open_clip"),
}


def test_light_modules_import_nothing_heavy():
    """One fresh interpreter for all; each module is imported into a fork of its own, so none hides behind another."""
    program = """
import json, os, sys
light = json.loads(sys.argv[1])
wrong = {}
for module, heavy in light.items():
    read, write = os.pipe()
    if not os.fork():
        __import__(module)
        os.write(write, json.dumps([name for name in heavy if name in sys.modules]).encode())
        os._exit(0)
    os.close(write)
    answer = os.fdopen(read).read()
    os.wait()
    found = json.loads(answer) if answer else ["(it cannot be imported)"]
    if found:
        wrong[module] = found
print(json.dumps(wrong))
"""
    process = subprocess.run(
        [sys.executable, "-c", program, json.dumps(LIGHT)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {}, process.stderr
