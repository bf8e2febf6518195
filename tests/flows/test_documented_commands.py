"""Commands of README and docs are read by the command line, run on a small lake, and their SQL is asked.

The default suite parses every `clipcap` line, with its options, and runs the tutorial's and the how-tos' questions in
this process. ``-m slow`` runs each block literally, in bash, page by page, in a scratch folder with a lake of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipcap.storage.lake import Lake
from clipcap.warehouse.queries import query

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: .*?-->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
QUESTIONS = ("sql", "models list", "models show", "checks")
"""Commands that only read and need no model: those that the default suite runs."""


def blocks(page: Path, *languages: str, all_: bool = True) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for reason, language, text in found if language in languages and (all_ or not reason)]


def commands(page: Path, all_: bool = True) -> list[list[str]]:
    """The words after `clipcap` of each line, up to a pipe or a redirection."""
    lines = "\n".join(blocks(page, "", "sh", all_=all_)).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        if re.match(r"(\w+=\S+ )*clipcap ", line):
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|><;&")
            lexer.whitespace_split = True
            words = list(lexer)
            words = words[words.index("clipcap") + 1 :]
            end = next((i for i, word in enumerate(words) if set(word) <= set("|><;&")), len(words))
            found.append(words[:end])
    return found


def named(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_command_line_knows_every_command_and_option(page: Path):
    from typer.main import get_command

    from flows.cli import app

    for words in commands(page):
        command, rest = get_command(app), list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command = command.commands[rest.pop(0)]
        if hasattr(command, "commands"):  # clipcap --version, --install-completion
            continue
        options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts)}
        given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
        assert set(given) - {"--help"} <= set(options), words


def placeholders(lake: Lake) -> dict[str, str]:
    """What the docs' capitals stand for in this lake."""
    models = query(lake, "select model_id from models order by created_at").column("model_id").to_pylist()
    run = query(lake, "select max(run_id) as run_id from runs").column("run_id").to_pylist()[0]
    return {"MODEL": models[-1], "NEW": models[-1], "OLD": models[0], "RUN": run, "ID": models[-1]}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_questions_of_the_docs_are_answered(page: Path, small_run, clipcap, tmp_path: Path, monkeypatch):
    stands_for = placeholders(small_run.lake)
    asked = [w for w in commands(page, all_=False) if " ".join(w).startswith(QUESTIONS)]
    monkeypatch.chdir(tmp_path)
    for words in asked:
        given = [stands_for.get(word, word) for word in words]
        if any("$" in word for word in given):
            continue  # the shell fills it in; the literal run below does
        if "--data-dir" in given:
            given[given.index("--data-dir") + 1] = str(small_run.lake.root)
        else:
            given += ["--data-dir", str(small_run.lake.root)]
        code, _, err = clipcap(*given)
        assert code == 0 or "there is no view or macro" in err, (words, err)
    for text in blocks(page, "sql"):
        for statement in filter(str.strip, text.split(";")):
            query(small_run.lake, statement)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in ("README.md", "researcher.md")], ids=named)
def test_blocks_run_as_they_stand(page: Path, small_run, holiday: Path, tmp_path: Path):
    """In one bash for each page, which stops at the first command that fails."""
    for name in ("configs", "scripts", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(small_run.lake.root, tmp_path / "data" / "sample")
    for text in blocks(page, "toml"):
        if 'source = "holiday"' in text:
            settings = text.replace("ViT-B-32-quickgelu/openai", "builtin:sample").replace('"gpt2"', '"scratch"')
            (tmp_path / "holiday.toml").write_text(settings + "[train]\nepochs = 1\n", encoding="utf-8")
    stands_for = placeholders(small_run.lake)
    script = ""
    for block in blocks(page, "", "sh", all_=False):
        if "make install" in block:  # this very environment is what it makes
            continue
        script += block
    script = re.sub(r"(?<![\w$\"])(MODEL|NEW|OLD|RUN)(?![\w=])", lambda m: stands_for[m[1]], script)
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "CLIPCAP_DATA_DIR": "data/sample",
        "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]



def test_there_is_something_to_run():
    assert sum(len(commands(page, all_=False)) for page in PAGES) > 40
