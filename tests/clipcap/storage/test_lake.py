"""Paths stay inside the lake, and the root is found in the documented order."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from clipcap.errors import ConfigError
from clipcap.storage.collect import MADE_BY_STAGES
from clipcap.storage.lake import Lake, new_run_id, resolve_data_dir

BAD = ["..", ".", "", "a/b", "../a", "a/../../b", "a\\b", "a.b", "a b", "-a", "_a", "a\n", "a\0", "ü", "a" * 122]

LAKE = Lake("/lake")
READING = {"absolute", "size_of"}
"""Take a path and not the identifiers that one is made of."""
METHODS = {
    "urls": lambda part: LAKE.urls(part),
    "shard batch": lambda part: LAKE.shard(part, "s", "tar"),
    "shard": lambda part: LAKE.shard("b", part, "tar"),
    "ledger stage": lambda part: LAKE.ledger(part, "b", "s"),
    "ledger batch": lambda part: LAKE.ledger("land", part, "s"),
    "ledger shard": lambda part: LAKE.ledger("land", "b", part),
    "embeddings encoder": lambda part: LAKE.embeddings(part, "b", "s"),
    "embeddings batch": lambda part: LAKE.embeddings("e", part, "s"),
    "embeddings shard": lambda part: LAKE.embeddings("e", "b", part),
    "model": lambda part: LAKE.model(part),
    "captions model": lambda part: LAKE.captions(part, "r", "s"),
    "captions run": lambda part: LAKE.captions("m", part, "s"),
    "captions shard": lambda part: LAKE.captions("m", "r", part),
    "metrics model": lambda part: LAKE.metrics(part, "r", "corpus"),
    "metrics run": lambda part: LAKE.metrics("m", part, "corpus"),
    "metrics table": lambda part: LAKE.metrics("m", "r", part),
    "report": lambda part: LAKE.report(part),
}


@pytest.mark.parametrize("method", METHODS)
def test_no_identifier_leaves_its_folder(method: str):
    for bad in BAD:
        with pytest.raises(ConfigError, match="is not an identifier"):
            METHODS[method](bad)
    assert METHODS[method]("Good_id-1@0a").is_relative_to("/lake")


def test_a_variant_is_checked_where_there_is_one():
    assert LAKE.ledger("embed", "b", "s", "enc@12") == Path("/lake/ledger/embed/b/s_enc@12.parquet")
    with pytest.raises(ConfigError):
        LAKE.ledger("embed", "b", "s", "../x")


def test_the_documented_paths():
    assert LAKE.relative(LAKE.urls("b-1")) == "batches/b-1/urls.parquet"
    assert LAKE.relative(LAKE.shard("b-1", "s-0", "tar")) == "batches/b-1/shards/s-0.tar"
    assert LAKE.relative(LAKE.ledger("land", "b-1", "b-1")) == "ledger/land/b-1/b-1.parquet"
    assert LAKE.relative(LAKE.embeddings("e@0", "b-1", "s-0")) == "embeddings/e@0/b-1/s-0.parquet"
    assert LAKE.relative(LAKE.captions("m", "r", "s-0")) == "captions/m/r/s-0.parquet"
    assert LAKE.relative(LAKE.metrics("m", "r", "corpus")) == "metrics/m/r/corpus.parquet"
    assert LAKE.relative(LAKE.report("r")) == "reports/r/index.html"
    assert LAKE.absolute("a/b") == Path("/lake/a/b")


def test_every_folder_of_stages_is_one_that_maintenance_looks_into():
    """Else what no generation names any more would stay in it for good."""
    paths = [
        method(*["x"] * len(inspect.signature(method).parameters))
        for name, method in inspect.getmembers(LAKE, inspect.ismethod)
        if {p.annotation for p in inspect.signature(method).parameters.values()} == {"str"} and name not in READING
    ]
    folders = {LAKE.relative(path).partition("/")[0] for path in paths}
    of_people = {"models", "reports", "evaluation_sets"}  # archived, rendered again, or kept for good
    assert folders - of_people == set(MADE_BY_STAGES), "name a new stage's folder in clipcap/storage/collect.py"


def test_the_root_is_flag_then_config_then_environment_then_data(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPCAP_DATA_DIR", raising=False)
    assert resolve_data_dir() == tmp_path / "data"
    monkeypatch.setenv("CLIPCAP_DATA_DIR", "from_environment")
    assert resolve_data_dir() == tmp_path / "from_environment"
    assert resolve_data_dir(None, "from_config") == tmp_path / "from_config"
    assert resolve_data_dir("from_flag", "from_config") == tmp_path / "from_flag"


def test_run_ids_are_identifiers_and_differ():
    ids = {new_run_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", name) for name in ids)
    assert all(LAKE.report(name) for name in ids)
