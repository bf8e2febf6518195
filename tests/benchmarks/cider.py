"""CIDEr-D in memory beside the DuckDB statement, on the same captions: prints one JSON document.

    python tests/benchmarks/cider.py [REFERENCES.json CANDIDATES.json]

Without files on invented captions. Measured are the whole set once (a validation) and steps of self-critical training:
80 captions of 16 images, with the tokenizer and without, against references that were read before. The best of runs.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
from collections.abc import Callable

import numpy as np

from clipcap.metrics.cider import CiderD
from clipcap.metrics.coco import ngram_metrics
from clipcap.metrics.coco_files import load_candidates, load_references
from clipcap.metrics.ptb_tokenizer import tokenize

IMAGES, SAMPLES = 16, 5


def best_of(runs: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def invented(images: int = 1000) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Sentences of 6 to 15 words; frequent words are frequent, as in human captions."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(4000)]
    weights = [1 / (rank + 5) for rank in range(len(words))]

    def sentence() -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(6, 15))).capitalize() + "."

    return {str(i): [sentence() for _ in range(5)] for i in range(images)}, {str(i): sentence() for i in range(images)}


def main(paths: list[str]) -> None:
    references, candidates = (load_references(paths[0]), load_candidates(paths[1])) if paths else invented()
    texts = dict(zip(candidates, tokenize(list(candidates.values())), strict=True))
    sets = {key: tokenize(references[key]) for key in candidates}
    tokens = [text.split() for text in texts.values()]
    reference_tokens = [[text.split() for text in image] for image in sets.values()]

    scorer = CiderD(reference_tokens)
    statement = ngram_metrics(texts, sets, bleu=False)["cider"][1]
    difference = np.abs(scorer.score(tokens, range(len(tokens))) - list(statement.values())).max()
    statement_s = best_of(3, lambda: ngram_metrics(texts, sets, bleu=False))
    build_s = best_of(3, lambda: CiderD(reference_tokens))
    all_s = best_of(5, lambda: scorer.score(tokens, range(len(tokens))))

    # Candidates of other images, so that a step has as many different captions as one of a training.
    images = [image for image in range(IMAGES) for _ in range(SAMPLES)]
    raw = list(candidates.values())[: len(images)]
    step = tokens[: len(images)]
    step_s = best_of(50, lambda: scorer.score(step, images))
    from_text_s = best_of(50, lambda: scorer.score([text.split() for text in tokenize(raw)], images))
    print(
        json.dumps(
            {
                "benchmark": "CIDEr-D in memory",
                "machine": {"processor": platform.processor() or platform.machine(), "numpy": np.__version__},
                "captions": "invented" if not paths else "from files",
                "images": len(tokens),
                "references": sum(map(len, reference_tokens)),
                "largest_difference": float(difference),
                "whole_set_s": {"statement": round(statement_s, 4), "in_memory": round(all_s, 4),
                                "in_memory_with_references": round(all_s + build_s, 4)},
                "times_as_fast": {"references_read_before": round(statement_s / all_s, 1),
                                  "references_included": round(statement_s / (all_s + build_s), 1)},
                "captions_per_s": {
                    "whole_set": round(len(tokens) / all_s),
                    "steps_of_80": round(len(step) / step_s),
                    "steps_of_80_from_raw_text": round(len(step) / from_text_s),
                },
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit(f"usage: {sys.argv[0]} [REFERENCES.json CANDIDATES.json]")
    main(sys.argv[1:])
