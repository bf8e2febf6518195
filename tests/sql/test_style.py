"""What makes sql/ one a person can live in: every file opens with its grain, everything has a comment, the docs run."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_lake import BATCH, ENCODER, NEW, OLD, SHARDS, build, key

from clipcap.metrics.evaluate import KNOWN
from clipcap.metrics.java import JAVA_METRICS
from clipcap.report.summary import METRICS
from clipcap.resources import resource
from clipcap.warehouse import connect, ensure_catalog, query
from clipcap.warehouse.catalog import statements

FILES = sorted(resource("sql").rglob("*.sql"))
DOCS = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
TABLE_MACROS = """
    select function_name from duckdb_functions() where database_name = 'catalog' and function_type = 'table_macro'
"""
EXAMPLES = re.findall(r"^```sql\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_file_opens_with_its_grain(file: Path):
    text = file.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    grain = r"-- (Grain: )?one row\b"
    if file.parent.name == "macros" or "temp macro" in text:  # one in expressions says what it takes → what it gives
        grain += r"|-- .+ → .+"
    if file.name.startswith("template_"):
        grain = "-- template: "
    assert re.match(grain, first), first


@pytest.mark.parametrize("metric", [*KNOWN, *JAVA_METRICS])
def test_a_metric_has_its_column_and_its_words(metric: str):
    column = f"(where metric = '{metric}') as {metric},"
    assert column in (resource("sql") / "views" / "110_metrics_by_model.sql").read_text(encoding="utf-8")
    assert metric in METRICS, "its name and meaning for the report"


@pytest.mark.parametrize("folder", ["checks", "macros", "schema", "views"])
def test_files_have_numbers_of_their_own(folder: str):
    numbers = [file.name.partition("_")[0] for file in statements(folder)]
    assert numbers == sorted(set(numbers)), folder
    others = [f.name for f in (resource("sql") / folder).glob("*.sql") if not f.name[0].isdigit()]
    assert all(name.startswith("template_") for name in others)


def test_keywords_are_lower_case():
    """Comments and strings apart, nothing shouts."""
    for file in FILES:
        code = re.sub(r"--.*|'(?:[^']|'')*'", "", file.read_text(encoding="utf-8"))
        loud = re.findall(r"\b(SELECT|FROM|WHERE|JOIN|GROUP|ORDER|CREATE|WITH|UNION|AS|AND|NULL)\b", code)
        assert loud == [], file.name


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    tiny = build(tmp_path_factory.mktemp("style") / "lake")
    path = tiny.lake.text_embeddings(ENCODER, BATCH, SHARDS[0])
    schema = pa.schema([("sample_key", pa.string()), ("caption_number", pa.int32()), ("caption", pa.string()),
                        ("clip_embedding", pa.list_(pa.float16(), 4))])  # fmt: skip
    rows = [
        {"sample_key": key(1), "caption_number": 0, "caption": "Reference one of 1.", "clip_embedding": [1, 0, 0, 0]}
    ]
    tiny.entry(
        f"embed_text/{ENCODER}/{BATCH}/{SHARDS[0]}", {"text_embeddings": tiny.table(path, schema, rows)}, {},
        batch_id=BATCH, shard_id=SHARDS[0], encoder_id=ENCODER,
    )  # fmt: skip
    for shard in SHARDS:
        for row in tiny.rows(f"{NEW}/20260101T000000Z-aaaaaa/{shard}"):
            row["clip_score"] = 0.5
    tiny.commit()
    ensure_catalog(tiny.lake)
    return tiny.lake


@pytest.mark.parametrize(
    "things",
    [  # of one database, so that nothing of DuckDB's own is asked
        "select table_name as name, comment from duckdb_tables() where database_name = 'catalog'",
        "select view_name as name, comment from duckdb_views() where database_name = 'catalog' and not internal",
        "select table_name || '.' || column_name, comment from duckdb_columns() where database_name = 'catalog'",
        "select function_name as name, comment from duckdb_functions() where database_name = 'catalog'",
    ],
    ids=["tables", "views", "columns", "macros"],
)
def test_everything_has_a_comment_that_is_a_sentence(lake, things: str):
    with connect(lake) as connection:
        found = connection.execute(things).fetchall()
    assert found
    assert [name for name, comment in found if not comment or not comment.endswith(".")] == []


def test_the_comment_of_a_macro_names_its_columns(lake):
    """DuckDB keeps no comment for the columns of a macro, so the macro's own tells them."""
    with connect(lake) as connection:
        facts = TABLE_MACROS.replace("function_name", "function_name, parameters, comment")
        for name, parameters, comment in connection.execute(facts).fetchall():
            values = ["1" if p == "k" else "[1]" if p == "vector" else "'x'" for p in parameters]
            columns = [row[0] for row in connection.execute(f"describe from {name}({', '.join(values)})").fetchall()]
            assert [column for column in columns if column not in re.findall(r"\w+", comment)] == [], name


@pytest.mark.parametrize("statement", EXAMPLES, ids=lambda text: text.split("\n")[0][:60])
def test_the_examples_of_the_docs_run(lake, statement: str):
    named = statement.replace("sample-mlp-00000000", OLD).replace("sample-mlp-11111111", NEW)
    rows = query(lake, named).num_rows
    empty = ("comparisons", "ilike '%dog%'")  # what the tiny lake has none of
    assert rows > 0 or any(word in statement for word in empty)


def test_the_docs_name_every_macro_and_check(lake):
    text = DOCS.read_text(encoding="utf-8")
    checks = [file.stem.partition("_")[2] for file in statements("checks")]
    with connect(lake) as connection:
        macros = [name for (name,) in connection.execute(TABLE_MACROS).fetchall()]
    assert [name for name in (*checks, *macros) if name not in text] == []
    assert len(EXAMPLES) > 12
