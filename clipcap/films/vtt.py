"""Captions by time as WebVTT (W3C, https://www.w3.org/TR/webvtt1/), for players and for people who read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_TOUCHING_S = 0.0015  # times are written in milliseconds


@dataclass(frozen=True)
class Cue:
    """What is seen from ``start_s`` to ``end_s``, seconds since the film's start."""

    start_s: float
    end_s: float
    text: str


def merge(cues: Iterable[Cue]) -> list[Cue]:
    """In the order of time, without empty ones; neighbours that say the same are one."""
    merged: list[Cue] = []
    for cue in sorted(cues, key=lambda cue: (cue.start_s, cue.end_s)):
        text = " ".join(cue.text.split())
        if not text or _milliseconds(cue.end_s) <= _milliseconds(cue.start_s):
            continue
        last = merged[-1] if merged else None
        if last and last.text == text and cue.start_s - last.end_s <= _TOUCHING_S:
            merged[-1] = replace(last, end_s=max(last.end_s, cue.end_s))
        else:
            merged.append(Cue(cue.start_s, cue.end_s, text))
    return merged


def to_vtt(cues: Iterable[Cue], note: str = "") -> str:
    """The file's text: line ends "\\n", no byte order mark, to be stored as UTF-8.

    Args:
        cues: in any order; merged as :func:`merge` says.
        note: a comment for people who open the file.
    """
    blocks = ["WEBVTT"]
    if note:
        blocks.append("NOTE\n" + " ".join(note.split()).replace("-->", "→"))
    for number, cue in enumerate(merge(cues), 1):
        # Control characters are no text, and a NUL is not even allowed.
        text = "".join(c if c.isprintable() else " " for c in cue.text).translate(_ESCAPES)
        blocks.append(f"{number}\n{_clock(cue.start_s)} --> {_clock(cue.end_s)}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 0)


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
