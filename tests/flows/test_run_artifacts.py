"""What a run shows in Prefect, read back from its API.

Covers: tables, markdown and link of a real run; text that would be markup; failures that fail nothing.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser
from tiny_lake import BATCH, NEW, RUN, SHARDS, TinyLake

from clipcap.report.summary import open_reader, read_summary
from flows import run_artifacts

KEYS = {"run-metrics", "run-outcomes", "run-summary", "run-report"}


def artifacts(key: str) -> list[Any]:
    """All artifacts of a key, the newest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.UPDATED_DESC
        )


def of_run(key: str, run_id: str) -> Any:
    """The first one about a run: later runs that find nothing new show that run again."""
    return [artifact for artifact in artifacts(key) if run_id in artifact.description][-1]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("clipcap")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="clipcap"):
        yield caplog
    logger.propagate = before


def test_a_run_leaves_its_tables_its_summary_and_a_link(small_run):
    run_id, metrics = small_run.outcome["run_id"], small_run.outcome["metrics"]
    table = json.loads(of_run("run-metrics", run_id).data)
    assert {row["metric"]: row["value"] for row in table} == pytest.approx(
        {name: value for name, value in metrics.items() if not name.endswith("_shuffled")}
    )
    outcomes = json.loads(of_run("run-outcomes", run_id).data)
    landed = sum(row["images"] for row in outcomes if row["stage"] == "land")
    assert landed == small_run.scenes + 8  # eight rows of trouble
    assert {row["status"] for row in outcomes} >= {"ok", "failed", "filtered", "duplicate"}
    text = of_run("run-summary", run_id).data
    assert f"CIDEr {metrics['cider']:.3f}" in text and "| download | failed |" in text
    link = re.fullmatch(r"\[The report\]\((file://.+)\)", of_run("run-report", run_id).data)
    assert Path(unquote(urlparse(link[1]).path)) == Path(small_run.outcome["report"])
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in KEYS)


def test_they_belong_to_the_runs_flow(small_run):
    found = {of_run(key, small_run.outcome["run_id"]).flow_run_id for key in KEYS}
    assert len(found) == 1 and found != {None}


def test_outside_of_a_flow_nothing_is_made(tiny: TinyLake, monkeypatch):
    monkeypatch.setattr(run_artifacts, "open_reader", lambda lake: pytest.fail("it was read"))
    run_artifacts.show_run(tiny.lake, RUN, "report.html", [])


def test_a_failure_is_a_line_in_the_log(prefect_harness, tiny: TinyLake, monkeypatch, said):
    import prefect.artifacts
    from prefect import flow

    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the server is gone")

    tiny.commit()
    monkeypatch.setattr(prefect.artifacts, "create_markdown_artifact", fails)

    @flow
    def shows() -> str:
        run_artifacts.show_run(tiny.lake, RUN, str(tiny.lake.report(RUN)), [])
        run_artifacts.show_run(tiny.lake, "20990101T000000Z-cccccc", "", [])
        return "went on"

    assert shows() == "went on"
    told = [record.getMessage() for record in said.records if "is not shown in Prefect" in record.getMessage()]
    assert len(told) == 2 and "the server is gone" in told[0] and "no run '2099" in told[1]


def test_text_from_outside_is_no_markup(tiny: TinyLake):
    row = tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}")[1]
    row["reason"] = "<img src=x> | [click](javascript:alert(1)) **bold** `code`\nnew line \x1b[31m"
    tiny.entries[f"train/{NEW}"]["meta"]["encoder"] = "| x |"
    tiny.commit()
    with open_reader(tiny.lake) as reader:
        text = run_artifacts.markdown(read_summary(reader, RUN))
    page = LexborHTMLParser(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text))
    assert not page.css("img, a, code") and "\x1b" not in text
    [row] = [row.css("td") for row in page.css("tr") if "click" in row.text()]
    assert len(row) == 4 and "<img src=x> | [click](javascript:alert(1)) **bold** `code` new line" in row[2].text()


def test_what_is_not_known_is_left_out(tiny: TinyLake):
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] == "land"}
    tiny.commit()
    with open_reader(tiny.lake) as reader:
        summary = read_summary(reader, RUN)
    assert run_artifacts.metric_rows(summary) == []
    text = run_artifacts.markdown(summary)
    assert text.startswith("# No model\n") and "Not scored" in text and "0 images captioned of 8 rows landed" in text


def test_a_report_in_a_bucket_is_linked_by_its_address(tiny: TinyLake, monkeypatch):
    monkeypatch.setattr(tiny.lake, "mirror", object())
    monkeypatch.setattr(tiny.lake, "address", "s3://bucket/lake/")
    assert run_artifacts._address(tiny.lake, RUN, "/local/mirror") == f"s3://bucket/lake/reports/{RUN}/index.html"
