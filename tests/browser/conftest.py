"""A headless Chromium, and reports for it to open. Needs chromium and chromium-driver (Debian), and selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_lake import BATCH, NEW, OLD, RUN, SHARDS, START, build, key

from clipcap.config import ReportConfig
from clipcap.report import render_report
from clipcap.storage.records import Promotion

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-dev-shm-usage",
)  # fmt: skip
HOSTILE = [
    "<script>window.wrong = 1; alert(1)</script><img src=x onerror='window.wrong = 2'>",
    """"><svg onload=alert(1)>' autofocus onfocus='alert(1)""",
    "\x1b[31mred\x1b[0m \x00 nul \x07 bell",
    "‮reversed ⁦ isolate without an end",
    "w" * 10_000,
    "{{ 7 * 7 }} ${alert(1)} --> ]]> </style></textarea></title>",
]


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """Paths of the browser and its driver."""
    pytest.importorskip("selenium", reason="needs selenium (extra test-slow)")
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if None in found:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    return found


@pytest.fixture
def open_page(chromium: tuple[str, str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a file as a person would, by file://; the browser closes by itself."""
    from selenium import webdriver

    drivers = []

    def opened(path: Path, width: int = 1300, height: int = 900, theme: str = "light", fragment: str = "") -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium[0]
        for flag in (*FLAGS, f"--user-data-dir={tmp_path / f'profile{len(drivers)}'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromium[1]))
        drivers.append(driver)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        driver.get(path.as_uri() + fragment)
        return driver

    yield opened
    for driver in drivers:
        driver.quit()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred cards: image n has the caption "picture number n", n / 100 as its score, and two splits."""
    tiny = build(tmp_path_factory.mktemp("browser") / "lake")
    tiny.promotions = [Promotion(model_id=OLD, reason="first", created_at=START)]
    for number, shard in enumerate(SHARDS):
        images = tiny.rows(f"shards/{shard}")
        numbers = range(1000 + 110 * number, 1000 + 110 * (number + 1))
        for n in numbers:
            facts = {"image_url": f"http://images.test/{n}.jpg", "captions": [f"Reference of {n}."]}
            images.append({**images[0], "sample_key": key(n), "split": "test" if n % 2 else "val", **facts})
        for model, words in ((OLD, "drawing"), (NEW, "picture")):
            rows = tiny.rows(f"captions/{model}/{RUN}/{shard}")
            rows += [{**rows[0], "sample_key": key(n), "caption": f"{words} number {n}"} for n in numbers]
            scores = tiny.rows(f"metrics/{model}/{RUN}/per_image")
            scores += [{**scores[0], "sample_key": key(n), "value": n / 100} for n in numbers]
    tiny.commit()
    return render_report(tiny.lake, RUN, ReportConfig(images=200))


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions, references, addresses, splits, reasons and metrics that want to be more than text."""
    tiny = build(tmp_path_factory.mktemp("hostile") / "lake")
    tiny.promotions = [Promotion(model_id=OLD, reason=HOSTILE[0], created_at=START)]
    for shard in SHARDS:
        rows = tiny.rows(f"captions/{NEW}/{RUN}/{shard}")
        images = tiny.rows(f"shards/{shard}")
        for n, text in enumerate(HOSTILE):
            sample = key(1000 + n + 100 * SHARDS.index(shard))
            rows.append({**rows[0], "sample_key": sample, "caption": text})
            images.append({**images[0], "sample_key": sample, "captions": HOSTILE, "split": text[:200],
                           "image_url": f"javascript:window.wrong=3//{text}"})  # fmt: skip
            scores = tiny.rows(f"metrics/{NEW}/{RUN}/per_image")
            scores.append({**scores[0], "sample_key": sample, "metric": "cider", "value": float(n)})
            scores.append({**scores[0], "sample_key": sample, "metric": text[:100], "value": float(n)})
    for row in tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}"):
        row["reason"] = HOSTILE[1]
    tiny.commit()
    return render_report(tiny.lake, RUN, ReportConfig(images=100))
