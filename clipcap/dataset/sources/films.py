"""Films: one row for each frame that stands for a part of one. The download stage takes the frames' pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipcap.config import FilmConfig
from clipcap.dataset.sources.rows import IMAGE_EXTENSIONS, SourceRow
from clipcap.errors import SourceError
from clipcap.films.address import FILM_EXTENSIONS, frame_address, frame_location
from clipcap.films.decode import progress_lines, scan_film


def is_film_source(path: Path) -> bool:
    """A film, or a folder with films and no images at any depth."""
    if not path.is_dir():
        return path.suffix.lower() in FILM_EXTENSIONS and path.exists()
    suffixes = {file.suffix.lower() for file in path.rglob("*")}
    return bool(suffixes & FILM_EXTENSIONS) and not suffixes & IMAGE_EXTENSIONS


def films_of(path: Path) -> list[Path]:
    """The film itself, or those in the folder at any depth, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in FILM_EXTENSIONS)
    return [file for file in found if file.is_file() and not file.name.startswith(".")]


def read_films(path: Path, config: FilmConfig) -> Iterator[SourceRow]:
    """Rows of every film in the order of time; one that cannot be used, or read to its end, has a row that says so."""
    for film in films_of(path):
        url = film.resolve().as_uri()
        try:
            scan = scan_film(film, config, progress_lines(film.name))
        except SourceError as error:
            yield SourceRow(url, problem=str(error))
            continue
        for span in scan.spans:
            location = frame_location(url, span)
            yield SourceRow(frame_address(url, span), sha256=scan.sha256, location=location, is_ours=True)
        if scan.problem:
            yield SourceRow(url, sha256=scan.sha256, problem=f"film: {scan.problem}")
