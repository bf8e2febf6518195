"""Trains the small open_clip model that ships with the sample: clipcap/assets/sample_encoder.

What it does, from random weights and on the CPU:

1. Renders scenes of seeds that the sample does not use (so every scene of the sample is unseen), as the sample's
   server sends them: JPEG, decoded, scaled to the encoder's size by the preprocessing that is shipped with it.
2. Builds a vocabulary of whole words from their captions.
3. Trains both towers on (image, caption) pairs with CLIP's symmetric contrastive loss. For training only, a linear
   layer on the normalised image embedding also predicts what the scene holds (which colour-shape pairs, their sizes
   and textures, which object is the main one, where the second lies, the background). It is thrown away afterwards;
   contrast alone binds colours to shapes slowly. The shipped weights are a running average of the last steps.
4. Writes the folder in open_clip's format (weights as float16 safetensors) and measures it on held-out scenes with
   a fresh linear probe and with image-text retrieval; ``--measure`` does only that.

    python scripts/train_sample_encoder.py              # 30 minutes on two cores that were busy with other work
    python scripts/train_sample_encoder.py --measure

The same seed, thread count, library versions and kind of processor give the same weights. The shipped ones measured
(1,000 held-out scenes): top-1 pair there 1.000, mean average precision 0.998, all pairs right 0.984, retrieval among
100 scenes 0.990. On a busy machine set OMP_WAIT_POLICY=passive, so that threads do not spin while they wait.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import clipcap  # noqa: F401  (mends torchvision before open_clip imports it)

# isort: split
import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from clipcap.dataset.scene_captions import captions, true_objects
from clipcap.dataset.scenes import COLOURS, PATTERNS, SHAPES, TONES, Scene, relation, render_jpeg, scene

FOLDER = Path(__file__).resolve().parents[1] / "clipcap" / "assets" / "sample_encoder"
TRAIN_SEED, HELD_OUT_SEED = 1007, 2007  # the sample's own is 7
CONTEXT, EMBED_DIM, IMAGE_SIZE, SCENE_SIZE = 32, 256, 64, 128
PROMPT = "A photo depicts "  # CLIPScore puts it before captions
PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
SIDES = ("left", "right", "above", "below")
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def write_tokenizer(folder: Path, texts: list[str]) -> int:
    """Writes a tokenizer of whole lower-case words in the layout that transformers loads; returns its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    special = ["<pad>", "<start>", "<end>", "<unknown>"]
    vocabulary = {word: index for index, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)
    return len(vocabulary)


def model_config(vocabulary: int) -> dict:
    return {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 2, 2, 1], "width": 24, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "sample_encoder",  # any name: open_clip then reads the tokenizer of this folder
            "width": 96,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": 2,
        },
    }


def _pixels(job: tuple[int, int]) -> np.ndarray:
    """One scene as the encoder will see it before normalising: (3, IMAGE_SIZE, IMAGE_SIZE) uint8."""
    seed, index = job
    image = Image.open(io.BytesIO(render_jpeg(scene(index, seed, SCENE_SIZE))))
    small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1)


def render_all(seed: int, count: int, cache: Path | None, processes: int) -> Tensor:
    """(count, 3, IMAGE_SIZE, IMAGE_SIZE) uint8."""
    file = cache / f"scenes-{seed}-{count}-{IMAGE_SIZE}.npy" if cache else None
    if file and file.exists():
        return torch.from_numpy(np.load(file))
    with ProcessPoolExecutor(processes) as pool:
        pixels = np.stack(list(pool.map(_pixels, [(seed, index) for index in range(count)], chunksize=256)))
    if file:
        np.save(file, pixels)
    return torch.from_numpy(pixels)


def labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What the training-only layer predicts.

    Returns:
        (N, 4 * pairs) float32 of 0 and 1: the pair is there / is large / is striped / is dotted; and (N, 3) int64:
        the main object's pair, the side on which it lies of the second object, the background.
    """
    present, classes = torch.zeros(len(scenes), 4, len(PAIRS)), torch.zeros(len(scenes), 3, dtype=torch.long)
    for n, one in enumerate(scenes):
        for item in one.objects:
            pair = PAIRS.index((item.colour, item.shape))
            facts = (True, item.size == "large", item.texture == "striped", item.texture == "dotted")
            present[n, :, pair] = torch.tensor(facts, dtype=torch.float32)
        main, second = one.objects[:2]
        classes[n, 0] = PAIRS.index((main.colour, main.shape))
        classes[n, 1] = SIDES.index(relation(main, second))
        classes[n, 2] = list(TONES).index(one.tone) * len(PATTERNS) + PATTERNS.index(one.pattern)
    return present.flatten(1), classes


class Facts(nn.Module):
    """The training-only layer on normalised image embeddings."""

    sizes = (4 * len(PAIRS), len(PAIRS), len(SIDES), len(TONES) * len(PATTERNS))

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(EMBED_DIM, sum(self.sizes))
        self.scale = nn.Parameter(torch.tensor(math.sqrt(EMBED_DIM)))

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        return self.linear(embedding * self.scale).split(self.sizes, dim=1)

    def loss(self, embedding: Tensor, present: Tensor, classes: Tensor) -> Tensor:
        pairs, *others = self(embedding)
        weight = 1 + 7 * present  # few of the pairs are there
        loss = 20 * F.binary_cross_entropy_with_logits(pairs, present, weight)
        return loss + sum(
            share * F.cross_entropy(logits, classes[:, k])
            for k, (share, logits) in enumerate(zip((0.5, 0.5, 0.3), others, strict=True))
        )


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Shifts each picture by up to 3 pixels (edges repeated) and changes its brightness a little; normalises."""
    padded = F.pad(pixels.float(), (3, 3, 3, 3), mode="replicate")
    corners = rng.integers(0, 7, (len(pixels), 2))
    shifted = torch.stack(
        [p[:, y : y + IMAGE_SIZE, x : x + IMAGE_SIZE] for p, (y, x) in zip(padded, corners, strict=True)]
    )
    brightness = torch.from_numpy(rng.uniform(0.93, 1.07, (len(pixels), 1, 1, 1)).astype(np.float32))
    return normalise((shifted * brightness).clamp(0, 255))


def normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(PREPROCESS[name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    started = time.monotonic()
    scenes = [scene(index, TRAIN_SEED, SCENE_SIZE) for index in range(args.scenes)]
    texts = [captions(one) for one in scenes]
    pixels = render_all(TRAIN_SEED, args.scenes, args.cache, args.threads)
    present, classes = labels(scenes)
    test_scenes = [scene(index, HELD_OUT_SEED, SCENE_SIZE) for index in range(500)]
    test_pixels, test_classes = render_all(HELD_OUT_SEED, 500, args.cache, args.threads), labels(test_scenes)[1]
    print(f"{args.scenes} scenes ready after {time.monotonic() - started:.0f} s", flush=True)

    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    config = model_config(write_tokenizer(args.out, [PROMPT, *(text for five in texts for text in five)]))
    file = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (args.out / "open_clip_config.json").write_text(json.dumps(file, indent=2) + "\n")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{args.out}")
    tokens = torch.stack([tokenizer(five) for five in texts])  # (scenes, 5, CONTEXT)
    prompted = torch.stack([tokenizer([PROMPT + text for text in five]) for five in texts])

    model = open_clip.model.CLIP(**config).to(memory_format=torch.channels_last)
    facts = Facts()
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    decayed = [p for p in (*model.parameters(), *facts.parameters()) if p.ndim > 1]
    plain = [p for p in (*model.parameters(), *facts.parameters()) if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.08, cycle_momentum=False
    )
    order = np.empty(0, np.int64)
    for step in range(1, args.steps + 1):
        if len(order) < args.batch:
            order = rng.permutation(args.scenes)
        batch, order = torch.from_numpy(order[: args.batch]), order[args.batch :]
        words = (prompted if rng.random() < 0.15 else tokens)[batch, torch.from_numpy(rng.integers(0, 5, args.batch))]
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(augment(pixels[batch], rng))
            text = model.encode_text(words)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        target = torch.arange(args.batch)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        auxiliary = facts.loss(image, present[batch], classes[batch])
        optimizer.zero_grad(set_to_none=True)
        (contrast + auxiliary).backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *facts.parameters()], 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
            keep = min(0.995, 1 - 1 / step)
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    averaged[name].lerp_(value, 1 - keep)
        if step % args.report_every == 0 or step == args.steps:
            model.eval()
            with torch.no_grad():
                held_out = F.normalize(model.encode_image(normalise(test_pixels)).float(), dim=-1)
                right = [(o.argmax(1) == test_classes[:, k]).float().mean() for k, o in enumerate(facts(held_out)[1:])]
            model.train()
            save(averaged, args.out)  # so that a run that is stopped leaves something
            print(
                f"step {step}/{args.steps} {time.monotonic() - started:.0f} s contrast {contrast:.3f} facts "
                f"{auxiliary:.3f} | held out: main object {right[0]:.3f} side {right[1]:.3f} background {right[2]:.3f}",
                flush=True,
            )


def save(averaged: dict[str, Tensor], folder: Path) -> None:
    """Floating point becomes float16; the counters of batch normalisation stay integers."""
    weights = {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in averaged.items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def embed(folder: Path, seed: int, start: int, count: int) -> tuple[Tensor, list[Scene], object, object]:
    """Normalised embeddings (count, EMBED_DIM) through the shipped folder and its own preprocessing."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    scenes = [scene(index, seed, SCENE_SIZE) for index in range(start, start + count)]
    outputs = []
    for first in range(0, count, 250):
        images = [Image.open(io.BytesIO(render_jpeg(one))) for one in scenes[first : first + 250]]
        outputs.append(model.encode_image(torch.stack([preprocess(image) for image in images])))
    return F.normalize(torch.cat(outputs), dim=-1), scenes, model, open_clip.get_tokenizer(f"local-dir:{folder}")


def measure(folder: Path, probe_scenes: int = 4000, held_out: int = 1000) -> dict[str, float]:
    """A fresh linear probe for (colour, shape) pairs, fitted on ``probe_scenes``; retrieval among held-out scenes."""
    known, known_scenes, _, _ = embed(folder, HELD_OUT_SEED, 10_000, probe_scenes)
    fresh, fresh_scenes, model, tokenizer = embed(folder, HELD_OUT_SEED, 20_000, held_out)
    present, truth = (labels(s)[0][:, : len(PAIRS)] for s in (known_scenes, fresh_scenes))
    torch.manual_seed(0)
    probe = nn.Linear(EMBED_DIM, len(PAIRS))
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = 1e-6 * probe.weight.square().sum()
        loss = F.binary_cross_entropy_with_logits(probe(16 * known), present) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        scores = probe(16 * fresh)
        ranked = truth.gather(1, scores.argsort(1, descending=True))
        precision = (ranked.cumsum(1) / torch.arange(1, len(PAIRS) + 1) * ranked).sum(1) / ranked.sum(1)
        texts = [captions(one)[0] for one in fresh_scenes]
        words = F.normalize(
            torch.cat([model.encode_text(tokenizer(texts[k : k + 250])) for k in range(0, held_out, 250)]), dim=-1
        )
        similarity = (fresh @ words.T)[:100, :100]
        found = similarity.argmax(1) == torch.arange(100)
    exact = [
        {PAIRS[k] for k in row.topk(len(one.objects)).indices.tolist()} == true_objects(one)
        for row, one in zip(scores, fresh_scenes, strict=True)
    ]
    return {
        "top-1 pair is there": ranked[:, 0].mean().item(),
        "mean average precision of pairs": precision.mean().item(),
        "all pairs right, their number given": float(np.mean(exact)),
        "caption of 100 found by its image": found.float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report-every", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="a folder that keeps rendered scenes between runs")
    parser.add_argument("--measure", action="store_true", help="only measure the folder")
    args = parser.parse_args()
    if not args.measure:
        train(args)
    for name, value in measure(args.out).items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
