"""A stage's code does not change without a decision about its VERSION, which is part of every cache key.

``tests/golden/stage_versions.json`` holds for each stage the VERSION and a hash of each module that decides its
output. Comments, docstrings and layout do not count. After a change: raise VERSION in the stage's module if an output
can differ from now on (everything cached is made again), leave it if none can; then accept the new state with

    python tests/test_stage_versions.py --accept
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = ROOT / "tests" / "golden" / "stage_versions.json"
_MODEL = ["model/captioner.py", "model/mapping.py", "model/language_model.py", "model/checkpoint.py"]
_DECODING = ["decoding/*.py"]

STAGES: dict[str, list[str]] = {
    # the first module holds VERSION; what renders and serves the sample decides what its URLs mean, so it is landing's
    "land": ["dataset/land.py", "dataset/sources/*.py", "dataset/sample.py", "dataset/scenes.py",
             "dataset/scene_captions.py", "dataset/serve.py", "dataset/archives.py", "storage/ledger.py"],
    "download": ["dataset/download.py", "dataset/extract.py", "dataset/shards.py", "dataset/archives.py",
                 "dataset/guard/*.py", "images.py"],
    "adopt": ["embedding/adopt.py", "embedding/exchange.py"],
    "embed_text": ["embedding/embed_text.py"],
    "duplicates": ["embedding/duplicates.py", "embedding/neighbours.py"],
    "embed": [
        "embedding/embed.py", "embedding/decode.py", "embedding/encoder.py", "embedding/forward.py",
        "embedding/towers.py", "embedding/store.py", "images.py",
    ],
    "freeze": ["dataset/evaluation_set.py"],
    "train": ["training/train_model.py", "training/*.py", *_MODEL],
    "caption": ["decoding/caption_shard.py", *_DECODING, *_MODEL],
    "evaluate": ["metrics/evaluate_model.py", "metrics/*.py", *_DECODING, "../sql/metrics/*.sql"],
    "compare": ["metrics/compare.py", "metrics/bootstrap.py", "metrics/corpus_sums.py"],
}  # fmt: skip
"""Patterns below clipcap/."""
_NOT_DECIDING = {
    "metrics/coco_files.py", "training/gate.py", "training/due.py", "training/drift.py", "training/registry.py",
}  # fmt: skip
"""Read files for a person, or decide whether a stage runs and what is promoted, but no stage's output."""


def files_of(stage: str) -> list[Path]:
    """The stage's files; the one with VERSION first."""
    found = [file.resolve() for pattern in STAGES[stage] for file in sorted((ROOT / "clipcap").glob(pattern))]
    left_out = {(ROOT / "clipcap" / name).resolve() for name in _NOT_DECIDING}
    return [file for file in dict.fromkeys(found) if file not in left_out]


def normalised(file: Path) -> str:
    """Source without comments, docstrings and layout; the same on every Python that the project supports."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".sql":
        return " ".join(re.sub(r"--[^\n]*", "", text).split())
    return json.dumps(_shape(ast.parse(text)), ensure_ascii=False)


def _shape(node: Any) -> Any:
    """A syntax tree as lists. Empty fields are left out: newer Pythons add some."""
    if isinstance(node, ast.AST):
        fields = [[name, _shape(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    if isinstance(node, list):
        return [_shape(item) for item in node if not _is_text_alone(item)]
    return repr(node)


def _is_text_alone(node: Any) -> bool:
    """A docstring, of whatever it is: a string that is a statement."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def version_of(file: Path) -> int:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION":
            return int(ast.literal_eval(node.value))
    raise AssertionError(f"{file} has no VERSION")


def current() -> dict[str, dict[str, Any]]:
    state = {}
    for stage in STAGES:
        files = files_of(stage)
        hashes = {f.relative_to(ROOT).as_posix(): hashlib.sha256(normalised(f).encode()).hexdigest() for f in files}
        state[stage] = {"version": version_of(files[0]), "modules": dict(sorted(hashes.items()))}
    return state


def problems(accepted: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each stage about which nobody has decided."""
    lines = []
    for stage, state in now.items():
        before = accepted.get(stage, {"version": 0, "modules": {}})
        if state == before:
            continue
        modules = before["modules"].keys() | state["modules"].keys()
        changed = sorted(m for m in modules if before["modules"].get(m) != state["modules"].get(m))
        if state["version"] < before["version"]:
            lines.append(f"{stage}: VERSION went back from {before['version']} to {state['version']}")
        elif state["version"] == before["version"]:
            lines.append(
                f"{stage}: {', '.join(changed)} changed and VERSION is still {state['version']}. If an output can "
                f"differ, raise VERSION in clipcap/{STAGES[stage][0]}; if none can, leave it"
            )
        else:
            lines.append(f"{stage}: VERSION is now {state['version']}, which is not accepted yet")
    lines += [f"{stage}: is accepted but is no stage any more" for stage in accepted.keys() - now.keys()]
    return lines


def test_every_change_of_a_stage_came_with_a_decision():
    found = problems(json.loads(ACCEPTED.read_text()), current())
    advice = "then run: python tests/test_stage_versions.py --accept"
    assert not found, "\n".join([*found, advice])


def test_every_stage_finds_its_modules():
    for stage, patterns in STAGES.items():
        for pattern in patterns:
            assert list((ROOT / "clipcap").glob(pattern)), f"{stage}: {pattern} names no file"


def test_modules_with_a_version_are_watched():
    with_version = {
        file for file in (ROOT / "clipcap").rglob("*.py") if re.search(r"^VERSION = ", file.read_text(), re.MULTILINE)
    }
    of_formats = {ROOT / "clipcap" / name for name in ("model/captioner.py", "warehouse/catalog.py")}
    assert with_version - of_formats == {files_of(stage)[0] for stage in STAGES}


def test_comments_and_docstrings_do_not_count_and_code_does(tmp_path: Path):
    def normal(text: str, name: str = "a.py") -> str:
        (tmp_path / name).write_text(text)
        return normalised(tmp_path / name)

    base = normal('"""Doc."""\nX = 1\n"""Of X."""\ndef f(a):\n    """Doc."""\n    return a + 1\n')
    assert normal("X = 1  # why\ndef f(a):\n    # because\n\n    return (a +\n        1)\n") == base
    for other in ("X = 2\ndef f(a):\n    return a + 1", "X = 1\ndef f(a):\n    return a - 1",
                  "X = 1\ndef f(a):\n    return f'a + 1'", "def f(a):\n    return a + 1\nX = 1"):  # fmt: skip
        assert normal(other) != base
    assert normal("select 1 -- one\n  from a", "a.sql") == normal("select 1 from a", "b.sql")
    assert normal("select 1 from a", "a.sql") != normal("select 2 from a", "b.sql")


def test_what_is_told_of_each_kind_of_change():
    accepted = {"embed": {"version": 2, "modules": {"a.py": "1", "b.py": "1"}}}

    def told(version: int, **modules: str) -> str:
        now = {"embed": {"version": version, "modules": {f"{name}.py": value for name, value in modules.items()}}}
        return "; ".join(problems(accepted, now))

    assert told(2, a="1", b="1") == ""
    assert told(2, a="1", b="2").startswith("embed: b.py changed and VERSION is still 2.")
    assert told(2, a="1", b="1", c="1").startswith("embed: c.py changed")
    assert told(2, a="1").startswith("embed: b.py changed")
    assert "not accepted yet" in told(3, a="1", b="2")
    assert "went back from 2 to 1" in told(1, a="1", b="2")
    assert problems(accepted, {}) == ["embed: is accepted but is no stage any more"]


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        sys.exit("usage: python tests/test_stage_versions.py --accept")
    ACCEPTED.write_text(json.dumps(current(), indent=1) + "\n", encoding="utf-8")
    versions = [f"{stage} {state['version']}" for stage, state in current().items()]
    print(f"accepted: {', '.join(versions)}")
