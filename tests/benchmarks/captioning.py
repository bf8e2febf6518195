"""Speed from prefixes to captions, three ways in one run: prints one JSON document.

    python tests/benchmarks/captioning.py [--images 64] [--repeats 3] [--threads 2] [--device cpu]

A GPT-2 of random weights (which never end a caption, so that all are of the same length) writes with beam search:
(a) "published_loop", a plain implementation of the published search: one image at a time, no cache, every position
through the vocabulary head, float32; (b) "generate" of transformers, batched; (c) "clipcap". The ways take turns, so
that what else the machine does falls on all; a ratio is the median over the repetitions. Processor time says more than
the clock on a CPU that others use, too, and nothing about a GPU. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from clipcap.decoding.beam import beam_search
from clipcap.decoding.published import published_beam_search
from clipcap.model.language_model import quiet

Tokens = list[list[int]]
NEVER_ENDS = -1
"""No token has this id."""


@torch.inference_mode()
def published_loop(model: Any, prefixes: Tensor, beams: int, longest: int, stop: int = NEVER_ENDS) -> Tokens:
    """The published rule, plainly: prune by sum / length, a stopped beam waits in its slot."""
    captions = []
    for prefix in prefixes:
        inputs = prefix[None]  # (1, P, D), later (K, P + t, D)
        sums, lengths = torch.zeros(1, dtype=prefix.dtype), torch.zeros(1, dtype=prefix.dtype)
        sums, lengths = sums.to(prefix.device), lengths.to(prefix.device)
        stopped = lengths.bool()
        tokens = torch.zeros((1, 0), dtype=torch.long, device=prefix.device)
        for _ in range(longest):
            logits = model(inputs_embeds=inputs, use_cache=False).logits  # (K, P + t, V)
            log_p = logits[:, -1].log_softmax(dim=-1)
            log_p[stopped] = float("-inf")
            log_p[stopped, 0] = 0
            lengths = lengths + ~stopped
            averages = (sums[:, None] + log_p) / lengths[:, None]  # (K, V)
            best, index = averages.flatten().topk(beams)
            parents, added = index // log_p.shape[1], index % log_p.shape[1]
            lengths, stopped = lengths[parents], stopped[parents] | (added == stop)
            sums = best * lengths
            tokens = torch.cat([tokens[parents], added[:, None]], dim=1)
            words = model.get_input_embeddings()(added)[:, None]
            inputs = torch.cat([inputs[parents], words], dim=1)
            if bool(stopped.all()):
                break
        first = int((sums / lengths).argmax())
        captions.append(tokens[first, : int(lengths[first])].tolist())
    return captions


def generate(model: Any, prefixes: Tensor, beams: int, longest: int) -> Tokens:
    inputs = prefixes.to(model.dtype)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    with quiet():
        written = model.generate(
            inputs_embeds=inputs, attention_mask=mask, do_sample=False, num_beams=beams, max_new_tokens=longest
        )
    return written.tolist()


def clipcap(model: Any, prefixes: Tensor, beams: int, longest: int) -> Tokens:
    found = beam_search(model, prefixes, eos_id=NEVER_ENDS, beam_size=beams, max_new_tokens=longest)
    return [hypothesis.tokens for (hypothesis,) in found]


def clipcap_published(model: Any, prefixes: Tensor, beams: int, longest: int) -> Tokens:
    found = published_beam_search(model, prefixes, stop_id=NEVER_ENDS, beam_size=beams, max_new_tokens=longest)
    return [hypothesis.tokens for (hypothesis,) in found]


@dataclass
class Spent:
    """Seconds for each caption, by the clock and of all threads of this process, one entry per repetition."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    captions: Tokens = field(default_factory=list)

    def run(self, way: Callable[[], Tokens], device: str) -> None:
        clock, processor = time.perf_counter(), time.process_time()
        self.captions = way()
        if device != "cpu":
            torch.cuda.synchronize()
        self.clock.append((time.perf_counter() - clock) / len(self.captions))
        self.processor.append((time.process_time() - processor) / len(self.captions))


def share(one: Tokens, other: Tokens) -> float:
    """Of the images that both have, how many have the same caption."""
    return round(sum(a == b for a, b in zip(one, other, strict=False)) / min(len(one), len(other)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of captioning, three ways.")
    parser.add_argument("--images", type=int, default=64, help="in one batch of generate and of clipcap")
    parser.add_argument("--plain-images", type=int, default=2, help="of them for the published loop, which is slow")
    parser.add_argument("--proof-images", type=int, default=2, help="of them whose captions are compared in float64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=11, help="of every caption")
    parser.add_argument("--prefix-length", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(json.dumps(measure(options), indent=2))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = options.beam_size, options.tokens
    config = GPT2Config(eos_token_id=None, bos_token_id=None)
    model = GPT2LMHeadModel(config).eval().to(options.device)
    half = GPT2LMHeadModel(config).eval().to(options.device, torch.bfloat16)
    half.load_state_dict(model.state_dict())
    prefixes = torch.randn(options.images, options.prefix_length, config.n_embd).to(options.device)

    ways: dict[str, Callable[[], Tokens]] = {
        "published_loop_float32": lambda: published_loop(model, prefixes[: options.plain_images], *sizes),
        "generate_float32": lambda: generate(model, prefixes, *sizes),
        "clipcap_float32": lambda: clipcap(model, prefixes, *sizes),
        "generate_bfloat16": lambda: generate(half, prefixes, *sizes),
        "clipcap_bfloat16": lambda: clipcap(half, prefixes, *sizes),
    }
    for way in ways.values():
        way()  # warm: allocations, and kernels chosen
    spent = {name: Spent() for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            spent[name].run(way, options.device)
    captions = {name: times.captions for name, times in spent.items()}

    def ratio(one: str, other: str, by: str = "clock") -> float:
        pairs = zip(getattr(spent[one], by), getattr(spent[other], by), strict=True)
        return round(median(theirs / ours for ours, theirs in pairs), 2)

    precise, some = model.double(), prefixes[: options.proof_images].double()
    expected = published_loop(precise, some, *sizes)
    return {
        "machine": {
            "device": torch.cuda.get_device_name() if options.device != "cpu" else platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cpus": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
        },
        "settings": vars(options),
        "captions_per_s": {name: round(1 / median(times.clock), 3) for name, times in spent.items()},
        "seconds_per_caption": {name: [round(time, 4) for time in times.clock] for name, times in spent.items()},
        "times_the_published_loop": {name: ratio(name, "published_loop_float32") for name in ways},
        "times_the_published_loop_in_processor_time": {
            name: ratio(name, "published_loop_float32", by="processor") for name in ways
        },
        "times_generate": {dtype: ratio(f"clipcap_{dtype}", f"generate_{dtype}") for dtype in ("float32", "bfloat16")},
        "same_captions": {
            "float64: beam_search and the published loop": share(clipcap(precise, some, *sizes), expected),
            "float64: published_beam_search and the published loop": share(
                clipcap_published(precise, some, *sizes), expected
            ),
            "float32: clipcap and the published loop": share(
                captions["clipcap_float32"], captions["published_loop_float32"]
            ),
            "float32: clipcap and generate": share(captions["clipcap_float32"], captions["generate_float32"]),
            "clipcap in bfloat16 and in float32": share(captions["clipcap_bfloat16"], captions["clipcap_float32"]),
            "generate in bfloat16 and in float32": share(captions["generate_bfloat16"], captions["generate_float32"]),
        },
    }


if __name__ == "__main__":
    main()
