"""Training steps of a mapper before a frozen GPT-2 small: the published recipe and ours, on the same captions.

Published: every caption padded to one length (mean + 10 standard deviations, at most the longest), gradients for the
frozen language model's weights too, the vocabulary head on all positions, float32. Ours: batches of similar length,
gradients for the mapper alone, the head on the captions, float32 and bfloat16. Random weights and captions with the
lengths of human ones; what is compared is time, and that the loss is the same.

Prints one JSON document: captions per second, ratios, the loss of each on the same captions.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

import clipcap
from clipcap.config import TrainConfig
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.mapping import MlpMapper
from clipcap.training.examples import TrainingExamples
from clipcap.training.phases import FromCaptions
from clipcap.training.processes import Processes

CLIP_DIM, PREFIX = 512, 10


def captions(count: int, vocabulary: int) -> TrainingExamples:
    """Lengths as COCO's captions have them in GPT-2's tokens: 11.8 on average, a long tail."""
    rng = np.random.default_rng(0)
    lengths = np.rint(8 + rng.gamma(2.2, 1.6, count)).astype(np.int64)
    lengths[0] = 55  # of half a million captions some are very long, and the published padding follows the spread
    starts = np.concatenate([[0], lengths.cumsum()])
    return TrainingExamples(
        torch.from_numpy(rng.standard_normal((count, CLIP_DIM)).astype(np.float16)),
        torch.from_numpy(rng.integers(1, vocabulary, starts[-1]).astype(np.int32)),
        torch.from_numpy(starts),
        torch.from_numpy(lengths),
        torch.arange(count),
        torch.device("cpu"),
    )


def published_step(captioner: Captioner, examples: TrainingExamples, rows: torch.Tensor, width: int) -> float:
    """Forward and backward as the published train.py does them, with its padding id 0."""
    model = captioner.language_model
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    for row, caption in enumerate(rows.tolist()):
        ids = examples.tokens[examples.starts[caption] : examples.starts[caption + 1]][:width]
        tokens[row, : len(ids)] = ids
    mask = torch.cat([torch.ones(len(rows), PREFIX), (tokens != 0).float()], dim=1)
    prefix = captioner.mapper(examples.embeddings[examples.images[rows]].float())
    words = model.transformer.wte(tokens)
    logits = model(inputs_embeds=torch.cat([prefix, words], dim=1), attention_mask=mask, use_cache=False).logits
    logits = logits[:, PREFIX - 1 : -1]
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens.flatten(), ignore_index=0)
    loss.backward()
    model.zero_grad()
    return loss.item()


def our_step(phase: FromCaptions, rows: torch.Tensor) -> float:
    return phase.backward([rows], 0, lambda loss: loss).item()


def timed(step: Callable[[int], object], batches: range) -> float:
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--batches", type=int, default=4, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    from transformers import GPT2Config, GPT2LMHeadModel  # after clipcap, which mends torchvision for it

    model = GPT2LMHeadModel(GPT2Config()).eval()
    settings = CaptionerSettings(
        clip_dim=CLIP_DIM, hidden_size=768, prefix_length=PREFIX, normalize=False, tuned=False, language_model="gpt2",
        eos_id=0,
    )  # fmt: skip
    mapper = MlpMapper(CLIP_DIM, 768, PREFIX)
    captioner = Captioner(mapper, model, None, settings)  # type: ignore[arg-type]  # nothing is decoded
    examples = captions(options.batch_size * 200, 50_257)
    lengths = examples.lengths.double()
    width = min(int(lengths.mean() + 10 * lengths.std()), int(lengths.max()))
    order = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(examples), generator=order).split(options.batch_size)
    bucketed = examples.plan(options.batch_size, order)
    phases = {
        precision: FromCaptions(
            captioner, TrainConfig(prefix_length=PREFIX, precision=precision), Processes("cpu"), examples
        )
        for precision in ("float32", "bfloat16")
    }

    def published(batch: int) -> float:
        model.requires_grad_(True)  # the published code gives them to no optimizer, and computes them all the same
        try:
            return published_step(captioner, examples, shuffled[batch], width)
        finally:
            model.requires_grad_(False)
            mapper.zero_grad()

    def ours(precision: str, rows: torch.Tensor) -> float:
        loss = our_step(phases[precision], rows)
        mapper.zero_grad()
        return loss

    def on_bucket(precision: str, batch: int) -> float:
        return ours(precision, bucketed[batch])

    rows = shuffled[0]
    losses = {"published": published(0)} | {name: ours(name, rows) for name in phases}
    seconds: dict[str, list[float]] = {name: [] for name in ("published", *phases)}
    for start in range(0, options.rounds * options.batches, options.batches):
        batches = range(start, start + options.batches)
        seconds["published"].append(timed(published, batches))
        for name in phases:
            seconds[name].append(timed(partial(on_bucket, name), batches))
    count = options.batch_size * options.batches
    rates = {name: round(count / statistics.median(times), 2) for name, times in seconds.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(seconds["published"], seconds[name], strict=True)), 2)
        for name in phases
    }
    print(
        json.dumps(
            {
                "benchmark": "training step, MLP mapper, frozen GPT-2 small",
                "machine": {"processor": platform.processor() or platform.machine(), "threads": options.threads,
                            "torch": torch.__version__, "clipcap": clipcap.__version__},
                "batch_size": options.batch_size,
                "caption_tokens": {"mean": round(float(lengths.mean()), 1), "longest": int(lengths.max()),
                                   "published_padding": width},
                "captions_per_s": rates,
                "times_as_fast_as_published": ratios,
                "loss_on_the_same_captions": losses,
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
