"""Scores candidate captions against references, from raw text, as the COCO caption evaluation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from clipcap.errors import ConfigError, DataError
from clipcap.metrics.bootstrap import CONFIDENCE, RESAMPLES, Interval, Sample, intervals
from clipcap.metrics.coco import ngram_metrics
from clipcap.metrics.corpus_sums import FROM_SUMS, meteor
from clipcap.metrics.diversity import DIVERSITY
from clipcap.metrics.java import JAVA_METRICS, check_java_metrics, meteor_statistics, spice
from clipcap.metrics.ptb_tokenizer import tokenize

DEFAULT = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
"""What is reported when nothing is asked for."""

KNOWN = (*DEFAULT, *DIVERSITY)
"""What ``score`` computes by itself; it takes ``JAVA_METRICS``, too, where Java and their package are installed."""


@dataclass(frozen=True)
class Scores:
    """What ``score`` found; fractions as the reference implementation gives them, never percentages."""

    corpus: dict[str, float]
    """metric -> value over the whole set."""
    per_image: dict[str, dict[str, float]]
    """metric -> key -> value; only metrics that exist for one image (BLEU, ROUGE-L, CIDEr, METEOR, SPICE …)."""
    counts: pa.Table | None = None
    """What BLEU and METEOR are made of, where they were asked for: ``key`` and the columns of ``FROM_SUMS``."""

    def plus(self, per_image: Mapping[str, Mapping[str, float]]) -> Scores:
        """The same with more metrics that are means over the images: CLIPScore, the share of novel captions."""
        means = {name: sum(values.values()) / len(values) for name, values in per_image.items()}
        added = {name: dict(values) for name, values in per_image.items()}
        return Scores(self.corpus | means, self.per_image | added, self.counts)

    def intervals(
        self, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
    ) -> dict[str, Interval]:
        """Bootstrap intervals over the images, of those metrics that have one; see :mod:`clipcap.metrics.bootstrap`."""
        found = intervals(Sample.of(self.per_image, self.counts), resamples, confidence, seed)
        return {name: found[name] for name in self.corpus if name in found}


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = DEFAULT,
) -> Scores:
    """Scores one caption for each image.

    Args:
        candidates: key -> raw caption; may be an empty string, which scores (nearly) zero.
        references: key -> raw reference captions. Keys without a candidate are ignored: the images scored are those of
            the candidates, and CIDEr's document frequencies count these images only.
        metrics: names from ``KNOWN`` or ``JAVA_METRICS``, in the order wanted in the result.

    Returns:
        Scores with the asked metrics. BLEU and ROUGE-L lie in 0..1, CIDEr in 0..10.

    Raises:
        ConfigError: a metric name that is not known, or what METEOR and SPICE need is not installed.
        DataError: there is no candidate, or a candidate has no reference.
    """
    unknown = [name for name in metrics if name not in (*KNOWN, *JAVA_METRICS)]
    if unknown:
        known = ", ".join((*KNOWN, *JAVA_METRICS))
        raise ConfigError(f"unknown metric {', '.join(map(repr, unknown))}: known are {known}")
    _check(candidates, references)
    check_java_metrics(metrics)

    tokenized = dict(zip(candidates, tokenize(list(candidates.values())), strict=True))
    values: dict[str, tuple[float, dict[str, float]]] = {}
    counts: pa.Table | None = None
    if any(name not in DIVERSITY for name in metrics):
        tokenized_references = _tokenize_references(candidates, references)
        bleu, cider = any(name.startswith("bleu_") for name in metrics), "cider" in metrics
        found = ngram_metrics(tokenized, tokenized_references, bleu=bleu, cider=cider, rouge_l="rouge_l" in metrics)
        values.update(found)
        counts = found.counts
        if "meteor" in metrics:
            values["meteor"], counts = _meteor(tokenized, tokenized_references, counts)
        if "spice" in metrics:
            each = spice(tokenized, tokenized_references)
            values["spice"] = sum(each.values()) / len(each), each
    captions = list(tokenized.values())
    return Scores(
        corpus={name: values[name][0] if name in values else DIVERSITY[name](captions) for name in metrics},
        per_image={name: values[name][1] for name in metrics if name in values},
        counts=counts,
    )


def _meteor(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], counts: pa.Table | None
) -> tuple[tuple[float, dict[str, float]], pa.Table]:
    """METEOR of the corpus and of each image, and the counts with its own beside them."""
    statistics = meteor_statistics(candidates, references)
    table = pa.table({"key": pa.array(candidates, pa.string())}) if counts is None else counts
    for name, column in zip(FROM_SUMS["meteor"].columns, statistics.T, strict=True):
        table = table.append_column(name, pa.array(column))
    each = dict(zip(candidates, meteor(statistics)[0].tolist(), strict=True))
    return (float(meteor(statistics.sum(axis=0))[0]), each), table


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not candidates:
        raise DataError("no candidates to score: expected at least one caption")
    missing = [key for key in candidates if not references.get(key)]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        known = (
            f"the references' keys look like {next(iter(references))!r}" if references else "there are no references"
        )
        raise DataError(
            f"{len(missing)} of {len(candidates)} candidates have no reference ({shown}); {known}: "
            "give each a reference, or leave them out of the candidates"
        )


def _tokenize_references(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The references of the candidates' images, tokenized in one call."""
    texts = iter(tokenize([text for key in candidates for text in references[key]]))
    return {key: list(islice(texts, len(references[key]))) for key in candidates}
