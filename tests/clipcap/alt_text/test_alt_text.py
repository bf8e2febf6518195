"""Nasty pages: which images want a text, where their pictures are, and that nothing but attributes is added."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from selectolax.lexbor import LexborHTMLParser

from clipcap.alt_text.judge import judge
from clipcap.alt_text.locate import read_image
from clipcap.alt_text.page import PageError, read_page
from clipcap.alt_text.propose import Asked, Row, look, matches, pages_of
from clipcap.alt_text.table import read_csv, to_csv
from clipcap.alt_text.write import fill_in
from clipcap.errors import SourceError


def one(html: str) -> tuple[str, str]:
    """The verdict on the only image of a page."""
    [tag] = read_page(f"<!doctype html><html lang=en><body>{html}".encode()).images
    return judge(tag, "en")


@pytest.mark.parametrize(
    ("html", "what", "reason"),
    [
        ("<img src=a.png>", "propose", ""),
        ("<IMG\nSRC='a.png'/>", "propose", ""),
        ("<image src=a.png>", "propose", ""),
        ("<noscript><img src=a.png></noscript>", "propose", ""),
        ('<img src=a.png alt="">', "leave", "decoration"),
        ("<img src=a.png alt>", "leave", "decoration"),
        ("<img src=a.png alt='a dog'>", "leave", "has a text"),
        ('<a href="/shop"><img src=a.png alt=""></a>', "review", "only content"),
        ("<img src=a.png role=presentation>", "leave", "role=presentation"),
        ("<img src=a.png role='none'>", "leave", "role=none"),
        ("<div aria-hidden=true><p><img src=a.png></div>", "leave", "aria-hidden"),
        ("<div hidden><img src=a.png></div>", "leave", "hidden"),
        ("<img src=a.png aria-label='Our shop'>", "leave", "Our shop"),
        ("<b id=x>Our <i>shop</i></b><img src=a.png aria-labelledby='y x'>", "leave", "Our shop"),
        ("<img src=a.png aria-labelledby=gone>", "propose", ""),
        ("<figure><img src=a.png><figcaption>The <b>sea</b></figcaption></figure>", "propose", "The sea"),
        ("<a href=/shop> <span><img src=a.png></span></a>", "review", "/shop"),
        ("<button><img src=a.png></button>", "review", "button"),
        ("<a href=/shop>Shop <img src=a.png></a>", "propose", ""),
        ("<a href=/shop aria-label=Shop><img src=a.png></a>", "propose", ""),
        ("<img src=http://count.test/x width=1 height=1>", "leave", "count"),
        ("<p lang=de-AT><img src=a.png>", "leave", "de-AT"),
        ("<p lang=EN-gb><img src=a.png>", "propose", ""),
    ],
)
def test_who_writes_the_text(html: str, what: str, reason: str):
    verdict = one(html)
    assert verdict[0] == what and reason in verdict[1]


def test_what_only_looks_like_an_image_is_none():
    page = read_page(
        b"<title><img src=a></title><script>'<img src=b>'</script><!-- <img src=c> --><textarea><img src=d></textarea>"
        b"<style><img></style><p title='<img src=e>'><![CDATA[<img src=f>]]><template></template><xmp><img></xmp>"
    )
    assert page.images == []


@pytest.mark.parametrize(
    ("html", "sources"),
    [
        ("<img src=' a%20b.png?v=1#x '>", ["a%20b.png?v=1#x"]),
        ("<base href=/deep/><img src=a.png>", ["/deep/a.png"]),
        ("<img src='data:image/gif;base64,R0=' data-src=b.png>", ["b.png", "data:image/gif;base64,R0="]),
        ("<img data-src=b.png>", ["b.png"]),
        ("<img srcset='a.png 1x, b.png 2x,c.png 3w'>", ["a.png", "b.png", "c.png"]),
        ("<img srcset='a.png, b.png 1.5x'>", ["a.png", "b.png"]),
        ("<img srcset='a,b.png 1x'>", ["a,b.png"]),
        ("<picture><source srcset='a.webp 1x'><img src=b.png></picture>", ["b.png", "a.webp"]),
        ("<picture><source srcset=a.webp><img></picture>", ["a.webp"]),
    ],
)
def test_where_the_picture_is(html: str, sources: list[str]):
    [tag] = read_page(html.encode()).images
    assert tag.sources == sources


def test_pictures_are_read_below_the_site_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (site / "a b.png").write_bytes(b"ab")
    (site / "link.png").symlink_to(tmp_path / "secret.png")
    page = site / "sub" / "page.html"
    assert read_image("../a%20b.png?v=2", page, site) == ("a b.png", b"ab")
    assert read_image("/a%20b.png", page, site) == ("a b.png", b"ab")
    assert read_image("https://me.test/a b.png", page, site, "https://me.test") == ("a b.png", b"ab")
    assert read_image("data:image/png;base64,YWI%3D", page, site) == ("data:", b"ab")
    monkeypatch.setattr("clipcap.alt_text.locate.fetch", lambda *a, **k: pytest.fail("nothing is fetched"))
    for address in ("../../secret.png", "/../secret.png", "/link.png", "file:///etc/passwd", "https://other.test/a.png",
                    "//other.test/a.png", "gone.png", "..%2f..%2fsecret.png", "http://[", "a%00b", "."):  # fmt: skip
        with pytest.raises(OSError):
            read_image(address, page, site)


def test_a_fetched_picture_may_not_come_from_a_private_host(tmp_path: Path):
    """A page is somebody's list of addresses, unlike what a person types."""
    with pytest.raises(OSError, match="metadata"):
        read_image("http://169.254.169.254/x.png", tmp_path / "p.html", tmp_path, fetches=True)


def lexbor(html: bytes) -> list[tuple[str, dict[str, str | None], str]]:
    """Another browser-grade parser's view: every element with its attributes, and the text of the whole."""
    tree = LexborHTMLParser(html)
    nodes = [(node.tag, dict(node.attributes), "") for node in tree.css("*")]
    return [*nodes, ("", {}, tree.root.text(deep=True) if tree.root else "")]


def unchanged(raw: bytes, made: bytes, encoding: str) -> int:
    """Others say that only attributes came: the bytes by cutting them out, the tree by lexbor. How many came."""
    found = added(made, encoding)
    kept = [made[stop:start] for (_, stop), (start, _) in pairwise([(0, 0), *found, (len(made), 0)])]
    assert b"".join(kept) == raw
    if encoding == "utf-8" and b"\x00" not in raw:
        after = lexbor(made)
        for _, attributes, _ in after:
            if attributes.pop("data-alt-by", None) is not None:
                attributes.pop("alt")
        assert after == lexbor(raw)
    return len(found)


def added(made: bytes, encoding: str) -> list[tuple[int, int]]:
    """Where `` alt="…" data-alt-by="clipcap"`` stands."""
    start, end = ' alt="'.encode(encoding), ' data-alt-by="clipcap"'.encode(encoding)
    found, at = [], 0
    while (stop := made.find(end, at)) >= 0:
        found.append((made.rfind(start, 0, stop), stop + len(end)))
        at = stop + len(end)
    return found


NASTY = [
    b"\xef\xbb\xbf<!DOCTYPE html>\r\n<p>\xc3\xa9<IMG SRC='a'\r\n/>\r<img src=b/ title=\"a>b <img\">\n",
    b"<meta charset=iso-8859-1><p>\xe9<img src=a><img alt src=b>",
    b"<meta charset=shift_jis><p>\x83\x5c<img src=a>",
    b"\xff\xfe" + "<p>Ω<img src=a>\r\n<img>".encode("utf-16-le"),
    b"<p>\x81\xff\x00 broken bytes <img src=a",
    b"<meta charset=utf-8>\xe9\xff<img src=a>",
    b"<table><img src=a><tr><td><img src=b></table><a><img/src=c><a><img src='d'>",
    b"<img src=a><svg><image href=b></svg><image src=c>",
    b"<script><img src=a></script><img src=b><textarea><img></textarea><svg><img src=c></svg><math><img>",
    b"<img src=a alt=x><img src=b><select><img src=c></select><plaintext><img src=d>",
    b"<p" + b" x" * 11_000 + b"><img src=a>\r\n" + b"\xc3\xa9\r\n" * 6_000 + b"<img src=b>",
]


@pytest.mark.parametrize("raw", NASTY, ids=range(len(NASTY)))
def test_only_attributes_are_added(raw: bytes):
    text = 'a "dog" & <cat> – ü 日'
    page = read_page(raw)
    missing = [tag.number for tag in page.images if "alt" not in tag.attributes]
    made = fill_in(page, dict.fromkeys(missing, text))
    assert [t.attributes["alt"] for t in read_page(made).images if t.number in missing] == [text] * len(missing)
    assert unchanged(raw, made, "utf-16-le" if raw.startswith(b"\xff\xfe") else "utf-8") == len(missing)


PIECES = st.sampled_from([
    "<img src=a>", "<IMG\r\nsrc='b'/>", "<img/src=c>", "<img alt=''>", "<img alt=x src=d/>", '<img title="a>b <img">',
    "<image>", "<a href=x>", "</a>", "<p>", "</p>", "<table>", "<tr><td>", "</table>", "<!-- <img> -->", "<!-->",
    "<!--", "--!>", "<script>", "</script>", "<textarea>", "</textarea>", "<title>", "</title>", "<svg>", "</svg>",
    "<b>", "</b>", "<figure>", "<picture>", "é", "日", "\r\n", "\r", "\n", "\t", " ", "<", ">", "&amp", "&lt;img>",
    "\x00", "<img", "'", '"', "<div aria-hidden=true>",
])  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(PIECES, max_size=25).map("".join), st.sampled_from(["utf-8", "utf-16-le", "windows-1252"]),
    st.text(max_size=12).filter(str.isprintable),
)  # fmt: skip
def test_whatever_the_page_nothing_else_changes(html: str, encoding: str, text: str):
    head = {"utf-8": b"<meta charset=utf-8>", "utf-16-le": b"\xff\xfe", "windows-1252": b"<meta charset=windows-1252>"}
    raw = head[encoding] + html.encode(encoding, "ignore")
    page = read_page(raw)
    wanted = {tag.number: text for tag in page.images if "alt" not in tag.attributes}
    made = fill_in(page, wanted)
    assert unchanged(raw, made, encoding) == len(wanted)
    assert not any("alt" not in tag.attributes for tag in read_page(made).images), "a second run has nothing to do"


def test_nothing_is_overwritten_and_odd_encodings_are_refused():
    with pytest.raises(PageError, match="nothing is overwritten"):
        fill_in(read_page(b"<img alt='' src=a>"), {0: "a dog"})
    with pytest.raises(PageError, match="encoding"):
        read_page(b"\xff\xfe<\x00p\x00>")  # half a character of UTF-16


def picture(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(stream, "PNG")
    return stream.getvalue()


def test_a_site_is_looked_at(tmp_path: Path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "report").mkdir()
    for name in ("a.html", ".git/x.html", "report/review.html"):
        (tmp_path / name).write_text("<img src=dot.png><img src=pic.png><img src=gone.png><img src=pic.png alt=x>")
    (tmp_path / "b.html").write_bytes(b"\xff\xfe<\x00p\x00>")
    (tmp_path / "dot.png").write_bytes(picture((1, 1)))
    (tmp_path / "pic.png").write_bytes(picture((40, 40)))
    pages = pages_of(tmp_path, tmp_path / "report")
    found = [(row.page, row.status, bool(data)) for row, data in look(pages, Asked(tmp_path))]
    whole = [("a.html", "leave", False), ("a.html", "propose", True), ("a.html", "failed", False)]
    assert found == [*whole, ("b.html", "failed", False)]


def test_a_reviewed_table_comes_back_and_no_spreadsheet_runs_it(tmp_path: Path):
    rows = [
        Row("=cmd().html", 1, 0, "a.png", "review", "=1+1", approved="YES "),
        Row("b.html", 2, 1, "b.png", "fill", "two\nlines, \"quoted\""),
        Row("c.html", 3, 2, "c.png", "review", " -dash", approved="x"),
        Row("d.html", 4, 3, "d.png", "review", "", approved="yes"),
    ]  # fmt: skip
    text = to_csv(rows)
    cells = [cell.lstrip() for line in text.splitlines() for cell in line.split(",")]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    (tmp_path / "t.csv").write_text("\ufeff" + text)  # as spreadsheets store it
    back = read_csv(tmp_path / "t.csv")
    assert [(row.page, row.alt) for row in back] == [("=cmd().html", "=1+1"), ("c.html", "-dash"), ("d.html", "")]
    (tmp_path / "t.csv").write_text(text.replace(",yes", ",Maybe").replace(",2,c.png", ",two,c.png"))
    back = {row.page: (row.status, row.reason) for row in read_csv(tmp_path / "t.csv")}
    assert back.pop("=cmd().html") == ("fill", "")
    assert back["d.html"] == ("failed", "row 5 of the table: approved is 'Maybe'; expected yes or no")
    assert "row 4 of the table" in back["c.html"][1] and "number 'two'" in back["c.html"][1]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="no column"):
        read_csv(tmp_path / "other.csv")


def test_a_row_that_does_not_fit_its_page_any_more():
    page = read_page(b"<img src=img/new.png><img src='img/a%20b.png?v=1'><img src=c.png alt=''>")
    rows = [Row("p", 1, 0, "old.png", "fill", "x"), Row("p", 1, 1, "img/a b.png", "fill", "x"),
            Row("p", 1, 2, "c.png", "fill", "x"), Row("p", 1, 9, "d.png", "fill", "x")]  # fmt: skip
    assert [matches(page, row) for row in rows] == [False, True, False, False]
    assert [row.status for row in rows] == ["failed", "fill", "leave", "failed"]
