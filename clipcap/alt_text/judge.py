"""Which images want a text, and who has to write it. WCAG 2.2, success criterion 1.1.1; HTML, section 4.8.4.4."""

from __future__ import annotations

from typing import NamedTuple

from clipcap.alt_text.page import ImageTag

_PIXEL = 3  # pixels: nothing this small is looked at


class Verdict(NamedTuple):
    """``propose``: a text that may be filled in; ``review``: one that a person has to judge; ``leave``: none."""

    what: str
    reason: str


def judge(tag: ImageTag, language: str = "", with_empty: bool = False) -> Verdict:
    """What an image needs, from its tag and what is around it.

    Args:
        tag: the image.
        language: of the model, such as "en"; an image in a text of another one is left. Empty: any will do.
        with_empty: propose a text also where ``alt=""`` says that the image is decoration.
    """
    alt = tag.attributes.get("alt")
    if alt is not None and alt.strip():
        return Verdict("leave", "has a text")
    if alt is not None and not with_empty:
        if tag.link:
            return Verdict("review", 'alt="" on the only content of a link or button, which has no name then')
        return Verdict("leave", 'alt="" says that it is decoration')
    if tag.hidden_by:
        return Verdict("leave", f"passed over by assistive technology ({tag.hidden_by})")
    if tag.name:
        return Verdict("leave", f"is named by aria-label or aria-labelledby: {tag.name}")
    if _is_pixel(tag.attributes.get("width"), tag.attributes.get("height")):
        return Verdict("leave", "a pixel that is there to count visits, or a spacer")
    if language and tag.language and tag.language.lower().split("-")[0] != language.lower().split("-")[0]:
        return Verdict("leave", f"stands in a text in {tag.language}, and the model writes {language}")
    if alt is not None:
        return Verdict("review", 'alt="" says that it is decoration; if it is not, a text might be the one proposed')
    if tag.link:
        what = f"the only content of a link or button ({tag.link})"
        return Verdict("review", f"{what}: say where it leads, not what is seen")
    return Verdict("propose", f"its figure says: {tag.caption}" if tag.caption else "")


def _is_pixel(width: str | None, height: str | None) -> bool:
    sizes = [text.strip().removesuffix("px") for text in (width, height) if text]
    return any(size.isdigit() and int(size) <= _PIXEL for size in sizes)


def is_pixel(width: int, height: int) -> bool:
    """Whether a picture of that size (pixels) shows nothing."""
    return min(width, height) <= _PIXEL
