"""The curve's coordinates, held against the numbers they stand for."""

from __future__ import annotations

import json

import pytest

from clipcap.report.curve import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, training_curve


def write(path, rows) -> None:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_a_long_log_becomes_few_points_within_the_drawing(tmp_path):
    log = tmp_path / "training.jsonl"
    write(log, [{"step": n, "epoch": 1, "loss": 5 - n / 5000, "val_loss": 3.0 if n % 1000 == 0 else None}
                for n in range(1, 5001)])  # fmt: skip
    curve = training_curve(log)
    assert len(curve.train) <= MOST_POINTS and len(curve.val) == 5 and curve.last_step == 5000
    for x, y in curve.train + curve.val:
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    assert curve.val[-1][0] == WIDTH - RIGHT


def test_ticks_stand_where_their_numbers_are(tmp_path):
    log = tmp_path / "training.jsonl"
    write(log, [{"step": 0, "loss": 1.0}, {"step": 100, "loss": 3.0}])
    curve = training_curve(log)
    (_, low), (_, high) = curve.train
    at = {float(text): y for y, text in curve.y_ticks}
    assert at[1.0] == pytest.approx(low, abs=0.1) and at[3.0] == pytest.approx(high, abs=0.1)
    assert curve.x_ticks[-1] == (WIDTH - RIGHT, "100")


def test_the_best_validation_loss_is_marked(tmp_path):
    log = tmp_path / "training.jsonl"
    write(log, [{"step": n, "loss": 2.0, "val_loss": loss} for n, loss in ((1, 3.0), (2, 2.5), (3, 2.8))])
    curve = training_curve(log)
    assert curve.best == (*curve.val[1], "2.500")


def test_damaged_lines_are_skipped(tmp_path):
    log = tmp_path / "training.jsonl"
    write(log, ["{half a li", "[]", '{"step": 1, "loss": NaN}', {"loss": 1.0}, {"step": 1, "loss": 2.0},
                {"step": 2, "loss": 1.0}])  # fmt: skip
    assert len(training_curve(log).train) == 2


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": 2.0}], ["nonsense"]])
def test_too_little_to_draw(tmp_path, rows):
    write(tmp_path / "training.jsonl", rows)
    assert training_curve(tmp_path / "training.jsonl") is None
    assert training_curve(tmp_path / "missing.jsonl") is None


def test_a_flat_loss_can_be_drawn(tmp_path):
    write(tmp_path / "training.jsonl", [{"step": n, "loss": 2.0} for n in (1, 2)])
    assert training_curve(tmp_path / "training.jsonl") is not None
