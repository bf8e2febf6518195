"""JSON files that describe a data set's images: Karpathy's splits, and COCO's captions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipcap.dataset.sources.rows import SourceRow, local_row, text_of, whole
from clipcap.errors import SourceError


def read_annotations(path: Path, images: str) -> Iterator[SourceRow]:
    """Rows of either kind; COCO's is the one with ``annotations``.

    Args:
        images: where the files are, a folder or a base URL. Empty: COCO's own ``coco_url``, else beside the JSON.

    Raises:
        SourceError: it is neither.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        described = list(_coco(data, bool(images)) if "annotations" in data else _karpathy(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path} is neither a Karpathy nor a COCO JSON ({type(error).__name__}: {error}); expected "
            "images[].filename, split, sentences[].raw, or images[].id, file_name and annotations[].image_id, caption"
        ) from None
    base = images or str(path.parent)
    for row in described:
        name = row.url
        if row.problem or "://" in name:
            yield row
        elif "://" in base:
            yield SourceRow(f"{base.rstrip('/')}/{quote(name)}", row.captions, row.split)
        elif "\0" in name or os.path.isabs(name) or os.path.normpath(name).startswith("../"):
            row.problem = f"names a file outside the folder {base}"
            yield row
        else:
            yield local_row(Path(base) / name, row.captions, row.split)


def _karpathy(data: dict[str, Any]) -> Iterator[SourceRow]:
    for item in data["images"]:
        name = "/".join(part for part in (item.get("filepath", ""), item["filename"]) if part)
        captions = [whole(text_of(s["raw"])) for s in item.get("sentences", []) if text_of(s["raw"])]
        yield SourceRow(whole(name).replace("://", ":/"), captions, text_of(item.get("split")))


def _coco(data: dict[str, Any], has_base: bool) -> Iterator[SourceRow]:
    captions: dict[Any, list[str]] = {item["id"]: [] for item in data["images"]}
    lost = []
    for number, annotation in enumerate(data["annotations"]):
        caption = whole(text_of(annotation["caption"]))
        if annotation["image_id"] not in captions:
            lost.append(SourceRow("", [caption], problem=f"annotation {number} is of no image of the file"))
        elif caption:
            captions[annotation["image_id"]].append(caption)
    for item in data["images"]:
        url = "" if has_base else text_of(item.get("coco_url")) or text_of(item.get("flickr_url"))
        name = whole(item["file_name"]).replace("://", ":/")
        yield SourceRow(whole(url) if "://" in url else name, captions[item["id"]], text_of(item.get("split")))
    yield from lost
