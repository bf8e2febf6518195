"""Captioning a film now, without a lake."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.config import CaptionConfig, FilmConfig
from clipcap.films.decode import OnProgress, Scan, grab_frames, scan_film
from clipcap.films.vtt import Cue

if TYPE_CHECKING:
    from clipcap.embedding.encoder import Encoder
    from clipcap.model.captioner import Captioner


@dataclass(frozen=True)
class Part:
    """One part of a film and what is seen in it; ``caption`` is empty where there is a ``reason``."""

    start_s: float
    end_s: float
    time_s: float
    caption: str = ""
    reason: str = ""

    @property
    def cue(self) -> Cue:
        return Cue(self.start_s, self.end_s, self.caption)


@dataclass
class CaptionedFilm:
    """A film and what became of it."""

    film: str
    status: str = "ok"
    reason: str = ""
    """Why there are no captions, or why they do not reach to the film's end."""
    parts: list[Part] = field(default_factory=list)


def outline(film: Path, scan: Scan) -> CaptionedFilm:
    """What would be captioned."""
    parts = [Part(span.start_s, span.end_s, span.time_s) for span in scan.spans]
    return CaptionedFilm(str(film), "ok" if parts else "failed", scan.problem, parts)


def caption_film(
    film: Path,
    captioner: Captioner,
    encoder: Encoder,
    config: CaptionConfig,
    film_config: FilmConfig | None = None,
    on_scan: OnProgress | None = None,
    on_captions: Callable[[int, int], None] | None = None,
) -> CaptionedFilm:
    """Finds the shots of a film and captions a frame of each.

    Args:
        on_scan: called with seconds that were looked at, and the film's length.
        on_captions: called with frames that were captioned, and all of them.

    Raises:
        ConfigError: PyAV is not installed.
        SourceError: the file cannot be opened.
    """
    from clipcap.captioning import caption_images

    film_config = film_config or FilmConfig()
    scan = scan_film(film, film_config, on_scan)
    found = outline(film, scan)
    with tempfile.TemporaryDirectory(prefix="clipcap-film-") as folder:
        times = [span.time_s for span in scan.spans]
        frames = grab_frames(film, times, Path(folder), film_config.timeout_s) if times else []
        files = [str(frame) for frame in frames if isinstance(frame, Path)]
        captions = caption_images(files, captioner, encoder, config)
        parts = []
        for number, (span, frame) in enumerate(zip(scan.spans, frames, strict=True), 1):
            row = next(captions) if isinstance(frame, Path) else None
            caption, reason = (row.caption, row.reason) if row else ("", str(frame))
            parts.append(Part(span.start_s, span.end_s, span.time_s, caption, reason))
            if on_captions:
                on_captions(number, len(frames))
    found.parts = parts
    if found.status == "ok" and not any(part.caption for part in parts):
        found.status, found.reason = "failed", parts[0].reason or "the model has no words for any frame"
    return found
