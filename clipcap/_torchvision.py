"""Lets a torchvision wheel that was linked against CUDA be imported beside a CPU torch.

The registry's only torchvision wheel is CUDA-linked. Beside a CPU torch its compiled part does not load, and the
import then dies with "operator torchvision::nms does not exist", taking open_clip and transformers with it. Nothing
here needs a compiled operator, so the two schemas that the import looks for are defined, lazily, before torchvision
is first imported, and only where its own library really fails to load.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # the definitions live as long as this object


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision":
            uninstall()
            _define_missing_operators()
        return None  # the ordinary finders do the import


_finder = _Finder()


def install() -> None:
    """Watches for the first import of torchvision. Importing torch itself is left until then."""
    if "torchvision" not in sys.modules and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Stops watching."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _define_missing_operators() -> None:
    global _library
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if _library is not None or spec is None or not spec.submodule_search_locations:
        return
    import torch

    loader_details = (importlib.machinery.ExtensionFileLoader, [*importlib.machinery.EXTENSION_SUFFIXES, ".so"])
    finder = importlib.machinery.FileFinder(spec.submodule_search_locations[0], loader_details)
    compiled = finder.find_spec("_C")
    try:
        if compiled is not None and compiled.origin:
            torch.ops.load_library(compiled.origin)
            return
    except OSError:
        pass  # linked against libraries of a CUDA torch that is not here
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
