"""The embedded sample: rows of rendered scenes, with trouble planted between them.

The rows go through the ordinary chain; ``serve.py`` answers their URLs. Every planted row ends in the ledger with
its own reason, so a run shows what happens to bad input.
"""

from __future__ import annotations

from typing import Any

from clipcap.config import SampleConfig
from clipcap.dataset.scene_captions import captions
from clipcap.dataset.scenes import scene

TROUBLE: dict[str, str] = {
    "missing.jpg": "404",
    "slow.jpg": "a good image after SLOW_S seconds",
    "truncated.jpg": "the first half of a JPEG, sent as if it were all",
    "tiny.jpg": "an image of TINY_EDGE x TINY_EDGE pixels",
    "opted_out.jpg": "a good image with the header X-Robots-Tag: noai",
    "unavailable.jpg": "503 twice, then a good image",
    "text.jpg": "plain text under the name of an image",
}
"""Names below /trouble/ and what the server does there. An eighth planted row repeats the first scene's URL."""

SLOW_S = 2.5
TINY_EDGE = 16
_SPLITS = ("train",) * 8 + ("val", "test")


def split_of(index: int) -> str:
    """8 of 10 scenes are for training, one for validation, one for testing."""
    return _SPLITS[index % 10]


def scene_path(index: int) -> str:
    return f"/scenes/{index:06d}.jpg"


def trouble_scene(name: str, config: SampleConfig) -> int:
    """The scene behind a planted row: one past the sample's own, so that its picture occurs only once."""
    return config.scenes + list(TROUBLE).index(name)


def sample_rows(config: SampleConfig, port: int) -> list[dict[str, Any]]:
    """Everything that the sample lands, in order.

    Args:
        config: how many scenes, of which seed.
        port: stands in the URLs, so it must be the configured one, not the one in use.

    Returns:
        A dict for each row: ``url``, ``captions`` (five) and ``split``. ``config.scenes`` rows are scenes; eight
        more, spread among them at fixed places and all in split train, are trouble.
    """

    def row(path: str, described: int, split: str) -> dict[str, Any]:
        words = captions(scene(described, config.seed, config.image_size))
        return {"url": f"http://127.0.0.1:{port}{path}", "captions": words, "split": split}

    rows = [row(scene_path(index), index, split_of(index)) for index in range(config.scenes)]
    planted = [row(f"/trouble/{name}", trouble_scene(name, config), "train") for name in TROUBLE]
    planted.append(row(scene_path(0), 0, "train"))
    for number, extra in enumerate(planted, start=1):
        rows.insert(number * config.scenes // (len(planted) + 1) + number - 1, extra)
    return rows
