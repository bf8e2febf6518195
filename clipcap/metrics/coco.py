"""BLEU and CIDEr-D: n-gram counts are aggregates, so both are DuckDB statements (``sql/metrics``).

Papineni et al. 2002 (BLEU) and Vedantam et al. 2015 (CIDEr), in the form of the COCO caption evaluation: the same
constants, clipping and length rules, so the values agree with published ones to the last few bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import duckdb
import numpy as np
import pyarrow as pa

from clipcap.metrics.rouge import BestMatches
from clipcap.metrics.words import Vocabulary, repeats
from clipcap.resources import resource

NGRAMS = ("01_candidate_ngrams", "02_reference_ngrams", "03_matches")
BLEU = ("04_bleu_counts", "05_bleu_per_image", "06_bleu_corpus")
CIDER = (
    "07_common_ngrams",
    "08_candidate_norms",
    "09_reference_norms",
    "10_similarities",
    "11_cider_per_image",
    "12_cider_corpus",
)
"""The statements, in the order in which they run."""

# The work is too small to gain from more, and no bit of any value would be another.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {"threads": 1}

Value = tuple[float, dict[str, float]]
"""A metric over the whole set, and for each image."""

COUNTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        *((f"correct_{n}", pa.int64()) for n in range(1, 5)),
        *((f"guessed_{n}", pa.int64()) for n in range(1, 5)),
        ("candidate_length", pa.int64()),
        ("reference_length", pa.int64()),
    ]
)
"""What BLEU is made of, one row for each image: for n = 1 to 4 the n-grams guessed and how many of them are correct
(clipped), the candidate's length and that of the closest reference, in tokens. BLEU of any sample of images follows
from the sums of these columns."""


class NgramMetrics(dict[str, Value]):
    """metric -> (corpus value, {key: value}), and the counts behind BLEU."""

    counts: pa.Table | None = None
    """``COUNTS_SCHEMA``, in the order of the candidates; None where BLEU was not asked for."""


@lru_cache
def statement(name: str) -> str:
    return (resource("sql") / "metrics" / f"{name}.sql").read_text(encoding="utf-8")


def ngram_macros(vocabulary: Vocabulary) -> str:
    """The statement that comes before all others: how words make n-grams."""
    return "00_ngrams_narrow" if len(vocabulary) < 2**15 else "00_ngrams_wide"


def ngram_metrics(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    bleu: bool = True,
    cider: bool = True,
    rouge_l: bool = False,
) -> NgramMetrics:
    """BLEU-1..4 and CIDEr-D of tokenized captions; on demand ROUGE-L, since it reads the same numbers of words.

    Args:
        candidates: key -> tokenized caption (tokens joined by spaces).
        references: key -> tokenized references, at least one for each key of ``candidates``; other keys are ignored.
        bleu: whether ``bleu_1`` to ``bleu_4`` are computed.
        cider: whether ``cider`` is computed; its document frequencies come from these references alone.
        rouge_l: whether ``rouge_l`` is computed (:mod:`clipcap.metrics.rouge`).

    Returns:
        metric -> (corpus value, {key: value}), and each image's counts for BLEU as ``counts``. BLEU lies in 0..1, and
        CIDEr-D in 0..10.
    """
    values = NgramMetrics()
    keys, images = list(candidates), np.arange(len(candidates), dtype=np.int32)
    owners = images.repeat([len(references[key]) for key in keys])
    texts = [*candidates.values(), *(text for key in keys for text in references[key])]
    vocabulary = Vocabulary()
    words, tokens = vocabulary.both(pa.array(texts, pa.string()))
    if rouge_l:
        best = BestMatches(len(keys))
        best.add(images, tokens[: len(keys)], owners, tokens[len(keys) :])
        each = best.scores().tolist()
        values["rouge_l"] = sum(each) / len(each), dict(zip(keys, each, strict=True))
    if not bleu and not cider:
        return values
    numbers = np.arange(len(owners), dtype=np.int32)
    # A connection for each call: connections must not be shared between threads, and nothing is left behind.
    with duckdb.connect(":memory:", config=_SETTINGS) as connection:
        connection.register("candidates", pa.table({"image": images, "words": words[: len(keys)]}))
        theirs = words[len(keys) :]
        connection.register(
            "references",
            pa.table({"image": owners, "text": numbers, "words": theirs, "repeats": repeats(theirs)}),
        )
        for name in (ngram_macros(vocabulary), *NGRAMS) + BLEU * bleu + CIDER * cider:
            connection.execute(statement(name))
        if bleu:
            corpus, per_image = (
                connection.sql(f"select bleu_1, bleu_2, bleu_3, bleu_4 from {table}").to_arrow_table()
                for table in ("bleu_corpus", "(from bleu_per_image order by image)")
            )
            for name in corpus.column_names:
                values[name] = corpus[name][0].as_py(), _by_key(keys, per_image[name])
            counts = connection.sql("select * exclude (image) from bleu_counts order by image").to_arrow_table()
            values.counts = counts.add_column(0, "key", pa.array(keys, pa.string())).cast(COUNTS_SCHEMA)
        if cider:
            mean = connection.sql("select value from cider_corpus").to_arrow_table()["value"][0].as_py()
            value = connection.sql("select value from cider_per_image order by image").to_arrow_table()["value"]
            values["cider"] = mean, _by_key(keys, value)
    return values


def _by_key(keys: list[str], column: pa.ChunkedArray) -> dict[str, float]:
    return dict(zip(keys, column.to_pylist(), strict=True))
