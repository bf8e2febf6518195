"""The report as a browser reads it: parsed with html.parser, never matched as text where structure counts.

Covers: what it shows; hostile captions, addresses and reasons; nothing loaded from anywhere; lakes without
captions, metrics or a model; size; contrast.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from tiny_lake import BATCH, NEW, RUN, SHARDS, key, url

import clipcap.report
from clipcap.config import ReportConfig
from clipcap.errors import WarehouseError
from clipcap.report import render_report
from clipcap.warehouse import build_catalog

HOSTILE = """<script>alert(1)</script>"' onload=x <img src=x onerror=alert(1)> {{ 7*7 }} ‮مرحبا‬ & ]]> --> \x1b[31m\x00"""
SHOWN = HOSTILE.replace("\x1b", "␛").replace("\x00", "␀")


def texts(page, tag: str) -> list[str]:
    return [" ".join(text.split()) for text in page.texts.get(tag, [])]


def test_shows_captions_references_scores_and_sources(page):
    assert {"new caption 0", "new caption 1"} <= set(texts(page, "p"))
    assert "old caption" not in page.body  # the run evaluated two models; the newer one is shown
    assert "Reference two of 1." in texts(page, "li") and "CIDEr 0.50" in page.body and key(0) in page.body
    assert {"href": url(0), "rel": "noopener noreferrer", "target": "_blank"}.items() <= next(
        a for a in page.all("a") if a["href"] == url(0)
    ).items()
    assert page.cells("CIDEr")[-2:] == ["0.750", "0.050"]
    assert page.cells("BLEU-4")[-2:] == ["0.250", ""]


def test_the_first_screen_says_what_ran_and_how_it_ended(page):
    header = " ".join(page.texts["header"][0].split())
    assert header.startswith("pipeline 1 January 2026, 00:00 UTC, took 9 min") and page.texts["h1"] == [NEW]
    assert "CIDEr test, 2 images 0.750 no interval 0.050 with exchanged embeddings" in header
    assert "no other production model" in header and "no decision" in header
    assert "Images captioned 4 of 8 rows landed 3 failed, 1 duplicate" in header
    assert "All checks of the warehouse hold." in header and f"run {RUN}" in header


def test_warnings_of_checks_stand_on_the_first_screen(tiny, render):
    rows = tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}")
    images = tiny.rows(f"shards/{SHARDS[0]}")
    for n in range(100, 160):
        rows.append({**rows[0], "sample_key": key(n), "caption": "a dog"})
        images.append({**images[0], "sample_key": key(n)})
    page = render(tiny)
    assert any("one caption not repeated" in text for text in texts(page, "li"))


def test_ledger_times_and_configuration(page):
    assert "HTTP 404" in page.body and "cannot be decoded" in page.body and "no URL" in page.body
    assert "6 of 8 ok" in page.body and "5 of 6 ok" in page.body and "4 of 5 ok" in page.body
    assert '"mapper": "mlp"' in page.texts["pre"][-1]
    assert page.cells("download")[:7] == ["download", "2", "2", "0", "6", "1.5", "4.0 s"]


def test_lineage_of_the_run_and_of_an_image(page):
    chain = [text for text in texts(page, "li") if "made by this run" in text]
    assert [text.split()[0] for text in chain] == ["land", "download", "embed", "train", "caption", "evaluate"]
    assert page.cells(BATCH)[:4] == [BATCH, "tiny.csv", "8", "6"]
    facts = next(text for text in texts(page, "details") if key(0) in text)
    assert f"batches/{BATCH}/shards/{SHARDS[0]}.tar # {key(0)}.jpg" in facts and f"{0:064x}" in facts
    assert f"embeddings/toy@feedfacecafe/{BATCH}/{SHARDS[0]}.parquet" in facts and "320 × 200 jpg" in facts


def test_plots_have_their_numbers_in_tables(page):
    drawings = page.all("svg")
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in drawings)
    assert page.cells("2")[1:] == ["3.0000", "3.5000"]  # step 2 of the training log
    lengths = [row for row in page.rows if row and row[0] == "3"]
    assert ["3", "4", "0"] in lengths or ["3", "4", "8"] in lengths  # four captions of three words


def test_no_area_hides_a_line(page):
    """The lengths of the captions are an area; those of the references are drawn over it."""
    drawn = [(tag, a.get("class")) for tag, a in page.tags if tag in ("svg", "polygon", "polyline")]
    start = next(n for n, (tag, _) in enumerate(drawn) if tag == "polygon")
    lengths = drawn[start : next(n for n in range(start, len(drawn)) if drawn[n][0] == "svg")]
    assert lengths == [("polygon", "this"), ("polyline", "this"), ("polyline", "other")]


def test_the_sample_is_the_same_for_the_same_seed(tiny):
    tiny.commit()
    first = render_report(tiny.lake, RUN, ReportConfig(seed=3)).read_bytes()
    assert render_report(tiny.lake, RUN, ReportConfig(seed=3)).read_bytes() == first


@pytest.mark.parametrize("scheme", ["javascript:alert('", "data:text/html,", "http://a.test/\x00"])
def test_hostile_text_is_text(promoted, render, scheme):
    tiny = promoted
    for model in ("old", NEW):
        for row in tiny.rows(f"captions/{NEW if model == NEW else 'tiny-mlp-00000000'}/{RUN}/{SHARDS[0]}"):
            row["caption"] = HOSTILE + model
    for row in tiny.rows(f"shards/{SHARDS[0]}"):
        row["captions"], row["image_url"], row["split"] = [HOSTILE], scheme + HOSTILE, HOSTILE
        row["format"] = row["member"] = HOSTILE
    for row in tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}"):
        row["reason"], row["image_url"] = HOSTILE, HOSTILE
    for rows in (tiny.rows(f"metrics/{NEW}/{RUN}/per_image"), tiny.rows(f"metrics/{NEW}/{RUN}/corpus")):
        rows.append({**rows[0], "metric": HOSTILE})
    tiny.entries[f"train/{NEW}"]["meta"]["encoder"] = HOSTILE
    page = render(tiny)
    captions = [text for text in page.texts["p"] if text.startswith(SHOWN)]
    assert len(captions) == 3 and len(page.cards) == 4  # three images of the hostile shard, each once
    assert SHOWN in page.texts["li"] and HOSTILE not in page.body
    assert len(page.all("script")) == 1 and "alert" not in page.texts["script"][0]
    assert len(page.all("img")) == 1  # the members of the hostile shard have other names
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [a["href"] for a in page.all("a") if not a["href"].startswith(("#", "http://images.test/"))]
    assert page.comments == []


def test_signed_addresses_are_not_handed_on(tiny, render):
    signed = "https://images.test/1.jpg?X-Amz-Signature=SECRET"
    for row in tiny.rows(f"shards/{SHARDS[0]}") + tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}"):
        row["image_url"] = signed
    tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}")[1]["reason"] = f"redirected to {signed}"
    tiny.entries[f"land/{BATCH}"]["meta"]["source"] = signed.replace("1.jpg", "urls.csv")
    page = render(tiny)
    assert "https://images.test/1.jpg" in page.body and "https://images.test/urls.csv" in page.body
    assert "SECRET" not in tiny.lake.report(RUN).read_text(encoding="utf-8")


def test_endless_words_are_cut_and_say_so(tiny, render):
    for row in tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}"):
        row["caption"] = "x" * 10_000
    for row in tiny.rows(f"shards/{SHARDS[0]}"):
        row["captions"] = ["y" * 10_000] * 30
    page = render(tiny)
    assert max(map(len, page.texts["p"])) < 1_100 and "(9,000 more characters)" in page.body
    assert "and 20 more" in texts(page, "li")
    assert tiny.lake.report(RUN).stat().st_size < 500_000


def test_loads_nothing_and_runs_only_its_own_script(page):
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not [tag for tag, a in page.tags if tag in ("link", "iframe", "object") or (tag != "img" and "src" in a)]
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    style = page.texts["style"][0]
    assert "url(" not in style and "@import" not in style
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for kind, text in (("style", style), ("script", page.texts["script"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_reference_within_the_page_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) is None or attributes[name] in ids
        assert not (attributes.get("href") or "").startswith("#") or attributes["href"][1:] in ids


def test_a_run_that_scored_nothing(tiny, render):
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] != "evaluate"}
    for shard in SHARDS:
        for row in tiny.rows(f"shards/{shard}"):
            row["captions"] = []
    page = render(tiny)
    assert "Nothing was scored" in page.body and "not scored" in page.texts["header"][0]
    assert len(page.cards) == 4 and not any(card["scores"] for card in page.cards)


def test_a_run_that_only_landed(tiny, render):
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] == "land"}
    page = render(tiny)
    assert "No model" in page.body and "wrote no captions" in page.body and "6 of 8 ok" in page.body


def test_a_run_without_anything(tiny, render):
    tiny.entries = {}
    assert "wrote no captions" in render(tiny).body


def test_asked_for_no_images(tiny, render):
    page = render(tiny, images=0)
    assert page.all("img") == [] and "asked to show none" in page.body


def test_an_unknown_run_is_one_line(tiny):
    tiny.commit()
    with pytest.raises(WarehouseError, match=r"no run '20990101T000000Z-cccccc'.*clipcap sql"):
        render_report(tiny.lake, "20990101T000000Z-cccccc", ReportConfig())


def test_reads_the_catalog_it_is_given(tiny, tmp_path):
    catalog = build_catalog(tiny.lake, tiny.generation(), target=tmp_path / "candidate.duckdb")
    assert render_report(tiny.lake, RUN, ReportConfig(), catalog=catalog).is_file()
    assert not tiny.lake.catalog.exists()


def test_text_has_the_contrast_of_level_aa():
    """Relative luminance as WCAG 2 defines it, written out here; of every colour that text has, on every ground."""
    style = (Path(clipcap.report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w[\w-]*): light-dark\((#\w{6}, #\w{6})\)", style))
    pairs = {name: pair.split(", ") for name, pair in colours.items()}

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for theme in (0, 1):
        for ground in ("paper", "card"):
            for ink in ("ink", "soft", "faint", "accent", "warm"):
                found = contrast(pairs[ink][theme], pairs[ground][theme])
                assert found >= 4.5, f"{ink} on {ground}, theme {theme}: {found:.2f}"
            assert contrast(pairs["edge"][theme], pairs[ground][theme]) >= 3  # borders of fields
        assert contrast(pairs["ink"][theme], pairs["accent-soft"][theme]) >= 4.5  # marked words
        assert contrast(pairs["soft"][theme], pairs["well"][theme]) >= 4.5
