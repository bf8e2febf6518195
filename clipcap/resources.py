"""Finds the files that travel with the code (sql/, configs/, the sample's encoder), in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(kind: str) -> Path:
    """The folder ``kind`` ("sql", "configs" or "assets"): inside the package, else beside it in a checkout."""
    for folder in (_PACKAGE / "_resources" / kind, _PACKAGE / kind, _PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation is incomplete: no folder {kind!r} in or beside {_PACKAGE}")
