"""A report as a browser reads it, and a lake with two models of which one is in production."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny_lake import CAPTIONED, NEW, OLD, RUN, START, TEXT, TIME, TinyLake, build, key

from clipcap.config import ReportConfig
from clipcap.report import render_report
from clipcap.storage.records import Promotion

VOID = {"meta", "img", "input", "br", "link", "rect", "line", "polyline", "polygon", "circle"}


class Page(HTMLParser):
    """Elements with attributes and text, balanced; comments, which there must be none of."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.comments: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "br":
            self.handle_data("\n")
        if tag not in VOID:
            self.open.append(tag)
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def handle_comment(self, data):
        self.comments.append(data)

    def all(self, tag: str, klass: str = "") -> list[dict[str, str | None]]:
        """Attributes of all such elements."""
        return [a for name, a in self.tags if name == tag and (not klass or klass in (a.get("class") or "").split())]

    def cells(self, first: str) -> list[str]:
        """The cells of the first table row that begins with ``first``."""
        rows = ([cell.strip() for cell in row] for row in self.rows)
        return next(row for row in rows if row and row[0].startswith(first))

    @property
    def body(self) -> str:
        return " ".join(self.texts["body"][0].split())

    @property
    def cards(self) -> list[dict[str, Any]]:
        return [json.loads(attributes["data-card"]) for attributes in self.all("article", "card")]


COMPARISON = pa.schema(
    [(name, TEXT) for name in ("candidate_model_id", "baseline_model_id", "run_id", "split", "metric")]
    + [(name, pa.float64()) for name in ("candidate_value", "baseline_value", "difference", "low", "high")]
    + [(name, pa.int64()) for name in ("images", "wins", "ties", "losses")]
    + [("created_at", TIME)]
)


def promote_old(tiny: TinyLake) -> None:
    """The older model went into production before the run, which evaluated the newer one."""
    tiny.promotions = [Promotion(model_id=OLD, reason="first", created_at=START - timedelta(days=1))]


def compare(tiny: TinyLake, low: float = 0.1, high: float = 0.4) -> None:
    """A paired comparison of the newer with the older model, as the stage writes it."""
    rows = [
        {"candidate_model_id": NEW, "baseline_model_id": OLD, "run_id": RUN, "split": "test", "metric": metric,
         "candidate_value": value, "baseline_value": before, "difference": value - before, "low": low, "high": high,
         "images": 2, "wins": wins, "ties": 1 - wins if wins is not None else None,
         "losses": 1 if wins is not None else None, "created_at": START}
        for metric, value, before, wins in (("cider", 0.75, 0.5, 1), ("bleu_4", 0.25, 0.25, None))
    ]  # fmt: skip
    path = tiny.lake.root / "metrics" / NEW / RUN / f"versus_{OLD}.parquet"
    tiny.entry(f"compare/{NEW}/{OLD}/test/000000000000", {"comparison": tiny.table(path, COMPARISON, rows)}, {},
               model_id=NEW, candidate_model_id=NEW, baseline_model_id=OLD, split="test")  # fmt: skip


def give_intervals(tiny: TinyLake) -> None:
    """Intervals of 0.1 to each side in the newer model's metrics file, as the stage writes them by now."""
    path = next(path for path in tiny.tables if f"metrics/{NEW}/{RUN}/corpus" in path)
    schema, rows = tiny.tables[path]
    for name in ("low", "high"):
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.float64()))
    for row in rows:
        row |= {"low": row["value"] - 0.1, "high": row["value"] + 0.1}
    tiny.tables[path] = (schema, rows)


@pytest.fixture(scope="session")
def compared() -> Callable[..., None]:
    return compare


@pytest.fixture(scope="session")
def with_intervals() -> Callable[[TinyLake], None]:
    return give_intervals


@pytest.fixture
def promoted(tiny: TinyLake) -> TinyLake:
    promote_old(tiny)
    return tiny


@pytest.fixture(scope="session")
def parse() -> Callable[[Path], Page]:
    return lambda path: Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def render(parse: Callable[[Path], Page]) -> Callable[..., Page]:
    """Commits the lake and parses the report of its run."""

    def rendered(tiny: TinyLake, **config: Any) -> Page:
        tiny.commit()
        path = render_report(tiny.lake, RUN, ReportConfig(**config))
        assert path == tiny.lake.report(RUN) and list(path.parent.iterdir()) == [path]
        return parse(path)

    return rendered


@pytest.fixture(scope="module")
def page(tmp_path_factory, render) -> Page:
    """The report of the lake as it was built, no model in production."""
    return render(build(tmp_path_factory.mktemp("report") / "lake"))


@pytest.fixture
def many(tmp_path: Path) -> TinyLake:
    """Forty images captioned by both models, each with a score; the captions of image n differ in n of 40 words."""
    tiny = build(tmp_path / "many")
    promote_old(tiny)
    for shard, first in (("0a1b2c3d-00000", 100), ("0a1b2c3d-00001", 120)):
        for model in (OLD, NEW):
            rows = tiny.rows(f"captions/{model}/{RUN}/{shard}")
            scores = tiny.rows(f"metrics/{model}/{RUN}/per_image")
            for n in range(first, first + 20):
                words = [f"w{i}" if model == OLD or i >= n - 100 else f"x{i}" for i in range(40)]
                rows.append({**rows[0], "sample_key": key(n), "caption": " ".join(words)})
                scores.append({**scores[0], "sample_key": key(n), "value": 2.0 + n / 100})
        images = tiny.rows(f"shards/{shard}")
        images += [{**images[0], "sample_key": key(n), "member": f"{key(n)}.jpg", "split": "test"}
                   for n in range(first, first + 20)]  # fmt: skip
    assert CAPTIONED[0][0] == 0
    return tiny
