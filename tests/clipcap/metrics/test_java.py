"""METEOR and SPICE: the real METEOR where it is installed; the ways in which a program fails, by small stand-ins."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from clipcap.errors import ConfigError, DataError
from clipcap.metrics import java
from clipcap.metrics.coco_files import load_candidates, load_references
from clipcap.metrics.corpus_sums import METEOR_COLUMNS
from clipcap.metrics.evaluate import score
from clipcap.metrics.java import meteor_statistics, parse_spice, spice

CANDIDATES, REFERENCES = {"1": "a red ball", "2": "a dog"}, {"1": ["the red ball"], "2": ["a dog runs", "a cat"]}
NUMBERS = " ".join(["1.0"] * len(METEOR_COLUMNS))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stand-ins: a package with the jars' names, and a ``java`` that is a Python program. Gives the way to write it."""
    for name in ("meteor/meteor-1.5.jar", "spice/spice-1.0.jar", *(f"spice/lib/{n}" for n in java._SPICE_MODELS)):
        (tmp_path / "pycocoevalcap" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pycocoevalcap" / name).touch()
    (tmp_path / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def write(body: str) -> Path:
        program = tmp_path / "bin" / "java"
        head = f"#!{sys.executable}\nimport os, sys, time, pathlib\nhere = pathlib.Path({str(tmp_path)!r})\n"
        program.write_text(f"{head}(here / 'pid').write_text(str(os.getpid()))\n{body}")
        program.chmod(0o755)
        return tmp_path

    return write


def is_gone(folder: Path) -> bool:
    """Whether the stand-in has ended and was reaped; a busy machine may have stopped it before its first word."""
    try:
        os.kill(int((folder / "pid").read_text() if (folder / "pid").exists() else "999999999"), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def installed() -> None:
    if shutil.which("java") is None:
        pytest.skip("METEOR needs Java, and there is none here")
    if importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("METEOR needs pycocoevalcap: pip install 'clipcap-pipeline[java-metrics]'")


def test_meteor_of_the_coco_example_is_the_published_one(installed, shared):
    folder = shared / "fixtures" / "coco_example"
    scores = score(
        load_candidates(folder / "candidates.json"), load_references(folder / "references.json"), ["meteor", "bleu_1"]
    )
    assert scores.corpus["meteor"] == pytest.approx(0.19525467177780284, abs=1e-12)
    assert list(scores.corpus) == list(scores.per_image) == ["meteor", "bleu_1"]
    low, high = scores.intervals()["meteor"]
    assert 0.185 < low < scores.corpus["meteor"] < high < 0.205
    assert {"key", "correct_1", "meteor_chunks"} <= set(scores.counts.column_names)


@pytest.mark.slow  # it starts Java a second time, which reads its paraphrases for several seconds
def test_meteor_reads_every_caption_as_one(installed):
    nasty = {"bar": "a ||| b", "empty": "", "unicode": "café naïve \u00a0 ☃", "same": "two dogs play"}
    references = {"bar": ["a b"], "empty": ["a dog"], "unicode": ["café naïve"], "same": ["a dog", "two dogs play"]}
    rows = dict(zip(nasty, meteor_statistics(nasty, references), strict=True))
    length, matched = METEOR_COLUMNS.index("candidate_length"), METEOR_COLUMNS.index("candidate_matches")
    assert rows["bar"][[length, matched]].tolist() == [2, 2]
    assert rows["empty"][[length, matched]].tolist() == [0, 0]
    assert rows["unicode"][matched] == 2
    assert rows["same"][[length, matched]].tolist() == [3, 3]


# What is missing


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for metric in ("meteor", "spice"):
        with pytest.raises(ConfigError, match=r"pip install 'clipcap-pipeline\[java-metrics\]'"):
            score(CANDIDATES, REFERENCES, [metric])


def test_without_java_it_says_what_to_install(programs):
    folder = programs("")
    (folder / "bin" / "java").unlink()
    with pytest.raises(ConfigError, match=r"no program java .*default-jre-headless"):
        score(CANDIDATES, REFERENCES, ["meteor"])


def test_java_home_goes_before_the_path(programs, monkeypatch):
    folder = programs("sys.exit('of the path')")
    home = folder / "home" / "bin"
    home.mkdir(parents=True)
    (home / "java").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('of the home')\n")
    (home / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(home.parent))
    with pytest.raises(DataError, match="of the home"):
        meteor_statistics(CANDIDATES, REFERENCES)


def test_spice_without_its_models_names_them_and_where_they_go(programs):
    lib = programs("") / "pycocoevalcap" / "spice" / "lib"
    (lib / java._SPICE_MODELS[1]).unlink()
    with pytest.raises(
        ConfigError, match=rf"SPICE needs {java._SPICE_MODELS[1]} in {lib}: take them from .*2015-12-09"
    ):
        score(CANDIDATES, REFERENCES, ["spice"])


# What a program does


def test_meteor_is_asked_line_by_line_and_ends_with_the_conversation(programs):
    folder = programs(
        "for line in sys.stdin:\n"
        "    with open(here / 'asked', 'a') as file: file.write(line)\n"
        f"    print({NUMBERS!r}, flush=True)\n"
    )
    rows = meteor_statistics(CANDIDATES, REFERENCES)
    assert rows.shape == (2, 23) and (rows == 1).all()
    assert (folder / "asked").read_text() == (
        "SCORE ||| the red ball ||| a red ball\nSCORE ||| a dog runs ||| a cat ||| a dog\n"
    )
    assert is_gone(folder)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(600)", r"METEOR was stopped after 1 s"),
        (f"print({NUMBERS!r}, flush=True)\ntime.sleep(600)", r"METEOR was stopped after 1 s"),
        ("sys.exit('Error: out of memory')", r"METEOR ended with 1: Error: out of memory"),
        ("sys.stdin.readline()\nos.kill(os.getpid(), 9)", r"METEOR ended with -9: it said nothing"),
        ("print('Error: no such thing', flush=True)\nsys.stdin.read()", r"answered 'Error: no such thing' .* '1'"),
        ("print('1.0 2.0', flush=True)\nsys.stdin.read()", r"answered '1.0 2.0' .* not 23 numbers"),
    ],
)
def test_a_meteor_that_misbehaves_is_one_line_and_leaves_no_process(programs, body, message):
    folder = programs(body)
    with pytest.raises(DataError, match=message) as error:
        meteor_statistics(CANDIDATES, REFERENCES, timeout_s=1 if "stopped" in message else 60)
    assert "\n" not in str(error.value)
    assert is_gone(folder)


def test_spice_reads_and_writes_files(programs):
    folder = programs(
        "import json\n"
        "items = json.load(open(sys.argv[sys.argv.index('-jar') + 2]))\n"
        "(here / 'asked').write_text(json.dumps(items))\n"
        "out = [{'image_id': i['image_id'], 'scores': {'All': {'f': len(i['refs']) / 4}}} for i in items]\n"
        "json.dump(out, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n"
    )
    scores = score({"1": "A red ball.", "2": "A dog!"}, REFERENCES, ["spice"])
    assert scores.per_image == {"spice": {"1": 0.25, "2": 0.5}} and scores.corpus == {"spice": 0.375}
    assert json.loads((folder / "asked").read_text()) == [
        {"image_id": key, "test": CANDIDATES[key], "refs": REFERENCES[key]} for key in CANDIDATES
    ]
    assert is_gone(folder)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(600)", "SPICE was stopped after 1 s"),
        ("sys.exit('Exception: no models')", "SPICE ended with 1: Exception: no models"),
        ("pass", "left no scores"),
    ],
)
def test_a_spice_that_misbehaves_is_one_line_and_leaves_no_process(programs, body, message):
    folder = programs(body)
    with pytest.raises(DataError, match=message):
        spice(CANDIDATES, REFERENCES, timeout_s=1 if "stopped" in message else 60)
    assert is_gone(folder)


def test_spices_output_is_parsed_and_its_gaps_are_found():
    text = '[{"image_id": 7, "scores": {"All": {"f": 0.5}}}, {"image_id": "x", "scores": {"All": {"f": NaN}}}]'
    assert parse_spice(text, ["x", "7"]) == {"x": 0.0, "7": 0.5}
    with pytest.raises(DataError, match="left out 1 of 2 images, first '8'"):
        parse_spice(text, ["7", "8"])
    for broken in ("", "{}3", '[{"image_id": 7}]', "[3]"):
        with pytest.raises(DataError, match="cannot be read"):
            parse_spice(broken, ["7"])
