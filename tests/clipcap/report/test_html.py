"""The report as a browser reads it: parsed with html.parser, never matched as text where structure counts.

Covers: what it shows; hostile captions, URLs and reasons; nothing loaded from anywhere; runs without captions,
metrics or a model; images that cannot be shown; EXIF that must not leave the lake.
"""

from __future__ import annotations

import base64
import hashlib
import io
from html.parser import HTMLParser

import pytest
from PIL import Image
from tiny_lake import BATCH, NEW, RUN, SHARDS, build, key, picture, url

from clipcap.config import ReportConfig
from clipcap.errors import WarehouseError
from clipcap.report import render_report
from clipcap.report.thumbnails import EDGE, shrink
from clipcap.warehouse import build_catalog

VOID = {"meta", "img", "input", "br", "rect", "line", "polyline", "circle", "link"}
HOSTILE = """<script>alert(1)</script>"' onload=x <img src=x onerror=alert(1)> {{ 7*7 }} ‮مرحبا‬ & ]]>"""


class Page(HTMLParser):
    """Tags with attributes, balanced; the text of each element; comments, which there must be none of."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.comments: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            if tag == "tr":
                self.rows.append([])
            elif tag == "td":
                self.rows[-1].append("")
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if "td" in self.open:
            self.rows[-1][-1] += data

    def handle_comment(self, data):
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def cells(page: Page, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    rows = ([cell.strip() for cell in row] for row in page.rows)
    return next(row for row in rows if row and row[0].startswith(first))


def render(tiny, images: int = 60) -> Page:
    tiny.commit()
    path = render_report(tiny.lake, RUN, ReportConfig(images=images))
    assert path == tiny.lake.report(RUN) and list(path.parent.iterdir()) == [path]
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    """The report of the lake as it was built."""
    return render(build(tmp_path_factory.mktemp("report") / "lake"))


def test_shows_captions_references_scores_and_sources(page):
    body = page.texts["body"][0]
    assert {"new caption 0", "new caption 1"} <= {text.strip() for text in page.texts["blockquote"]}
    assert "old caption" not in body  # the run evaluated two models; the newer one is shown
    assert "Reference two of 1." in body and "CIDEr 0.50" in body and key(0) in body
    assert {"href": url(0), "rel": "noopener noreferrer", "target": "_blank"}.items() <= next(
        a for a in page.all("a") if a["href"] == url(0)
    ).items()
    assert cells(page, "CIDEr")[-2:] == ["0.750", "0.050"]
    assert cells(page, "BLEU-4")[-2:] == ["0.250", ""]


def test_scored_images_come_first_then_the_rest(tiny):
    assert [text.strip()[-1] for text in render(tiny, images=2).texts["blockquote"]] in (["0", "1"], ["1", "0"])


def test_best_and_worst_are_in_order(tiny):
    captions = [text.strip() for text in render(tiny, images=5).texts["blockquote"]]
    assert captions[-2:] == ["new caption 0", "new caption 1"]  # best: CIDEr 1.0; worst: 0.5


def test_pictures_are_small_and_without_metadata(page):
    assert b"PRIVATE NOTE" in picture(0)
    for image in page.all("img"):
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as picture_shown:
            assert (str(picture_shown.width), str(picture_shown.height)) == (image["width"], image["height"])
            assert max(picture_shown.size) == EDGE
            assert not picture_shown.getexif() and "exif" not in picture_shown.info
        assert b"PRIVATE" not in data


def test_the_sample_is_the_same_for_the_same_seed(tiny):
    tiny.commit()
    first = render_report(tiny.lake, RUN, ReportConfig(seed=3)).read_bytes()
    assert render_report(tiny.lake, RUN, ReportConfig(seed=3)).read_bytes() == first


def test_ledger_times_and_configuration(page):
    body = page.texts["body"][0]
    assert "HTTP 404" in body and "cannot be decoded" in body and "no URL" in body
    assert "6 of 8 ok" in body and "5 of 6 ok" in body and "4 of 5 ok" in body
    assert '"mapper": "mlp"' in page.texts["pre"][0]
    assert cells(page, "download") == ["download", "2", "2", "0", "4.0 s", "6", "1.5"]


def test_lineage_and_curve(page):
    assert any(f"batches/{BATCH}/shards/{SHARDS[0]}.tar" in text for text in page.texts["li"])
    train, val = (line["points"].split() for line in page.all("polyline"))
    assert len(train) == 3 and len(val) == 2
    heights = [float(point.split(",")[1]) for point in train]
    assert heights == sorted(heights)  # 4.0, 3.0, 2.0: the loss falls, so the line goes down the page


def test_hostile_text_is_text(tiny):
    for row in tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[0]}"):
        row["caption"] = HOSTILE
    for row in tiny.rows(f"shards/{SHARDS[0]}"):
        row["captions"], row["image_url"], row["split"] = [HOSTILE], "javascript:alert('" + HOSTILE, HOSTILE
    for row in tiny.rows(f"ledger/download/{BATCH}/{SHARDS[1]}"):
        row["reason"], row["image_url"] = HOSTILE, HOSTILE
    tiny.entries[f"train/{NEW}"]["meta"]["encoder"] = HOSTILE
    page = render(tiny)
    assert page.texts["blockquote"].count(HOSTILE) == 5  # three images, of which one is the best and one the worst
    assert HOSTILE in [text.strip() for text in page.texts["li"]]
    assert len(page.all("script")) == 1 and "alert" not in page.texts["script"][0]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [a["href"] for a in page.all("a") if not a["href"].startswith(("#", "http://", "https://"))]
    assert page.comments == []


def test_loads_nothing_and_runs_only_its_own_script(page):
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not [tag for tag, a in page.tags if tag in ("link", "iframe", "object") or (tag != "img" and "src" in a)]
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    style = page.texts["style"][0]
    assert "url(" not in style and "@import" not in style
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for kind, text in (("style", style), ("script", page.texts["script"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_a_run_that_scored_nothing(tiny):
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] != "evaluate"}
    for shard in SHARDS:
        for row in tiny.rows(f"shards/{shard}"):
            row["captions"] = []
    page = render(tiny)
    assert "Nothing was scored" in page.texts["body"][0]
    assert len(page.texts["blockquote"]) == 4 and "CIDEr" not in page.texts["main"][0]


def test_a_run_that_only_landed(tiny):
    tiny.entries = {name: entry for name, entry in tiny.entries.items() if entry["stage"] == "land"}
    body = render(tiny).texts["body"][0]
    assert "No model" in body and "wrote no captions" in body and "6 of 8 ok" in body


def test_a_run_without_anything(tiny):
    tiny.entries = {}
    assert "wrote no captions" in render(tiny).texts["body"][0]


def test_asked_for_no_images(tiny):
    page = render(tiny, images=0)
    assert page.all("img") == [] and "asked to show none" in page.texts["body"][0]


def test_a_tar_that_is_gone_leaves_a_note(tiny):
    tiny.commit()
    tiny.lake.shard(BATCH, SHARDS[0], "tar").unlink()
    page = Page(render_report(tiny.lake, RUN, ReportConfig()).read_text(encoding="utf-8"))
    assert "the image is gone" in page.texts["body"][0] and len(page.all("img")) == 1


@pytest.mark.parametrize("mode, size", [("RGBA", (400, 100)), ("P", (10, 10)), ("L", (99, 700)), ("CMYK", (300, 300))])
def test_shrink_takes_every_mode(mode, size):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "TIFF")
    thumbnail = shrink(stream.getvalue())
    assert thumbnail.uri and max(thumbnail.width, thumbnail.height) == min(EDGE, max(size))


def test_shrink_turns_images_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    stream = io.BytesIO()
    Image.new("RGB", (300, 100)).save(stream, "JPEG", exif=exif)
    thumbnail = shrink(stream.getvalue())
    assert thumbnail.height > thumbnail.width


def test_shrink_says_what_is_wrong():
    assert shrink(b"no image").problem == "cannot be decoded (UnidentifiedImageError)"


def test_an_unknown_run_is_one_line(tiny):
    tiny.commit()
    with pytest.raises(WarehouseError, match=r"no run '20990101T000000Z-cccccc'.*clipcap sql"):
        render_report(tiny.lake, "20990101T000000Z-cccccc", ReportConfig())


def test_reads_the_catalog_it_is_given(tiny, tmp_path):
    catalog = build_catalog(tiny.lake, tiny.generation(), target=tmp_path / "candidate.duckdb")
    assert render_report(tiny.lake, RUN, ReportConfig(), catalog=catalog).is_file()
    assert not tiny.lake.catalog.exists()
