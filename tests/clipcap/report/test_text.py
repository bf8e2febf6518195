"""Text for people, and text from outside."""

from __future__ import annotations

import random

import pytest

from clipcap.report import text


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain", "plain"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x00\x7f", "␛[31mred␀␡"),
        ("c1 \x85 \x9b", "c1 � �"),
        ("مرحبا 🐕", "مرحبا 🐕"),
        ("\ud800", "�"),
    ],
)
def test_controls_are_seen_and_not_obeyed(raw, shown):
    assert text.visible(raw) == shown


def marked(pieces) -> list[str]:
    return [part for part, is_marked in pieces if is_marked]


def test_differing_words_are_marked():
    before, after = text.differences("a man rides a horse", "a woman rides a brown horse")
    assert marked(before) == ["man"] and marked(after) == ["woman", "brown"]
    assert before == [("a ", False), ("man", True), (" rides a horse", False)]


def test_case_and_spaces_do_not_count_and_points_do():
    before, after = text.differences("A  dog.", "a dog")
    assert marked(before) == ["."] and marked(after) == []


def test_neighbouring_words_are_one_mark():
    _, after = text.differences("a cat", "a big red dog")
    assert after == [("a ", False), ("big red dog", True)]


def test_no_character_is_lost_or_gained():
    chance = random.Random(4)
    for _ in range(200):
        one, other = ("".join(chance.choice("ab .,é\n𝒳'") for _ in range(chance.randrange(30))) for _ in range(2))
        before, after = text.differences(one, other)
        assert "".join(part for part, _ in before) == one and "".join(part for part, _ in after) == other


def test_long_text_says_what_is_missing():
    assert text.shortened("abcdef", 4) == "abcd… (2 more characters)"
    assert text.shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    "found, shown",
    [
        (text.signed(0.25), "+0.250"), (text.signed(-0.25), "−0.250"), (text.signed(0.0), "0.000"),
        (text.signed(-0.0), "−0.000"), (text.signed(3.0, "vocabulary"), "+3"), (text.signed(None), "–"),
        (text.value(1234.0, "vocabulary"), "1,234"), (text.value(9.96, "mean_length"), "10.0"), (text.value(None), "–"),
        (text.seconds(9.94), "9.9 s"), (text.seconds(3600), "1 h"), (text.seconds(3725), "1 h 2 min"),
        (text.seconds(75), "1 min 15 s"), (text.rate(99.94), "99.9"), (text.rate(12345.6), "12,346"),
        (text.size(999), "999 B"), (text.size(1_500_000), "1.5 MB"), (text.size(5e15), "5,000.0 TB"),
    ],
)  # fmt: skip
def test_numbers_for_people(found, shown):
    assert found == shown
