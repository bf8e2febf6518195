"""Which model a run is compared with, and what is known of the difference."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tiny_lake import NEW, OLD, RUN, START

from clipcap.config import ReportConfig
from clipcap.report import render_report
from clipcap.report.summary import open_reader, read_summary
from clipcap.storage.manifest import commit_generation
from clipcap.storage.records import Decision, Promotion


def summary_of(tiny):
    tiny.commit()
    with open_reader(tiny.lake) as reader:
        return read_summary(reader, RUN)


def metric(summary, name: str) -> dict:
    return next(row for row in summary.metrics if row["metric"] == name)


def test_without_a_promotion_there_is_nothing_to_compare(tiny):
    summary = summary_of(tiny)
    assert summary.baseline is None and metric(summary, "cider")["difference"] is None


def test_the_model_in_production_is_compared_by_its_own_evaluation(promoted):
    summary = summary_of(promoted)
    assert summary.model_id == NEW and summary.baseline_id == OLD
    row = metric(summary, "cider")
    assert (row["value"], row["baseline_value"], row["difference"]) == (0.75, 0.5, 0.25)
    assert row["difference_low"] is None and row["verdict"] == ""


def test_values_on_other_images_are_not_compared(promoted):
    for row in promoted.rows(f"metrics/{OLD}/{RUN}/corpus"):
        row["images"] = 1
    row = metric(summary_of(promoted), "cider")
    assert row["baseline_value"] is None and row["difference"] is None


def test_a_promoted_candidate_is_compared_with_its_predecessor(promoted):
    later = Promotion(model_id=NEW, reason="better", created_at=START, previous_model_id=OLD)
    promoted.promotions.append(later)
    summary = summary_of(promoted)
    assert summary.model["is_production"] and summary.baseline_id == OLD


def test_a_promotion_after_the_run_changes_nothing(tiny):
    tiny.promotions = [Promotion(model_id=OLD, reason="later", created_at=START + timedelta(days=1))]
    assert summary_of(tiny).baseline is None


@pytest.mark.parametrize(
    "low, high, verdict", [(0.1, 0.4, "better"), (-0.4, -0.1, "worse"), (-0.1, 0.4, "no clear difference")]
)
def test_a_paired_comparison_gives_the_interval(promoted, compared, low, high, verdict):
    compared(promoted, low, high)
    summary = summary_of(promoted)
    row = metric(summary, "cider")
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0.25, low, high)
    assert (row["wins"], row["ties"], row["losses"], row["verdict"]) == (1, 0, 1, verdict)
    assert summary.primary == row
    assert metric(summary, "bleu_4")["wins"] is None


def test_the_metric_of_the_gate_is_the_first_one_shown(promoted):
    tiny = promoted
    run = tiny.run
    tiny.run = lambda entries: run(entries).model_copy(update={"config": {"gate": {"primary": "bleu_4"}}})
    assert summary_of(tiny).primary["metric"] == "bleu_4"


def test_intervals_of_the_metrics_are_read_where_a_file_has_them(tiny, with_intervals):
    with_intervals(tiny)
    row = metric(summary_of(tiny), "cider")
    assert (row["low"], row["high"]) == (row["value"] - 0.1, row["value"] + 0.1)


def test_rows_are_counted_once(tiny):
    assert summary_of(tiny).size == {
        "landed": 8, "captioned": 4, "failed": 3, "filtered": 0, "duplicate": 1, "opted_out": 0
    }  # fmt: skip


def test_the_gates_decision_names_the_model_to_compare_with(promoted, parse):
    promoted.commit()
    decision = Decision(
        decided_at=START, run_id=RUN, candidate_model_id=NEW, production_model_id=OLD, verdict="refused",
        reason="BLEU-4 <fell> too far.", evidence={"limits": {"margin": 0.02}}, evaluation_set="frozen-1",
    )  # fmt: skip
    commit_generation(promoted.lake, decision=decision)
    # Another model in production since then does not change what was decided.
    with open_reader(promoted.lake) as reader:
        summary = read_summary(reader, RUN)
    assert summary.baseline_id == OLD and summary.decision["verdict"] == "refused"
    page = parse(render_report(promoted.lake, RUN, ReportConfig()))
    header = " ".join(page.texts["header"][0].split())
    assert "Gate refused BLEU-4 <fell> too far." in header
    assert '"margin": 0.02' in page.texts["pre"][0] and "on frozen-1" in page.body


def test_the_page_shows_interval_and_difference(promoted, render, compared, with_intervals):
    compared(promoted)
    with_intervals(promoted)
    page = render(promoted)
    header = " ".join(page.texts["header"][0].split())
    assert f"beside {OLD}, the production model" in header
    assert "95 % interval 0.650 to 0.850" in header
    assert "+0.250 better: +0.100 to +0.400 better on 1, worse on 1, the same on 0 images" in header
    assert page.cells("CIDEr")[1:6] == ["0.750", "0.650 to 0.850", "0.500", "+0.250", "+0.100 to +0.400"]
    assert page.cells("BLEU-4")[3:5] == ["0.250", "0.000"]
