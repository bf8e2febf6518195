"""The catalog: from one generation, relative to the lake, swapped under open readers, rebuilt when stale."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import duckdb
import pytest
from tiny_lake import NEW, RUN, SHARDS

from clipcap.errors import WarehouseError
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.migrations import MIGRATIONS
from clipcap.warehouse import build_catalog, check_catalog, ensure_catalog, list_views, query
from clipcap.warehouse import catalog as catalog_module


def count(lake: Lake, view: str = "captions") -> int:
    return query(lake, f"select count(*) as n from {view}").to_pylist()[0]["n"]


def test_an_empty_lake_has_every_view_and_no_rows(tmp_path):
    lake = Lake(tmp_path / "lake")
    assert {view.name: count(lake, view.name) for view in list_views(lake)} == dict.fromkeys(
        [view.name for view in list_views(lake)], 0
    ) | {"migrations": len(MIGRATIONS)}
    check_catalog(lake, lake.catalog)


def test_only_files_of_the_generation_are_read(tiny):
    tiny.commit()
    orphan = tiny.lake.captions(NEW, RUN, "0a1b2c3d-00009")
    orphan.write_bytes(tiny.lake.captions(NEW, RUN, SHARDS[0]).read_bytes())
    tiny.lake.catalog.unlink(missing_ok=True)
    assert count(tiny.lake) == 8


def test_nothing_in_the_catalog_names_the_folder_it_was_built_in(tiny):
    tiny.commit()
    ensure_catalog(tiny.lake)
    with duckdb.connect(str(tiny.lake.catalog), read_only=True) as connection:
        texts = [sql for (sql,) in connection.execute("select sql from duckdb_views() where not internal").fetchall()]
    assert len(texts) > 15
    assert not any(str(tiny.lake.root) in sql for sql in texts)
    assert str(tiny.lake.root).encode() not in tiny.lake.catalog.read_bytes()


@pytest.mark.parametrize("setting", ["cwd", "file_search_path", "variable"])
@pytest.mark.parametrize("where", ["made", "moved", "copied"])
def test_plain_duckdb_reads_the_catalog(tiny, tmp_path, setting, where):
    """In a process of its own, as from a shell: from inside the lake, or from elsewhere with its path set."""
    tiny.commit()
    ensure_catalog(tiny.lake)
    root = tiny.lake.root
    if where != "made":
        root = (shutil.copytree if where == "copied" else shutil.move)(root, tmp_path / "elsewhere" / "lake")
    if where == "copied":  # a copy that read the first lake's files would find none
        shutil.rmtree(tiny.lake.root / "captions")
    set_up = {
        "cwd": "",
        "file_search_path": f"set file_search_path = '{root}';",
        "variable": f"set variable lake = '{root}/';",
    }[setting]
    path, cwd = ("catalog.duckdb", root) if setting == "cwd" else (f"{root}/catalog.duckdb", tmp_path)
    code = f"import duckdb; c = duckdb.connect({path!r}); c.execute({set_up!r} + 'select count(*) from lineage'); " + (
        "print(c.fetchone()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("8", "")


def test_a_lake_with_an_awkward_name(tiny, tmp_path):
    tiny.commit()
    moved = tmp_path / "it's a lake, moved"
    tiny.lake.root.rename(moved)
    assert count(Lake(moved)) == 8


def test_another_lake_in_the_current_folder_is_not_read(tiny, tmp_path, monkeypatch):
    """DuckDB would look in the current folder before file_search_path."""
    tiny.commit()
    other = tmp_path / "other" / f"captions/{NEW}/{RUN}"
    other.mkdir(parents=True)
    (other / f"{SHARDS[0]}.parquet").write_text("not parquet")
    monkeypatch.chdir(tmp_path / "other")
    assert count(tiny.lake) == 8


def test_a_new_generation_makes_the_catalog_stale(tiny):
    removed = tiny.entries.pop(f"caption/{NEW}/{SHARDS[0]}")
    tiny.commit()
    assert count(tiny.lake) == 5
    tiny.entries[removed["id"]] = removed
    commit_generation(tiny.lake, tiny.generation().entries.values())
    assert count(tiny.lake) == 8
    assert query(tiny.lake, "select generation from catalog_info").to_pylist() == [{"generation": 2}]


def test_a_fresh_catalog_is_not_built_again(tiny, monkeypatch):
    tiny.commit()
    before = ensure_catalog(tiny.lake).stat().st_ino
    assert ensure_catalog(tiny.lake).stat().st_ino == before
    monkeypatch.setattr(catalog_module, "catalog_version", lambda: "0-older")
    assert ensure_catalog(tiny.lake).stat().st_ino != before


def test_a_damaged_catalog_is_built_again(tiny):
    tiny.commit()
    tiny.lake.catalog.write_bytes(b"not a database")
    assert count(tiny.lake) == 8


def test_an_open_reader_keeps_its_view_and_blocks_nothing(tiny):
    tiny.commit()
    ensure_catalog(tiny.lake)
    with duckdb.connect(str(tiny.lake.catalog), read_only=True) as reader:
        commit_generation(tiny.lake, run=tiny.run([]))
        assert query(tiny.lake, "select generation from catalog_info").to_pylist() == [{"generation": 2}]
        assert reader.execute("select generation from catalog_info").fetchone() == (1,)


def test_a_shell_that_writes_into_the_catalog_blocks_nothing(tiny):
    """A plain `duckdb catalog.duckdb` locks the file, and leaves a write-ahead log that fits no other catalog."""
    tiny.commit()
    catalog = ensure_catalog(tiny.lake)
    code = (
        f"import duckdb; c = duckdb.connect({str(catalog)!r}); c.execute('create table mine as select 1')\n"
        "print('open', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout.readline() == b"open\n"
        assert os.path.exists(f"{catalog}.wal")
        try:
            assert count(tiny.lake) == 8
            assert build_catalog(tiny.lake, read_current(tiny.lake)) == catalog
            assert count(tiny.lake) == 8
        finally:
            shell.communicate(b"\n")
    assert count(tiny.lake) == 8


def test_a_missing_file_is_one_clear_line_and_leaves_the_old_catalog(tiny):
    tiny.commit()
    ensure_catalog(tiny.lake)
    before = tiny.lake.catalog.read_bytes()
    generation = read_current(tiny.lake)
    tiny.lake.captions(NEW, RUN, SHARDS[0]).unlink()
    with pytest.raises(WarehouseError, match=rf"generation 1 .*{SHARDS[0]}.parquet.*clipcap run") as caught:
        build_catalog(tiny.lake, generation)
    assert "\n" not in str(caught.value)
    assert tiny.lake.catalog.read_bytes() == before
    assert [path for path in tiny.lake.scratch.iterdir() if path.name != "locks"] == []


def test_a_candidate_goes_where_it_is_told(tiny, tmp_path):
    target = build_catalog(tiny.lake, tiny.generation(number=7), target=tmp_path / "candidate.duckdb")
    assert target == tmp_path / "candidate.duckdb" and not tiny.lake.catalog.exists()
    check_catalog(tiny.lake, target)


def test_the_shells_of_older_duckdb_open_it(tiny):
    """The file is of an older form (tried with the shells 1.4 and 1.5), and views call nothing that they lack."""
    tiny.commit()
    head = ensure_catalog(tiny.lake).read_bytes()[:20]
    assert head[8:12] == b"DUCK" and int.from_bytes(head[12:20], "little") <= 65
    for file in (*catalog_module.statements("macros"), *catalog_module.statements("views")):
        code = re.sub(r"--.*|'(?:[^']|'')*'", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"\bif\(", code), f"{file.name}: before 2.0 there is no if(); write case when"
