"""Coordinates of the plots, held against the numbers they stand for."""

from __future__ import annotations

import itertools
import json

import pytest

from clipcap.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    histogram,
    line_chart,
    log_ticks,
    merged,
    nice_step,
)
from clipcap.report.curve import MOST_POINTS, MOST_ROWS, training_charts


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def inside(chart) -> bool:
    return all(
        LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for line in chart.lines for x, y in line.points
    )


def test_a_long_log_becomes_few_points_within_the_drawing(tmp_path):
    rows = [{"step": n, "epoch": 1, "loss": 5 - n / 5000, "val_loss": 3.0 if n % 100 == 0 else None}
            for n in range(1, 5001)]  # fmt: skip
    [chart] = training_charts(write(tmp_path / "training.jsonl", rows))
    train, val = chart.lines
    assert len(train.points) <= MOST_POINTS and len(val.points) == 50 and inside(chart)
    assert val.points[-1][0] == WIDTH - RIGHT
    assert 20 <= len(chart.rows) <= MOST_ROWS and chart.rows[-1] == ["5,000", "4.0000", "3.0000"]


def test_ticks_stand_where_their_numbers_are(tmp_path):
    [chart] = training_charts(write(tmp_path / "t", [{"step": 0, "loss": 1.0}, {"step": 100, "loss": 3.0}]))
    (_, low), (_, high) = chart.lines[0].points
    at = {float(text): y for y, text in chart.y_ticks}
    assert at[1.0] == pytest.approx(low, abs=0.1) and at[3.0] == pytest.approx(high, abs=0.1)
    assert chart.x_ticks[-1] == (WIDTH - RIGHT, "100")


def test_a_loss_that_falls_far_is_drawn_by_its_logarithm(tmp_path):
    [chart] = training_charts(write(tmp_path / "t", [{"step": n, "loss": 8 / 2**n} for n in range(1, 6)]))
    heights = [y for _, y in chart.lines[0].points]
    steps = [b - a for a, b in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.11)  # halving is the same way down each time
    assert [text for _, text in chart.y_ticks] == ["0.2", "0.5", "1", "2", "5"]


def test_the_best_validation_loss_is_marked(tmp_path):
    rows = [{"step": n, "loss": 2.0, "val_loss": loss} for n, loss in ((1, 3.0), (2, 2.5), (3, 2.8))]
    [chart] = training_charts(write(tmp_path / "t", rows))
    assert chart.mark == (*chart.lines[1].points[1], "2.500")
    assert "lowest validation loss 2.500" in chart.summary


def test_phases_follow_each_other_and_a_reward_is_no_loss(tmp_path):
    rows = [{"phase": "captions", "step": n, "loss": 2.0 / n, "val_cider": 0.5 * n} for n in (1, 2)]
    rows += [{"phase": "reward", "step": n, "loss": -0.3 * n, "val_cider": 1.0 + n} for n in (1, 2)]
    loss, reward, cider = training_charts(write(tmp_path / "t", rows))
    assert [chart.title for chart in (loss, reward, cider)] == ["Loss", "Reward", "CIDEr on validation images"]
    assert [row[0] for row in cider.rows] == ["1", "2", "3", "4"] and cider.mark[2] == "3.000"
    assert reward.rows == [["3", "0.3000"], ["4", "0.6000"]] and len(loss.lines[0].points) == 2


def test_damaged_lines_are_skipped(tmp_path):
    rows = ["{half a li", "[]", '{"step": 1, "loss": NaN}', {"loss": 1.0}, {"step": 1, "loss": 2.0},
            {"step": 2, "loss": 1.0}, '{"step": Infinity, "loss": 1.0}', {"step": 3, "loss": "x"}]  # fmt: skip
    [chart] = training_charts(write(tmp_path / "t", rows))
    assert len(chart.lines[0].points) == 2


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": 2.0}], ["nonsense"]])
def test_too_little_to_draw(tmp_path, rows):
    assert training_charts(write(tmp_path / "t", rows)) == []
    assert training_charts(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("loss", [2.0, 0.0, -1.0])
def test_a_flat_line_can_be_drawn(tmp_path, loss):
    [chart] = training_charts(write(tmp_path / "t", [{"step": n, "loss": loss} for n in (1, 2)]))
    assert inside(chart)


def test_a_histogram_stands_for_shares():
    chart = histogram("Length", "", "words", [("this", "this", {3.0: 1, 4.0: 3}), ("refs", "other", {4.0: 10})], 1.0)
    assert inside(chart) and chart.header == ["words", "this", "refs"]
    assert chart.rows == [["3", "1", "0"], ["4", "3", "10"]]
    assert [text for _, text in chart.y_ticks][-1] == "100 %"
    this, refs = chart.lines
    floor = HEIGHT - BOTTOM
    heights = sorted({floor - y for _, y in this.points} - {0})
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.3)
    assert min(y for _, y in refs.points) == TOP and len(refs.points) == 4


def test_gaps_of_a_histogram_are_gaps():
    chart = histogram("Length", "", "words", [("this", "this", {1.0: 1, 9.0: 1})], 1.0)
    assert [line.name for line in chart.lines] == ["this", ""] and len(chart.rows) == 9


def test_wider_bins_lose_nothing():
    counts = {round(n / 100, 2): n for n in range(100)}
    wide = merged(counts, 0.05)
    assert sum(wide.values()) == sum(counts.values()) and len(wide) == 20
    assert wide[0.25] == 25 + 26 + 27 + 28 + 29


@pytest.mark.parametrize("span, most, step", [(1.0, 25, 0.05), (100, 60, 2), (0, 10, 1.0), (9.99, 10, 1)])
def test_steps_are_round(span, most, step):
    assert nice_step(span, most) == pytest.approx(step)


def test_log_ticks_hold_both_ends():
    assert log_ticks(0.3, 7) == [0.2, 0.5, 1, 2, 5, 10]


def test_an_axis_of_one_point():
    chart = line_chart("t", "", "step", [Line("a", [(0.0, 1.0)])], header=[], rows=[])
    assert inside(chart)
