"""Scores candidate captions against references, from raw text, as the COCO caption evaluation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipcap.errors import ConfigError, DataError
from clipcap.metrics.coco import ngram_metrics
from clipcap.metrics.diversity import DIVERSITY
from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.metrics.rouge import rouge_l

DEFAULT = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
"""What is reported when nothing is asked for."""

KNOWN = (*DEFAULT, *DIVERSITY)
"""Every metric name that ``score`` takes."""


@dataclass(frozen=True)
class Scores:
    """What ``score`` found; fractions as the reference implementation gives them, never percentages."""

    corpus: dict[str, float]
    """metric -> value over the whole set."""
    per_image: dict[str, dict[str, float]]
    """metric -> key -> value; only metrics that exist for one image (BLEU, ROUGE-L, CIDEr)."""


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
        metrics: names from ``KNOWN``, in the order wanted in the result.

    Returns:
        Scores with the asked metrics. BLEU and ROUGE-L lie in 0..1, CIDEr in 0..10.

    Raises:
        ConfigError: a metric name that is not known.
        DataError: there is no candidate, or a candidate has no reference.
    """
    unknown = [name for name in metrics if name not in KNOWN]
    if unknown:
        raise ConfigError(f"unknown metric {', '.join(map(repr, unknown))}: known are {', '.join(KNOWN)}")
    _check(candidates, references)

    tokenized = dict(zip(candidates, tokenize(list(candidates.values())), strict=True))
    values: dict[str, tuple[float, dict[str, float]]] = {}
    if any(name in DEFAULT for name in metrics):
        tokenized_references = _tokenize_references(candidates, references)
        bleu, cider = any(name.startswith("bleu_") for name in metrics), "cider" in metrics
        if bleu or cider:
            values.update(ngram_metrics(tokenized, tokenized_references, bleu=bleu, cider=cider))
        if "rouge_l" in metrics:
            rouge = {key: rouge_l(caption, tokenized_references[key]) for key, caption in tokenized.items()}
            values["rouge_l"] = sum(rouge.values()) / len(rouge), rouge
    captions = list(tokenized.values())
    return Scores(
        corpus={name: values[name][0] if name in values else DIVERSITY[name](captions) for name in metrics},
        per_image={name: values[name][1] for name in metrics if name in values},
    )


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
    return {key: [next(texts) for _ in references[key]] for key in candidates}
