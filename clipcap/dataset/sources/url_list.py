"""Lists of URLs: Parquet, CSV, TSV (Conceptual Captions has no header), JSON lines; the text ones plain or gzipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipcap.dataset.sources.rows import PROVENANCE_COLUMNS, SourceRow, captions_of, provenance_of, text_of, whole
from clipcap.errors import SourceError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
_WANTED = frozenset(("url", "caption", "captions", "split")) | PROVENANCE_COLUMNS
_TEXTS = _WANTED - {"captions"}


def read_url_list(path: Path) -> Iterator[SourceRow]:
    """Rows of a list with a column ``url``, and captions, splits, licences and sources where it has columns of them.

    Raises:
        SourceError: it cannot be read, or has no such column.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "jsonl":
            yield from _json_lines(path)
            return
        table = pq.read_table(path) if kind == "parquet" else _read_text(path, kind)
        names = table.column_names
        wanted = [name for name in names if name in _WANTED]
        if "url" in wanted and len(wanted) == len(set(wanted)):
            table = table.select(wanted)
            table.validate(full=True)  # texts that are no UTF-8, lengths that a damaged file only claims
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as {kind}: {str(error).splitlines()[0]}") from None
    if "url" not in wanted or len(wanted) != len(set(wanted)):
        found = ", ".join(name if name.isprintable() else repr(name) for name in names[:20])
        raise SourceError(f"{path} has the columns {found}; expected one named 'url', and none of a name twice")
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield SourceRow(text_of(row["url"]), captions_of(row), text_of(row.get("split")), **provenance_of(row))


def _read_text(path: Path, kind: str) -> pa.Table:
    names = _conceptual_columns(path) if kind == "tsv" else None
    return pa_csv.read_csv(
        pa.input_stream(str(path), compression="detect"),
        read_options=pa_csv.ReadOptions(column_names=names),
        parse_options=pa_csv.ParseOptions(
            delimiter="\t" if kind == "tsv" else ",",
            quote_char=False if names else '"',  # captions of Conceptual Captions hold quotes that are only quotes
            newlines_in_values=names is None,
        ),
        convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string())),
    )


def _conceptual_columns(path: Path) -> list[str] | None:
    """Names for two columns without a header, the URL first (12M) or last (3M); None where there is a header."""
    with pa.input_stream(str(path), compression="detect") as stream:
        start: bytes = stream.read(1 << 16)
    cells = start.partition(b"\n")[0].decode("utf-8", "replace").strip("\r\ufeff").split("\t")
    is_url = [cell.strip().startswith(("http://", "https://")) for cell in cells]
    if len(cells) != 2 or sum(is_url) != 1:
        return None
    return ["url", "caption"] if is_url[0] else ["caption", "url"]


def _json_lines(path: Path) -> Iterator[SourceRow]:
    """One object in a line; a line that is none is a row with its reason."""
    found = False
    with pa.input_stream(str(path), compression="detect") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                yield SourceRow("", problem=f"line {number} is not a JSON object")
                continue
            found |= "url" in record
            split = whole(text_of(record.get("split")))
            yield SourceRow(whole(text_of(record.get("url"))), captions_of(record), split, **provenance_of(record))
    if not found:
        raise SourceError(f"{path} has no line with a 'url': expected one JSON object with a url in each line")


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest
