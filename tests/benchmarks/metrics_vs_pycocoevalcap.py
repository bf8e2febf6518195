"""Speed from raw text to scores, beside pycocoevalcap (which needs Java): prints one JSON document.

    python tests/benchmarks/metrics_vs_pycocoevalcap.py REFERENCES.json CANDIDATES.json

Both read the same captions and compute BLEU-1..4, ROUGE-L and CIDEr, tokenization included; the best of three runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable

from clipcap.metrics.coco_files import load_candidates, load_references
from clipcap.metrics.evaluate import score


def best_of(runs: int, work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the fastest run, and the last result."""
    seconds, result = [], None
    for _ in range(runs):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main(references_path: str, candidates_path: str) -> None:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError:
        sys.exit("skipped: pycocoevalcap is not installed here (pip install pycocoevalcap, and a Java runtime)")

    candidates, references = load_candidates(candidates_path), load_references(references_path)

    def theirs() -> dict[str, float]:
        gts = PTBTokenizer().tokenize({key: [{"caption": text} for text in references[key]] for key in candidates})
        res = PTBTokenizer().tokenize({key: [{"caption": text}] for key, text in candidates.items()})
        bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
        values = {f"bleu_{n}": value for n, value in enumerate(bleu, 1)}
        return {
            **values,
            "rouge_l": float(Rouge().compute_score(gts, res)[0]),
            "cider": float(Cider().compute_score(gts, res)[0]),
        }

    with contextlib.redirect_stdout(io.StringIO()):
        their_seconds, their_values = best_of(3, theirs)
        our_seconds, our_values = best_of(3, lambda: score(candidates, references).corpus)
    print(
        json.dumps(
            {
                "images": len(candidates),
                "references": sum(len(references[key]) for key in candidates),
                "clipcap_s": round(our_seconds, 3),
                "pycocoevalcap_s": round(their_seconds, 3),
                "ratio": round(their_seconds / our_seconds, 2),
                "largest_difference": max(abs(our_values[name] - their_values[name]) for name in our_values),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} REFERENCES.json CANDIDATES.json")
    main(*sys.argv[1:])
