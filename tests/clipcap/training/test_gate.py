"""The gate against a second statement of its rule, against bad evidence, and against what chance would promote."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clipcap.config import GateConfig
from clipcap.metrics.bootstrap import Sample, differences
from clipcap.training.gate import judge

LIMITS = GateConfig(primary="cider", min_gain=0.01, guards=["bleu_4", "rouge_l"], margin=0.02, min_images=100)
IMAGES = 500


def row(metric: str, baseline: float, low: float, high: float, **other: Any) -> dict[str, Any]:
    difference = (low + high) / 2
    return {
        "candidate_model_id": "new", "baseline_model_id": "old", "metric": metric,
        "candidate_value": baseline + difference, "baseline_value": baseline, "difference": difference,
        "low": low, "high": high, "images": IMAGES, **other,
    }  # fmt: skip


def good() -> list[dict[str, Any]]:
    return [row("cider", 0.8, 0.02, 0.06), row("bleu_4", 0.3, -0.005, 0.01), row("rouge_l", 0.5, -0.009, 0.02),
            row("distinct_1", 0.1, -1.0, 1.0)]  # fmt: skip


def test_a_better_model_is_promoted_and_its_reason_has_the_figures():
    ruling = judge(good(), LIMITS, IMAGES)
    assert ruling.is_promoted and ruling.verdict == "promoted"
    assert "cider 0.8000 → 0.8400: the difference's interval [+0.0200, +0.0600] lies above 0.01" in ruling.reason
    assert "bleu_4" in ruling.reason and "-0.0060" in ruling.reason  # 2 % of 0.3


def test_it_promotes_exactly_where_every_interval_lies_above_its_limit():
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(3_000):
        gain, margin = random.choice([0.0, 0.01, 0.05]), random.choice([0.0, 0.02, 0.5])
        limits = LIMITS.model_copy(update={"min_gain": float(gain), "margin": float(margin)})
        rows = []
        for metric in ("cider", "bleu_4", "rouge_l"):
            low = float(random.normal(0.01, 0.03))
            rows.append(row(metric, float(random.uniform(0, 1)), low, low + float(random.exponential(0.05))))
        random.shuffle(rows)
        by_name = {r["metric"]: r for r in rows}
        expected = by_name["cider"]["low"] > gain and all(
            by_name[g]["low"] >= -(margin * by_name[g]["baseline_value"]) for g in ("bleu_4", "rouge_l")
        )
        ruling = judge(rows, limits, IMAGES)
        assert ruling.is_promoted == expected
        seen.add(ruling.is_promoted)
        # What makes the evidence weaker or the rule harder promotes nothing that was refused.
        weaker = [{**r, "low": r["low"] - 0.01} for r in rows]
        harder = limits.model_copy(update={"min_gain": float(gain) + 0.01, "margin": float(margin) / 2})
        assert judge(weaker, limits, IMAGES).is_promoted <= expected
        assert judge(rows, harder, IMAGES).is_promoted <= expected
        if not expected:
            assert all("not lie above" in reason for reason in ruling.reasons)
    assert seen == {True, False}


def without(name: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [r for r in rows if r["metric"] != name]


def changed(name: str, **fields: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**r, **fields} if r["metric"] == name else r for r in rows]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("cider"), "cider was not compared"),
        (without("rouge_l"), "rouge_l was not compared"),
        (lambda rows: [], "cider was not compared"),
        (lambda rows: [*rows, rows[1]], "bleu_4 was compared twice"),
        (changed("cider", low=math.nan), "cider has no difference with an interval"),
        (changed("cider", low=None, high=None), "cider has no difference with an interval"),
        (changed("bleu_4", baseline_value=math.nan), "bleu_4 has no difference"),
        (changed("cider", high=math.inf), "cider has no difference"),
        (changed("cider", images=499), "cider was compared on 499 images of the 500 that are frozen"),
        (changed("cider", candidate_model_id="other"), "2 pairs of models"),
        (changed("cider", low=0.01), "not lie above 0.01"),
        (changed("rouge_l", low=-0.0101), "not lie above -0.0100"),
    ],
)
def test_what_is_missing_or_no_number_keeps_the_candidate_out(change: Any, told: str):
    ruling = judge(change(good()), LIMITS, IMAGES)
    assert not ruling.is_promoted and told in ruling.reason


def test_too_few_images_decide_nothing_however_good_they_look():
    rows = [{**r, "images": 99} for r in good()]
    ruling = judge(rows, LIMITS, 99)
    assert not ruling.is_promoted and "has 99 images, and gate.min_images asks for 100" in ruling.reason
    assert judge([{**r, "images": 100} for r in good()], LIMITS, 100).is_promoted


def test_a_guard_that_is_nothing_for_both_passes_and_no_guards_are_possible():
    rows = good()
    rows[1] = row("bleu_4", 0.0, 0.0, 0.0)
    assert judge(rows, LIMITS, IMAGES).is_promoted
    assert judge(rows[:1], LIMITS.model_copy(update={"guards": []}), IMAGES).is_promoted


def promoted_share(shift: float, trials: int = 400, images: int = 150, seed: int = 0) -> float:
    """Of candidates whose true scores differ by ``shift`` standard errors of the difference, with the real bootstrap.

    Scores of one image are alike under both models, as they are in life: correlation 0.7, and skewed as CIDEr is.
    """
    random = np.random.default_rng(seed)
    limits = GateConfig(primary="cider", guards=["rouge_l"], margin=0.02, min_images=100)
    count = 0
    for trial in range(trials):
        scores: dict[str, dict[str, np.ndarray]] = {"old": {}, "new": {}}
        for metric, level in (("cider", 0.8), ("rouge_l", 0.5)):
            common = random.gamma(2.0, level / 2, images)
            old, new = (0.7 * common + 0.3 * random.gamma(2.0, level / 2, images) for _ in range(2))
            error = np.std(new - old) / np.sqrt(images)
            scores["old"][metric], scores["new"][metric] = old, new + shift * error
        keys = [f"{n:04d}" for n in range(images)]
        samples = {name: Sample(keys, values, {}) for name, values in scores.items()}
        found = differences(samples["new"], samples["old"], resamples=200, seed=trial)
        rows = []
        for metric in ("cider", "rouge_l"):
            old, new = float(scores["old"][metric].mean()), float(scores["new"][metric].mean())
            interval = found[metric].interval
            assert interval is not None
            rows.append(row(metric, old, *interval, candidate_value=new, difference=new - old, images=images))
        count += judge(rows, limits, images).is_promoted
    return count / trials


def test_chance_promotes_few_equal_models_and_no_worse_ones():
    assert promoted_share(-2.0) == 0.0
    assert promoted_share(0.0) <= 0.05  # a one-sided 97.5 % bound, and the guard beside it: 0.025 at the most, ± noise
    assert promoted_share(+6.0) >= 0.9
