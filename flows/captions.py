"""What ``clipcap caption`` does between its arguments and what it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from clipcap.captioning import CaptionedImage, caption_images, expand, survey
from clipcap.config import CaptionConfig, parse_section
from clipcap.dataset.sources import endings
from flows import console
from flows.caption_progress import Counted
from flows.results import decoding, load_model

TABLE_ROWS = 50
"""More rows than these are printed as they come."""


@dataclass(frozen=True)
class Wanted:
    """Where the captions go."""

    out: Path | None = None
    html: Path | None = None
    as_json: bool = False
    as_lines: bool = False


def caption_now(images: list[str], folder: Path, device: str, asked: dict[str, Any], wanted: Wanted) -> bool:
    """Loads a model and its encoder, and captions.

    Args:
        images: files, folders, URLs; "-" stands for the lines of standard input.
        asked: fields of ``CaptionConfig``; those that are None are as the model's own settings say.

    Returns:
        Whether any image has a caption.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    parse_section(CaptionConfig, given, "clipcap caption")  # what is wrong is told before anything is loaded
    total = _total(images)
    captioner, encoder = load_model(folder, device)
    config = decoding(captioner.settings.decoding, given)
    name = captioner.settings.model_id or folder.name
    found = expand(_inputs(images))
    if wanted.out:
        from clipcap.caption_file import CaptionFile

        with closing(CaptionFile(wanted.out, name, _made_by(folder, config))) as file:
            rows = caption_images(file.missing(found), captioner, encoder, config)
            new = Counted(rows, total, lambda: file.passed)
            file.append(new)
        facts = {"out": str(wanted.out), "captioned": new.good, "failed": new.failed, "kept": file.kept}
        if wanted.as_json:
            console.print_json(facts)
        else:
            kept = f", {file.kept:,} were there before" if file.kept else ""
            typer.echo(f"{console.shown(str(wanted.out))}: {new.good:,} captioned, {new.failed:,} failed{kept}")
        return bool(new.good or file.kept)
    if wanted.html:
        from clipcap.report.contact_sheet import ContactSheet

        sheet = ContactSheet(wanted.html, name)
        rows = Counted(caption_images(found, captioner, encoder, config, on_image=sheet.keep), total)
        sheet.write(rows)
        facts = {"html": str(wanted.html), "captioned": rows.good, "failed": rows.failed}
        text = f"{console.shown(str(wanted.html))}: {rows.good:,} captioned, {rows.failed:,} failed"
        console.print_json(facts) if wanted.as_json else typer.echo(text)
        return bool(rows.good)
    rows = Counted(caption_images(found, captioner, encoder, config), total)
    if wanted.as_json:
        console.print_json([asdict(row) for row in rows])
    elif wanted.as_lines:
        for row in rows:
            typer.echo(console.json_text(asdict(row)))
    else:
        _print(rows)
    return bool(rows.good)


def _total(images: list[str]) -> int | None:
    """Rows to come; None where a list is still being read. Says which files of folders are left out."""
    total, left_out = survey(text for text in images if text != "-")
    if left_out:
        named = console.shown(endings(left_out))
        typer.echo(f"left out, by their names no images: {named}; a file that is named itself is tried", err=True)
    return None if "-" in images else total


def _inputs(images: list[str]) -> Iterator[str]:
    for text in images:
        if text != "-":
            yield text
            continue
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())


def _made_by(folder: Path, config: Any) -> str:
    """Of the model's files and the settings that change captions."""
    from clipcap.storage.commit import sha256_of
    from clipcap.storage.entries import digest

    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json")]
    settings = config.model_dump(mode="json", exclude={"batch_size"})
    return str(digest([[(file.name, sha256_of(file)) for file in files], settings]))[:16]


def _print(rows: Iterable[CaptionedImage]) -> None:
    """A table of few rows; a line for each image where they are many."""
    first: list[CaptionedImage] = []
    for row in rows:
        if len(first) <= TABLE_ROWS:
            first.append(row)
            if len(first) <= TABLE_ROWS:
                continue
            for earlier in first:
                typer.echo(_line(earlier))
        else:
            typer.echo(_line(row))
    if len(first) > TABLE_ROWS:
        return
    columns = ("image", "caption") if all(row.status == "ok" for row in first) else ("image", "caption", "reason")
    shown = [{"image": row.image, "caption": _numbered(row.captions), "reason": row.reason} for row in first]
    console.print_table(shown, columns=columns)


def _numbered(captions: list[str]) -> str:
    if len(captions) < 2:
        return "".join(captions)
    return "\n".join(f"{number}  {text}" for number, text in enumerate(captions, 1))


def _line(row: CaptionedImage) -> str:
    text = " | ".join(row.captions) or f"(no caption: {row.reason})"
    return "\t".join(console.shown(part).replace("\n", "\\n") for part in (row.image, text))
