"""METEOR 1.5 and SPICE, which are Java programs; the package pycocoevalcap carries them (extra ``java-metrics``).

The programs are spoken to directly: METEOR by lines on its standard input, SPICE by files. Both read captions as our
tokenizer gives them, as the COCO caption evaluation does.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from clipcap.errors import ConfigError, DataError
from clipcap.metrics.corpus_sums import METEOR_COLUMNS

JAVA_METRICS = ("meteor", "spice")

_METEOR = "meteor/meteor-1.5.jar"
_SPICE = "spice/spice-1.0.jar"
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_SPICE_ARCHIVE = "stanford-corenlp-full-2015-12-09.zip"


def check_java_metrics(metrics: Sequence[str]) -> None:
    """Fails before any work where one of them cannot run here.

    Raises:
        ConfigError: no Java, no pycocoevalcap, or SPICE without its models; says what to install.
    """
    if "meteor" in metrics:
        _find(_METEOR)
    if "spice" in metrics:
        _check_spice()
    if set(metrics) & set(JAVA_METRICS):
        _java()


def meteor_statistics(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], timeout_s: float | None = None
) -> np.ndarray:
    """What METEOR's program counts in each caption: matches by kind, lengths, chunks.

    Args:
        candidates: key -> tokenized caption.
        references: key -> its tokenized references; the best-matching one is counted.
        timeout_s: after which the program is killed; by default two minutes and a tenth of a second for each caption.

    Returns:
        (N, 23) float64, ``METEOR_COLUMNS``, in the order of the candidates.

    Raises:
        ConfigError: no Java or no METEOR on this machine.
        DataError: the program ended early, took too long, or answered something else.
    """
    jar = _find(_METEOR)
    command = [_java(), "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    limit = timeout_s or 120 + 0.1 * len(candidates)
    rows = []
    with _conversation(command, jar.parent, limit, "METEOR") as ask:
        for key, caption in candidates.items():
            answer = ask(" ||| ".join(["SCORE", *map(_field, references[key]), _field(caption)]))
            try:
                row = [float(number) for number in answer.split()]
            except ValueError:
                row = []
            if len(row) != len(METEOR_COLUMNS):
                raise DataError(f"METEOR answered {answer[:200]!r} to the caption of {key!r}, and not 23 numbers")
            rows.append(row)
    return np.array(rows, np.float64).reshape(-1, len(METEOR_COLUMNS))


def _field(text: str) -> str:
    """A text that neither ends the line nor looks like the mark between fields."""
    return " ".join(text.replace("|||", " ").split())


def spice(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], timeout_s: float | None = None
) -> dict[str, float]:
    """SPICE (Anderson et al. 2016): F1 of the tuples of scene graphs.

    Args:
        candidates: key -> tokenized caption.
        references: key -> its tokenized references.
        timeout_s: after which the program is killed; by default ten minutes and two seconds for each caption.

    Returns:
        key -> F1, 0 to 1; 0 where neither side has a tuple.

    Raises:
        ConfigError: no Java, no SPICE or none of its models on this machine.
        DataError: the program failed, took too long, or left out an image.
    """
    jar = _check_spice()
    limit = timeout_s or 600 + 2.0 * len(candidates)
    with tempfile.TemporaryDirectory(prefix="clipcap-spice-") as folder:
        asked, answered = Path(folder) / "captions.json", Path(folder) / "scores.json"
        asked.write_text(
            json.dumps([{"image_id": k, "test": c, "refs": list(references[k])} for k, c in candidates.items()]),
            encoding="utf-8",
        )
        command = [_java(), "-Xmx8G", "-Dfile.encoding=UTF-8", "-jar", jar.name, str(asked), "-out", str(answered),
                   "-silent"]  # fmt: skip
        try:  # kills and reaps the program where it takes too long, or where we are interrupted
            subprocess.run(command, cwd=jar.parent, check=True, timeout=limit, capture_output=True)
            return parse_spice(answered.read_text(encoding="utf-8"), list(candidates))
        except subprocess.TimeoutExpired:
            raise DataError(f"SPICE was stopped after {limit:.0f} s: it needs longer, or a faster machine") from None
        except subprocess.CalledProcessError as error:
            raise DataError(f"SPICE ended with {error.returncode}: {_last_line(error.stderr)}") from None
        except OSError:
            raise DataError("SPICE ended and left no scores") from None


def parse_spice(text: str, keys: Sequence[str]) -> dict[str, float]:
    """F1 over all tuples of each image, from SPICE's output.

    Raises:
        DataError: it is no such output, or an image of ``keys`` is missing.
    """
    try:
        scored = {str(item["image_id"]): float(item["scores"]["All"]["f"]) for item in json.loads(text)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"SPICE's output cannot be read ({type(error).__name__}: {error})") from None
    if missing := [key for key in keys if key not in scored]:
        raise DataError(f"SPICE left out {len(missing)} of {len(keys)} images, first {missing[0]!r}")
    return {key: 0.0 if math.isnan(scored[key]) else scored[key] for key in keys}


def _check_spice() -> Path:
    jar = _find(_SPICE)
    missing = [name for name in _SPICE_MODELS if not (jar.parent / "lib" / name).is_file()]
    if missing:
        raise ConfigError(
            f"SPICE needs {' and '.join(missing)} in {jar.parent / 'lib'}: take them from {_SPICE_ARCHIVE} of Stanford "
            "CoreNLP 3.6.0"
        )
    return jar


def _find(name: str) -> Path:
    """A file of pycocoevalcap, which is not imported."""
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ConfigError("METEOR and SPICE need the package pycocoevalcap: pip install 'clipcap-pipeline[java-metrics]'")


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    if program := found or shutil.which("java"):
        return program
    raise ConfigError(
        "METEOR and SPICE need Java, and there is no program java in JAVA_HOME or PATH: install a runtime, for example "
        "Debian's default-jre-headless"
    )


@contextmanager
def _conversation(command: list[str], folder: Path, timeout_s: float, name: str) -> Iterator[Callable[[str], str]]:
    """Gives a function that sends a line and returns the next one; the program is gone when the block is left."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, encoding="utf-8",
        )  # fmt: skip
        assert process.stdin and process.stdout
        questions, answers = process.stdin, process.stdout
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)  # a killed program's pipes end, so that no read waits for ever
        timer.start()

        def ask(line: str) -> str:
            try:
                questions.write(line + "\n")
                questions.flush()
                answer = answers.readline()
            except OSError:
                answer = ""
            if answer:
                return answer.strip()
            process.kill()
            process.wait()
            if is_late.is_set():
                raise DataError(f"{name} was stopped after {timeout_s:.0f} s: it needs longer, or a faster machine")
            errors.seek(0)
            raise DataError(f"{name} ended with {process.returncode}: {_last_line(errors.read())}")

        try:
            yield ask
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            answers.close()
            with suppress(OSError):  # a line that a program that is gone has not read
                questions.close()


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"
