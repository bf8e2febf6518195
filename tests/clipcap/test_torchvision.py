"""The mend for a torchvision that was linked against another torch: only where it is needed, and only once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from clipcap import _torchvision as module


@pytest.fixture
def defined(monkeypatch) -> list[str]:
    """Operators that the mend defines, written down instead of defined; as in a process where nothing happened yet."""
    names: list[str] = []

    class Library:
        def __init__(self, namespace: str, kind: str) -> None:
            assert (namespace, kind) == ("torchvision", "DEF")

        def define(self, schema: str) -> None:
            names.append(schema.partition("(")[0])

    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(module, "_library", None)
    return names


def test_a_library_that_loads_is_left_alone(defined: list[str], monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    module._define_missing_operators()
    assert len(loaded) == 1 and "_C" in loaded[0]
    assert defined == []


def test_where_it_does_not_load_the_operators_are_defined_once(defined: list[str], monkeypatch):
    def fail(path: str) -> None:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    module._define_missing_operators()
    module._define_missing_operators()
    assert defined == ["nms", "qnms"]


def test_without_torchvision_nothing_is_done(defined: list[str], monkeypatch):
    monkeypatch.setattr(module.importlib.machinery.PathFinder, "find_spec", lambda name: None)
    module._define_missing_operators()
    assert defined == []


def test_it_watches_for_the_first_import_alone(defined: list[str], monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    module.install()
    module.install()
    assert sys.meta_path.count(module._finder) == 1
    assert module._finder.find_spec("torch") is None and module._finder in sys.meta_path
    assert module._finder.find_spec("torchvision") is None, "the ordinary finders do the import"
    assert module._finder not in sys.meta_path


def test_it_comes_too_late_only_where_torchvision_is_imported_already(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setitem(sys.modules, "torchvision", module)
    module.uninstall()
    module.install()
    assert module._finder not in sys.meta_path


def test_in_a_fresh_interpreter_the_stack_imports():
    program = "import clipcap, torchvision, open_clip; from transformers import GPT2LMHeadModel; print('whole')"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert process.stdout.strip() == "whole", process.stderr
