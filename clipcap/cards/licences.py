"""What the files of a language model say about its licence. Nothing is guessed from a name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def licence_of(name: str) -> str:
    """The licence in a model's own card, in its GGUF header, or the first line of its LICENSE; "" where none says so.

    Args:
        name: as in train.language_model.name; of a name on the hub only the local cache is asked.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _of_gguf(path)
    if path.is_dir():
        return _of_card(path / "README.md") or _of_text(path)
    return _of_card(_cached(name))


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache("/".join(name.split("/")[:2]), "README.md")
    except ValueError:  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else None


def _of_card(file: Path | None) -> str:
    from huggingface_hub import ModelCard

    if file is None or not file.is_file():
        return ""
    try:
        data: Any = ModelCard.load(file).data
    except Exception:  # YAML of somebody else, with the parser's own kinds of errors
        return ""
    named = data.get("license_name") if data.get("license") == "other" else None
    return str(named or data.get("license") or "")


def _of_gguf(file: Path) -> str:
    from gguf import GGUFReader

    try:
        field = GGUFReader(str(file)).fields.get("general.license")
        return str(field.contents()) if field else ""
    except Exception:  # a damaged header, by numpy's errors
        return ""


def _of_text(folder: Path) -> str:
    for file in sorted(folder.glob("LICEN[CS]E*")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        first = next((line.strip() for line in lines if re.search(r"\w", line)), "")
        if first:
            return f"{first[:80]} (first line of {file.name})"
    return ""
