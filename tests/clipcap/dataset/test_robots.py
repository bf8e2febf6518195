"""robots.txt against the standard library's reader where that one is right, and against RFC 9309 where it is not."""

from __future__ import annotations

import urllib.robotparser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcap.dataset.guard.robots import MAX_BYTES, parse

PATHS = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map(lambda p: "/" + "/".join(p))
RFC_EXAMPLE = b"""
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""  # RFC 9309, 5.1


@pytest.mark.parametrize(
    ("agent", "path", "is_allowed"),
    [
        ("other", "/a.gif", False), ("other", "/a.gif?x", True), ("other", "/example/x", False),
        ("other", "/publications/", True), ("other", "/publications/a.gif", True),
        ("foobot", "/example/page.html", True), ("FooBot", "/example/allowed.gif", True), ("foobot", "/x", False),
        ("barbot", "/example/page.html", False), ("bazbot", "/example/page.html", False), ("barbot", "/a.gif", True),
        ("quxbot", "/example/", True), ("foo", "/publications/x", True),
    ],
)  # fmt: skip
def test_the_rfcs_own_example(agent: str, path: str, is_allowed: bool):
    if path == "/publications/a.gif":  # the longer rule decides
        assert len("/publications/") > len("*.gif$")
    assert parse(RFC_EXAMPLE, agent).allows(path) is is_allowed


@pytest.mark.parametrize(
    ("rule", "path", "matches"),
    [
        ("/fish", "/fish.html", True), ("/fish", "/catfish", False), ("/fish/", "/fish", False), ("/*", "/x", True),
        ("/fish*", "/fishheads", True), ("*.php", "/a.php?x", True), ("/*.php$", "/a.php", True),
        ("/*.php$", "/a.php?x", False), ("/a*b*c$", "/axxbxxc", True), ("/a*b*c$", "/axxbxx", False),
        ("/a%7Eb", "/a~b", True), ("/é", "/%C3%A9", True), ("/a$b", "/a$b", True), ("/ab$", "/abb", False),
        ("/x*x$", "/x", False), ("*", "/anything", True), ("/a**b", "/acb", True), ("$", "/a", False),
    ],
)  # fmt: skip
def test_patterns(rule: str, path: str, matches: bool):
    assert parse(f"User-agent: *\nDisallow: {rule}".encode(), "us").allows(path) is not matches


@settings(max_examples=100, deadline=None)
@given(st.lists(PATHS, max_size=4), PATHS)
def test_plain_rules_agree_with_the_standard_library(rules: list[str], path: str):
    text = "User-agent: *\n" + "".join(f"Disallow: {rule}\n" for rule in rules)
    theirs = urllib.robotparser.RobotFileParser()
    theirs.parse(text.splitlines())
    assert parse(text.encode(), "us").allows(path) is theirs.can_fetch("us", f"http://h{path}")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=30))
def test_any_bytes_are_rules(data: bytes, path: str):
    assert parse(b"User-agent: *\nDisallow: " + data, "us").allows(f"/{path}") in (True, False)


def test_what_is_past_the_limit_is_not_read_and_no_pattern_is_slow():
    late = b"User-agent: *\n" + b"#\n" * (MAX_BYTES // 2) + b"Disallow: /"
    assert parse(late, "us").allows("/x")
    wild = parse(b"User-agent: *\nDisallow: /" + b"*a" * 200 + b"b", "us")
    assert wild.allows("/" + "a" * 8000)  # a backtracking matcher would not end
