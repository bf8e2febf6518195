"""`clipcap sql`, `search` and `checks` as an analyst meets them: where a statement comes from and what is printed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcap.storage.lake import Lake
from clipcap.warehouse import query
from flows import rows

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tiny) -> Path:
    tiny.commit()
    return tiny.lake.root


@pytest.mark.parametrize("way", ["argument", "pipe", "dash", "file"])
def test_a_statement_comes_from_wherever(lake: Path, clipcap: Cli, tmp_path: Path, way: str) -> None:
    statement = "select count(*) as n  -- of all models\nfrom captions;\n"
    file = tmp_path / "question.sql"
    file.write_text(statement)
    given = {"argument": [statement], "pipe": [], "dash": ["-"], "file": ["--file", file]}[way]
    stdin = statement if way in ("pipe", "dash") else ""
    code, out, _ = clipcap("sql", *given, "--data-dir", lake, "--json", stdin=stdin)
    assert (code, json.loads(out)) == (0, [{"n": 8}])


def test_nothing_at_all_lists_views_and_macros(lake: Path, clipcap: Cli) -> None:
    code, out, _ = clipcap("sql", "--data-dir", lake, stdin="")
    assert code == 0 and "latest_captions" in out and "similar_to(sample_key, k := 10, encoder := '')" in out


def test_a_file_that_is_not_there_or_with_a_statement_beside_it(lake: Path, clipcap: Cli, tmp_path: Path) -> None:
    code, _, err = clipcap("sql", "--file", tmp_path / "gone.sql", "--data-dir", lake)
    assert code == 1 and "gone.sql cannot be read: No such file" in err
    assert clipcap("sql", "select 1", "--file", tmp_path / "gone.sql", "--data-dir", lake)[0] == 2


@pytest.mark.parametrize(
    "options",
    [("--csv", "--json"), ("--spreadsheet", "--json"), ("--list", "--file", "q.sql"), ("--list", "--as-of", "run")],
)
def test_options_that_contradict_each_other_are_refused(clipcap: Cli, options: tuple[str, ...]) -> None:
    code, out, err = clipcap("sql", *options)
    named = [option for option in options if option.startswith("--")]
    assert (code, out) == (2, "") and all(name in err for name in named) and err.count("\n") == 1


def test_the_list_as_json_has_columns_and_parameters(lake: Path, clipcap: Cli) -> None:
    listed = json.loads(clipcap("sql", "--list", "--json", "--data-dir", lake)[1])
    views = {row["view"]: row for row in listed if row["view"]}
    macros = {row["macro"]: row for row in listed if row["macro"]}
    assert {"name", "type", "comment"} == set(views["captions"]["columns"][0])
    assert macros["nearest_to"]["parameters"] == ["vector", "k", "encoder"] and macros["nearest_to"]["comment"]


def test_the_columns_of_one_view(lake: Path, clipcap: Cli) -> None:
    out = clipcap("sql", "captions", "--list", "--data-dir", lake)[1]
    assert "clip_score" in out and "CLIPScore" in out
    code, _, err = clipcap("sql", "nothing", "--list", "--data-dir", lake)
    assert code == 1 and "latest_captions" in err


def test_a_vector_and_a_time_are_short_in_a_table_and_whole_in_json_and_csv(lake: Path, clipcap: Cli) -> None:
    statement = (
        "select list_transform(range(512), lambda n: n / 7) as vector, timestamptz '2026-01-02 03:04:05.678+00' as at, "
        "['a cat', 'a dog'] as captions, 0.1::float as x, 5::hugeint as n, 'nan'::double as nothing, null as empty"
    )
    out = clipcap("sql", statement, "--data-dir", lake)[1]
    assert "[0.0000, 0.1429, 0.2857, … 512 numbers]" in out and "2026-01-02 03:04:05 " in out and len(out) < 2_000
    [row] = json.loads(clipcap("sql", statement, "--data-dir", lake, "--json")[1])
    assert len(row["vector"]) == 512 and row["at"] == "2026-01-02T03:04:05.678000+00:00"
    assert (row["captions"], row["n"], row["nothing"], row["empty"]) == (["a cat", "a dog"], 5, None, None)
    [cells] = csv.DictReader(io.StringIO(clipcap("sql", statement, "--data-dir", lake, "--csv")[1]))
    assert len(json.loads(cells["vector"])) == 512 and json.loads(cells["captions"]) == ["a cat", "a dog"]
    assert (cells["at"], cells["n"], cells["empty"]) == ("2026-01-02T03:04:05.678000+00:00", "5", "")


def test_columns_of_the_same_name_are_all_there(lake: Path, clipcap: Cli) -> None:
    statement = "select 1 as x, 2 as x, 3 as x"
    assert json.loads(clipcap("sql", statement, "--data-dir", lake, "--json")[1]) == [{"x": 1, "x_1": 2, "x_2": 3}]
    assert clipcap("sql", statement, "--data-dir", lake, "--csv")[1] == "x,x_1,x_2\n1,2,3\n"


def test_no_rows_are_an_empty_array_and_a_header(lake: Path, clipcap: Cli) -> None:
    statement = "select caption, run_id from captions where false"
    assert json.loads(clipcap("sql", statement, "--data-dir", lake, "--json")[1]) == []
    assert clipcap("sql", statement, "--data-dir", lake, "--csv")[1] == "caption,run_id\n"
    assert clipcap("sql", statement, "--data-dir", lake)[:2] == (0, "no rows\n")


def test_long_texts_are_cut_in_a_table_alone_and_the_reader_is_told(lake: Path, clipcap: Cli) -> None:
    statement = "select repeat('word ', 100) || 'end' as text, ['a cat', repeat('x', 300)] as captions"
    code, out, err = clipcap("sql", statement, "--data-dir", lake)
    assert code == 0 and "…" in out and "end" not in out and "a cat" in out and "--full" in err
    for form in ("--full", "--csv", "--json"):
        code, out, err = clipcap("sql", statement, form, "--data-dir", lake)
        assert code == 0 and "end" in out and "cut" not in err
    assert "cut" not in clipcap("sql", "select repeat('x', 200) as text", "--data-dir", lake)[2]
    an_object = """select '{"train": "' || repeat('x', 3000) || '"}' as config"""
    lines = clipcap("sql", an_object, "--data-dir", lake)[1].splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 80


def test_a_table_ends_somewhere_and_says_so(lake: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 3)
    code, out, err = clipcap("sql", "from range(10)", "--data-dir", lake)
    assert code == 0 and "2" in out and "7 more rows" in err
    assert len(json.loads(clipcap("sql", "from range(10)", "--data-dir", lake, "--json")[1])) == 10


def test_data_is_data_and_a_spreadsheet_runs_none_of_it(lake: Path, clipcap: Cli) -> None:
    statement = "select '=HYPERLINK(\"http://evil.test\")' as caption, -5 as number, '  @x' as spaced"
    plain = clipcap("sql", statement, "--data-dir", lake, "--csv")[1]
    assert list(csv.reader(io.StringIO(plain)))[1] == ['=HYPERLINK("http://evil.test")', "-5", "  @x"]
    safe = clipcap("sql", statement, "--data-dir", lake, "--spreadsheet")[1]
    assert list(csv.reader(io.StringIO(safe)))[1] == ['\'=HYPERLINK("http://evil.test")', "-5", "'  @x"]


def test_as_of_a_run(lake: Path, clipcap: Cli) -> None:
    run = query(Lake(lake), "select run_id from runs").to_pylist()[0]["run_id"]
    code, out, _ = clipcap("sql", "select count(*) as n from captions", "--as-of", run, "--data-dir", lake, "--json")
    assert (code, json.loads(out)) == (0, [{"n": 8}])
    code, _, err = clipcap("sql", "select 1", "--as-of", "nobody", "--data-dir", lake)
    assert code == 1 and "there is no run 'nobody'" in err


def test_where_there_is_no_lake_the_sample_is_pointed_to(
    lake: Path, clipcap: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPCAP_DATA_DIR", raising=False)
    code, _, err = clipcap("sql", "select 1")
    assert code == 1 and "there is no lake at" in err and "data/sample" not in err
    (tmp_path / "data").mkdir()
    shutil.copytree(lake, tmp_path / "data" / "sample")
    assert "--data-dir data/sample" in clipcap("sql", "select 1")[2]
    assert clipcap("sql", "select 1 as x", "--data-dir", "data/sample", "--csv")[1] == "x\n1\n"


def test_checks_on_what_is_published(tiny, clipcap: Cli) -> None:
    tiny.commit()
    code, out, _ = clipcap("checks", "--data-dir", tiny.lake.root, "--json")
    results = {result["name"]: result for result in json.loads(out)}
    assert code == 0 and not any(result["rows"] for result in results.values()) and len(results) > 10
    assert results["keys_unique"]["severity"] == "error" and results["keys_unique"]["grain"].startswith("one row per")


def test_a_check_that_fires_shows_its_rows_and_fails(tiny, clipcap: Cli) -> None:
    captions = tiny.rows("captions/tiny-mlp-11111111/20260101T000000Z-aaaaaa/0a1b2c3d-00000")
    captions.append(dict(captions[0]))
    tiny.commit()
    code, out, _ = clipcap("checks", "--data-dir", tiny.lake.root)
    assert code == 1 and "keys_unique: 1 row, the first 1" in out and "0a1b2c3d-0000000" in out and "FAILED" in out
    code, out, _ = clipcap("checks", "--data-dir", tiny.lake.root, "--json")
    assert code == 1 and next(r for r in json.loads(out) if r["name"] == "keys_unique")["rows"][0]["rows"] == 2


def test_search_takes_one_question(lake: Path, clipcap: Cli, tmp_path: Path) -> None:
    assert clipcap("search", "--data-dir", lake)[0] == 2
    assert clipcap("search", "a dog", "--image", tmp_path / "x.png", "--data-dir", lake)[0] == 2
    assert "--csv and --json" in clipcap("search", "a dog", "--csv", "--json", "--data-dir", lake)[2]


def test_search_by_text_and_by_picture(small_run, clipcap: Cli, tmp_path: Path) -> None:
    """On a real lake: a picture of it finds itself, and a text finds what numpy finds."""
    import tarfile

    import numpy as np

    from clipcap.embedding.encoder import get_encoder

    root = small_run.lake.root
    [row] = query(small_run.lake, "select image_shard, image_member, image_url from lineage limit 1").to_pylist()
    with tarfile.open(root / row["image_shard"]) as tar:
        picture = tmp_path / "picture.png"
        picture.write_bytes(tar.extractfile(row["image_member"]).read())
    code, out, _ = clipcap("search", "--image", picture, "--k", 3, "--data-dir", root, "--json")
    found = json.loads(out)
    assert code == 0 and [r["rank"] for r in found] == [1, 2, 3]
    assert found[0]["image_url"] == row["image_url"] and found[0]["cosine"] == pytest.approx(1, abs=1e-3)

    table = query(small_run.lake, "select sample_key, clip_embedding from embeddings")
    vectors = np.array(table["clip_embedding"].to_pylist())
    text = get_encoder("builtin:sample", "cpu").encode_text(["a red square"])[0]
    cosines = vectors @ text / np.linalg.norm(vectors, axis=1) / np.linalg.norm(text)
    best = [table["sample_key"][int(i)].as_py() for i in np.argsort(-cosines)[:5]]
    found = json.loads(clipcap("search", "a red square", "--k", 5, "--data-dir", root, "--json")[1])
    assert [r["sample_key"] for r in found] == best
    assert [r["cosine"] for r in found] == pytest.approx(sorted(cosines, reverse=True)[:5], abs=1e-4)


def test_search_in_a_lake_without_vectors_or_with_a_picture_that_is_none(
    small_run, tiny, clipcap: Cli, tmp_path: Path
) -> None:
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] == "land"}
    tiny.commit()
    code, _, err = clipcap("search", "a dog", "--data-dir", tiny.lake.root)
    assert code == 1 and "has no embeddings to search" in err
    (tmp_path / "text.png").write_text("no picture")
    code, _, err = clipcap("search", "--image", tmp_path / "text.png", "--data-dir", small_run.lake.root)
    assert code == 1 and len(err.strip().splitlines()) >= 1
    code, _, err = clipcap("search", "--image", tmp_path / "gone.png", "--data-dir", small_run.lake.root)
    assert code == 1 and "gone.png cannot be read" in err
