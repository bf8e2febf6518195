"""Reads references and candidates from the JSON layouts that captioning tools exchange."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipcap.errors import DataError

_REFERENCES = (
    'COCO annotations {"annotations": [{"image_id": …, "caption": "…"}, …]}, '
    'Karpathy {"images": [{"sentences": …}, …]}, or {"<image id>": ["caption", …], …}'
)
_CANDIDATES = 'COCO results [{"image_id": …, "caption": "…"}, …], or {"<image id>": "caption", …}'


def load_references(path: str | Path) -> dict[str, list[str]]:
    """Reads reference captions.

    Three layouts: COCO annotations; Karpathy's JSON (keys are ``cocoid`` where an image has one, else ``imgid``, else
    ``filename``; captions are the ``raw`` sentences); a plain object of image id -> list of captions.

    Returns:
        image id as text -> raw captions, in the file's order.

    Raises:
        DataError: the file is missing, is not JSON, has another layout, or repeats a key of a plain object.
    """
    data = _read(path)
    references: dict[str, list[str]] = {}
    if isinstance(data, dict) and "annotations" in data:
        for place, entry in _entries(path, "annotations", data["annotations"], _REFERENCES):
            references.setdefault(_image_id(path, place, entry), []).append(_caption(path, place, entry, "caption"))
    elif isinstance(data, dict) and "images" in data:
        for place, image in _entries(path, "images", data["images"], _REFERENCES):
            captions = references.setdefault(_image_id(path, place, image, "cocoid", "imgid", "filename"), [])
            for inner, sentence in _entries(path, f"{place}.sentences", image.get("sentences"), _REFERENCES):
                captions.append(_caption(path, inner, sentence, "raw"))
    elif isinstance(data, dict):
        for key, captions in data.items():
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                raise DataError(f"{path}: the references of {key!r} are not a list of texts; expected {_REFERENCES}")
            references[key] = captions
    else:
        hint = "; this looks like candidates" if isinstance(data, list) else ""
        raise DataError(f"{path}: no references found, got a JSON {_kind(data)}{hint}; expected {_REFERENCES}")
    if not references:
        raise DataError(f"{path}: holds no references; expected at least one caption, as {_REFERENCES}")
    return references


def load_candidates(path: str | Path) -> dict[str, str]:
    """Reads one generated caption for each image: COCO results, or a plain object of image id -> caption.

    Returns:
        image id as text -> raw caption, in the file's order.

    Raises:
        DataError: the file is missing, is not JSON, has another layout, or captions an image twice.
    """
    return {key: captions[0] for key, captions in _load_candidates(path, several=False).items()}


def load_candidate_lists(path: str | Path) -> dict[str, list[str]]:
    """Reads one or several generated captions for each image, best first.

    As :func:`load_candidates`, and a list of captions may stand where one does: ``{"image_id": 7, "captions": ["…",
    "…"]}`` in COCO results, ``"7": ["…", "…"]`` in a plain object.

    Raises:
        DataError: as there, or an image has an empty list.
    """
    return _load_candidates(path, several=True)


def _load_candidates(path: str | Path, several: bool) -> dict[str, list[str]]:
    data = _read(path)
    candidates: dict[str, list[str]] = {}
    if isinstance(data, list):
        for place, entry in _entries(path, "", data, _CANDIDATES):
            key = _image_id(path, place, entry)
            if key in candidates:
                raise DataError(
                    f"{path}: {place} captions image {key!r} a second time; keep one caption for each image, or give "
                    'several as "captions": ["…", "…"]'
                )
            if several and "captions" in entry:
                candidates[key] = _texts(path, f"{place}: 'captions'", entry["captions"])
            else:
                candidates[key] = [_caption(path, place, entry, "caption")]
    elif isinstance(data, dict) and not {"annotations", "images"} & data.keys():
        for key, captions in data.items():
            if several and isinstance(captions, list):
                candidates[key] = _texts(path, f"the candidate of {key!r}", captions)
                continue
            if not isinstance(captions, str):
                raise DataError(
                    f"{path}: the candidate of {key!r} is {_kind(captions)}, not one text; expected {_CANDIDATES}"
                )
            candidates[key] = [captions]
    else:
        hint = "; this looks like references" if isinstance(data, dict) else ""
        raise DataError(f"{path}: no candidates found, got a JSON {_kind(data)}{hint}; expected {_CANDIDATES}")
    if not candidates:
        raise DataError(f"{path}: holds no candidates; expected at least one caption, as {_CANDIDATES}")
    return candidates


def _texts(path: str | Path, place: str, captions: Any) -> list[str]:
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DataError(f"{path}: {place} is not a list of texts, at least one; expected {_CANDIDATES}")
    return captions


def load_file_names(path: str | Path) -> dict[str, str]:
    """Image id -> file name, where a references file tells it (COCO's and Karpathy's ``images``); else empty."""
    data = _read(path)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        return {}
    names: dict[str, str] = {}
    for place, image in _entries(path, "images", images, _REFERENCES):
        name = image.get("file_name", image.get("filename"))
        if isinstance(name, str):
            names[_image_id(path, place, image, "cocoid", "imgid", "id", "filename")] = name
    return names


def _read(path: str | Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: the key {repeated!r} stands twice in one object; keep one of them")
        return found

    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; expected a JSON file") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); mend or re-export it") from None


def _entries(path: str | Path, name: str, entries: Any, expected: str) -> list[tuple[str, dict[str, Any]]]:
    """Each object of a JSON array with its place in the file, for messages."""
    if not isinstance(entries, list):
        raise DataError(f"{path}: {name} is {_kind(entries)}, not an array; expected {expected}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {name}[{index}] is {_kind(entry)}, not an object; expected {expected}")
    return [(f"{name}[{index}]" if name else f"entry {index}", entry) for index, entry in enumerate(entries)]


def _image_id(path: str | Path, place: str, entry: dict[str, Any], *names: str) -> str:
    names = names or ("image_id",)
    for name in names:
        value = entry.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    raise DataError(f"{path}: {place} has no {' or '.join(names)} that is a text or a whole number; add it")


def _caption(path: str | Path, place: str, entry: dict[str, Any], name: str) -> str:
    text = entry.get(name)
    if not isinstance(text, str):
        raise DataError(f"{path}: {place} has no {name!r} that is a text; add it, or leave the entry out")
    return text


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "text", bool: "true or false", int: "number", float: "number"}
    return names.get(type(value), "null")
