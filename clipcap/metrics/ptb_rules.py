"""How the tokenizer of the COCO caption evaluation cuts a text: a table of rules.

At each place every rule is tried and the longest match wins, ties going to the rule that stands first. The rules were
found by experiment and hold for captions; the oddities are kept, since a metric that mends them is another metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from clipcap.metrics.abbreviations import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    CAPITALIZED,
    FILE_ENDINGS,
    NOT_ALL_CAPITALS,
    SENTENCE_STARTS,
    TITLES,
)
from clipcap.metrics.characters import LETTERS, MARKS, SYMBOLS

_LETTER = rf"[A-Za-z{LETTERS}{MARKS}\u00ad]"
_CHAR = rf"[A-Za-z0-9{LETTERS}{MARKS}\u00ad]"
_WORD = rf"{_LETTER}{_CHAR}*"
_PART = rf"[A-Za-z0-9{LETTERS}\u00ad]+"
_JOINED = rf"{_WORD}(?:[.!?]{_WORD})*"
_CURLY = r"['\u2019\x92]"
_OPENING = r"[`\u2018\u201b\x91]"
_QUOTE = rf"(?:{_CURLY}|&apos;)"
_CLITIC = r"(?:[sdm]|ll|re|ve)"
_NUMBER = r"(?:[0-9]*(?:[.:,\u00ad\u066b\u066c][0-9]+)+|[0-9]+)"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+\."
_HYPHEN = r"[-_\u058a\u2010\u2011]"
_ANY_QUOTE = rf"(?:{_QUOTE}|{_OPENING})"
_ELIDED = rf"[dlo]{_ANY_QUOTE}[A-Za-z0-9{LETTERS}]{{2,}}"
_COMPOUND = rf"{_PART}(?:{_HYPHEN}{_PART})*"


def _any_of(words: frozenset[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))


def _any_title(words: frozenset[str]) -> str:
    """The words as they begin a sentence: a capital first, the rest in any case."""
    return "|".join(rf"{word[0].upper()}(?i:{word[1:]})" for word in sorted(words))


def _glue(token: str) -> str:
    """One token of several words: its spaces become no-break spaces."""
    return re.sub(r"\s", "\u00a0", token)


def _spell_brackets(token: str) -> str:
    return token.replace("(", "-lrb-").replace(")", "-rrb-")


def _straighten(token: str) -> str:
    return re.sub("[\u2018\u201b\x91]", "`", re.sub("\u2019|\x92|&apos;", "'", token))


# A rule is a pattern and what becomes of the matched text. The token ends where group 1 ends, or with the match where
# there is no group; what the pattern matches beyond is context, and counts for which match is the longest.
_RULES: list[tuple[re.Pattern[str], Callable[[str], str] | None]] = []


def _rule(pattern: str, change: Callable[[str], str] | None = None, flags: int = re.NOFLAG) -> None:
    _RULES.append((re.compile(pattern, flags), change))


# Markup.
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "."}
_ATTRIBUTE = r"[A-Za-z][A-Za-z0-9_:.-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'))?"
_TAG = rf"(?:<[!?][A-Za-z-][^>]*>|</?[A-Za-z][A-Za-z0-9:.-]*(?:\s+{_ATTRIBUTE})*\s*/?>)"
_rule(_TAG, _glue)
_rule(r"&(?:amp|lt|gt|quot|apos|nbsp);", lambda token: _ENTITIES[token.lower()], re.IGNORECASE)
_rule(r"&#[0-9]+;|&[aeiouAEIOU](?:acute|grave|uml|circ);")

# Words that are two, and words with apostrophes.
_rule(r"(can)not|(gon|wan)na|(got)ta|(lem|gim)me", flags=re.IGNORECASE)
_rule(r"('t)(?:is|was)", _straighten, re.IGNORECASE)
_rule(rf"{_QUOTE}n{_QUOTE}|{_QUOTE}(?:em|till?|cause)|(?:'|&apos;)n(?=\s|$)", flags=re.IGNORECASE)
_rule(r"[\u2019\x92][nN]")
_rule(rf"{_QUOTE}(?:[2-9]0[sS]|[0-9]{{2}}(?=\s|$))")
_rule(rf"[\u2019\x92]{_CLITIC}|(?:'|&apos;){_CLITIC}(?![A-Za-z])", _straighten, re.IGNORECASE)
_rule(rf"([A-Za-z]*?[A-MO-Za-mo-z])n{_ANY_QUOTE}t", _straighten, re.IGNORECASE)
_rule(rf"n{_ANY_QUOTE}t", _straighten, re.IGNORECASE)
_rule(rf"({_JOINED}){_QUOTE}{_CLITIC}", flags=re.IGNORECASE)
_rule(rf"[dDlLjJ]{_QUOTE}|([yY]{_QUOTE}){_LETTER}")
_rule(rf"(?:{_PART}{_HYPHEN})*{_ELIDED}(?:{_HYPHEN}(?:{_ELIDED}|{_PART}))*", flags=re.IGNORECASE)
_rule(rf"[A-HJ-XZn]{_ANY_QUOTE}{_LETTER}{{2,}}")
_rule(rf"{_LETTER}+[aeiouyAEIOUY](?:{_CURLY}|{_OPENING})[aeiouA-Z]{_LETTER}*")
_rule(
    rf"(?:ol|somethin|dunkin){_CURLY}|[A-Za-z]*qu(?:{_CURLY}|{_OPENING})[aeiou][a-z]+|c{_CURLY}est", flags=re.IGNORECASE
)
_rule(r"e'er|c'mon|nor'easter|ev'ry|nat'l|s'mores|cont'd\.|l'?i'l", flags=re.IGNORECASE)

# Mail, words, compounds, numbers. An abbreviation counts as two characters longer than it is, the end of a line as one.
_rule(r"<?[A-Za-z0-9][^\s\"<>|(){}]{0,63}@(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+>?")
_LOOKING_ON = rf"(?i:{_any_of(ABBREVIATIONS)})|(?:{_any_title(CAPITALIZED)})|(?![A-Z]+\.)(?i:pte|ptys?)"
_rule(rf"((?:{_LOOKING_ON})\.)(?s:.)?\Z")
_rule(_JOINED)
_rule(rf"((?:{_LOOKING_ON})\.)(?s:..)")
_rule(_COMPOUND)
_rule(rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_INITIALS}|[A-Za-z0-9\u00ad]+))+")
_rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}")
_rule(rf"[-+]?{_NUMBER}")
_rule(r"[0-9]{1,4}[- ]?[0-9]{1,4}[/\u2044][0-9]{1,4}", _glue)
_rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)")
_rule(r"\([0-9]{2,3}\)[ -]?[0-9]{3,4}[- ]?[0-9]{3,5}", lambda token: _spell_brackets(_glue(token)))
_rule(r"(?:\+?[0-9]{2,4}-)?[0-9]{2,4}[ -][0-9]{3,4}[ -]?[0-9]{3,5}", _glue)

# Full stops that stay.
_rule(rf"(?:{_any_of(TITLES)})\.", flags=re.IGNORECASE)
_rule(rf"(?!(?-i:[A-Z]+)\.)(?:{_any_of(NOT_ALL_CAPITALS)})\.", flags=re.IGNORECASE)
_rule(rf"((?:{_any_of(BEFORE_NUMBERS)})\.)\s?[0-9]", flags=re.IGNORECASE)
_rule(rf"[A-Za-z]\.(?!\s+(?:{_any_title(SENTENCE_STARTS)}|M[rs]\.|{_TAG})(?:\s|$))")
_rule(_INITIALS)
_rule(rf"((?:{_JOINED}|{_COMPOUND})\.)[,;:\u3001]")

# Addresses, names and signs.
_rule(r"-[lr][rcs]b-", flags=re.IGNORECASE)
_PATH = r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?"
_rule(r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]", flags=re.IGNORECASE)
_rule(rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}{_PATH}", flags=re.IGNORECASE)
# ",-_" is a range and holds digits and capitals, as the original does, perhaps by mistake.
_rule(rf"(?:[^\s\"`'<>|.!?(){{}},-_$]{{1,63}}\.){{1,9}}(?i:com|net|org|edu){_PATH}")
_rule(rf"{_PART}(?:\.{_PART})*\.(?:{_any_of(FILE_ENDINGS)})(?=[\s.,!?]|$)", flags=re.IGNORECASE)
_rule(r"@[A-Za-z_][A-Za-z_0-9]*")
_rule(rf"#{_LETTER}+")
_rule(r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+", lambda token: token.replace("&amp;", "&"))
_rule(r"[A-Z]+\$|[cC]\+\+|[cCfF]#")
_rule(r"[<>]?[:;=][-o*']?[()DPdpO\\|@{\[\]](?![A-Za-z0-9])", _spell_brackets)
_rule(r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>']_?[-^x=~<>']\)", _spell_brackets)

# What is left: runs of a sign, then single characters.
_rule(r"(?:\\\*)+")
_rule(r"[!?]+|_+|@+|#+|\*+|<<|>>|-{5,}|''|``")
_rule(r"-{2,4}|[\x96\x97\u2013-\u2015]", lambda token: "--")
_rule(r"\.{3,4}|[\x85\u2026]", lambda token: "...")

_SINGLE = {
    "\u2018": "`", "\u201b": "`", "\u2039": "`", "\x91": "`", "\u2019": "'", "\u203a": "'", "\x92": "'",
    "\u201c": "``", "\u00ab": "``", "\x93": "``", "\u201d": "''", "\u00bb": "''", "\x94": "''", '"': "''",
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\x80": "$", "\u00a2": "cents",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_rule(
    "[\u2018\u2019\u201c\u201d\u2039\u203a\u00ab\u00bb\u201b\x91-\x94`]{1,2}",
    lambda token: "".join(_SINGLE.get(character, character) for character in token),
)
_rule(rf"[!-/:-@\[-`{{-~\x80\x91-\x94\u2039\u203a\u201b{SYMBOLS}]", lambda token: _SINGLE.get(token, token))

_SPACE = re.compile(rf"[^!-~\u00ad\x80\x85\x91-\x97{LETTERS}{MARKS}{SYMBOLS}]+")


def tokens_of(text: str) -> Iterator[str]:
    """Every token of a caption, punctuation included, lower-cased."""
    place = 0
    while place < len(text):
        if space := _SPACE.match(text, place):
            place = space.end()
            continue
        best, change = None, None
        for pattern, how in _RULES:
            match = pattern.match(text, place)
            if match and match.end() > (best.end() if best else place):
                best, change = match, how
        if best is None:  # a character that no rule knows disappears
            place += 1
            continue
        end = best.end(best.lastindex) if best.lastindex else best.end()
        token = text[place:end]
        place = end
        yield (change(token) if change else token).replace("\u00ad", "").lower() or "-"
