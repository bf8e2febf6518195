"""What the command line imports before it knows what to do, what TAB offers, and what it refuses at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., tuple[int, str, str]]


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_help_imports_neither_torch_nor_prefect():
    program = """
import sys
from flows.cli import app
for arguments in ([], ["run"], ["caption"], ["evaluate"], ["models", "promote"]):
    app([*arguments, "--help"], standalone_mode=False)
print("heavy:", {"torch", "transformers", "prefect", "duckdb"} & set(sys.modules))
"""
    done = python(program)
    assert done.stdout.endswith("heavy: set()\n"), done.stdout + done.stderr


def test_tab_reads_the_lake_that_the_line_names(tmp_path: Path):
    (tmp_path / "manifests").mkdir()
    (tmp_path / "CURRENT").write_text("3")
    entries = {"a": {"stage": "train", "meta": {"model_id": "of-this-lake"}}}
    (tmp_path / "manifests" / "3.json").write_text(json.dumps({"entries": entries}))
    line = f"clipcap caption --data-dir {tmp_path} --model of"
    program = "import sys; sys.argv = ['clipcap']\nfrom flows.cli import app\napp(prog_name='clipcap')"
    done = python(program, _CLIPCAP_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert "of-this-lake" in done.stdout, done.stderr


def test_a_plan_that_cannot_train_says_so(tmp_path: Path, clipcap: Cli):
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://127.0.0.1:1/a.png,a dog\n")
    source = f"dataset.source={tmp_path / 'urls.csv'}"
    code, _, err = clipcap("run", "sample", "--set", source, "--dry-run", "--data-dir", tmp_path / "lake")
    assert code == 0 and "warning: nothing to train on" in err


def test_evaluate_says_whom_it_leaves_out(tmp_path: Path, clipcap: Cli):
    (tmp_path / "r.json").write_text(json.dumps({"1": ["a dog runs"], "2": ["a cat"]}))
    (tmp_path / "c.json").write_text(json.dumps({"1": "a dog"}))
    command = ("evaluate", "--references", tmp_path / "r.json", "--candidates", tmp_path / "c.json", "--resamples", 0)
    code, _, err = clipcap(*command)
    assert code == 0 and "1 of 2 images with references have no candidate" in err


def test_a_lake_that_is_a_file_and_a_source_on_the_web(tmp_path: Path, clipcap: Cli):
    (tmp_path / "file").touch()
    code, _, err = clipcap("land", tmp_path, "--data-dir", tmp_path / "file")
    assert code == 2 and "is a file, and a lake is a folder" in err
    code, _, err = clipcap("land", "http://127.0.0.1:1/list.csv", "--data-dir", tmp_path / "lake")
    assert code == 2 and "http://127.0.0.1:1/list.csv is on the web" in err
