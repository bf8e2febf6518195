"""Pages of docs/ lead where they say, every shell block is run or says why not, and quoted messages are the code's."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", t) for t in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = []
    for link in LINK.findall(prose):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_is_on_the_map():
    """From docs/index.md, straight or by one page of it."""
    start = ROOT / "docs" / "index.md"
    seen, new = set(), {start}
    for _ in range(3):
        seen |= new
        links = {(p.parent / link.partition("#")[0]).resolve() for p in new
                 for link in LINK.findall(p.read_text(encoding="utf-8")) if "://" not in link}  # fmt: skip
        new = {link for link in links if link.suffix == ".md" and link.is_file()} - seen
    pages = {page for page in PAGES if "decisions" not in page.parts}
    assert {named(page) for page in pages - seen - new} == set()


def test_a_block_that_is_not_run_says_why():
    for page in PAGES:
        for reason in re.findall(r"<!-- not run(.*?)-->", page.read_text(encoding="utf-8")):
            assert re.fullmatch(r": \S.{8,}", reason), (named(page), reason)


@cache
def messages() -> list[str]:
    """Every text of the code that is no docstring, each on its own; what is filled in is a NUL."""
    found = []
    for file in [f for floor in ("clipcap", "flows", "tasks") for f in sorted((ROOT / floor).rglob("*.py"))]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                found.append(node.value)
    return found


def quoted() -> list[str]:
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    parts = text.partition("## What a command says")[2].partition("## What the installation says")[0]
    return re.findall(r"^\| `([^`]+)`(?: \(doctor\))? \|", parts, re.MULTILINE)


def is_said(message: str) -> bool:
    """Whether one text of the code has all parts of a quoted message, in their order."""
    pattern = ".*".join(re.escape(part.strip()) for part in message.split("…") if part.strip())
    return bool(pattern) and any(re.search(pattern, text, re.DOTALL) for text in messages())


@pytest.mark.parametrize("message", quoted())
def test_quoted_messages_are_those_of_the_code(message: str):
    assert is_said(message)


def test_what_only_a_docstring_says_or_several_texts_together_is_no_message():
    for text in ("Every path of the lake. Nothing else", "there is no lake at … is not valid TOML", "…"):
        assert not is_said(text)


def test_messages_are_quoted():
    assert len(quoted()) > 25
