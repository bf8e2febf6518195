"""The tokenizer's contract beyond the golden strings."""

from __future__ import annotations

import random
import string
import time

import pytest

from clipcap.metrics.ptb_tokenizer import DROPPED, _tokens, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man can't, cannot and won't.", "a man ca n't can not and wo n't"),
        ("gonna pay $5.00 at 10:30", "gon na pay $ 5.00 at 10:30"),
        ("a man/woman in a t-shirt (red)", "a man/woman in a t-shirt -lrb- red -rrb-"),
        ("from the U.S., e.g. here?!", "from the u.s. e.g. here ?!"),
        ("One dog. Two dogs.", "one dog two dogs"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_quirks_that_captions_meet(text, tokens):
    assert tokenize([text]) == [tokens]


WORDS = ["a", "I", "dog", "Dog", "cannot", "gonna", "st", "Mr", "no", "etc", "inc", "u", "it's", "t-shirt", "5", "Ill"]


def test_the_fast_path_gives_what_the_rules_give():
    """Captions of plain words skip the rules; here both run on the same text."""
    rng = random.Random(0)
    for _ in range(2000):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 5))) + rng.choice(["", ".", " ."])
        assert tokenize([text]) == [" ".join(token for token in _tokens(text) if token not in DROPPED)], text


def test_any_text_gives_clean_lower_case_tokens_and_stays_one_caption():
    rng = random.Random(1)
    alphabet = string.printable + "éßЖ日ا़\u0301“”’…—½€£¢☃😀\ud83d\u00ad\u200b\u2028\u0085\ufffd\uffff"
    for _ in range(3000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))
        (line,) = tokenize([text])
        assert line == line.strip() and "  " not in line and not set("\n\r\t") & set(line), ascii(text)
        assert not DROPPED & set(line.split(" ")), ascii(text)
        assert line.lower() == line, ascii(text)


def test_the_order_and_number_of_captions_is_kept():
    captions = ["first", "", "second .", "\n", "third"]
    assert tokenize(captions) == ["first", "", "second", "", "third"]
    assert tokenize([]) == []


@pytest.mark.parametrize(
    "text", ["a-" * 20_000, "<" * 20_000, "a'" * 20_000, "1.2" * 20_000, "a@" * 5_000, "." * 20_000]
)
def test_hostile_text_takes_no_minutes(text):
    start = time.perf_counter()
    tokenize([text])
    assert time.perf_counter() - start < 10
