"""The tokenizer of the COCO caption evaluation, without Java.

Published caption metrics are computed on Penn Treebank tokens as one particular program makes them (Stanford CoreNLP
3.4.1, lower-cased, its punctuation then dropped). This is an independent description of what comes out of it: at each
place every rule is tried and the longest match wins, ties going to the rule that stands first. The rules were found
by experiment and hold for captions; the oddities are kept, since a metric that mends them is another metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from clipcap.metrics.abbreviations import ABBREVIATIONS, BEFORE_NUMBERS, CAPITALIZED
from clipcap.metrics.characters import LETTERS, MARKS, SYMBOLS

DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])
"""Tokens that the evaluation drops. Brackets arrive lower-cased, so theirs never do."""

# Whole captions of such words need no rules: each word is its own token, a full stop at the end is dropped.
_PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*(?: ?\.)?")
_NOT_PLAIN = re.compile(r"\b(?:cannot|gonna|gotta|lemme|gimme|wanna)\b")


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenizes captions for the metrics.

    Args:
        captions: raw text, one caption each; line breaks count as spaces.

    Returns:
        For each caption its lower-cased tokens joined by single spaces, punctuation dropped; "" where nothing is left.
        A token may hold a no-break space (``3 1/2`` is one token).
    """
    return [_tokenize(caption) for caption in captions]


def _tokenize(caption: str) -> str:
    lowered = caption.lower()
    if _PLAIN.fullmatch(lowered) and not _NOT_PLAIN.search(lowered) and not _ends_in_abbreviation(lowered):
        return lowered.rstrip(" .")
    return " ".join(token for token in _tokens(caption) if token not in DROPPED)


def _ends_in_abbreviation(lowered: str) -> bool:
    if not lowered.endswith("."):
        return False
    word = lowered[:-1].rpartition(" ")[2]
    return len(word) == 1 or word in ABBREVIATIONS or word in CAPITALIZED


# --- the rules -------------------------------------------------------------------------------------------------------

_LETTER = rf"[A-Za-z{LETTERS}{MARKS}\u00ad]"
_CHAR = rf"[A-Za-z0-9{LETTERS}{MARKS}\u00ad]"
_WORD = rf"{_LETTER}{_CHAR}*"
_APOS = r"(?:['\u2019\x92]|&apos;)"
_CLITIC = rf"{_APOS}(?:[sdmSDM]|[lL][lL]|[rR][eE]|[vV][eE])(?!{_CHAR})"
_NT = rf"[nN]{_APOS}[tT]"
_NUMBER = r"(?:[0-9]*(?:[.:,\u00ad\u066b\u066c][0-9]+)+|[0-9]+)"


def _alternatives(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _titles(words: Sequence[str]) -> str:
    return _alternatives([form for word in words for form in (word.capitalize(), word.upper())])


# A rule matches its token, which ends where group 1 ends (or the match, without one); what follows is context, and
# counts for which match is the longest.
_RULES: list[tuple[re.Pattern[str], Callable[[str], str] | None]] = []


def _rule(pattern: str, replace: Callable[[str], str] | None = None, flags: int = 0) -> None:
    _RULES.append((re.compile(pattern, flags), replace))


def _glued(token: str) -> str:
    return re.sub(r"\s", "\u00a0", token)


_rule(r"<!--.*?-->|<[!?][A-Za-z][^>]*>", _glued)
_rule(r"</?[A-Za-z][A-Za-z0-9:.-]*(?:\s+[^>]*)?/?>", _glued)
_rule(r"<[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+>")
_rule(r"(can)not|(gon|wan)na|(got)ta|(lem|gim)me", flags=re.IGNORECASE)
_rule(rf"({_APOS}[tT])(?i:is|was)")
_rule(rf"{_APOS}(?i:em|till?|cause|n{_APOS}?)(?!{_CHAR})")
_rule(rf"{_APOS}[0-9]0[sS]")
_rule(rf"({_CLITIC})")
_rule(rf"{_NT}")
_rule(rf"({_LETTER}{_CHAR}*?){_NT}")
_rule(rf"([yYjJ]{_APOS}){_LETTER}")
_rule(rf"[dDlLnNoOM]{_APOS}{_WORD}")
_rule(
    rf"(?i:[oO]l{_APOS}|e{_APOS}er|ma{_APOS}am|c{_APOS}mon|nor{_APOS}easter|hallowe{_APOS}en|ev{_APOS}ry|nat{_APOS}l"
    rf"|s{_APOS}mores|qu{_APOS}est|c{_APOS}est|cont{_APOS}d\.|ne{_APOS}er|o{_APOS}clock|xi{_APOS}an|ha{_APOS}aretz"
    rf"|hawai{_APOS}i)"
)
_rule(rf"{_WORD}(?:[.!?]{_WORD})*")
_rule(rf"({_WORD}(?:[.!?]{_WORD})*){_CLITIC}")
_rule(rf"{_CHAR}+(?:[-_/\u058a\u2010\u2011]{_CHAR}+)*")
_rule(r"[A-Za-z](?:\.[A-Za-z])+(?:-[A-Za-z0-9]+)+")
_rule(rf"[-+]?{_NUMBER}")
_rule(r"[0-9]{1,4}[- ]?[0-9]{1,4}[/\u2044][0-9]{1,4}", _glued)
_rule(
    r"(?:\+?[0-9]{1,3}[ -])?\([0-9]{2,3}\)[ -]?[0-9]{3,4}[- ][0-9]{3,5}",
    lambda token: _glued(token).replace("(", "-lrb-").replace(")", "-rrb-"),
)
_rule(r"(?:\+?[0-9]{1,3} )?[0-9]{2,3}[ -][0-9]{3,4}[ -][0-9]{3,5}", _glued)
_rule(rf"(?i:{_alternatives(sorted(ABBREVIATIONS))})\.")
_rule(rf"(?:{_titles(sorted(CAPITALIZED))})\.")
_rule(rf"((?i:{_alternatives(sorted(BEFORE_NUMBERS))})\.)\s*[0-9]")
_rule(r"[A-Za-z](?:\.[A-Za-z])*\.")
_rule(rf"({_WORD}\.)[,;:\u3001]")
_rule(r"(?i:https?://[^\s\"<>|()]*[^\s\"<>|().!?,;-])")
_rule(r"(?i:www\.(?:[^\s\"<>|.!?(){},]+\.)*[^\s\"<>|.!?(){},]+)")
_rule(r"[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_rule(r"@[A-Za-z_][A-Za-z_0-9]*")
_rule(rf"#{_WORD}")
_rule(r"[A-Z]{1,3}\$")
_rule(r"[A-Z]+&[A-Z]+")
_rule(r"[cC]\+\+|[cCfF]#")
_rule(r"[<>]?[:;=][-o*']?[()DPdp\\|@{\[\]]", lambda token: token.replace("(", "-lrb-").replace(")", "-rrb-"))
_rule(r"\^_\^|-_-|>_<|<_<|>_>")
_rule(r"[!?]+|_+|@+|#+|\*+|<<|>>|<>|-{5,}")
_rule(r"--+|\.{3,4}|[\x96\x97\u2013-\u2015\x85\u2026]", lambda token: "--")

_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "."}
_rule(r"&(?:amp|lt|gt|quot|nbsp);", _ENTITIES.__getitem__, re.IGNORECASE)
_rule(r"&#[0-9]+;|&[aeiouAEIOU](?:acute|grave|uml|circ);")

_SINGLE = {
    **dict.fromkeys("\"`'\u2018\u2019\u201a\u201b\u2039\u203a\u201c\u201d\u00ab\u00bb\x91\x92\x93\x94", "'"),
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\x80": "$", "\u00a2": "cents", "\u00ad": "-",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_rule(rf"[!-/:-@\[-`{{-~\u00ad\x80\x91-\x94{SYMBOLS}]", lambda token: _SINGLE.get(token, token))

_SPACE = re.compile(rf"[^!-~\u00ad\x80\x85\x91-\x97{LETTERS}{MARKS}{SYMBOLS}]+")


def _tokens(text: str) -> Iterator[str]:
    """Every token of a caption, punctuation included, lower-cased."""
    place = 0
    while place < len(text):
        if space := _SPACE.match(text, place):
            place = space.end()
            continue
        best, longest, chosen = None, 0, None
        for pattern, replace in _RULES:
            match = pattern.match(text, place)
            if match and match.end() > longest:
                best, longest, chosen = match, match.end(), replace
        if best is None:
            place += 1
            continue
        end = best.end(best.lastindex) if best.lastindex else best.end()
        token = best.string[place:end]
        place = end
        yield (chosen(token) if chosen else token).replace("\u00ad", "").lower()
