"""How values are written for people, and what is done to text that arrived from outside before it is shown."""

from __future__ import annotations

import difflib
import re
from datetime import datetime

LONGEST = 1_000
"""Characters of a caption, reference or address that are shown."""
# Escape codes, NULs and other controls are neither lost nor obeyed: each becomes the picture of itself.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (0x09, 0x0A, 0x0D)} | {0x7F: 0x2421}
_PICTURES |= {code: 0xFFFD for code in (*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF)}
_WORDS = re.compile(r"\w+|[^\w\s]|\s+")


def visible(text: str) -> str:
    """``text`` with its control characters as pictures (ESC is ␛); line breaks and tabs stay."""
    return text if text.isprintable() else text.translate(_PICTURES)


def shortened(text: str, longest: int = LONGEST) -> str:
    """At most ``longest`` characters, and how many more there are."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def differences(before: str, after: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two captions, each in pieces with a mark on the words that the other does not have in this place.

    Case and spaces do not count. A caption's pieces joined give the caption.
    """
    words = [_WORDS.findall(text) for text in (before, after)]
    kept = [[position for position, word in enumerate(found) if not word.isspace()] for found in words]
    folded = [[found[position].casefold() for position in order] for found, order in zip(words, kept, strict=True)]
    marked: tuple[set[int], set[int]] = (set(), set())
    matcher = difflib.SequenceMatcher(None, folded[0], folded[1], autojunk=False)
    for kind, *ranges in matcher.get_opcodes():
        if kind != "equal":
            for marks, order, start, end in zip(marked, kept, ranges[::2], ranges[1::2], strict=True):
                marks.update(order[start:end])
    return _pieces(words[0], marked[0]), _pieces(words[1], marked[1])


def _pieces(words: list[str], marked: set[int]) -> list[tuple[str, bool]]:
    """Neighbours of one kind joined; a space between two marked words is marked with them."""
    pieces: list[tuple[str, bool]] = []
    for position, word in enumerate(words):
        is_marked = position in marked or (word.isspace() and {position - 1, position + 1} <= marked)
        if pieces and pieces[-1][1] == is_marked:
            pieces[-1] = (pieces[-1][0] + word, is_marked)
        else:
            pieces.append((word, is_marked))
    return pieces


def count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def value(number: float | None, metric: str = "") -> str:
    """A metric as it is read: counts whole, lengths with one digit, everything else with three."""
    if number is None:
        return "–"
    if metric == "vocabulary":
        return count(number)
    text = f"{number:.1f}" if metric == "mean_length" else f"{number:.3f}"
    return text.replace("-", "−")


def signed(number: float | None, metric: str = "") -> str:
    """A difference: always with its sign."""
    if number is None:
        return "–"
    text = value(number, metric)
    return text if text.startswith("−") or not text.strip("0.,") else f"+{text}"


def seconds(number: float | None) -> str:
    if number is None:
        return "–"
    if number < 10:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return " ".join(f"{part} {unit}" for part, unit in parts if part) or "0 s"


def rate(number: float | None) -> str:
    """Rows in a second."""
    return "–" if number is None else f"{number:.1f}" if number < 100 else count(number)


def size(number: float | None) -> str:
    """Bytes."""
    if number is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def moment(time: datetime | None) -> str:
    return "–" if time is None else f"{time:%-d %B %Y, %H:%M} UTC"
