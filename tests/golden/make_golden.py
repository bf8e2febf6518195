"""Scores captions.json with the reference implementation and writes golden.json.

Only for changing the golden set; the tests read golden.json and need neither Java nor the package:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install pycocoevalcap     (and a Java runtime)
    /tmp/golden/bin/python tests/golden/make_golden.py

``captions.json`` is our own text: ``images`` (key -> candidate, references) is scored, ``strings`` is only tokenized.
The reference sends all captions of a set through one process, one a line, and a line can change how the line before it
is read ("no." and then "5"). So each text is tokenized between neutral lines, and the script fails if the whole set
read at once, as the reference does it, gives anything else.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

# Java reads the captions in its default encoding; set before the tokenizer starts it.
os.environ["JAVA_TOOL_OPTIONS"] = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

HERE = Path(__file__).parent


def tokenize_alone(texts: list[str]) -> list[str]:
    neutral = {"caption": "neutral line"}
    captions = {place: [neutral, {"caption": text}, neutral] for place, text in enumerate(texts)}
    tokens = PTBTokenizer().tokenize(captions)
    assert all(first == last == neutral["caption"] for first, _, last in tokens.values()), "the lines went out of step"
    return [tokens[place][1] for place in range(len(texts))]


def main() -> None:
    captions = json.loads((HERE / "captions.json").read_text())
    images = captions["images"]
    references = {key: [{"caption": text} for text in image["references"]] for key, image in images.items()}
    candidates = {key: [{"caption": image["candidate"]}] for key, image in images.items()}
    references, candidates = PTBTokenizer().tokenize(references), PTBTokenizer().tokenize(candidates)

    alone = iter(tokenize_alone([text for i in images.values() for text in [i["candidate"], *i["references"]]]))
    for key, image in images.items():
        for text, token in zip(
            [image["candidate"], *image["references"]], candidates[key] + references[key], strict=True
        ):
            assert token == next(alone), f"{key}: {text!r} is read differently beside its neighbours; change the set"

    corpus, per_image = {}, {}

    def keep(metric: str, value: float, values: list[float]) -> None:
        corpus[metric] = float(value)
        per_image[metric] = dict(zip(references, map(float, values), strict=True))

    for n, (value, values) in enumerate(zip(*Bleu(4).compute_score(references, candidates, verbose=0), strict=True), 1):
        keep(f"bleu_{n}", value, values)
    keep("rouge_l", *Rouge().compute_score(references, candidates))
    keep("cider", *Cider().compute_score(references, candidates))

    golden = {
        "corpus": corpus,
        "per_image": per_image,
        "tokens": {key: {"candidate": candidates[key][0], "references": references[key]} for key in images},
        "strings": tokenize_alone(captions["strings"]),
    }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{len(images)} images, {len(golden['strings'])} strings: {corpus}")


if __name__ == "__main__":
    main()
