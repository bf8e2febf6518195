"""One HTML page: its images with their place in the source and what stands around them.

html5lib reads it as browsers do (WHATWG), so that an ``<img`` in a script, a comment or a textarea is none. It is told
to note where each tag begins; that place is checked in the source before anything is written there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urljoin

from clipcap.errors import ConfigError, DataError

_XHTML = "{http://www.w3.org/1999/xhtml}"
_AT = "clipcap at"  # no attribute in a page can have a space in its name
_BREAK = re.compile("\r\n|\r|\n")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")


class PageError(DataError):
    """A page that cannot be read or written back as it was."""


@dataclass
class ImageTag:
    """One ``<img>``."""

    number: int
    """Position among the page's images, from 0."""
    line: int
    insert_at: int
    """Characters of the source before the place where an attribute may be put: behind the tag's name."""
    attributes: dict[str, str]
    sources: list[str]
    """Addresses of its picture, the likeliest first."""
    language: str = ""
    caption: str = ""
    """Of the figure that it stands in."""
    link: str = ""
    """Where the link or button leads whose only content it is; "button" for a button."""
    hidden_by: str = ""
    """Why assistive technology passes over it."""
    name: str = ""
    """What names it without an alt: aria-label or aria-labelledby."""


@dataclass
class Page:
    """A page as bytes and as text."""

    raw: bytes
    text: str
    encoding: str
    is_declared: bool
    """Whether the page says its encoding; where it does not, what is written is ASCII."""
    bom: bytes
    images: list[ImageTag] = field(default_factory=list)
    tree: Any = None


def read_page(raw: bytes) -> Page:
    """Parses a page.

    Raises:
        ConfigError: html5lib is not installed.
        PageError: it cannot be turned into text and back, or a tag is not where the parser says.
    """
    if find_spec("html5lib") is None:
        raise ConfigError("reading pages needs html5lib, not installed here: pip install 'clipcap-pipeline[alt-text]'")
    encoding, is_declared, bom = _encoding(raw)
    try:
        text = raw[len(bom) :].decode(encoding, "surrogateescape" if "16" not in encoding else "strict")
    except UnicodeError as error:
        raise PageError(f"its bytes are not those of its encoding ({error})") from None
    page = Page(raw, text, encoding, is_declared, bom)
    if encode(page, text) != raw:
        raise PageError(f"its bytes are not those of its encoding ({encoding}), so it could not be written back")
    page.tree = _parse(text)
    starts = [0, *(found.end() for found in _BREAK.finditer(text))]
    page.images = list(_images(page.tree, text, starts))
    return page


def encode(page: Page, text: str) -> bytes:
    """The bytes of a text in the page's encoding; damaged bytes are as they were."""
    return page.bom + text.encode(page.encoding, "surrogateescape" if "16" not in page.encoding else "strict")


def _encoding(raw: bytes) -> tuple[str, bool, bytes]:
    import codecs

    from html5lib._inputstream import HTMLBinaryInputStream

    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return encoding, True, bom
    found, certainty = HTMLBinaryInputStream(raw, useChardet=False).charEncoding
    name = found.codec_info.name
    try:
        codecs.lookup(name)
        raw.decode(name, "surrogateescape")
    except (LookupError, UnicodeError) as error:
        raise PageError(f"its encoding {name} cannot be read ({error})") from None
    is_declared = certainty == "certain" or b"charset" in raw[:1024].lower()
    return name, is_declared, b""


def _parse(text: str) -> Any:
    from html5lib import HTMLParser, treebuilders
    from html5lib._tokenizer import HTMLTokenizer
    from html5lib.constants import _ReparseException, tokenTypes

    class Tokenizer(HTMLTokenizer):  # type: ignore[misc]
        """Notes where the tags of images begin, as an attribute of theirs."""

        at = (1, 0)

        def tagOpenState(self) -> Any:
            self.at = self.stream.position()
            return super().tagOpenState()

        def emitCurrentToken(self) -> None:
            token = self.currentToken
            if token["type"] == tokenTypes["StartTag"] and token["name"].lower() in ("img", "image"):
                token["data"].append([_AT, f"{self.at[0]} {self.at[1]}"])
            super().emitCurrentToken()

    class Parser(HTMLParser):  # type: ignore[misc]
        def _parse(self, stream: Any, innerHTML: bool = False, container: str = "div", scripting: bool = False,
                   **options: Any) -> None:  # fmt: skip
            self.innerHTMLMode, self.container, self.scripting = innerHTML, container, scripting
            self.tokenizer = Tokenizer(stream, parser=self, **options)
            self.reset()
            try:
                self.mainLoop()
            except _ReparseException:
                self.reset()
                self.mainLoop()

    return Parser(tree=treebuilders.getTreeBuilder("etree")).parse(text)


def _images(tree: Any, text: str, starts: list[int]) -> Iterator[ImageTag]:
    parents = {child: parent for parent in tree.iter() for child in parent}
    base = next((e.get("href", "") for e in tree.iter(f"{_XHTML}base") if e.get("href")), "")
    by_id = {e.get("id"): e for e in reversed(list(tree.iter())) if isinstance(e.tag, str) and e.get("id")}
    places = {e: at for e in tree.iter() if (at := e.attrib.pop(_AT, ""))}  # of SVG's <image> too, which is none
    for number, element in enumerate(tree.iter(f"{_XHTML}img")):
        at = places.get(element, "")
        line, column = map(int, at.split()) if at else (0, 0)
        place = starts[line - 1] + column if 0 < line <= len(starts) else -1
        found = re.match("img|image", text[place : place + 5], re.IGNORECASE) if place > 0 else None
        if found is None or text[place - 1] != "<":
            raise PageError(f"image {number + 1} is not where the parser says (line {line}); add its alt by hand")
        above = _above(element, parents)
        tag = ImageTag(number, line, place + len(found[0]), dict(element.attrib), _sources(element, above, base))
        lang = next((e.get("lang") for e in (element, *above) if e.get("lang")), "")
        tag.language = (lang or "").strip()
        tag.hidden_by = _hidden_by(element, above)
        tag.name = _name(element, by_id)
        tag.caption = _figcaption(above)
        tag.link = _link(element, above)
        yield tag


def _above(element: Any, parents: dict[Any, Any]) -> list[Any]:
    found = []
    while (element := parents.get(element)) is not None:
        found.append(element)
    return found


def _sources(element: Any, above: list[Any], base: str) -> list[str]:
    lazy = [element.get(name, "") for name in _LAZY]
    plain = element.get("src", "").strip()
    is_placeholder = plain.startswith("data:") and any(lazy)
    found = [*lazy, plain] if is_placeholder or not plain else [plain]
    found += _candidates(element.get("srcset", "")) + _candidates(element.get("data-srcset", ""))
    if above and above[0].tag == f"{_XHTML}picture":
        for source in above[0].iter(f"{_XHTML}source"):
            found += _candidates(source.get("srcset", "") or source.get("data-srcset", ""))
    unique = dict.fromkeys(address.strip() for address in found if address.strip())
    return [urljoin(base, address) if base and not address.startswith("data:") else address for address in unique]


def _candidates(srcset: str) -> list[str]:
    """Addresses of a srcset; one may hold commas, but neither begin nor end with one, nor hold white space."""
    return [word.rstrip(",") for word in re.findall(r"[^\s,]\S*", re.sub(r"\s+[\d.]+[wxh]\s*(,|$)", " \n", srcset))]


def _hidden_by(element: Any, above: list[Any]) -> str:
    if element.get("role", "").split()[:1] in (["presentation"], ["none"]):
        return f"role={element.get('role').split()[0]}"
    for one in (element, *above):
        if one.get("aria-hidden", "").strip().lower() == "true":
            return "aria-hidden"
        if one.get("hidden") is not None and one.get("hidden", "").lower() != "until-found":
            return "hidden"
    return ""


def _name(element: Any, by_id: dict[str, Any]) -> str:
    named = [by_id[key] for key in element.get("aria-labelledby", "").split() if key in by_id]
    text = " ".join(_text(one) for one in named).strip()
    return text or element.get("aria-label", "").strip()


def _figcaption(above: list[Any]) -> str:
    figure = next((one for one in above if one.tag == f"{_XHTML}figure"), None)
    caption = None if figure is None else figure.find(f".//{_XHTML}figcaption")
    return "" if caption is None else _text(caption)


def _link(element: Any, above: list[Any]) -> str:
    around = next((one for one in above if one.tag in (f"{_XHTML}a", f"{_XHTML}button")), None)
    if around is None or _text(around) or around.get("aria-label") or around.get("aria-labelledby"):
        return ""
    if any(one is not element and one.get("alt") for one in around.iter(f"{_XHTML}img")):
        return ""
    return (around.get("href") or "") if around.tag.endswith("}a") else "button"


def _text(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())
