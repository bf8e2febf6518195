"""BLEU and CIDEr-D: n-gram counts are aggregates, so both are DuckDB statements (``sql/metrics``).

Papineni et al. 2002 (BLEU) and Vedantam et al. 2015 (CIDEr), in the form of the COCO caption evaluation: the same
constants, clipping and length rules, so the values agree with published ones to the last few bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import duckdb
import pyarrow as pa

from clipcap.resources import resource

_NGRAMS = ("01_candidate_ngrams", "02_reference_ngrams")
_BLEU = ("03_bleu_counts", "04_bleu_per_image", "05_bleu_corpus")
_CIDER = ("06_cider_per_image", "07_cider_corpus")

# One thread sums in one order, so equal inputs give equal bits; the work is too small to gain from more.
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
def _statement(name: str) -> str:
    return (resource("sql") / "metrics" / f"{name}.sql").read_text(encoding="utf-8")


def ngram_metrics(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    bleu: bool = True,
    cider: bool = True,
) -> NgramMetrics:
    """BLEU-1..4 and CIDEr-D of tokenized captions.

    Args:
        candidates: key -> tokenized caption (tokens joined by spaces).
        references: key -> tokenized references, at least one for each key of ``candidates``; other keys are ignored.
        bleu: whether ``bleu_1`` to ``bleu_4`` are computed.
        cider: whether ``cider`` is computed; its document frequencies come from these references alone.

    Returns:
        metric -> (corpus value, {key: value}), and each image's counts for BLEU as ``counts``. BLEU lies in 0..1, and
        CIDEr-D in 0..10.
    """
    values = NgramMetrics()
    # A connection for each call: connections must not be shared between threads, and nothing is left behind.
    with duckdb.connect(":memory:", config=_SETTINGS) as connection:
        connection.register("candidates", _candidate_table(candidates))
        connection.register("references", _reference_table(candidates, references))
        for name in _NGRAMS + _BLEU * bleu + _CIDER * cider:
            connection.execute(_statement(name))
        if bleu:
            per_image: dict[int, dict[str, float]] = {n: {} for n in range(1, 5)}
            for key, n, value in connection.execute("select key, n, value from bleu_per_image").fetchall():
                per_image[n][key] = value
            values.counts = _counts(connection, candidates)
            for n, value in connection.execute("select n, value from bleu_corpus order by n").fetchall():
                values[f"bleu_{n}"] = value, {key: per_image[n][key] for key in candidates}
        if cider:
            scored = dict(connection.execute("select key, value from cider_per_image").fetchall())
            mean = connection.execute("select value from cider_corpus").fetchall()[0][0]
            values["cider"] = mean, {key: scored[key] for key in candidates}
    return values


def _counts(connection: duckdb.DuckDBPyConnection, candidates: Mapping[str, str]) -> pa.Table:
    columns = ", ".join(
        f"max({name}) filter (n = {n}) as {name}_{n}" for name in ("correct", "guessed") for n in range(1, 5)
    )
    rows = connection.sql(
        f"""
        select key, {columns}, any_value(candidate_length) as candidate_length,
            any_value(reference_length) as reference_length
        from bleu_counts group by key
        """
    ).to_arrow_table()
    place = {key: index for index, key in enumerate(rows["key"].to_pylist())}
    return rows.take([place[key] for key in candidates]).cast(COUNTS_SCHEMA)


def _candidate_table(candidates: Mapping[str, str]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(candidates, pa.string()),
            "tokens": pa.array([caption.split() for caption in candidates.values()], pa.list_(pa.string())),
        }
    )


def _reference_table(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> pa.Table:
    rows = [(key, ordinal, text.split()) for key in candidates for ordinal, text in enumerate(references[key])]
    keys, ordinals, tokens = zip(*rows, strict=True)
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "ordinal": pa.array(ordinals, pa.int32()),
            "tokens": pa.array(tokens, pa.list_(pa.string())),
        }
    )
