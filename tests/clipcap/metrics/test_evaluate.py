"""What ``score`` takes and refuses; diversity; the cost of importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clipcap.errors import ConfigError, DataError
from clipcap.metrics.evaluate import DEFAULT, KNOWN, score

CANDIDATES = {"1": "A red ball.", "2": "a red ball", "3": "A dog!"}
REFERENCES = {"1": ["The red ball."], "2": ["A ball", "a red thing"], "3": ["A dog."], "4": ["Not scored."]}


def test_default_metrics_come_for_the_set_and_for_each_image():
    scores = score(CANDIDATES, REFERENCES)
    assert tuple(scores.corpus) == tuple(scores.per_image) == DEFAULT
    assert all(list(values) == ["1", "2", "3"] for values in scores.per_image.values())
    assert scores.per_image["rouge_l"]["3"] == 1
    assert scores.corpus["rouge_l"] == pytest.approx(sum(scores.per_image["rouge_l"].values()) / 3)


@pytest.mark.parametrize("metric", KNOWN)
def test_each_metric_alone_equals_the_same_among_all(metric):
    alone, every = score(CANDIDATES, REFERENCES, [metric]), score(CANDIDATES, REFERENCES, KNOWN)
    assert alone.corpus == {metric: every.corpus[metric]}
    assert alone.per_image == {name: values for name, values in every.per_image.items() if name == metric}


def test_diversity_counts_tokens_of_the_candidates():
    scores = score(CANDIDATES, REFERENCES, ["distinct_1", "distinct_2", "vocabulary", "unique_share", "mean_length"])
    # "a red ball" twice and "a dog": 8 tokens, 4 different; 5 bigrams, 3 different.
    assert scores.corpus == {
        "distinct_1": 4 / 8,
        "distinct_2": 3 / 5,
        "vocabulary": 4.0,
        "unique_share": 2 / 3,
        "mean_length": 8 / 3,
    }
    assert scores.per_image == {}


def test_a_set_of_empty_captions_scores_zero_without_an_error():
    scores = score({"1": "", "2": "."}, {"1": ["A dog."], "2": ["A cat."]}, KNOWN)
    assert scores.corpus == pytest.approx(dict.fromkeys(KNOWN, 0.0) | {"unique_share": 0.5}, abs=1e-6)


def test_references_that_are_all_empty_score_without_an_error():
    assert score({"1": "A dog."}, {"1": ["..."]}).corpus["cider"] == 0


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'blue_4'.*bleu_1.*mean_length"):
        score(CANDIDATES, REFERENCES, ["blue_4"])


def test_candidates_without_references_are_named_and_counted():
    candidates = CANDIDATES | {f"x{i}": "a" for i in range(7)}
    with pytest.raises(DataError, match=r"7 of 10 candidates have no reference \(x0, x1, x2, x3, x4, …\).*'1'"):
        score(candidates, REFERENCES)
    with pytest.raises(DataError, match="1 of 1"):
        score({"1": "a"}, {"1": []})
    with pytest.raises(DataError, match="no references"):
        score({"1": "a"}, {})


def test_no_candidates_is_an_error():
    with pytest.raises(DataError, match="no candidates"):
        score({}, REFERENCES)


def test_importing_the_metrics_imports_no_torch():
    code = "import sys, clipcap.metrics.evaluate; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
