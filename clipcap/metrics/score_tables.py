"""BLEU, ROUGE-L and CIDEr-D of millions of captions, from raw text, in bounded memory.

The statements are those of :mod:`clipcap.metrics.coco`; captions come in Arrow batches, DuckDB keeps what does not fit
on disk, and Python holds a few numbers for each image and each word once.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.errors import DataError
from clipcap.metrics.coco import BLEU, CIDER, NGRAMS, ngram_macros, statement
from clipcap.metrics.ptb_tokenizer import tokenize_array
from clipcap.metrics.rouge import BestMatches
from clipcap.metrics.words import Vocabulary, repeats

Source: TypeAlias = pa.Table | pa.RecordBatchReader | Path | Sequence[Path]
"""Captions: the columns ``key`` and ``caption``, in Arrow or in Parquet files. A caption that is null is empty."""

_COLUMNS = ["key", "caption"]
_ROWS = 32_768
"""Captions in a batch."""
_NUMBERS = pa.list_(pa.int32())
_CAPTIONS_SCHEMA = pa.schema([("key", pa.string()), ("words", _NUMBERS), ("repeats", pa.bool_()), ("tokens", _NUMBERS)])


@dataclass(frozen=True)
class TableScores:
    """What ``score_tables`` found."""

    corpus: dict[str, float]
    """``bleu_1`` to ``bleu_4`` and ``rouge_l`` in 0..1, ``cider`` in 0..10."""
    images: int
    references: int
    """Of images with a candidate."""


def score_tables(
    candidates: Source,
    references: Source,
    per_image: Path | None = None,
    *,
    memory_limit: str = "2GiB",
    spill_dir: Path | None = None,
    threads: int | None = None,
    on_step: Callable[[str], None] | None = None,
) -> TableScores:
    """Scores one caption for each image.

    The values are the same to the last bit whatever the order of rows, the batches, the threads and the memory, and for
    BLEU and CIDEr-D those of :func:`clipcap.metrics.coco.ngram_metrics`.

    Args:
        candidates: one raw caption for each key.
        references: raw captions, one or more for each key; other keys are ignored.
        per_image: a Parquet file to write: ``key`` and a column for each metric, one row for each image.
        memory_limit: what DuckDB may use; the whole process needs about 1 GiB more.
        spill_dir: where a folder for what does not fit into memory is made and removed again; the system's temporary
            folder by default. A million images with five references each need about 21 GB.
        threads: DuckDB's; as many as there are cores by default.
        on_step: called with a few words as each step begins.

    Raises:
        DataError: a source lacks a column or has rows without key; there is no candidate; a key has two candidates; a
            candidate has no reference.
    """
    say = on_step or (lambda step: None)
    _check_columns("candidates", candidates)
    _check_columns("references", references)
    with tempfile.TemporaryDirectory(prefix="clipcap-metrics-", dir=spill_dir) as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit, "temp_directory": folder, "preserve_insertion_order": False,
            "threads": threads or os.cpu_count() or 1,
        }  # fmt: skip
        with duckdb.connect(":memory:", config=settings) as connection:
            vocabulary = Vocabulary()
            say("tokenize candidates")
            images = _read(connection, "candidate", candidates, vocabulary)
            say("tokenize references")
            count = _read(connection, "reference", references, vocabulary)
            _check_rows(connection, images)
            say("rouge_l")
            rouge = _rouge(connection, images)
            for name in (ngram_macros(vocabulary), *NGRAMS, *BLEU, *CIDER):
                say(name)
                connection.execute(statement(name))
            say("per image" if per_image else "corpus")
            values = connection.sql("from bleu_corpus").to_arrow_table().to_pylist()[0]
            values["rouge_l"] = math.fsum(rouge) / images
            values["cider"] = connection.sql("from cider_corpus").to_arrow_table()["value"][0].as_py()
            if per_image:
                _write(connection, rouge, per_image)
    return TableScores(values, images, count)


def _check_columns(what: str, source: Source) -> None:
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        found = [(what, source.schema)]
    else:
        found = [(f"{what}, {path}", pq.read_schema(path)) for path in _paths(source)]
    for where, schema in found:
        if missing := [column for column in _COLUMNS if column not in schema.names]:
            raise DataError(
                f"{where}: no column {' and no '.join(missing)} among {', '.join(schema.names)}; "
                "expected key (the image's) and caption"
            )


def _paths(source: Path | Sequence[Path]) -> Sequence[Path]:
    return [source] if isinstance(source, Path) else source


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    """Small batches of the two columns."""
    if isinstance(source, pa.Table):
        yield from source.select(_COLUMNS).to_batches(max_chunksize=_ROWS)
    elif isinstance(source, pa.RecordBatchReader):
        for batch in source:
            part = batch.select(_COLUMNS)
            yield from (part.slice(start, _ROWS) for start in range(0, len(part), _ROWS))
    else:
        for path in _paths(source):
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(_ROWS, columns=_COLUMNS)


def _read(connection: duckdb.DuckDBPyConnection, kind: str, source: Source, vocabulary: Vocabulary) -> int:
    """Makes the table of captions; how many it has."""
    batches = (_numbered(batch, vocabulary) for batch in _batches(source))
    connection.register(f"{kind}_captions", pa.RecordBatchReader.from_batches(_CAPTIONS_SCHEMA, batches))
    connection.execute(statement(f"00_{kind}s"))
    connection.unregister(f"{kind}_captions")
    return int(connection.sql(f'select count(*) from "{kind}s"').fetchall()[0][0])


def _numbered(batch: pa.RecordBatch, vocabulary: Vocabulary) -> pa.RecordBatch:
    texts = tokenize_array(batch["caption"])
    words, tokens = vocabulary.words_and_other_tokens(texts)
    columns = [batch["key"].cast(pa.string()), words, pa.array(repeats(words)), tokens]
    return pa.RecordBatch.from_arrays(columns, schema=_CAPTIONS_SCHEMA)


def _check_rows(connection: duckdb.DuckDBPyConnection, images: int) -> None:
    if not images:
        raise DataError("no candidates to score: expected at least one caption")
    complaints = {
        "key is null; expected the image's key in each row": "select image from candidates where key is null",
        "key has more than one candidate; expected one caption for each": (
            "select key from candidates group by key having count(*) > 1"
        ),
        "candidate has no reference; give it one, or leave it out": (
            'select key from candidates where image not in (select image from "references")'
        ),
    }
    for complaint, query in complaints.items():
        if rows := connection.sql(f"select key, count(*) over () from ({query}) as bad (key) limit 5").fetchall():
            shown = ", ".join(str(key) for key, _ in rows) + (", …" if rows[0][1] > len(rows) else "")
            raise DataError(f"{rows[0][1]} of {images} candidates ({shown}): {complaint}")


def _rouge(connection: duckdb.DuckDBPyConnection, images: int) -> np.ndarray:
    """(images) ROUGE-L."""
    connection.execute(statement("00_rouge_pairs"))
    best = BestMatches(images)
    for batch in connection.sql("from rouge_pairs").to_arrow_reader(_ROWS):
        rows = np.arange(len(batch))
        best.add(batch["image"].to_numpy(), batch["candidate"], rows, batch["reference"])
    return best.scores()


def _write(connection: duckdb.DuckDBPyConnection, rouge: np.ndarray, path: Path) -> None:
    connection.register("rouge_l_per_image", pa.table({"image": np.arange(len(rouge), dtype=np.int32), "value": rouge}))
    connection.execute(statement("13_per_image"))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        connection.sql("from per_image").write_parquet(str(aside))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
