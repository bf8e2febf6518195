"""Speed from raw text to scores, beside pycocoevalcap (which needs Java): prints one JSON document.

    python tests/benchmarks/metrics_vs_pycocoevalcap.py [--images 5000] [--rounds 5]
    python tests/benchmarks/metrics_vs_pycocoevalcap.py --references R.json --candidates C.json

Both read the same captions and compute BLEU-1..4, ROUGE-L and CIDEr for the set and each image, tokenization included.
They take turns, and the ratio is taken in each round, so that a busy machine slows both; the ratio of processor time is
given beside that of the clock. Without files the captions are
those of ../shared/flickr8k: references of the first images, and for each that one of 50 captions of the other images
that has most words in common. It needs `pip install pycocoevalcap` (here, or elsewhere on PYTHONPATH).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clipcap.metrics.coco import ngram_metrics
from clipcap.metrics.coco_files import load_candidates, load_references
from clipcap.metrics.evaluate import DEFAULT, score
from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.metrics.rouge import rouge_l_many

Captions = dict[str, str]
References = dict[str, list[str]]


def flickr8k(images: int) -> tuple[Captions, References]:
    """Captions of a weak model: real ones of other images, which share words with the references."""
    shared = Path(os.environ.get("CLIPCAP_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    path = shared / "flickr8k" / "dataset_flickr8k.json"
    if not path.is_file():
        sys.exit(f"skipped: no captions at {path} (set CLIPCAP_SHARED, or give --references and --candidates)")
    captions = [[s["raw"] for s in image["sentences"]] for image in json.loads(path.read_text())["images"]]
    references = {str(number): texts for number, texts in enumerate(captions[:images])}
    others = [text for texts in captions[images:] for text in texts] or sys.exit(f"there are {len(captions)} images")
    rng = random.Random(0)
    candidates = {}
    for key, texts in references.items():
        words = set(" ".join(texts).lower().split())
        candidates[key] = max(
            rng.sample(others, 50), key=lambda text: len(words & set(text.lower().split())) / (3 + len(text.split()))
        )
    return candidates, references


def seconds(work: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds on the clock, seconds of all cores (Java's included), and the result."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    result = work()
    return time.perf_counter() - start, sum(os.times()[:4]) - used, result


def theirs(candidates: Captions, references: References) -> tuple[dict[str, float], dict[str, list[float]]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        gts = PTBTokenizer().tokenize({key: [{"caption": text} for text in references[key]] for key in candidates})
        res = PTBTokenizer().tokenize({key: [{"caption": text}] for key, text in candidates.items()})
        bleu, each_bleu = Bleu(4).compute_score(gts, res, verbose=0)
        rouge, each_rouge = Rouge().compute_score(gts, res)
        cider, each_cider = Cider().compute_score(gts, res)
    values = [*bleu, rouge, cider]
    each = [*each_bleu, each_rouge, each_cider]
    return dict(zip(DEFAULT, values, strict=True)), dict(zip(DEFAULT, map(list, each), strict=True))


def parts(candidates: Captions, references: References) -> dict[str, float]:
    """Where our time goes."""
    texts = [text for key in candidates for text in references[key]]
    first, _, tokenized = seconds(lambda: tokenize([*candidates.values(), *texts]))
    own = dict(zip(candidates, tokenized, strict=False))
    rest = iter(tokenized[len(candidates) :])
    others = {key: [next(rest) for _ in references[key]] for key in candidates}
    second, _, _ = seconds(lambda: ngram_metrics(own, others))
    third, _, _ = seconds(lambda: rouge_l_many(list(own.values()), list(others.values())))
    return {"tokenize_s": round(first, 3), "bleu_and_cider_s": round(second, 3), "rouge_l_s": round(third, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--references")
    parser.add_argument("--candidates")
    options = parser.parse_args()
    if importlib.util.find_spec("pycocoevalcap") is None:
        sys.exit("skipped: pycocoevalcap is not installed here (pip install pycocoevalcap, and a Java runtime)")
    if options.references and options.candidates:
        candidates, references = load_candidates(options.candidates), load_references(options.references)
    else:
        candidates, references = flickr8k(options.images)

    score(dict(list(candidates.items())[:10]), references)  # what is imported on the first call
    our_seconds, their_seconds, our_cpu, their_cpu = [], [], [], []
    for _ in range(options.rounds):
        took, used, (their_values, their_each) = seconds(lambda: theirs(candidates, references))
        their_seconds.append(took)
        their_cpu.append(used)
        took, used, ours = seconds(lambda: score(candidates, references))
        our_seconds.append(took)
        our_cpu.append(used)
    ratios = [slow / fast for slow, fast in zip(their_seconds, our_seconds, strict=True)]
    cpu_ratios = [slow / fast for slow, fast in zip(their_cpu, our_cpu, strict=True)]
    print(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "images": len(candidates),
                "references": sum(len(references[key]) for key in candidates),
                "clipcap_s": [round(s, 3) for s in our_seconds],
                "pycocoevalcap_s": [round(s, 3) for s in their_seconds],
                "ratios": [round(ratio, 2) for ratio in ratios],
                "median_ratio": round(statistics.median(ratios), 2),
                "cpu_s": {"clipcap": [round(s, 2) for s in our_cpu], "pycocoevalcap": [round(s, 2) for s in their_cpu]},
                "median_cpu_ratio": round(statistics.median(cpu_ratios), 2),
                "load": [round(load, 1) for load in os.getloadavg()],
                "parts": parts(candidates, references),
                "largest_difference": {
                    "corpus": max(abs(ours.corpus[name] - their_values[name]) for name in DEFAULT),
                    "per_image": max(
                        abs(own - other)
                        for name in DEFAULT
                        for own, other in zip(ours.per_image[name].values(), their_each[name], strict=True)
                    ),
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
