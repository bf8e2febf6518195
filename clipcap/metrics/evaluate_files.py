"""Scores captions and compares two sets of them, from files: what needs no lake."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipcap.errors import ConfigError, DataError, ImageDecodeError
from clipcap.metrics.bootstrap import CONFIDENCE, RESAMPLES
from clipcap.metrics.clip_score import CLIP_METRICS, clip_metrics
from clipcap.metrics.coco_files import load_candidate_lists, load_candidates, load_file_names, load_references
from clipcap.metrics.compare import compare
from clipcap.metrics.diversity import self_cider
from clipcap.metrics.evaluate import DEFAULT, KNOWN, Scores, score
from clipcap.metrics.java import JAVA_METRICS
from clipcap.metrics.ptb_tokenizer import tokenize

log = logging.getLogger("clipcap.metrics")

SELF_CIDER = "self_cider"
FILE_METRICS = (*KNOWN, *JAVA_METRICS, *CLIP_METRICS, SELF_CIDER)
"""Every metric of captions in files."""

_IMAGES_AT_ONCE = 64
_SHOWN = 5


def evaluate_files(
    references: Path,
    candidates: Path,
    metrics: Sequence[str] = (),
    images: Path | None = None,
    encoder: str = "",
    device: str = "auto",
) -> Scores:
    """Scores the images of the candidates; where an image has several captions, the first is the one that is scored.

    Args:
        references: COCO annotations, Karpathy's JSON, or id -> captions.
        candidates: COCO results, or id -> caption or captions.
        metrics: names from ``FILE_METRICS``. By default the usual ones, self-CIDEr where every image has several
            captions, and CLIPScore where there is a folder of images.
        images: for CLIPScore, a folder of files named as the references' ``images`` say, or by image id.
        encoder: for CLIPScore, as in embed.encoder.
        device: of the encoder.

    Raises:
        ConfigError: an unknown metric, or one that needs what was not given.
        DataError: files that cannot be read; candidates without references, captions or images.
    """
    if unknown := [name for name in metrics if name not in FILE_METRICS]:
        raise ConfigError(f"unknown metric {', '.join(map(repr, unknown))}: known are {', '.join(FILE_METRICS)}")
    asked_clip = [name for name in metrics if name in CLIP_METRICS]
    if asked_clip and (images is None or not encoder):
        raise ConfigError(f"{' and '.join(asked_clip)} need the images and their encoder: --images DIR --encoder NAME")
    if images is not None and not encoder:
        raise ConfigError("--images needs --encoder NAME, for example ViT-B-32-quickgelu/openai")
    captions, truth = load_candidate_lists(candidates), load_references(references)
    several = all(len(texts) > 1 for texts in captions.values())
    if SELF_CIDER in metrics and not several:
        single = [key for key, texts in captions.items() if len(texts) < 2]
        raise DataError(
            f"self_cider needs several captions of each image, and {len(single)} of {len(captions)} have one, first "
            f"{single[0]!r}: {candidates}"
        )
    wanted = list(metrics) or [*DEFAULT, *([SELF_CIDER] * several), *(CLIP_METRICS if images else ())]
    first = {key: texts[0] for key, texts in captions.items()}
    if left := len(truth.keys() - first.keys()):
        log.info("%s of %s images with references have no candidate: they are left out", f"{left:,}", f"{len(truth):,}")
    scores = score(first, truth, [name for name in wanted if name in (*KNOWN, *JAVA_METRICS)])
    if SELF_CIDER in wanted:
        tokenized = {key: tokenize(texts) for key, texts in captions.items()}
        scores = scores.plus({SELF_CIDER: self_cider(tokenized, {key: tokenize(truth[key]) for key in captions})})
    if images is not None and any(name in CLIP_METRICS for name in wanted):
        found = _clip(first, truth, find_images(images, list(first), load_file_names(references)), encoder, device)
        scores = scores.plus({name: values for name, values in found.items() if name in wanted})
    return Scores({name: scores.corpus[name] for name in wanted}, scores.per_image, scores.counts)


def compare_files(
    references: Path,
    candidate: Path,
    baseline: Path,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of :func:`clipcap.metrics.compare.compare` for two files of candidates, scored on the same images.

    Raises:
        DataError: they caption different images, or files that cannot be read.
    """
    truth, ours, theirs = load_references(references), load_candidates(candidate), load_candidates(baseline)
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        raise DataError(
            f"{candidate} and {baseline} caption different images: {len(alone)} stand in one of them alone "
            f"({', '.join(alone[:_SHOWN])}{', …' if len(alone) > _SHOWN else ''}); leave these out"
        )
    return compare(score(ours, truth, KNOWN), score(theirs, truth, KNOWN), resamples, confidence, seed)


def find_images(folder: Path, keys: Sequence[str], names: Mapping[str, str]) -> list[Path]:
    """The file of each image: named by the references, by its id, or as COCO does, by its id in twelve digits.

    Raises:
        DataError: no such folder, images without a file, or an id that two files have.
    """
    from clipcap.dataset.sources import IMAGE_EXTENSIONS

    if not folder.is_dir():
        raise DataError(f"--images: there is no folder {folder}")
    known: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file():
            for name in {file.name, file.stem, file.stem.rpartition("_")[2]}:
                known.setdefault(name, []).append(file)
    found, missing = [], []
    for key in keys:
        named = Path(names.get(key, ""))
        candidates = [named.name, named.stem, key, key.zfill(12) if key.isdigit() else ""]
        files = next((known[name] for name in candidates if name and name in known), [])
        whole = [file for file in files if file.name in candidates or file.stem in candidates] or files
        if len(whole) > 1:
            raise DataError(f"image {key!r} could be {whole[0]} or {whole[1]}: keep one of them in {folder}")
        found += whole
        missing += [] if whole else [key]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(keys)} images have no file in {folder} "
            f"({', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}): files are found by the "
            "references' file names, or by image id"
        )
    return found


def _clip(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], files: Sequence[Path], name: str, device: str
) -> dict[str, dict[str, float]]:
    from clipcap.embedding.decode import decode
    from clipcap.embedding.encoder import get_encoder

    encoder = get_encoder(name, device)
    vectors = []
    for start in range(0, len(files), _IMAGES_AT_ONCE):
        pixels = []
        for file in files[start : start + _IMAGES_AT_ONCE]:
            try:
                pixels.append(decode(file.read_bytes(), encoder.preprocessing))
            except (ImageDecodeError, OSError) as error:
                raise DataError(f"{file} {error}: mend it, or leave its image out of the candidates") from None
        vectors.append(encoder.encode(np.stack(pixels)))
    found = clip_metrics(
        encoder, np.concatenate(vectors), list(captions.values()), [references[key] for key in captions]
    )
    return {metric: dict(zip(captions, values.tolist(), strict=True)) for metric, values in found.items()}
