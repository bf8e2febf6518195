"""The address of a frame: the film's, with a media fragment (W3C Media Fragments URI 1.0, section 4.2.1).

    file:///films/beach.mp4#t=12.480&span=10.000,20.000

``t`` is where a player jumps to; ``span``, which players pass over, is the part of the film that the frame stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FILM_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv", ".flv", ".wmv",
     ".3gp")
)  # fmt: skip
_FRAME = re.compile(r"(?P<film>.+)#t=(?P<time>\d+\.\d{3})(&span=(?P<start>\d+\.\d{3}),(?P<end>\d+\.\d{3}))?")


@dataclass(frozen=True)
class Span:
    """One frame and the part of the film that it stands for; seconds since the film's start."""

    time_s: float
    start_s: float
    end_s: float


def frame_address(film: str, span: Span) -> str:
    """Of one frame of the film at that URL."""
    return f"{film}#t={span.time_s:.3f}&span={span.start_s:.3f},{span.end_s:.3f}"


def frame_location(film: str, span: Span) -> str:
    """Where the download stage finds the frame's picture."""
    return f"{film}#t={span.time_s:.3f}"


def parse_location(location: str) -> tuple[str, float] | None:
    """The film's URL and the time in it; None where it is the location of something else."""
    found = _FRAME.fullmatch(location)
    return (found["film"], float(found["time"])) if found else None
