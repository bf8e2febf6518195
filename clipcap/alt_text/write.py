"""Filling in: attributes are put behind the tag's name, and nothing else of the file changes; that is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipcap.alt_text.page import ImageTag, Page, PageError, encode, read_page

MARK = "data-alt-by"
"""Of texts that no person has seen; its value is "clipcap"."""
_ESCAPES = str.maketrans({"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;"})


def fill_in(page: Page, texts: Mapping[int, str], is_marked: bool = True) -> bytes:
    """The page with the texts of some images.

    Args:
        page: as it was read.
        texts: by the number of the image; "" marks decoration.
        is_marked: add :data:`MARK` beside each.

    Raises:
        PageError: an image has an ``alt`` already, or the page would change in any other way.
    """
    pieces, done, at = [], 0, []
    for tag in sorted((tag for tag in page.images if tag.number in texts), key=lambda tag: tag.insert_at):
        if "alt" in tag.attributes:
            raise PageError(f"the image in line {tag.line} has an alt already; nothing is overwritten")
        added = attribute(texts[tag.number], page, is_marked)
        pieces += [page.text[done : tag.insert_at], added]
        at.append((tag.insert_at, added))
        done = tag.insert_at
    text = "".join([*pieces, page.text[done:]])
    made = encode(page, text)
    _check(page, text, made, at, {n: _clean(t) for n, t in texts.items()}, is_marked)
    return made


def attribute(text: str, page: Page, is_marked: bool) -> str:
    """`` alt="…"`` in characters that the page's encoding has; others become references."""
    shown = _clean(text).translate(_ESCAPES)
    encoding = page.encoding if page.is_declared else "ascii"
    shown = shown.encode(encoding, "xmlcharrefreplace").decode(encoding)
    mark = f' {MARK}="clipcap"' if is_marked else ""
    return f' alt="{shown}"{mark}'


def _clean(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _check(
    page: Page, text: str, made: bytes, at: list[tuple[int, str]], texts: Mapping[int, str], is_marked: bool
) -> None:
    """Without what was put in, the text is the old one; and browsers see the old tree with these attributes more."""
    without, shift = text, 0
    for place, added in at:
        if without[place : place + len(added)] != added:
            raise PageError("the text was not put where it belongs; the page is left as it is")
        without, shift = without[:place] + without[place + len(added) :], shift + len(added)
    if without != page.text or encode(page, without) != page.raw:
        raise PageError("more would change than the texts; the page is left as it is")
    again = read_page(made)
    for tag in again.images:
        if tag.number in texts:
            if tag.attributes.get("alt") != texts[tag.number]:
                raise PageError(f"the image in line {tag.line} would not have its text; the page is left as it is")
            _remove(again.tree, tag, ["alt", *([MARK] if is_marked else [])])
    if flat(again.tree) != flat(page.tree):
        raise PageError("browsers would see another page; it is left as it is")


def _remove(tree: Any, tag: ImageTag, names: list[str]) -> None:
    images = [e for e in tree.iter() if isinstance(e.tag, str) and e.tag.endswith("}img")]
    for name in names:
        images[tag.number].attrib.pop(name, None)


def flat(tree: Any) -> list[tuple[Any, ...]]:
    """Every node of a tree: tag, attributes, text before and after."""
    nodes = tree.iter()
    return [(e.tag if isinstance(e.tag, str) else "", sorted(e.attrib.items()), e.text, e.tail) for e in nodes]
