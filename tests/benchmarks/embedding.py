"""How near embedding comes to its two ceilings, and how it compares with clip-retrieval: prints one JSON document.

    python tests/benchmarks/embedding.py [--model ViT-B-32] [--images 768] [--precision auto] [--rounds 3]
    python tests/benchmarks/embedding.py --grow 1000 10000 100000          (with the sample's small encoder)
    python tests/benchmarks/embedding.py --clip-retrieval ENV/bin/python   (a Python that has clip-retrieval)

Weights are random, images are invented JPEGs of 480 x 360 pixels in webdataset tars. In each round decoding alone,
the forward pass alone and the whole stage (two shards side by side, everything committed to a lake) run one after the
other, and ratios are of the same round; the median round is told. Where both share the cores the ceiling is
1 / (1/decode + 1/forward), on a GPU the slower of the two.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image

from clipcap.config import Config, DatasetConfig, DownloadConfig, EmbedConfig
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.land import land, plan_shards, read_landing
from clipcap.embedding.decode_pool import decode_all, resolve_workers
from clipcap.embedding.embed import embed_key, embed_shard
from clipcap.embedding.encoder import Encoder
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry

DIFFERENT = 256  # images that are really drawn; the others are these with other bytes behind their end

THEIRS = """
import sys, torch
library = torch.library.Library("torchvision", "DEF")  # else a torchvision built for CUDA fails beside a CPU torch
for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
               "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    try:
        library.define(schema)
    except RuntimeError:
        pass
import open_clip
create = open_clip.create_model_and_transforms
open_clip.create_model_and_transforms = lambda name, **options: create(name, **{**options, "pretrained": None})
from clip_retrieval.clip_inference.main import main
if __name__ == "__main__":
    tars, out, model, batch, workers = sys.argv[1:]
    main(input_dataset=tars, output_folder=out, input_format="webdataset", enable_text=False, enable_metadata=False,
         clip_model="open_clip:" + model, batch_size=int(batch), num_prepro_workers=int(workers), use_jit=False)
"""


def draw(count: int) -> list[bytes]:
    """Photograph-like JPEGs: smooth shapes with fine noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:360, :480]
    images = []
    for _ in range(count):
        a, b, c = rng.uniform(10, 60, 3)
        waves = np.stack([np.sin(x / a + b), np.cos(y / b + c), np.sin((x + y) / c)], axis=-1) * 90 + 128
        stream = io.BytesIO()
        pixels = (waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        images.append(stream.getvalue())
    return images


def make_tars(folder: Path, images: list[bytes], count: int, per_tar: int) -> None:
    folder.mkdir()
    for start in range(0, count, per_tar):
        with tarfile.open(folder / f"{start // per_tar:05d}.tar", "w") as archive:
            for number in range(start, min(start + per_tar, count)):
                data = images[number % len(images)] + f"{number:09d}".encode()
                info = tarfile.TarInfo(f"{number:09d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def make_lake(root: Path, tars: Path, per_shard: int) -> tuple[Lake, list[Entry]]:
    lake, chosen = Lake(root), DownloadConfig(shard_size=per_shard)
    landing = read_landing(Config(dataset=DatasetConfig(source=str(tars), name="bench")))
    batch = land(lake, landing)
    jobs = plan_shards(landing.batch_id, batch.rows["ok"], per_shard)
    return lake, [download_shard(lake, job, chosen, download_key(lake, job, chosen)) for job in jobs]


def end_to_end(lake: Lake, shards: list[Entry], encoder: Encoder, config: EmbedConfig) -> float:
    """Images a second of the whole stage."""

    def one(shard: Entry) -> int:
        return embed_shard(lake, shard, encoder, config, embed_key(shard, encoder)).rows["ok"]

    start = time.perf_counter()
    with ThreadPoolExecutor(config.parallel_shards) as threads:
        done = sum(threads.map(one, shards))
    return done / (time.perf_counter() - start)


def decode_only(images: list[bytes], encoder: Encoder, config: EmbedConfig) -> float:
    workers = resolve_workers(config.workers)
    start = time.perf_counter()
    done = sum(len(chunk.results) for chunk in decode_all(iter(images), encoder.preprocessing, workers))
    return done / (time.perf_counter() - start)


def forward_only(encoder: Encoder, config: EmbedConfig, count: int) -> float:
    size = (config.batch_size, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    rounds = max(count // config.batch_size, 1)
    start = time.perf_counter()
    pending = None
    for _ in range(rounds):
        following = encoder.start(pixels)
        if pending is not None:
            pending.result()
        pending = following
    pending.result()  # type: ignore[union-attr]
    return rounds * config.batch_size / (time.perf_counter() - start)


def save_random(model: str, folder: Path) -> str:
    """An open_clip folder of that architecture with random weights."""
    import open_clip
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    built = open_clip.create_model(model)
    folder.mkdir()
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic",
                  "resize_mode": "shortest"}  # fmt: skip
    text = json.dumps({"model_cfg": open_clip.get_model_config(model), "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    safetensors.torch.save_file({k: v.contiguous() for k, v in built.state_dict().items()},
                                folder / "open_clip_model.safetensors")  # fmt: skip
    return f"local-dir:{folder}"


def ceilings(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    images = draw(min(DIFFERENT, args.images))
    make_tars(folder / "tars", images, args.images, args.images // 4)
    lake, shards = make_lake(folder / "lake", folder / "tars", args.images // 4)
    config = EmbedConfig(batch_size=args.batch_size, workers=args.workers, precision=args.precision)
    encoder = Encoder(save_random(args.model, folder / "encoder"), args.device, args.precision)
    is_gpu = encoder.device.type == "cuda"
    data = [images[n % len(images)] for n in range(args.images)]
    forward_only(encoder, config, 1)
    decode_only(data[:64], encoder, config)
    rounds = []
    for _ in range(args.rounds):
        decode, forward = decode_only(data, encoder, config), forward_only(encoder, config, args.images)
        whole = end_to_end(lake, shards, encoder, config)
        ceiling = min(decode, forward) if is_gpu else 1 / (1 / decode + 1 / forward)
        rounds.append({"decode": decode, "forward": forward, "end_to_end": whole, "ratio": whole / ceiling})
    middle = sorted(rounds, key=lambda r: r["ratio"])[len(rounds) // 2]
    result: dict[str, object] = {
        "model": args.model, "images": args.images, **encoder.facts(),
        "images_per_s": {name: round(value, 1) for name, value in middle.items() if name != "ratio"},
        "ceiling": "slower of both" if is_gpu else "1 / (1/decode + 1/forward)",
        "end_to_end_of_ceiling": round(middle["ratio"], 3),
        "all_rounds": [round(r["ratio"], 3) for r in rounds],
    }  # fmt: skip
    if args.clip_retrieval:
        result["clip_retrieval"] = beside(args, folder, lake, shards, encoder, config)
    return result


def beside(args: argparse.Namespace, folder: Path, lake: Lake, shards: list[Entry], encoder: Encoder,
           config: EmbedConfig) -> dict[str, object]:  # fmt: skip
    """Both on the same tars, by turns; theirs in its own environment, loading of the model left out on both sides."""
    exact = Encoder(encoder.name, args.device, "float32")
    exact.encode(np.zeros((1, exact.preprocessing.height, exact.preprocessing.width, 3), np.uint8))
    theirs, ours, ours_exact = [], [], []
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}  # as they run it
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if encoder.device.type == "cpu" else {}
    script = folder / "theirs.py"
    script.write_text(THEIRS)
    for number in range(args.rounds):
        out = folder / f"theirs{number}"
        tars = f"{folder}/tars/{{00000..00003}}.tar"
        command = [args.clip_retrieval, str(script), tars, str(out), args.model, str(args.batch_size),
                   str(resolve_workers(args.workers))]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, env=environment)
        if told.returncode:
            return {"failed": told.stderr.strip().splitlines()[-1:]}
        stats = [json.loads(f.read_text()) for f in (out / "stats").rglob("*.json")]
        assert sum(s["sample_count"] for s in stats) == args.images, stats
        theirs.append(args.images / sum(s["total_duration"] for s in stats))
        ours.append(end_to_end(lake, shards, encoder, config))
        ours_exact.append(end_to_end(lake, shards, exact, config))
    return {
        "theirs_images_per_s": round(statistics.median(theirs), 1),
        "ours_float32_images_per_s": round(statistics.median(ours_exact), 1),
        "ours_images_per_s": round(statistics.median(ours), 1),
        "float32_times": round(statistics.median(o / t for o, t in zip(ours_exact, theirs, strict=True)), 2),
        "times": round(statistics.median(o / t for o, t in zip(ours, theirs, strict=True)), 2),
    }  # fmt: skip


def grow(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds and peak memory for more and more images, each count in a process of its own."""
    rows = []
    for count in args.grow:
        command = [sys.executable, __file__, "--one", str(count)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    first, last = rows[0], rows[-1]
    per_image = [row["seconds"] / row["images"] for row in rows]
    return {
        "encoder": "builtin:sample", "runs": rows,
        "seconds_per_image_last_of_first": round(per_image[-1] / per_image[0], 3),
        "peak_memory_last_of_first": round(last["peak_mib"] / first["peak_mib"], 3),
    }  # fmt: skip


def one(count: int, folder: Path) -> dict[str, object]:
    from clipcap.embedding.hash_index import HashIndex

    make_tars(folder / "tars", draw(64), count, 10_000)
    lake, shards = make_lake(folder / "lake", folder / "tars", 1000)
    config, encoder = EmbedConfig(), Encoder("builtin:sample", "cpu")
    encoder.encode(np.zeros((1, encoder.preprocessing.height, encoder.preprocessing.width, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index = HashIndex(lake, [])
    start = time.perf_counter()

    def embed(shard: Entry) -> Entry:
        others = index.start(shard)
        return embed_shard(lake, shard, encoder, config, embed_key(shard, encoder), others=others)

    with ThreadPoolExecutor(2) as threads:
        for entry in threads.map(embed, shards):
            index.add(entry)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": count, "seconds": round(seconds, 2), "images_per_s": round(count / seconds, 1),
            "peak_mib": round(peak), "peak_mib_before": round(before)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clip-retrieval", default="")
    parser.add_argument("--grow", type=int, nargs="+")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = one(args.one, folder) if args.one else grow(args, folder) if args.grow else ceilings(args, folder)
    if not args.one:
        result = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **result}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
