"""Commands of films: captions by time, now or from the lake, as WebVTT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.errors import SourceError, WarehouseError
from flows import console
from flows.options import AsJson, DataDir, Debug, model_folder, open_lake, state

if TYPE_CHECKING:
    from clipcap.films.caption import CaptionedFilm

app = typer.Typer(no_args_is_help=True, help="Films: captions by time, now or from the lake, as WebVTT.")
Out = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="The .vtt; of a folder of films, a folder.")]
Model = Annotated[str, typer.Option("--model", help="A model id of the lake, or a model's folder.")]


@app.command("caption")
def caption_films(
    film: Annotated[Path, typer.Argument(help="A film, or a folder of films.")],
    model: Model = "",
    out: Out = None,
    max_gap: Annotated[float, typer.Option("--max-gap", min=0.1, help="Seconds one caption may stand for.")] = 10.0,
    beam_size: Annotated[int | None, typer.Option("--beam-size", min=1, help="Beams; 1 is greedy.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find the frames, and caption none.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Describe films now, shot by shot. To have them in the lake: clipcap land FILM.

    Example: clipcap film caption beach.mp4 --model models/my-model --out beach.vtt
    """
    state["debug"] = debug
    from clipcap.config import FilmConfig
    from clipcap.dataset.sources.films import films_of
    from clipcap.films.caption import caption_film, outline
    from clipcap.films.decode import scan_film
    from flows.results import decoding, load_model

    films = films_of(film)
    if not films or not film.exists():
        raise SourceError(f"there is no film at {film}; name a file, or a folder with films in it")
    targets = _targets(film, films, out)
    config = FilmConfig(max_gap_s=max_gap)
    found: list[CaptionedFilm] = []
    if not dry_run:
        captioner, encoder = load_model(model_folder(model, data_dir), device)
        settings = decoding(captioner.settings.decoding, {"beam_size": beam_size} if beam_size else {})
    for path in films:
        with _progress(path.name) as (on_scan, on_captions):
            try:
                if dry_run:
                    found.append(outline(path, scan_film(path, config, on_scan)))
                else:
                    found.append(caption_film(path, captioner, encoder, settings, config, on_scan, on_captions))
            except SourceError as error:
                found.append(_failed(path, str(error)))
        if path in targets and found[-1].status == "ok" and not dry_run:
            _write(targets[path], [part.cue for part in found[-1].parts], captioner.settings.model_id)
    _print(found, as_json, dry_run)
    if not any(row.status == "ok" for row in found):
        raise typer.Exit(1)


@app.command("vtt")
def vtt(
    film: Annotated[str, typer.Argument(help="A film that was landed: its path, or its URL in film_captions.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.vtt", help="Else it is printed.")] = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Else the model in production.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the captions that the lake has of a film as WebVTT.

    Example: clipcap film vtt beach.mp4 --out beach.vtt
    """
    state["debug"] = debug
    lake = open_lake(data_dir)
    from clipcap.films.vtt import Cue, merge, to_vtt
    from clipcap.warehouse.catalog import ensure_catalog, statement
    from clipcap.warehouse.queries import query

    ensure_catalog(lake, may_be_old=True)
    url = film if "://" in film else Path(film).resolve().as_uri()
    rows = query(lake, statement("reports/film_cues.sql"), {"film": url, "model": model}).to_pylist()
    if not rows:
        known = query(lake, statement("reports/captioned_films.sql")).to_pylist()
        there = "; ".join(f"{row['film']} by {row['model_id']}" for row in known[:5]) or "none"
        raise WarehouseError(
            f"{lake.address} has no captions of {url} by {model or 'its production model'}; captioned films: {there}. "
            "`clipcap land FILM`, then `clipcap nightly`"
        )
    cues = [Cue(row["start_s"], row["end_s"], row["caption"]) for row in rows]
    if out:
        _write(out, cues, rows[0]["model_id"])
    if as_json:
        return console.print_json([asdict(cue) for cue in merge(cues)])
    if not out:
        typer.echo(to_vtt(cues, _note(rows[0]["model_id"])), nl=False)


def _targets(film: Path, films: list[Path], out: Path | None) -> dict[Path, Path]:
    if out is None:
        return {}
    if not film.is_dir():
        return {films[0]: out}
    if out.suffix == ".vtt":
        raise SourceError(f"--out {out} is one file, and {film} is a folder; name a folder")
    return {path: (out / path.relative_to(film)).with_name(f"{path.name}.vtt") for path in films}


def _note(model_id: str) -> str:
    return f"Written by a model ({model_id}), not by a person: it may be wrong."


def _write(path: Path, cues: list[Any], model_id: str) -> None:
    from clipcap.films.vtt import merge, to_vtt
    from clipcap.storage.commit import commit_bytes

    commit_bytes(to_vtt(cues, _note(model_id)).encode(), path)
    typer.echo(f"{path}: {len(merge(cues))} cues", err=True)


def _failed(path: Path, reason: str) -> CaptionedFilm:
    from clipcap.films.caption import CaptionedFilm

    return CaptionedFilm(str(path), "failed", reason)


def _print(found: list[CaptionedFilm], as_json: bool, dry_run: bool) -> None:
    if as_json:
        return console.print_json([asdict(row) for row in found])
    for row in found:
        columns = ("start_s", "end_s", "time_s") if dry_run else ("start_s", "end_s", "caption", "reason")
        if row.parts:
            console.print_table([asdict(part) for part in row.parts], title=row.film, columns=columns)
        if row.reason:
            typer.echo(f"{row.film}: {row.reason}", err=True)


@contextmanager
def _progress(name: str) -> Iterator[tuple[Any, Any]]:
    """A bar on a terminal, lines elsewhere: of what is looked at, then of what is captioned."""
    if not sys.stderr.isatty():
        from clipcap.films.decode import progress_lines

        yield progress_lines(name), None
        return
    from rich.progress import Progress

    with Progress(console=console.stderr, transient=True) as bars:
        looking, writing = bars.add_task(f"{name}: looking", total=None), bars.add_task("captioning", visible=False)
        yield (
            lambda seconds, of: bars.update(looking, completed=seconds, total=of or None),
            lambda done, of: bars.update(writing, completed=done, total=of, visible=True),
        )
