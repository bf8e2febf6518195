"""Renders a run as one HTML file: no other file, no network, nothing that arrived from outside left unescaped."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipcap.config import ReportConfig
from clipcap.errors import WarehouseError
from clipcap.report import curve
from clipcap.report.thumbnails import thumbnails
from clipcap.storage.commit import writing
from clipcap.storage.lake import Lake
from clipcap.warehouse.catalog import connect, ensure_catalog, statement

TEMPLATES = Path(__file__).parent / "templates"
Row = dict[str, Any]

METRICS = {
    "cider": ("CIDEr", "agreement with the references, rare words count more"),
    "bleu_1": ("BLEU-1", "words that the references share"),
    "bleu_2": ("BLEU-2", "word pairs that the references share"),
    "bleu_3": ("BLEU-3", "word triples that the references share"),
    "bleu_4": ("BLEU-4", "runs of four words that the references share"),
    "rouge_l": ("ROUGE-L", "longest common subsequence"),
    "distinct_1": ("distinct-1", "different words among all words"),
    "distinct_2": ("distinct-2", "different word pairs among all pairs"),
    "vocabulary": ("vocabulary", "different words"),
    "unique_share": ("unique captions", "share that occurs once"),
    "mean_length": ("length", "words in a caption"),
}
PARTS = {"sample": "A random sample", "best": "Best by CIDEr", "worst": "Worst by CIDEr"}


def render_report(lake: Lake, run_id: str, config: ReportConfig, *, catalog: Path | None = None) -> Path:
    """Writes the report of a run.

    Args:
        lake: the lake.
        run_id: a published run.
        config: how many images the contact sheet has, and the seed that chooses them.
        catalog: the catalog to read; the lake's own, built again where stale, by default.

    Returns:
        ``reports/<run_id>/index.html`` in the lake.

    Raises:
        WarehouseError: the run is not in the catalog.
    """
    with connect(lake, catalog or ensure_catalog(lake)) as connection:
        facts = _facts(lake, connection, run_id, config)
    target = lake.report(run_id)
    with writing(target) as aside:
        aside.write_text(_render(facts), encoding="utf-8")
    return target


def _facts(lake: Lake, connection: duckdb.DuckDBPyConnection, run_id: str, config: ReportConfig) -> Row:
    """Everything that the template shows."""
    found = _rows(connection, "run", run_id=run_id)
    if not found:
        raise WarehouseError(
            f'no run {run_id!r} in the catalog of {lake.address}: `clipcap sql "from runs"` lists them'
        )
    run = found[0]
    model = next(iter(_rows(connection, "run_model", run_id=run_id)), None)
    model_id = model["model_id"] if model else ""
    cards = _cards(lake, connection, run_id, model_id, config)
    first = next((card for card in cards if card["part"] == "sample"), None)
    return {
        "run": run,
        "config": json.dumps(json.loads(run["config"] or "{}"), indent=2, ensure_ascii=False),
        "model": model,
        "metrics": _rows(connection, "run_metrics", run_id=run_id, model_id=model_id),
        "rivals": _rows(connection, "run_rivals", run_id=run_id),
        "parts": {name: [card for card in cards if card["part"] == name] for name in PARTS},
        "outcomes": _by_stage(_rows(connection, "run_outcomes", run_id=run_id, model_id=model_id)),
        "size": _rows(connection, "run_size", run_id=run_id, model_id=model_id)[0],
        "stages": _rows(connection, "run_stages", run_id=run_id),
        "curve": curve.training_curve(lake.at_hand(lake.model(model_id)) / "training.jsonl") if model_id else None,
        "lineage": next(iter(_rows(connection, "lineage", sample_key=first["sample_key"], model_id=model_id)), None)
        if first
        else None,
    }


def _rows(connection: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> list[Row]:
    cursor = connection.execute(statement(f"reports/{name}.sql"), parameters)
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def _cards(
    lake: Lake, connection: duckdb.DuckDBPyConnection, run_id: str, model_id: str, config: ReportConfig
) -> list[Row]:
    """The contact sheet's rows: a fifth for the best, a fifth for the worst, the rest at random."""
    extreme = config.images // 5
    cards = _rows(
        connection, "run_captions",
        run_id=run_id, model_id=model_id, images=config.images, extreme=extreme, seed=config.seed,
    )  # fmt: skip
    if any(card["part"] == "best" for card in cards):
        sample = [card for card in cards if card["part"] == "sample"][: config.images - 2 * extreme]
        cards = sample + [card for card in cards if card["part"] != "sample"]
    pictures = thumbnails(lake, [(card["tar"], card["member"]) for card in cards])
    for card in cards:
        card["thumbnail"] = pictures[card["tar"], card["member"]]
        card["is_link"] = (card["image_url"] or "").startswith(("http://", "https://"))
    return cards


def _by_stage(outcomes: list[Row]) -> list[Row]:
    """Stages with their outcomes: rows, share that is ok, and every other status with its reason."""
    stages: dict[str, list[Row]] = {}
    for outcome in outcomes:
        stages.setdefault(outcome["stage"], []).append(outcome)
    return [
        {
            "stage": stage,
            "inputs": sum(row["images"] for row in rows),
            "ok": sum(row["images"] for row in rows if row["status"] == "ok"),
            "others": [row for row in rows if row["status"] != "ok"],
        }
        for stage, rows in stages.items()
    ]


def _render(facts: Row) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(count=_count, value=_value, seconds=_seconds, moment=_moment)
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        **facts,
        metric_names=METRICS,
        part_names=PARTS,
        drawing=curve,
        style=Markup(style),
        script=Markup(script),
        # The browser runs exactly this script and loads nothing, even if some text should slip through escaping.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _value(number: float | None, metric: str = "") -> str:
    """A metric as it is read: counts whole, lengths with one digit, everything else with three."""
    if number is None:
        return "–"
    if metric == "vocabulary":
        return _count(number)
    return f"{number:.1f}" if metric == "mean_length" else f"{number:.3f}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _moment(time: datetime | None) -> str:
    return "–" if time is None else f"{time:%-d %B %Y, %H:%M} UTC"
