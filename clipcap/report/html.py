"""Renders a run as one HTML file: no other file, no network, nothing that arrived from outside left unescaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipcap.config import Config, ReportConfig, changed_settings
from clipcap.redaction import redact_text, shown_url
from clipcap.report import charts, text
from clipcap.report.cards import facets, read_cards
from clipcap.report.curve import training_charts
from clipcap.report.details import add_whiskers, by_stage, distributions, diversity
from clipcap.report.summary import Reader, Summary, open_reader, read_summary
from clipcap.storage.commit import writing
from clipcap.storage.lake import Lake
from clipcap.warehouse.checks import CheckResult

TEMPLATES = Path(__file__).parent / "templates"


def render_report(
    lake: Lake,
    run_id: str,
    config: ReportConfig,
    *,
    catalog: Path | None = None,
    warnings: Sequence[CheckResult] | None = None,
) -> Path:
    """Writes the report of a run.

    Args:
        lake: the lake.
        run_id: a published run.
        config: how many images the contact sheet has, and the seed that chooses them.
        catalog: the catalog to read; the lake's own, built again where stale, by default.
        warnings: what the checks found; they run where it is not known.

    Returns:
        ``reports/<run_id>/index.html`` in the lake.

    Raises:
        WarehouseError: the run is not in the catalog.
    """
    with open_reader(lake, catalog) as reader:
        page = _render(_facts(lake, reader, config, read_summary(reader, run_id, warnings)))
    target = lake.report(run_id)
    with writing(target) as aside:
        aside.write_text(page, encoding="utf-8", errors="replace")
    return target


def _facts(lake: Lake, reader: Reader, config: ReportConfig, summary: Summary) -> dict[str, Any]:
    """Everything that the template shows."""
    run_id = summary.run["run_id"]
    cards, ranked_by = read_cards(lake, reader, summary, config)
    model_id = summary.model_id
    add_whiskers(summary.metrics)
    return {
        "summary": summary,
        "cards": cards,
        **facets(cards, ranked_by),
        "rivals": reader.rows("run_rivals", run_id=run_id),
        "outcomes": by_stage(summary.outcomes),
        "stages": reader.rows("run_stages", run_id=run_id),
        "training": training_charts(lake.at_hand(lake.model(model_id)) / "training.jsonl") if model_id else [],
        "distributions": distributions(reader, summary),
        "diversity": diversity(summary),
        "repeats": reader.rows("run_repeats", run_id=run_id, model_id=model_id),
        "batches": reader.rows("run_batches", run_id=run_id),
        "lineage": reader.rows("run_lineage", run_id=run_id, model_id=model_id),
        "changed_settings": changed_settings(summary.config, Config()),
        "config": json.dumps(summary.config, indent=2, ensure_ascii=False),
    }


def _render(facts: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.filters.update(
        count=text.count, value=text.value, signed=text.signed, seconds=text.seconds, rate=text.rate, size=text.size,
        moment=text.moment, shortened=text.shortened, evidence=_evidence, tojson_text=_json, address=shown_url,
        redacted=redact_text,
    )  # fmt: skip
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        **facts,
        drawing=charts,
        style=Markup(style),
        script=Markup(script),
        # The browser runs exactly this script and loads nothing, even if some text should slip through escaping.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _shown(found: Any) -> Any:
    """Every expression of a template goes through here: text without control characters, our own markup as it is."""
    return text.visible(found) if isinstance(found, str) and not isinstance(found, Markup) else found


def _json(found: Any) -> str:
    return json.dumps(found, ensure_ascii=False, default=str)


def _evidence(found: str | None) -> str:
    """JSON, laid out; as it is where it is none."""
    try:
        return json.dumps(json.loads(found or ""), indent=2, ensure_ascii=False)
    except ValueError:
        return found or ""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
