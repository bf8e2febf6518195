"""The command of alternative text: propose, fill in what is sure, apply what a person reviewed."""

from __future__ import annotations

import logging
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.errors import ConfigError, SourceError
from clipcap.pace import Pace
from flows import console
from flows.options import AsJson, DataDir, Debug, model_folder, state

if TYPE_CHECKING:
    from clipcap.alt_text.propose import Row

app = typer.Typer()
log = logging.getLogger("clipcap.alt_text")


@app.command("alt-text")
def alt_text(
    site: Annotated[Path, typer.Argument(help="The folder of a static site.")],
    model: Annotated[str, typer.Option("--model", help="A model id of the lake, or a model's folder.")] = "",
    report: Annotated[Path, typer.Option("--report", metavar="FOLDER", help="For the tables.")] = Path("alt-text"),
    write: Annotated[bool, typer.Option("--write", help="Fill in the texts that the model is sure of.")] = False,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="TABLE.csv", help="Fill in what a person approved; no model.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Write a copy of the site.")] = None,
    sure: Annotated[float | None, typer.Option("--sure", min=0, max=2.5, help="Confidence to fill in from.")] = None,
    language: Annotated[str, typer.Option("--language", help="Of the model; others' pages are left. any: all.")] = "en",
    empty: Annotated[bool, typer.Option("--empty", help='Propose also where alt="" says decoration.')] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch pictures that lie on other sites.")] = False,
    site_url: Annotated[str, typer.Option("--site-url", metavar="URL", help="Where the site is published.")] = "",
    mark: Annotated[bool, typer.Option("--mark/--no-mark", help="Mark unreviewed texts: data-alt-by.")] = True,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Propose texts for a site's images that have none; with --write, fill in those that are sure.

    Example: clipcap alt-text public/ --model models/my-model --report review/
    """
    state["debug"] = debug
    from clipcap.alt_text.propose import SURE, Asked, look, pages_of, propose
    from clipcap.alt_text.table import read_csv, write_tables

    if not site.is_dir():
        raise SourceError(f"there is no folder {site}; name the folder of a static site")
    if apply and write:
        raise typer.BadParameter("--apply fills in what a person approved; --write is for what nobody has seen")
    if out and (out.exists() or out.resolve().is_relative_to(site.resolve())):
        raise SourceError(f"--out {out}: it must not exist, and not lie in {site}; name a new folder beside it")
    if apply:
        rows = read_csv(apply)
        changed = _fill(site, rows, out, report, is_marked=False)
        return _say(rows, changed, as_json, None)
    wanted = "" if language == "any" else language
    asked = Asked(site, site_url, wanted, empty, fetch, sure)
    found = list(look(pages_of(site, report), asked))
    if any(data for _, data in found):
        from flows.results import load_model

        captioner, encoder = load_model(model_folder(model, data_dir), device)
        if write and sure is None and encoder.name not in SURE:
            raise ConfigError(
                f"--write: nobody has measured from which confidence texts of {encoder.name} are right; look at the "
                "review sheet of a run without --write, and give --sure"
            )
        rows = propose(found, captioner, encoder, captioner.settings.decoding, asked, _lines())
        model_id = captioner.settings.model_id
    else:
        rows, model_id = [row for row, _ in found], ""
    tables = write_tables(rows, report, model_id)
    changed = _fill(site, rows, out, report, mark) if write else {}
    return _say(rows, changed, as_json, tables)


def _fill(site: Path, rows: list[Row], out: Path | None, report: Path, is_marked: bool) -> dict[str, int]:
    """Writes pages; a row that does not fit its page any more fails, and costs no other."""
    from clipcap.alt_text.page import PageError, read_page
    from clipcap.alt_text.propose import matches
    from clipcap.alt_text.write import fill_in
    from clipcap.storage.commit import commit_bytes

    target = site
    if out:
        shutil.copytree(site, out, symlinks=True)
        target = out
    by_page: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == "fill":
            by_page[row.page].append(row)
    changed = {}
    for name, wanted in by_page.items():
        file = site / name
        try:
            if not file.resolve().is_relative_to(site.resolve()):
                raise PageError("it lies outside the site's folder")
            raw = file.read_bytes()
            page = read_page(raw)
            texts = {row.number: row.alt for row in wanted if matches(page, row)}
            made = fill_in(page, texts, is_marked) if texts else raw
        except (PageError, OSError) as error:
            for row in wanted:
                row.status, row.reason = "failed", f"{name}: {error}"
            continue
        if made != raw:
            if not out:
                commit_bytes(raw, report / "originals" / name, exclusive=True)  # the first one stays
            mode = (target / name).stat().st_mode
            commit_bytes(made, (target / name).resolve())
            (target / name).chmod(mode)
            changed[name] = len(texts)
    return changed


def _lines() -> Any:
    pace = Pace()

    def on_progress(done: int, of: int) -> None:
        if pace.is_due(at_once=done == of):
            log.info("alt-text  %d of %d pictures captioned", done, of)

    return on_progress


def _say(rows: list[Row], changed: dict[str, int], as_json: bool, tables: list[Path] | None) -> None:
    if as_json:
        from clipcap.alt_text.table import COLUMNS

        facts = [{name: value for name, value in asdict(row).items() if name in COLUMNS} for row in rows]
        return console.print_json({"rows": facts, "changed": changed, "tables": tables or []})
    if rows:
        columns = ("page", "line", "image", "status", "alt", "confidence", "reason")
        console.print_table([asdict(row) for row in rows], columns=columns)
    counts = Counter(row.status for row in rows)
    nothing = "every image has a text" if tables else "the table has no row that is approved; nothing was done"
    typer.echo(", ".join(f"{count:,} {status}" for status, count in counts.items()) or nothing)
    if changed:
        texts, pages = sum(changed.values()), len(changed)
        typer.echo(f"{console.counted(texts, 'text')} filled in, in {console.counted(pages, 'page')}")
    for table in tables or []:
        typer.echo(str(table))
