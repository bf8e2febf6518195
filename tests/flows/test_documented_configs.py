"""What the docs say was tried: the paper's config on a small Karpathy JSON, and captions in other languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipcap.dataset.scene_captions import captions
from clipcap.dataset.scenes import Scene, render, scene
from clipcap.storage.lake import Lake
from clipcap.warehouse.queries import query

GERMAN = {"red": "rotes", "green": "grünes", "blue": "blaues", "yellow": "gelbes", "orange": "oranges",
          "purple": "violettes", "pink": "rosafarbenes", "cyan": "türkises", "circle": "Rund", "square": "Quadrat",
          "triangle": "Dreieck", "star": "Weiß-Gestirn", "ring": "Öhr", "cross": "Kreuz"}  # fmt: skip
JAPANESE = {"red": "赤い", "green": "緑の", "blue": "青い", "yellow": "黄色い", "orange": "橙の", "purple": "紫の",
            "pink": "桃色の", "cyan": "水色の", "circle": "円", "square": "四角形", "triangle": "三角形",
            "star": "星", "ring": "輪", "cross": "十字"}  # fmt: skip
SMALL = [
    "embed.encoder=builtin:sample", "embed.workers=0", "train.learning_rate=3e-3", "train.warmup_steps=10",
    "caption.beam_size=2", "caption.max_new_tokens=60", "evaluate.resamples=0",
]  # fmt: skip
FROZEN = "train.language_model.tune=false"


def german(picture: Scene) -> list[str]:
    a, b, *_ = picture.objects
    return [f"Ein {GERMAN[a.colour]} {GERMAN[a.shape]} und ein {GERMAN[b.colour]} {GERMAN[b.shape]}."]


def japanese(picture: Scene) -> list[str]:
    a, b, *_ = picture.objects
    return [f"{JAPANESE[a.colour]}{JAPANESE[a.shape]}と{JAPANESE[b.colour]}{JAPANESE[b.shape]}"]


def karpathy(folder: Path, scenes: int, words: Callable[[Scene], list[str]], below: str = "") -> Path:
    """A JSON of Karpathy's form, with its images beside it."""
    (folder / below).mkdir(parents=True)
    images = []
    for number in range(scenes):
        picture = scene(number, seed=3)
        name = f"{number:04d}.jpg"
        render(picture).save(folder / below / name)
        split = ("test", "val", "restval", "train", "train", "train")[number % 6]
        sentences = [{"raw": text} for text in words(picture)]
        images.append({"filename": name, "filepath": below, "split": split, "sentences": sentences})
    (folder / "data.json").write_text(json.dumps({"images": images}, ensure_ascii=False), encoding="utf-8")
    return folder / "data.json"


def run(lake: Lake, config: str, source: Path, *overrides: str) -> dict[str, Any]:
    from flows.pipeline import pipeline

    settings = [f"dataset.source={source}", f"dataset.images={source.parent}", *SMALL, *overrides]
    return pipeline(config, settings, str(lake.root))


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from clipcap.config import LanguageModelConfig
    from clipcap.model.language_model import new_language_model

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    texts = [text for number in range(60) for text in captions(scene(number, seed=3))]
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=32, vocab_size=400)
    model, tokenizer = new_language_model(sizes, texts)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [[], ["train.mapper=transformer", "train.prefix_length=40", "train.clip_length=40", FROZEN]],
    ids=["mlp and GPT-2 tuned", "transformer and GPT-2 frozen"],
)  # fmt: skip
def test_the_config_of_coco_runs_on_a_karpathy_json(variant, prefect_harness, tiny_gpt2: Path, tmp_path: Path):
    source = karpathy(tmp_path / "coco", 60, captions, below="train2014")
    lake = Lake(tmp_path / "lake")
    own = ["train.epochs=1", f"train.language_model.name={tiny_gpt2}", "train.mapper_heads=2", *variant]
    outcome = run(lake, "coco", source, *own)
    assert (outcome["split"], outcome["images"]) == ("test", 10)
    assert {"bleu_4", "rouge_l", "cider"} <= set(outcome["metrics"])
    assert query(lake, "from captions").num_rows == 60


@pytest.mark.slow
@pytest.mark.parametrize("words", [german, japanese], ids=lambda words: words.__name__)
def test_captions_are_learned_and_written_in_their_own_language(words, prefect_harness, tmp_path: Path):
    source = karpathy(tmp_path / "scenes", 360, words)
    lake = Lake(tmp_path / "lake")
    outcome = run(
        lake, "sample", source, "train.epochs=15", "train.language_model.lowercase=false",
        "train.language_model.layers=2", "train.language_model.hidden_size=64", "evaluate.clip_score=false",
        "evaluate.shuffled_control=false", "caption.clip_score=false",
    )  # fmt: skip
    assert "bleu_1" in outcome["metrics"]
    rows = query(lake, "select caption, split, sample_key from captions order by sample_key").to_pylist()
    true = [words(scene(number, seed=3))[0] for number in range(360)]
    written = [row["caption"] for row in rows]
    known = set("".join(true))
    strange = [character for character in "".join(written) if character not in known]
    assert len(strange) < 0.05 * len("".join(written)), "hardly a character but those that were taught"
    assert agreement(written, true) > agreement(written, true[7:] + true[:7]) + 0.05, "captions depend on their images"


def agreement(written: list[str], true: list[str]) -> float:
    """Mean share of the true captions' characters that were written."""
    return sum(len(set(a) & set(b)) / len(set(b)) for a, b in zip(written, true, strict=True)) / len(true)
